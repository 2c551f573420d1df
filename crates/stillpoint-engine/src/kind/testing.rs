//! What the tests of the kinds share: children that hold real kernel objects and play the task.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use stillpoint_sys::{proc, task};

use super::{Capture, Content, Objects, Place, Rebuilt, descriptors, record, registry};
use crate::freeze::FrozenTask;
use crate::{Error, External, Result, TaskName};

/// Descriptors that are to be inherited are inheritable for a moment, so these tests run one after the other.
pub(super) fn serial() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of the test's own, removed at its end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stillpoint-kind-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir(&path).unwrap();
        // The kernel shows paths without symbolic links.
        Scratch(path.canonicalize().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A child process that holds descriptors and does nothing.
pub(super) struct Holder {
    child: Child,
}

impl Holder {
    /// A child that has inherited `files`, under the numbers that they have here.
    pub(super) fn with(files: &[&OwnedFd]) -> Self {
        // What the test runner was given by its own parents is none of the child's.
        stillpoint_sys::file::close_on_exec_from(3).unwrap();
        for file in files {
            rustix::io::fcntl_setfd(file, FdFlags::empty()).unwrap();
        }
        let null = Stdio::null;
        let child =
            Command::new("sleep").arg("1000").stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
        for file in files {
            rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC).unwrap();
        }
        let start = Instant::now();
        // While it starts it has its libraries open; when it sleeps, only what it was given.
        let asleep = format!("{} ", libc::SYS_clock_nanosleep);
        let syscall = format!("/proc/{}/syscall", child.id());
        while !std::fs::read_to_string(&syscall).unwrap().starts_with(&asleep) {
            assert!(start.elapsed() < Duration::from_secs(10), "the child does not start");
            std::thread::sleep(Duration::from_millis(1));
        }
        Holder { child }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn task(&self) -> FrozenTask {
        frozen(self.pid())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A task as the capture sees it. It is idle, so nobody notices that it is not stopped.
pub(super) fn frozen(pid: u32) -> FrozenTask {
    FrozenTask {
        host_pid: pid,
        pid,
        name: TaskName { pid, tid: None, name: "sleep".to_owned() },
        pidfd: task::pidfd(pid).unwrap(),
        zombie: false,
        threads: Vec::new(),
    }
}

/// What a capture gave.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) objects: Vec<record::Object>,
    pub(super) contents: Vec<Content>,
    pub(super) tables: Vec<(u32, u64)>,
    pub(super) choices: Vec<(String, String)>,
}

impl Captured {
    /// The only object of a kind.
    pub(super) fn only(&self, kind: &str) -> &record::Object {
        let mut found = self.objects.iter().filter(|object| object.kind == kind);
        let only = found.next().unwrap_or_else(|| panic!("no {kind} in {:?}", self.objects));
        assert!(found.next().is_none(), "more than one {kind}");
        only
    }

    /// What a task has under a number.
    pub(super) fn file(&self, pid: u32, number: i32) -> u64 {
        let (_, table) = self.tables.iter().find(|(task, _)| *task == pid).unwrap();
        let table = self.objects.iter().find(|object| object.id == *table).unwrap();
        let table: record::DescriptorTable = super::decode(table).unwrap();
        let number = u32::try_from(number).unwrap();
        table.descriptors.iter().find(|entry| entry.number == number).unwrap().file
    }

    pub(super) fn check(&self, place: &Place) -> Vec<Error> {
        descriptors::check_all(&self.objects, place)
    }

    pub(super) fn rebuild(&self, place: &Place) -> Result<Rebuilt> {
        let mut contents = |id: u64, sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>| {
            self.contents
                .iter()
                .filter(|content| content.object == id)
                .try_for_each(|content| content.stream(sink))
        };
        descriptors::rebuild_all(&self.objects, place, &mut contents)
    }

    /// Checks and rebuilds where it was saved.
    pub(super) fn rebuild_here(&self) -> Rebuilt {
        assert_eq!(self.check(&Place::default()), []);
        self.rebuild(&Place::default()).unwrap()
    }
}

/// Captures whole tasks.
pub(super) fn capture(tasks: &[FrozenTask], externals: &[External]) -> Result<Captured> {
    let mut objects = Objects::new();
    let mut ctx = Capture::new(tasks, externals, &mut objects)?;
    let tables = descriptors::capture_tables(&mut ctx)?;
    let choices = std::mem::take(&mut ctx.choices);
    drop(ctx);
    let (objects, contents) = objects.into_parts();
    Ok(Captured { objects, contents, tables, choices })
}

/// Captures open files of this process alone, each as an open file description of its own.
pub(super) fn capture_own(files: &[&OwnedFd]) -> Result<Captured> {
    capture_own_with(files, |_| {})
}

/// The same, with a context that the test has prepared.
pub(super) fn capture_own_with(
    files: &[&OwnedFd],
    prepare: impl FnOnce(&mut Capture<'_>),
) -> Result<Captured> {
    let tasks = [frozen(std::process::id())];
    let mut objects = Objects::new();
    let mut ctx = Capture::new(&tasks, &[], &mut objects)?;
    prepare(&mut ctx);
    for file in files {
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        let info = proc::fdinfo::read(tasks[0].host_pid, number)?;
        let stat = rustix::fs::fstat(file).unwrap();
        let duplicate = rustix::io::fcntl_dupfd_cloexec(file, 0).unwrap();
        let seen = ctx.see(&tasks[0], number, duplicate, stat, info)?;
        let kinds: Vec<_> = registry::candidates(&seen).map(|kind| kind.name()).collect();
        assert!(kinds.len() < 2, "more than one kind says that it is its own: {kinds:?}");
        match registry::recognise(&seen) {
            Some(kind) => kind.capture(seen, &mut ctx)?,
            None => return Err(Box::new(registry::refusal(&seen))),
        };
    }
    for kind in registry::KINDS {
        kind.finish(&mut ctx)?;
    }
    drop(ctx);
    let (objects, contents) = objects.into_parts();
    Ok(Captured { objects, contents, tables: Vec::new(), choices: Vec::new() })
}

/// The only open file description of a rebuild.
pub(super) fn single(rebuilt: Rebuilt) -> OwnedFd {
    let mut files = rebuilt.files;
    assert_eq!(files.len(), 1);
    files.drain().next().unwrap().1
}

/// The link of a descriptor of this process.
pub(super) fn link(fd: &OwnedFd) -> Vec<u8> {
    proc::link::fd(std::process::id(), u32::try_from(fd.as_raw_fd()).unwrap()).unwrap()
}

pub(super) fn open(path: &Path, flags: rustix::fs::OFlags) -> OwnedFd {
    rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::from_raw_mode(0o644))
        .unwrap()
}
