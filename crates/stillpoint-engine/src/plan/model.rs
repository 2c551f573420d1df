//! The image's records in typed form, checked against each other. The reader has made sure that they are whole; here
//! they are made sure to make sense, since an image may be made by anybody.

use std::collections::{HashMap, HashSet};

use stillpoint_image::records::{
    Area, Backing, DescriptorTable, FileName, FsContext, Header, Mm, Object, SharedMemory, SignalHandlers,
    Task, Thread,
};
use stillpoint_image::{ReadAt, VerifiedImage};
use stillpoint_sys::arch::{self, Registers};

use super::contents;
use super::inherit::Inheritance;
use crate::kind::external::{self, StandIn};
use crate::kind::mapped::{self, Facts};
use crate::memory::areas::may_be_mapped;
use crate::memory::{PAGE, policy};
use crate::task::{posix_timers, seccomp, settings};
use crate::{Code, Error, External, Result};

/// Everything that a restore needs to know of a tree.
#[derive(Debug)]
pub struct Model {
    /// The image's header.
    pub header: Header,
    /// Processes, parents before children; the first is the root.
    pub processes: Vec<Process>,
    /// Files that are executed or mapped, by object.
    pub files: HashMap<u64, FileName>,
    /// Shared anonymous memory, by object: its size in bytes.
    pub shared: HashMap<u64, u64>,
    /// Files without a name that areas may map, by object.
    pub nameless: HashMap<u64, Facts>,
    /// Objects of open files, in the image's order; those of the registry.
    pub objects: Vec<Object>,
    /// Which processes are born with memory of their parents.
    pub inheritance: Inheritance,
}

/// A process of the tree.
#[derive(Debug)]
pub struct Process {
    /// Its own record.
    pub task: Task,
    /// Its threads, the leader first; none of a zombie.
    pub threads: Vec<Thread>,
    /// Its memory, descriptors, working directory and signal handlers; none of a zombie.
    pub body: Option<Body>,
    /// Indices of its children.
    pub children: Vec<usize>,
}

/// What a living process has.
#[derive(Debug)]
pub struct Body {
    /// Its memory.
    pub mm: Mm,
    /// Its open descriptors.
    pub table: DescriptorTable,
    /// Working directory, root, umask.
    pub fs: FsContext,
    /// Signal actions.
    pub handlers: SignalHandlers,
}

/// Kinds of objects that the engine itself rebuilds; all others are the registry's.
const OWN_KINDS: &[&str] =
    &["mm", "descriptor-table", "fs-context", "signal-handlers", "file-name", "shared-memory"];

impl Model {
    /// Reads the model out of a verified image.
    ///
    /// # Errors
    ///
    /// [`Code::ImageInconsistent`] or [`Code::ImageUnknown`].
    pub fn read<S: ReadAt>(image: &VerifiedImage<S>) -> Result<Self> {
        let header = image.header().clone();
        let by_id: HashMap<u64, &Object> = image.objects().iter().map(|object| (object.id, object)).collect();
        let mut model = Model {
            header,
            processes: Vec::with_capacity(image.tasks().len()),
            files: HashMap::new(),
            shared: HashMap::new(),
            nameless: HashMap::new(),
            objects: Vec::new(),
            inheritance: Inheritance::default(),
        };
        for object in image.objects() {
            match object.kind.as_str() {
                "file-name" => {
                    let name: FileName = decode(object)?;
                    // To open a device may have effects, and to open a FIFO would wait.
                    if !name.file.as_ref().is_some_and(|file| may_be_mapped(file.mode, file.rdev)) {
                        return Err(inconsistent(format!(
                            "object {}, a file of no type that is mapped",
                            object.id
                        )));
                    }
                    model.files.insert(object.id, name);
                }
                "shared-memory" => {
                    let memory: SharedMemory = decode(object)?;
                    if memory.size == 0 || !memory.size.is_multiple_of(PAGE) || memory.size > arch::TASK_SIZE
                    {
                        return Err(inconsistent(format!("shared memory of {} bytes", memory.size)));
                    }
                    model.shared.insert(object.id, memory.size);
                }
                kind if OWN_KINDS.contains(&kind) => {}
                _ => {
                    if let Some(facts) = mapped::facts(object)? {
                        model.nameless.insert(object.id, facts);
                    }
                    model.objects.push(object.clone());
                }
            }
        }
        let mut index = HashMap::new();
        let mut memories = HashSet::new();
        for saved in image.tasks() {
            let (task, threads) = (&saved.task, &saved.threads);
            check_ids(task, threads)?;
            let body = if task.zombie { None } else { Some(model.body(task, &by_id)?) };
            if body.is_some() && !memories.insert(task.mm) {
                return Err(inconsistent(format!("processes that share memory, {} among them", task.pid)));
            }
            let at = model.processes.len();
            match (at, index.get(&task.parent)) {
                (0, _) if task.parent == 0 => {}
                (1.., Some(&parent)) => {
                    let parent: &mut Process = lookup(&mut model.processes, parent)?;
                    if parent.task.zombie {
                        return Err(inconsistent(format!("a zombie that has child {}", task.pid)));
                    }
                    parent.children.push(at);
                }
                _ => {
                    return Err(inconsistent(format!(
                        "process {} whose parent {} is not before it",
                        task.pid, task.parent
                    )));
                }
            }
            if index.insert(task.pid, at).is_some() {
                return Err(inconsistent(format!("process {} twice", task.pid)));
            }
            let process =
                Process { task: task.clone(), threads: threads.clone(), body, children: Vec::new() };
            model.processes.push(process);
        }
        match model.processes.first() {
            Some(root) if !root.task.zombie && root.task.pid == model.header.root_pid => {}
            _ => return Err(inconsistent("no living root process".into())),
        }
        contents::check(image, &model)?;
        model.inheritance = Inheritance::plan(image, &model)?;
        Ok(model)
    }

    /// Notes what stands in for open file descriptions.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] when one is named that is not there.
    pub fn replace(&mut self, externals: &[External]) -> Result<HashMap<u64, StandIn>> {
        // Those who share a table have it from the first of them.
        let mut met = HashSet::new();
        let mut tables: Vec<(u32, &mut DescriptorTable)> = self
            .processes
            .iter_mut()
            .filter(|process| met.insert(process.task.descriptors))
            .filter_map(|process| Some((process.task.pid, &mut process.body.as_mut()?.table)))
            .collect();
        external::replacements(&mut tables, self.header.root_pid, &mut self.objects, externals)
    }

    fn body(&self, task: &Task, by_id: &HashMap<u64, &Object>) -> Result<Body> {
        let mm: Mm = part(by_id, task.mm, "mm")?;
        self.check_areas(&mm)?;
        if !self.files.contains_key(&mm.executable) {
            return Err(inconsistent(format!("process {} without an executable", task.pid)));
        }
        let table: DescriptorTable = part(by_id, task.descriptors, "descriptor-table")?;
        let mut last = None;
        for descriptor in &table.descriptors {
            if last.is_some_and(|last| last >= descriptor.number)
                || descriptor.number > i32::MAX.unsigned_abs()
            {
                return Err(inconsistent(format!("descriptor {} out of order", descriptor.number)));
            }
            last = Some(descriptor.number);
            let known = by_id.get(&descriptor.file).is_some_and(|o| !OWN_KINDS.contains(&o.kind.as_str()));
            if !known {
                return Err(inconsistent(format!("descriptor {} without an open file", descriptor.number)));
            }
        }
        let fs = part(by_id, task.fs, "fs-context")?;
        let handlers = part(by_id, task.handlers, "signal-handlers")?;
        Ok(Body { mm, table, fs, handlers })
    }

    fn check_areas(&self, mm: &Mm) -> Result<()> {
        let mut last = 0;
        for area in &mm.areas {
            let bad = |why: &str| Err(inconsistent(format!("area {:x}-{:x}: {why}", area.start, area.end)));
            if area.start < last || area.end <= area.start || area.end > arch::TASK_SIZE {
                return bad("it is empty, overlaps or lies outside of user memory");
            }
            last = area.end;
            if [area.start, area.end, area.offset].iter().any(|at| !at.is_multiple_of(PAGE))
                || area.protection > 7
            {
                return bad("it is not of whole pages");
            }
            let length = area.end - area.start;
            match area.backing() {
                Backing::Anonymous | Backing::Vvar | Backing::Vdso if area.object == 0 => {}
                Backing::PrivateFile | Backing::SharedFile if self.files.contains_key(&area.object) => {}
                Backing::PrivateFile | Backing::SharedFile if self.nameless.contains_key(&area.object) => {
                    let huge = self.nameless.get(&area.object).map_or(0, |facts| facts.huge_page_size);
                    if huge != 0
                        && [area.start, area.end, area.offset].iter().any(|at| !at.is_multiple_of(huge))
                    {
                        return bad("it is not of whole huge pages");
                    }
                }
                Backing::SharedAnonymous => match self.shared.get(&area.object) {
                    Some(&size) if area.offset.checked_add(length).is_some_and(|end| end <= size) => {}
                    _ => return bad("it is not part of its shared memory"),
                },
                _ => return bad("what is behind it is not in the image"),
            }
            check_details(area)?;
            if let Some(flag) =
                area.flags.iter().find(|flag| !crate::memory::areas::is_known_flag(flag, area.backing()))
            {
                return Err(Error::new(Code::ImageUnknown, "reading the image")
                    .object(format!("area {:x}-{:x}", area.start, area.end))
                    .cause(format!("this version does not know its flag {flag:?}"))
                    .remedy("restore it with the version that made it")
                    .into());
            }
        }
        Ok(())
    }

    /// Every id that must be free: of processes and threads, and of leaders that have ended.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        let led =
            self.processes.iter().flat_map(|process| [process.task.session, process.task.process_group]);
        let led: HashSet<u32> = led.filter(|&id| id != 0).collect();
        let departed =
            led.into_iter().filter(|&id| self.processes.iter().all(|process| process.task.pid != id));
        let made = self.processes.iter().flat_map(|process| {
            let threads =
                process.threads.iter().map(|thread| thread.tid).filter(|&tid| tid != process.task.pid);
            std::iter::once(process.task.pid).chain(threads)
        });
        made.chain(departed)
    }

    /// All areas of all processes.
    pub fn areas(&self) -> impl Iterator<Item = &Area> + '_ {
        self.processes.iter().filter_map(|process| process.body.as_ref()).flat_map(|body| &body.mm.areas)
    }

    /// The living processes, with what they have.
    pub fn living(&self) -> impl Iterator<Item = (usize, &Process, &Body)> + '_ {
        self.processes
            .iter()
            .enumerate()
            .filter_map(|(n, process)| Some((n, process, process.body.as_ref()?)))
    }

    /// Whether no process before it shares an object with a process: the one that rebuilds it for all.
    pub fn is_first(&self, n: usize, object: impl Fn(&Task) -> u64) -> bool {
        let own = self.processes.get(n).map(|process| object(&process.task));
        !self.processes.iter().take(n).any(|other| Some(object(&other.task)) == own)
    }

    /// The largest descriptor number of any process.
    #[must_use]
    pub fn largest_descriptor(&self) -> u32 {
        self.living().flat_map(|(_, _, body)| &body.table.descriptors).map(|d| d.number).max().unwrap_or(0)
    }

    /// Number of threads.
    #[must_use]
    pub fn thread_count(&self) -> u64 {
        self.processes.iter().map(|process| process.threads.len() as u64).sum()
    }
}

/// What areas have beside their place and what is behind them.
fn check_details(area: &Area) -> Result<()> {
    let bad = |why: &str| Err(inconsistent(format!("area {:x}-{:x}: {why}", area.start, area.end)));
    let mut last = area.start;
    for guard in &area.guards {
        let end = guard.offset.checked_add(guard.length).filter(|&end| end <= area.end);
        let (Some(end), true) = (end, guard.offset >= last && guard.length > 0) else {
            return bad("its guard regions lie outside of it or overlap");
        };
        if [guard.offset, end].iter().any(|at| !at.is_multiple_of(PAGE)) {
            return bad("its guard regions are not of whole pages");
        }
        last = end;
    }
    let huge = area.huge_page_size;
    if huge != 0 {
        let whole = [area.start, area.end].iter().all(|at| at.is_multiple_of(huge));
        if area.backing() != Backing::Anonymous || !huge.is_power_of_two() || huge <= PAGE || !whole {
            return bad("its huge pages are none");
        }
    }
    if !policy::is_known(area) {
        return Err(Error::new(Code::ImageUnknown, "reading the image")
            .object(format!("area {:x}-{:x}", area.start, area.end))
            .cause(format!("this version does not know its NUMA policy {}", area.policy))
            .into());
    }
    Ok(())
}

fn check_ids(task: &Task, threads: &[Thread]) -> Result<()> {
    let bad = |why: &str| Err(inconsistent(format!("process {}: {why}", task.pid)));
    if task.pid == 0 || task.pid > i32::MAX.unsigned_abs() {
        return bad("its id is not one that a process can have");
    }
    if task.session.max(task.process_group) > i32::MAX.unsigned_abs() {
        return bad("the id of its session or group is not one that those can have");
    }
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].map(i32::unsigned_abs);
    if task.stop_signal != 0 && (task.zombie || !stops.contains(&task.stop_signal)) {
        return bad("what has stopped it stops no process");
    }
    if task.zombie {
        return if threads.is_empty() { Ok(()) } else { bad("a zombie with threads") };
    }
    if threads.first().is_none_or(|leader| leader.tid != task.pid) {
        return bad("its first thread does not lead it");
    }
    for thread in threads {
        if thread.tid == 0 || thread.tid > i32::MAX.unsigned_abs() {
            return bad("a thread's id is not one that a thread can have");
        }
        if Registers::from_bytes(&thread.registers).is_none_or(|registers| !registers.is_native()) {
            return bad("a thread's registers are not those of a 64-bit task");
        }
        if thread.credentials.is_none() || thread.scheduling.is_none() || thread.alt_stack.is_none() {
            return bad("a thread's record lacks a part");
        }
        if thread.name.len() > 15 || thread.name.contains(&0) {
            return bad("a thread's name is not one that the kernel has");
        }
    }
    let settings_known = settings::are_known(&task.settings, true)
        && threads.iter().all(|thread| settings::are_known(&thread.settings, false));
    if !settings_known {
        return bad("a setting that this version does not know");
    }
    let wrong = posix_timers::check(&task.posix_timers, threads);
    match wrong.or_else(|| seccomp::check_records(task, threads)) {
        Some(why) => bad(why),
        None => Ok(()),
    }
}

fn part<M: stillpoint_image::Message + Default>(
    by_id: &HashMap<u64, &Object>,
    id: u64,
    kind: &str,
) -> Result<M> {
    match by_id.get(&id) {
        Some(object) if object.kind == kind => decode(object),
        _ => Err(inconsistent(format!("a process whose {kind} is not in the image"))),
    }
}

fn decode<M: stillpoint_image::Message + Default>(object: &Object) -> Result<M> {
    object.decode_body().map_err(|error| {
        Box::new(
            Error::new(Code::ImageInconsistent, "reading the image")
                .object(format!("object {} ({})", object.id, object.kind))
                .cause(error),
        )
    })
}

fn lookup<T>(list: &mut [T], at: usize) -> Result<&mut T> {
    list.get_mut(at).ok_or_else(|| inconsistent("a process that is not there".into()))
}

/// An error about records that contradict each other.
pub(crate) fn inconsistent(cause: String) -> Box<Error> {
    Box::new(
        Error::new(Code::ImageInconsistent, "reading the image").cause(format!("the image holds {cause}")),
    )
}
