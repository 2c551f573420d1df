//! The areas of a process: recognised by what the kernel shows of them, and refused where it shows something that
//! nothing here rebuilds.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use stillpoint_image::records::{Area, Backing, FileName, Mm, Run};
use stillpoint_sys::pagemap::PageMap;
use stillpoint_sys::proc::number::coredump_filter;
use stillpoint_sys::proc::smaps::{self, Area as Seen};
use stillpoint_sys::proc::{auxv, mountinfo, stat};
use stillpoint_sys::sweep::Sweep;

use super::inherit;
use super::policy;
use super::ranges::{Ranges, union};
use super::shared::SharedAreas;
use crate::freeze::FrozenTask;
use crate::kind::{Key, Met, Objects, identity, mapped};
use crate::task::ProcessAnswers;
use crate::{Code, Error, Result};

/// Flags of smaps that say nothing beyond what is saved otherwise, or that a restore sets.
///
/// rd wr ex: protection; mr mw me ms: what it may be raised to, which the file's mode gives; sh: shared; gd:
/// growing stack; ac: accounted; nr: MAP_NORESERVE; gu: had guard regions once; sl: sealed (mseal); dp: MAP_DROPPABLE;
/// ht: huge pages (hugetlb); lo: locked; lf: locked on fault; sr rr: read-ahead advice; dc dd
/// wf: fork and dump advice; hg nh mg: huge pages and merging; sd: soft-dirty; de: may not be expanded (vDSO).
const KNOWN: &[&[u8; 2]] = &[
    b"rd", b"wr", b"ex", b"mr", b"mw", b"me", b"ms", b"sh", b"gd", b"ac", b"nr", b"lo", b"lf", b"sr", b"rr",
    b"dc", b"dd", b"wf", b"hg", b"nh", b"mg", b"sd", b"gu", b"sl", b"dp", b"ht",
];

/// What the kernel calls memory of huge pages without a file: mm/mmap.c, HUGETLB_ANON_FILE.
const HUGE_ANONYMOUS: &[u8] = b"/anon_hugepage (deleted)";

/// Flags that name what is refused.
const REFUSED: &[(&[u8; 2], &str)] = &[
    (b"pf", "a mapping of device memory"),
    (b"io", "a mapping of device memory"),
    (b"mm", "a mapping of device memory"),
    (b"um", "it is watched by userfaultfd"),
    (b"uw", "it is watched by userfaultfd"),
    (b"ui", "it is watched by userfaultfd"),
    (b"ss", "it is a shadow stack; not supported yet"),
    (b"de", "a mapping of kernel or device memory that may not be resized"),
];

/// Whether this version knows a flag of smaps in an image, for an area of that backing.
#[must_use]
pub fn is_known_flag(flag: &str, backing: Backing) -> bool {
    matches!(backing, Backing::Vdso | Backing::Vvar)
        || KNOWN.iter().any(|known| known.as_slice() == flag.as_bytes())
}

/// The memory of a process as it was captured; its contents are read later.
#[derive(Debug)]
pub struct CapturedMm {
    /// The object's id.
    pub object: u64,
    /// The process, in the caller's pid namespace.
    pub pid: u32,
    /// Ranges whose pages are to be saved, ascending.
    pub ranges: Vec<PageRange>,
    /// Pages that it has, whether saved as its own or as its parent's; ascending.
    pub held: Ranges,
    /// Its areas, ascending.
    pub areas: Vec<Area>,
    /// The executable, by object.
    executable: u64,
}

/// Pages to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Whether pages of zero bytes may be left out: untouched memory reads as zero.
    pub zero_elided: bool,
    /// Whether the task itself may read it; else it is read by force.
    pub readable: bool,
}

/// A process's areas, read once: where its vDSO is must be known before it is visited.
#[derive(Debug)]
pub struct Areas {
    seen: Vec<Seen>,
    policies: policy::Policies,
}

/// From how much address space on, in bytes, a second thread is worth its start: the kernel looks at every page for
/// each of the two files.
const SECOND_THREAD: u64 = 32 << 20;

impl Areas {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// What the kernel answered, or a text that is not understood.
    pub fn read(task: &FrozenTask) -> Result<Self> {
        let pid = task.host_pid;
        let large = stat::read(pid)?.vsize > SECOND_THREAD;
        let (seen, policies) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("policies".into());
            let reader = large.then(|| thread.spawn_scoped(scope, || policy::read(pid)).ok()).flatten();
            let seen = smaps::read(pid);
            let policies = match reader {
                Some(reader) => reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                None => policy::read(pid),
            };
            (seen, policies)
        });
        Ok(Areas { seen: seen?, policies })
    }

    /// What `/proc/PID/maps` says of them.
    pub fn maps(&self) -> impl Iterator<Item = &stillpoint_sys::proc::maps::Mapping> + Clone {
        self.seen.iter().map(|area| &area.map)
    }

    /// Where the vDSO is.
    ///
    /// # Errors
    ///
    /// A refusal when there is none: nothing to enter the kernel by.
    pub fn vdso(&self, task: &FrozenTask) -> Result<(u64, u64)> {
        self.seen
            .iter()
            .find(|area| area.map.name == b"[vdso]")
            .map(|area| (area.map.start, area.map.end))
            .ok_or_else(|| {
                Error::new(Code::UnsupportedArea, "visiting a task")
                    .in_task(&task.name)
                    .cause("it has no vDSO, which stillpoint needs to make calls in it")
                    .remedy("boot without vdso=0; a program that unmaps its vDSO is not supported yet")
                    .into()
            })
    }
}

/// Saves the areas of a process as an object, and finds the pages to be saved. What it has in common with its parent's
/// memory is not saved again.
///
/// # Errors
///
/// A refusal that names the area.
pub fn capture(
    task: &FrozenTask,
    areas: &Areas,
    attributes: &ProcessAnswers,
    parent: Option<&CapturedMm>,
    objects: &mut Objects,
    shared: &mut SharedAreas,
) -> Result<CapturedMm> {
    let pid = task.host_pid;
    let mut capture = Capture {
        task,
        objects,
        shared,
        pages: Sweep::new(PageMap::open(pid)?),
        ranges: Vec::new(),
        nameless: HashSet::new(),
    };
    let mut records = Vec::with_capacity(areas.seen.len());
    for seen in &areas.seen {
        let record = capture.area(seen).map_err(|error| {
            let error = Error { object: Some(describe(seen)), ..*error };
            Box::new(error.in_task(&task.name))
        })?;
        records.extend(record);
    }
    let mut ranges = capture.ranges;
    policy::capture(task, &areas.policies, &mut records)?;
    let executable = file_name(objects, Path::new(&format!("/proc/{pid}/exe")), "saving the executable")
        .map_err(|error| Box::new((*error).in_task(&task.name)))?;
    let held = union(ranges.iter().map(|range| (range.start, range.end)).collect());
    // Who executes another program has nothing of its parent's.
    let parent = parent.filter(|parent| parent.executable == executable);
    let inherited = match parent {
        Some(parent) => inherit::take_common(&mut ranges, &records, pid, parent)?,
        None => Vec::new(),
    };
    let stat = stat::read(pid)?;
    let mm = Mm {
        start_code: stat.start_code,
        end_code: stat.end_code,
        start_data: stat.start_data,
        end_data: stat.end_data,
        start_brk: stat.start_brk,
        brk: attributes.brk,
        start_stack: stat.start_stack,
        arg_start: stat.arg_start,
        arg_end: stat.arg_end,
        env_start: stat.env_start,
        env_end: stat.env_end,
        auxv: auxv::read(pid)?.bytes,
        executable,
        dumpable: attributes.dumpable,
        coredump_filter: coredump_filter::read(pid)?.unwrap_or(0),
        thp_disabled: attributes.thp_disabled,
        areas: records,
        membarrier: attributes.membarrier,
        parent: parent.filter(|_| !inherited.is_empty()).map_or(0, |parent| parent.object),
        inherited,
    };
    Ok(CapturedMm { object: objects.add("mm", &mm), pid, ranges, held, areas: mm.areas, executable })
}

struct Capture<'a> {
    task: &'a FrozenTask,
    objects: &'a mut Objects,
    shared: &'a mut SharedAreas,
    pages: Sweep,
    ranges: Vec<PageRange>,
    /// Objects of files without a name that areas map.
    nameless: HashSet<u64>,
}

impl Capture<'_> {
    fn area(&mut self, seen: &Seen) -> Result<Option<Area>> {
        let map = &seen.map;
        let name = map.name.as_slice();
        let special = match name {
            // The kernel maps it into every task, at one address.
            b"[vsyscall]" => return Ok(None),
            b"[vdso]" => Some(Backing::Vdso),
            _ if name.starts_with(b"[vvar") => Some(Backing::Vvar),
            _ => None,
        };
        if let Some(backing) = special {
            return Ok(Some(record(seen, backing, 0)));
        }
        check_flags(seen)?;
        let guards = self.pages.guard_pages(map.start..map.end)?;
        let guards =
            guards.iter().map(|region| Run { offset: region.start, length: region.end - region.start });
        let guards: Vec<Run> = guards.collect();
        let area = self.backed(seen)?;
        if let Some(area) = area.as_ref().filter(|area| area.backing() == Backing::SharedAnonymous)
            && !guards.is_empty()
        {
            self.shared.guarded(area.object, self.task, seen);
        }
        Ok(area.map(|area| Area { guards, ..area }))
    }

    fn backed(&mut self, seen: &Seen) -> Result<Option<Area>> {
        let map = &seen.map;
        let name = map.name.as_slice();
        if seen.has_flag(b"ht") && name == HUGE_ANONYMOUS {
            if map.perms.shared {
                return Err(refused("it is shared anonymous memory of huge pages; not supported yet"));
            }
            self.private_pages(seen, true)?;
            let huge_page_size = seen.kernel_page_size;
            return Ok(Some(Area { huge_page_size, offset: 0, ..record(seen, Backing::Anonymous, 0) }));
        }
        let anonymous =
            map.inode == 0 && (name.is_empty() || name.starts_with(b"[") || name.starts_with(b"/anon"));
        match (anonymous, map.perms.shared) {
            (true, false) => self.anonymous(seen).map(Some),
            (false, true) if is_shared_anonymous(seen) => {
                self.shared.watch(self.task, seen);
                let object = self.shared.meet(self.objects, self.task.host_pid, seen);
                Ok(Some(record(seen, Backing::SharedAnonymous, object)))
            }
            (false, shared) => self.file(seen, shared).map(Some),
            (true, true) => Err(refused("a shared area without a file behind it")),
        }
    }

    fn anonymous(&mut self, seen: &Seen) -> Result<Area> {
        let name = seen.map.name.as_slice();
        let label = match name {
            b"" | b"[heap]" | b"[stack]" => b"".as_slice(),
            _ => match name.strip_prefix(b"[anon:").and_then(|rest| rest.strip_suffix(b"]")) {
                Some(label) => label,
                None => return Err(unknown("this version does not know what kind of area it is")),
            },
        };
        self.private_pages(seen, true)?;
        Ok(Area { name: label.to_vec(), ..record(seen, Backing::Anonymous, 0) })
    }

    fn file(&mut self, seen: &Seen, shared: bool) -> Result<Area> {
        refuse_special_file(&seen.map.name)?;
        let object = self.mapped_file(seen)?;
        if !shared {
            self.private_pages(seen, false)?;
        }
        let backing = if shared { Backing::SharedFile } else { Backing::PrivateFile };
        let nameless = self.nameless.contains(&object);
        if nameless && shared {
            self.shared.watch(self.task, seen);
        }
        // Mapped through a descriptor that can write, and yet not to be made writable: its file is sealed against
        // writing (mm/mmap.c, from Linux 6.7 on). A file that has a name cannot be.
        let sealed = nameless && seen.has_flag(b"sh") && mapped::is_write_sealed(self.objects, object)?;
        Ok(Area {
            opened_writable: shared && (seen.has_flag(b"mw") || sealed),
            ..record(seen, backing, object)
        })
    }

    fn mapped_file(&mut self, seen: &Seen) -> Result<u64> {
        let map = &seen.map;
        let device = rustix::fs::makedev(map.dev.0, map.dev.1);
        let key = Key::FileName(device, map.inode, map.name.clone());
        if let Some(id) = self.objects.known(&key) {
            return Ok(id);
        }
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(&map.name));
        // A file may really be called "x (deleted)", so its name is looked up before that is believed.
        let stat = match rustix::fs::lstat(path) {
            Ok(stat) if self.is_mapped_file(path, &stat, seen) => stat,
            Err(errno) if !map.name.ends_with(b" (deleted)") => {
                return Err(Error::new(Code::UnsupportedArea, "saving an area")
                    .cause(format!("its file cannot be looked up: {errno}"))
                    .into());
            }
            _ => return self.nameless_file(seen, device),
        };
        if !may_be_mapped(stat.st_mode, stat.st_rdev) {
            return Err(refused("it maps something that is no regular file"));
        }
        let filesystem = rustix::fs::statfs(path)
            .map_err(|errno| Error::new(Code::Failed, "saving an area").cause(errno))?
            .f_type;
        let filesystem = filesystem.cast_unsigned() & 0xffff_ffff;
        let file = identity::identity(&map.name, &stat, filesystem);
        let id = self.objects.meet(key).id();
        self.objects.put(id, "file-name", &FileName { file: Some(file) });
        Ok(id)
    }

    /// Whether a file that was found by name is the one that an area maps. What `maps` shows as its device is that of the
    /// whole file system, and stat(2) may show that of a part of it (a subvolume of btrfs).
    fn is_mapped_file(&self, path: &Path, stat: &rustix::fs::Stat, seen: &Seen) -> bool {
        let map = &seen.map;
        if stat.st_ino != map.inode {
            return false;
        }
        let device = rustix::fs::makedev(map.dev.0, map.dev.1);
        if stat.st_dev == device {
            return true;
        }
        let link = format!("/proc/{}/map_files/{:x}-{:x}", self.task.host_pid, map.start, map.end);
        match rustix::fs::stat(link) {
            Ok(mapped) => (mapped.st_dev, mapped.st_ino) == (stat.st_dev, stat.st_ino),
            // Without CAP_CHECKPOINT_RESTORE: by the file system that the name leads to.
            Err(_) => mounted_device(path) == Some(map.dev),
        }
    }

    fn nameless_file(&mut self, seen: &Seen, device: u64) -> Result<u64> {
        let map = &seen.map;
        let id = mapped::capture(self.task, (map.start, map.end), (device, map.inode), self.objects)?;
        self.nameless.insert(id);
        Ok(id)
    }

    fn private_pages(&mut self, seen: &Seen, zero_elided: bool) -> Result<()> {
        // The counters spare a scan of what has no page of its own; swapped pages count apart.
        let huge = seen.private_hugetlb + seen.shared_hugetlb;
        if seen.anonymous == 0 && seen.swap == 0 && huge == 0 {
            return Ok(());
        }
        let readable = seen.map.perms.read;
        let range = seen.map.start..seen.map.end;
        let runs = if zero_elided {
            self.pages.private_pages(range)?
        } else {
            self.pages.private_pages_of_file(range)?
        };
        for run in runs {
            self.ranges.push(PageRange { start: run.start, end: run.end, zero_elided, readable });
        }
        Ok(())
    }
}

/// The device of the whole file system that a path leads to.
fn mounted_device(path: &Path) -> Option<(u32, u32)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let status = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok()?;
    let mounts = mountinfo::read(std::process::id()).ok()?;
    mounts.into_iter().find(|mount| u64::from(mount.id) == status.stx_mnt_id).map(|mount| mount.dev)
}

/// Whether areas of a file of that type and device number are rebuilt: a regular file, or `/dev/zero`, which is like no
/// file at all and opens without any effect.
#[must_use]
pub fn may_be_mapped(mode: u32, rdev: u64) -> bool {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::RegularFile => true,
        rustix::fs::FileType::CharacterDevice => rdev == rustix::fs::makedev(1, 5),
        _ => false,
    }
}

/// Saves a file behind one of the kernel's links as a "file-name".
fn file_name(objects: &mut Objects, link: &Path, doing: &str) -> Result<u64> {
    let file =
        identity::identify(link).map_err(|error| Box::new(Error { doing: doing.to_owned(), ..*error }))?;
    let key = Key::FileName(file.device, file.inode, file.path.clone());
    match objects.meet(key) {
        Met::Known(id) => Ok(id),
        Met::New(id) => {
            objects.put(id, "file-name", &FileName { file: Some(file) });
            Ok(id)
        }
    }
}

fn record(seen: &Seen, backing: Backing, object: u64) -> Area {
    let map = &seen.map;
    let protection = [
        (map.perms.read, libc::PROT_READ),
        (map.perms.write, libc::PROT_WRITE),
        (map.perms.exec, libc::PROT_EXEC),
    ]
    .iter()
    .filter(|(set, _)| *set)
    .fold(0, |all, (_, bit)| all | bit.cast_unsigned());
    Area {
        start: map.start,
        end: map.end,
        protection,
        backing: backing.into(),
        object,
        offset: map.offset,
        flags: seen
            .vm_flags
            .iter()
            .filter(|flag| *flag != b"de")
            .map(|flag| flag.escape_ascii().to_string())
            .collect(),
        ..Area::default()
    }
}

fn check_flags(seen: &Seen) -> Result<()> {
    // Huge pages bring a flag that says that they may not be resized.
    let huge = seen.has_flag(b"ht");
    for flag in seen.vm_flags.iter().filter(|flag| !(huge && *flag == b"de")) {
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == flag) {
            return Err(refused(why));
        }
        if !KNOWN.contains(&flag) {
            return Err(unknown(&format!("this version does not know its flag \"{}\"", flag.escape_ascii())));
        }
    }
    if seen.protection_key.is_some_and(|key| key != 0) {
        return Err(refused("it has a memory protection key; not supported yet"));
    }
    Ok(())
}

fn is_shared_anonymous(seen: &Seen) -> bool {
    // mm/shmem.c, shmem_zero_setup: a file of the kernel's own tmpfs, called "dev/zero", that has no link.
    seen.map.name == b"/dev/zero (deleted)" || seen.map.name.starts_with(b"[anon_shmem:")
}

fn refuse_special_file(name: &[u8]) -> Result<()> {
    let known: &[(&[u8], &str)] = &[
        (b"/SYSV", "it is System V shared memory; not supported yet"),
        (b"/[aio]", "it is a ring of asynchronous I/O (io_setup), whose state the kernel does not give out"),
        (b"/secretmem", "it is secret memory (memfd_secret), which the kernel shows to nobody"),
        (b"anon_inode:[io_uring]", "it is a ring of io_uring"),
        (b"anon_inode:[perf_event]", "it is a ring of perf events"),
        (b"anon_inode:", "it maps a kernel object that has no file"),
        (b"socket:", "it maps a socket's ring"),
    ];
    match known.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        Some((_, why)) => Err(refused(why)),
        None if name.starts_with(b"/") => Ok(()),
        None => Err(unknown("this version does not know what kind of area it is")),
    }
}

/// How errors name an area.
pub(super) fn describe(seen: &Seen) -> String {
    let map = &seen.map;
    let bit = |set, letter| if set { letter } else { '-' };
    format!(
        "area {:x}-{:x} {}{}{}{} {}",
        map.start,
        map.end,
        bit(map.perms.read, 'r'),
        bit(map.perms.write, 'w'),
        bit(map.perms.exec, 'x'),
        if map.perms.shared { 's' } else { 'p' },
        map.name.escape_ascii()
    )
    .trim_end()
    .to_owned()
}

fn refused(cause: &str) -> Box<Error> {
    Box::new(Error::new(Code::UnsupportedArea, "saving an area of memory").cause(cause))
}

fn unknown(cause: &str) -> Box<Error> {
    Box::new(
        Error::new(Code::Unknown, "saving an area of memory")
            .cause(cause)
            .remedy("a newer stillpoint may know it"),
    )
}
