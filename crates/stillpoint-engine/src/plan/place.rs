//! Whether the place fits: machine, kernel, clocks, ids, limits, files. Looks only; touches nothing.

use std::collections::BTreeSet;

use stillpoint_sys::proc::number::oom_score_adj;
use stillpoint_sys::proc::status::{self, Status};
use stillpoint_sys::proc::{clocks, cpuinfo, limits, maps};
use stillpoint_sys::{RemoteAddr, arch, vm};

use super::model::Model;
use crate::kind::{Place, descriptors, identity};
use crate::memory::PAGE;
use crate::memory::rebuild::kernel_areas_start;
use crate::task::limits::NOFILE;
use crate::task::seccomp;
use crate::{Code, Error, Result};

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// What the restoring process may do.
#[derive(Debug)]
pub struct Caller {
    /// Its status before it enters any namespace.
    pub status: Status,
    /// Its resource limits, soft and hard.
    pub limits: limits::Limits,
    /// Its kernel areas: vvar's start, the vDSO's end and contents.
    vdso: Option<(u64, u64, Vec<u8>)>,
}

impl Caller {
    /// Looks at this process.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read.
    pub fn read() -> Result<Self> {
        let own = std::process::id();
        let areas = maps::read(own)?;
        let start = areas.iter().filter(|area| area.name.starts_with(b"[vvar")).map(|area| area.start).min();
        let vdso = match (areas.iter().find(|area| area.name == b"[vdso]"), start) {
            (Some(area), Some(start)) => {
                let mut bytes = vec![0; usize::try_from(area.len()).unwrap_or(0)];
                vm::read(own, RemoteAddr(area.start), &mut bytes)?;
                Some((start, area.end, bytes))
            }
            _ => None,
        };
        Ok(Caller { status: status::read(own)?, limits: limits::read(own)?, vdso })
    }

    /// Whether it may choose process ids in its own pid namespace and take any identity.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.status.uid[1] == 0 && self.status.cap_eff & CAP_SYS_ADMIN != 0
    }

    fn has(&self, capability: u64) -> bool {
        self.status.cap_eff & capability != 0
    }
}

/// Everything that does not fit.
#[must_use]
pub fn misfits(model: &Model, place: &Place, caller: &Caller, private_pids: bool) -> Vec<Error> {
    let mut misfits = Vec::new();
    misfits.extend(machine(model));
    misfits.extend(kernel(model, caller));
    misfits.extend(clock(model));
    if !private_pids {
        misfits.extend(taken_ids(model));
    }
    if !caller.is_privileged() {
        misfits.extend(identities(model, caller));
    }
    misfits.extend(seccomp_filters(model, caller));
    misfits.extend(resource_limits(model, caller));
    misfits.extend(oom_scores(model, caller));
    misfits.extend(files(model, place));
    misfits.extend(descriptors::check_all(&model.objects, place));
    misfits
}

fn machine(model: &Model) -> Vec<Error> {
    let mut out = Vec::new();
    let lacks = |cause: String| Error::new(Code::CpuLacks, "comparing the machine").cause(cause);
    let machine = model.header.machine.clone().unwrap_or_default();
    if machine.arch != arch::NAME || u64::from(machine.page_size) != PAGE {
        out.push(lacks(format!(
            "the image is of {} with pages of {} bytes",
            machine.arch, machine.page_size
        )));
        return out;
    }
    let cpu = model.header.cpu.clone().unwrap_or_default();
    let missing = cpu.xcr0 & !arch::enabled_xstate();
    if missing != 0 || cpu.xsave_size != arch::xstate_size() {
        out.push(lacks(format!(
            "the image's extended registers are {} bytes of components {:#x}, this CPU's {} bytes of {:#x}",
            cpu.xsave_size,
            cpu.xcr0,
            arch::xstate_size(),
            arch::enabled_xstate()
        )));
    }
    match cpuinfo::read() {
        Ok(own) => {
            let have: BTreeSet<String> =
                own.flags.iter().map(|flag| String::from_utf8_lossy(flag).into_owned()).collect();
            let missing: Vec<String> =
                cpu.features.into_iter().filter(|feature| !have.contains(feature)).collect();
            if !missing.is_empty() {
                out.push(
                    lacks(format!("this CPU lacks {}", missing.join(" ")))
                        .remedy("restore on a CPU that has them"),
                );
            }
        }
        Err(error) => out.push(lacks(error.to_string())),
    }
    out
}

fn kernel(model: &Model, caller: &Caller) -> Option<Error> {
    let lacks = |cause: &str| {
        Error::new(Code::KernelLacks, "comparing the kernel").object("[vdso]").cause(cause).remedy(
            "restore on the kernel that the image was made on; another kernel's vDSO is not supported yet",
        )
    };
    let Some((start, end, bytes)) = &caller.vdso else { return Some(lacks("this process has no vDSO")) };
    if *bytes != model.header.vdso {
        return Some(lacks("this kernel's vDSO is not the image's"));
    }
    let fits = |mm: &stillpoint_image::records::Mm| {
        let vdso_end =
            mm.areas.iter().filter(|area| area.backing() == stillpoint_image::records::Backing::Vdso);
        match (kernel_areas_start(mm), vdso_end.map(|area| area.end).max()) {
            (Some(first), Some(last)) => last - first == end - start,
            _ => false,
        }
    };
    model.living().find(|(_, _, body)| !fits(&body.mm)).map(|(_, process, _)| {
        lacks("the areas of the kernel in a process are not as this kernel makes them")
            .task(process.task.pid, "")
    })
}

fn clock(model: &Model) -> Option<Error> {
    let image = model.header.clocks.unwrap_or_default();
    let now = clocks::read();
    let behind = image.monotonic_ns > now.monotonic.cast_unsigned()
        || image.boottime_ns > now.boottime.cast_unsigned();
    behind.then(|| {
        Error::new(Code::ClockBehind, "comparing clocks")
            .cause("this machine's monotonic clock is behind the image's: the tasks would see time run backwards")
            .remedy("restore on the machine that the image was made on, before it is rebooted; time namespaces are not supported yet")
    })
}

/// Waits for ids that are held only by processes that have ended: a checkpoint that has just ended a tree leaves its
/// root to be reaped by its parent. Gives up after a few seconds; the check that follows names what is left.
pub fn await_reaping(model: &Model) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let dead =
        |id: u32| stillpoint_sys::proc::stat::read(id).is_ok_and(|stat| matches!(stat.state, b'Z' | b'X'));
    while model.ids().any(dead) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn taken_ids(model: &Model) -> Vec<Error> {
    let exists = |id: &u32| std::path::Path::new(&format!("/proc/{id}")).exists();
    let taken = model.ids().filter(exists).map(|id| {
        let name = status::read(id).map(|status| status.name.escape_ascii().to_string()).unwrap_or_default();
        pid_taken(id, &name)
    });
    taken.collect()
}

/// The error of an id that is in use.
pub(crate) fn pid_taken(id: u32, name: &str) -> Error {
    Error::new(Code::PidTaken, "taking the tree's process ids")
        .task(id, name)
        .object(format!("process id {id}"))
        .cause("it is in use")
        .remedy("end that process, or restore with --pidns into a pid namespace of its own")
}

/// Without privilege, a tree's tasks must be the caller's own.
fn identities(model: &Model, caller: &Caller) -> Vec<Error> {
    let (uid, gid) = (caller.status.uid[1], caller.status.gid[1]);
    let threads = model
        .processes
        .iter()
        .flat_map(|process| process.threads.iter().map(move |thread| (process, thread)));
    let mut out = Vec::new();
    for (process, thread) in threads {
        let credentials = thread.credentials.clone().unwrap_or_default();
        let foreign =
            credentials.uids.iter().any(|&id| id != uid) || credentials.gids.iter().any(|&id| id != gid);
        let mut groups = credentials.groups.clone();
        let mut own = caller.status.groups.clone();
        groups.sort_unstable();
        own.sort_unstable();
        let cause = if foreign {
            format!("it ran as user {:?} and group {:?}", credentials.uids, credentials.gids)
        } else if groups != own {
            format!("it had the supplementary groups {groups:?} and this user has {own:?}")
        } else if credentials.cap_permitted != 0 {
            format!("it had capabilities ({:#x})", credentials.cap_permitted)
        } else {
            continue;
        };
        out.push(
            Error::new(Code::KernelLacks, "comparing credentials")
                .task(process.task.pid, process.task.name.escape_ascii().to_string())
                .cause(cause)
                .remedy("restore as root, or as the user that the tree ran as"),
        );
        break;
    }
    out
}

/// Filters can be kept from looking at what a restore does in tasks only by whoever may suspend them.
fn seccomp_filters(model: &Model, caller: &Caller) -> Option<Error> {
    let (_, process, _) = model.living().find(|(_, process, _)| seccomp::is_used(process.threads.iter()))?;
    let cause = if !caller.is_privileged() {
        "suspending its seccomp filters while it is rebuilt needs CAP_SYS_ADMIN"
    } else if caller.status.seccomp != 0 {
        "this process is under seccomp itself, and so may not suspend seccomp filters"
    } else {
        return None;
    };
    let error = Error::new(Code::KernelLacks, "comparing privileges");
    let error = error.task(process.task.pid, process.task.name.escape_ascii().to_string());
    Some(
        error
            .object("seccomp")
            .cause(cause)
            .remedy("restore as root, outside of a container that filters its calls"),
    )
}

fn resource_limits(model: &Model, caller: &Caller) -> Vec<Error> {
    let mut out = Vec::new();
    let too_small = |cause: String| {
        Error::new(Code::LimitTooSmall, "comparing resource limits")
            .cause(cause)
            .remedy("raise the hard limit of the restoring process, or give it CAP_SYS_RESOURCE")
    };
    let hard = |number: usize| caller.limits.get(number).map_or(u64::MAX, |limit| limit.1);
    let nofile = hard(NOFILE as usize);
    if u64::from(model.largest_descriptor()) >= nofile {
        out.push(too_small(format!(
            "the tree uses descriptor {} and the hard limit on open files is {nofile}",
            model.largest_descriptor()
        )));
    }
    if caller.has(CAP_SYS_RESOURCE) && caller.is_privileged() {
        return out;
    }
    for process in &model.processes {
        for (number, limit) in process.task.limits.iter().enumerate() {
            if limit.hard > hard(number) {
                out.push(
                    too_small(format!("hard limit {number} was {} and is {} here", limit.hard, hard(number)))
                        .task(process.task.pid, process.task.name.escape_ascii().to_string()),
                );
                return out;
            }
        }
    }
    out
}

fn oom_scores(model: &Model, caller: &Caller) -> Option<Error> {
    if caller.has(CAP_SYS_RESOURCE) {
        return None;
    }
    let own = oom_score_adj::read(std::process::id()).ok()?;
    let low =
        model.processes.iter().find(|process| !process.task.zombie && process.task.oom_score_adj < own)?;
    Some(
        Error::new(Code::LimitTooSmall, "comparing oom_score_adj")
            .task(low.task.pid, low.task.name.escape_ascii().to_string())
            .cause(format!(
                "it was {} and is {own} here, and lowering it needs CAP_SYS_RESOURCE",
                low.task.oom_score_adj
            ))
            .remedy("restore from a process whose oom_score_adj is not higher"),
    )
}

fn files(model: &Model, place: &Place) -> Vec<Error> {
    let mapped = model.files.values().filter_map(|name| name.file.as_ref());
    let contexts =
        model.living().flat_map(|(_, _, body)| [body.fs.cwd.as_ref(), body.fs.root.as_ref()]).flatten();
    let mut seen = BTreeSet::new();
    mapped
        .chain(contexts)
        .filter(|file| seen.insert(file.path.clone()))
        .filter_map(|file| identity::check_matching(place, file).err())
        .map(|error| *error)
        .collect()
}
