//! What a kind is told of an open file, and what it may ask and add, while a frozen tree is captured.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use stillpoint_sys::proc;

use super::objects::Objects;
use super::{descriptor_name, external, identity, outside, pipe};
use crate::freeze::FrozenTask;
use crate::{Code, Error, External, Result};

/// One open file description, as it was first met in a frozen task.
#[derive(Debug)]
pub struct SeenFile<'a> {
    /// The task in whose table it was met.
    pub task: &'a FrozenTask,
    /// The number that it has there.
    pub number: u32,
    /// A duplicate of it (`pidfd_getfd`): every query is made on this, from outside. It shares the position and the
    /// flags, so a kind reads without moving them.
    pub fd: OwnedFd,
    /// The link of `/proc/PID/fd/N`, kernel bytes.
    pub link: Vec<u8>,
    /// Its status, of fstat(2).
    pub stat: Stat,
    /// What `/proc/PID/fdinfo/N` says.
    pub info: proc::fdinfo::FdInfo,
    /// The type of the file system that it is on, as `/proc/self/mountinfo` names it; none when that mount is not
    /// in the tool's mount namespace (memfds, sockets, a file system that was unmounted lazily).
    pub filesystem: Option<String>,
}

impl<'a> SeenFile<'a> {
    /// A file without a name that is mapped and may be open nowhere: what there is to know of its inode.
    pub(crate) fn mapped(task: &'a FrozenTask, fd: OwnedFd, link: Vec<u8>) -> Result<Self> {
        let failed = |errno| Box::new(Error::new(Code::Failed, "looking at a mapped file").cause(errno));
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let own = std::process::id();
        let info = proc::fdinfo::read(own, fd.as_raw_fd().unsigned_abs())?;
        let mounts = proc::mountinfo::read(own)?;
        let mount = mounts.into_iter().find(|mount| mount.id == info.mnt_id);
        let filesystem = mount.map(|mount| String::from_utf8_lossy(&mount.fs_type).into_owned());
        Ok(SeenFile { task, number: 0, fd, link, stat, info, filesystem })
    }
}

impl SeenFile<'_> {
    /// The file's type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// The flags of F_GETFL.
    #[must_use]
    pub fn flags(&self) -> OFlags {
        OFlags::from_bits_retain(self.info.flags).difference(OFlags::CLOEXEC)
    }

    /// How errors name it.
    #[must_use]
    pub fn object(&self) -> String {
        descriptor_name(self.number, &self.link)
    }

    /// An error about this file.
    #[must_use]
    pub fn refuse(&self, code: Code, cause: impl std::fmt::Display) -> Error {
        Error::new(code, "saving an open file").in_task(&self.task.name).object(self.object()).cause(cause)
    }

    /// A failed query of this file.
    #[must_use]
    pub(super) fn failed(&self, error: &stillpoint_sys::Error) -> Box<Error> {
        about(error, self.task, self.object())
    }

    /// A failed system call on this file.
    #[must_use]
    pub fn errno(&self, doing: &str, errno: Errno) -> Box<Error> {
        Box::new(Error::new(Code::Failed, doing).in_task(&self.task.name).object(self.object()).cause(errno))
    }
}

/// An error of the kernel boundary, about an object of a task.
pub(super) fn about(error: &stillpoint_sys::Error, task: &FrozenTask, object: String) -> Box<Error> {
    let code = match error.errno() {
        Some(libc::EPERM | libc::EACCES) => Code::NotPermitted,
        Some(libc::ESRCH) => Code::NoSuchTask,
        _ => Code::Failed,
    };
    Box::new(Error::new(code, error.doing()).in_task(&task.name).object(object).cause(error.cause()))
}

/// The context of a capture: the tree, the object table, what was found so far.
#[derive(Debug)]
pub struct Capture<'a> {
    /// Every process of the tree; the first is its root.
    pub tasks: &'a [FrozenTask],
    /// The object table.
    pub objects: &'a mut Objects,
    /// What the user should know.
    pub notes: Vec<String>,
    /// What the user chose to lose or replace, as (option, text), for the image's header.
    pub choices: Vec<(String, String)>,
    /// The pipes and FIFOs met so far.
    pub(super) pipes: pipe::Pipes,
    /// The inodes of deleted files met so far, with where each was met first.
    pub(super) deleted: HashMap<(u64, u64), (outside::First, &'static str)>,
    /// The event counters met so far, by the kernel's number for each, with where it was met first.
    pub(super) eventfds: HashMap<Vec<u8>, outside::First>,
    /// What the tool itself had open when the capture began, by device and inode: it must not take its own end of
    /// a pipe for nobody's.
    pub(super) own: HashMap<(u64, u64), u32>,
    /// What `--external` asks for.
    pub(super) externals: Vec<external::Asked>,
    /// The terminals, by device number, of which `--external` replaces a descriptor.
    pub(super) replaced_terminals: HashSet<u64>,
    /// `/proc/self/fd`.
    links: OwnedFd,
    mounts: HashMap<u32, String>,
    filesystems: HashMap<u64, u64>,
    terminals: OnceCell<Terminals>,
}

/// The controlling terminals of the tree's sessions, by device number.
#[derive(Debug, Default)]
pub(super) struct Terminals {
    /// Of sessions that are led from outside the tree: what it was started from.
    pub(super) outside: HashSet<u64>,
    /// Of sessions that are led from inside.
    pub(super) inside: HashSet<u64>,
}

impl<'a> Capture<'a> {
    /// The context for a frozen tree whose root is the first of `tasks`.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] when an external names a task that is not in the tree; failures to read `/proc`.
    pub fn new(tasks: &'a [FrozenTask], externals: &[External], objects: &'a mut Objects) -> Result<Self> {
        let mounts = proc::mountinfo::read(std::process::id())?;
        let own = outside::own_files(tasks)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let links = rustix::fs::open("/proc/self/fd", flags, Mode::empty())
            .map_err(|errno| super::failed("opening the list of this process's descriptors", errno))?;
        Ok(Capture {
            tasks,
            objects,
            notes: Vec::new(),
            choices: Vec::new(),
            pipes: pipe::Pipes::default(),
            deleted: HashMap::new(),
            eventfds: HashMap::new(),
            own,
            externals: external::resolve(tasks, externals)?,
            replaced_terminals: HashSet::new(),
            links,
            mounts: mounts
                .into_iter()
                .map(|mount| (mount.id, String::from_utf8_lossy(&mount.fs_type).into_owned()))
                .collect(),
            filesystems: HashMap::new(),
            terminals: OnceCell::new(),
        })
    }

    /// Looks at a descriptor of a task whose duplicate is at hand.
    pub(super) fn see<'t>(
        &self,
        task: &'t FrozenTask,
        number: u32,
        fd: OwnedFd,
        stat: Stat,
        info: proc::fdinfo::FdInfo,
    ) -> Result<SeenFile<'t>> {
        // Of our duplicate, whose number is the same each time: the kernel makes an inode for each number of a task
        // that is looked at, and that costs three times as much.
        let link = rustix::fs::readlinkat(&self.links, fd.as_raw_fd().to_string(), Vec::new())
            .map_err(|errno| {
                let (code, cause) = match errno {
                    Errno::NAMETOOLONG => {
                        (Code::UnsupportedFileState, "its path is longer than the kernel can show".to_owned())
                    }
                    errno => (Code::Failed, errno.to_string()),
                };
                let error = Error::new(code, "reading the link of a descriptor").in_task(&task.name);
                error.object(format!("fd {number}")).cause(cause)
            })?
            .into_bytes();
        let filesystem = self.mounts.get(&info.mnt_id).cloned();
        Ok(SeenFile { task, number, fd, link, stat, info, filesystem })
    }

    /// The magic number of the file system that a file is on.
    pub(super) fn magic(&mut self, seen: &SeenFile<'_>) -> Result<u64> {
        if let Some(&magic) = self.filesystems.get(&seen.stat.st_dev) {
            return Ok(magic);
        }
        let status = rustix::fs::fstatfs(&seen.fd)
            .map_err(|errno| seen.errno("reading the status of a file system", errno))?;
        let magic = identity::magic_number(status.f_type);
        self.filesystems.insert(seen.stat.st_dev, magic);
        Ok(magic)
    }

    #[cfg(test)]
    pub(super) fn set_terminals(&mut self, terminals: Terminals) {
        self.terminals = OnceCell::from(terminals);
    }

    /// The controlling terminals of the tree's sessions.
    pub(super) fn terminals(&self) -> Result<&Terminals> {
        if let Some(known) = self.terminals.get() {
            return Ok(known);
        }
        let pids: HashSet<u32> = self.tasks.iter().map(|task| task.host_pid).collect();
        let mut found = Terminals::default();
        for task in self.tasks {
            let stat = proc::stat::read(task.host_pid)?;
            let terminal = u64::from(stat.tty_nr.cast_unsigned());
            if terminal != 0 {
                let inside = u32::try_from(stat.session).is_ok_and(|session| pids.contains(&session));
                if inside {
                    found.inside.insert(terminal)
                } else {
                    found.outside.insert(terminal)
                };
            }
        }
        Ok(self.terminals.get_or_init(|| found))
    }
}
