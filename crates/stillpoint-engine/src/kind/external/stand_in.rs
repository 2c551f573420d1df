//! Opening what stands in for an open file description.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, accessat, fcntl_setfl, fstat,
    openat2, seek, statat, unlinkat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use stillpoint_sys::{proc, task};

use crate::kind::{pipe, record};
use crate::{Code, Error, Replacement, Result};

/// What stands in for an open file description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// It.
    pub replacement: Replacement,
    /// The number of the descriptor that it was asked for.
    pub descriptor: u32,
}

/// What was opened so far: descriptors that are given the same file share one open file description of it, or they
/// would overwrite each other's output.
#[derive(Debug, Default)]
pub(in crate::kind) struct Opened {
    by_path: HashMap<(PathBuf, bool, u32, bool), OwnedFd>,
    pub(in crate::kind) created: Vec<Created>,
}

/// A file that was made for a stand-in. It is removed again when this is dropped, unless it is kept.
#[derive(Debug)]
pub struct Created {
    parent: OwnedFd,
    name: Vec<u8>,
    identity: (u64, u64),
    kept: bool,
}

impl Created {
    /// The restore is done: the file stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let same = statat(&self.parent, self.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity && stat.st_size == 0);
        if !self.kept && same {
            // The restore has failed already, and says why.
            let _ = unlinkat(&self.parent, self.name.as_slice(), AtFlags::empty());
        }
    }
}

/// Whether a stand-in can be had. Touches nothing.
pub(in crate::kind) fn check(
    stand_in: &StandIn,
    like: &record::OpenFile,
    root: Option<&OwnedFd>,
) -> Result<()> {
    let flags = OFlags::from_bits_retain(like.flags);
    let path = match &stand_in.replacement {
        Replacement::Descriptor(number) => return check_descriptor(*number, flags),
        Replacement::Path(path) => path,
    };
    match open_at(root, path, OFlags::PATH | OFlags::CLOEXEC) {
        Ok(found) => {
            let stat = fstat(&found).map_err(|errno| cannot(path, errno))?;
            let writes = pipe::writes(flags);
            if writes && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Err(cannot(path, Errno::ISDIR));
            }
            let mut access = Access::empty();
            access.set(Access::READ_OK, pipe::reads(flags));
            access.set(Access::WRITE_OK, writes);
            permitted(&found, access).map_err(|errno| cannot(path, errno))
        }
        Err(Errno::NOENT) if pipe::writes(flags) => {
            let parent = open_at(root, parent_of(path), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC);
            parent
                .and_then(|parent| permitted(&parent, Access::WRITE_OK | Access::EXEC_OK))
                .map_err(|errno| cannot(path, errno))
        }
        Err(errno) => Err(cannot(path, errno)),
    }
}

fn permitted(file: &OwnedFd, access: Access) -> Result<(), Errno> {
    match accessat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), access, AtFlags::EACCESS) {
        // Before Linux 5.8 nobody knows before it is tried.
        Err(Errno::NOSYS) => Ok(()),
        answer => answer,
    }
}

/// Opens a stand-in for an open file description like that. `root`: where its path is looked up.
pub(in crate::kind) fn open(
    stand_in: &StandIn,
    like: &record::OpenFile,
    root: Option<&OwnedFd>,
    opened: &mut Opened,
) -> Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(like.flags);
    let path = match &stand_in.replacement {
        Replacement::Path(path) => path,
        Replacement::Descriptor(number) => {
            check_descriptor(*number, flags)?;
            // A duplicate by number, checked by the kernel: a plain dup would need an unsafe borrow of the number.
            let me = task::pidfd(std::process::id())?;
            return Ok(task::duplicate(me.as_fd(), *number)?);
        }
    };
    let how = flags.intersection(OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK);
    // A pipe or terminal that was read and written has no position that tells where in a file to begin.
    let at_end = pipe::writes(flags) && (!pipe::reads(flags) || stand_in.descriptor != 0);
    let key = (path.clone(), root.is_some(), how.bits(), at_end);
    if let Some(same) = opened.by_path.get(&key) {
        return fcntl_dupfd_cloexec(same, 3).map_err(|errno| cannot(path, errno));
    }
    let fd = open_or_make(path, how, root, &mut opened.created).map_err(|errno| cannot(path, errno))?;
    let stat = fstat(&fd).map_err(|errno| cannot(path, errno))?;
    if at_end && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        seek(&fd, SeekFrom::End(0)).map_err(|errno| cannot(path, errno))?;
    }
    let second = fcntl_dupfd_cloexec(&fd, 3).map_err(|errno| cannot(path, errno))?;
    opened.by_path.insert(key, second);
    Ok(fd)
}

fn open_or_make(
    path: &Path,
    how: OFlags,
    root: Option<&OwnedFd>,
    created: &mut Vec<Created>,
) -> Result<OwnedFd, Errno> {
    // Without blocking: nobody could interrupt the wait for the other end of a FIFO.
    let flags = how | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::LARGEFILE;
    let fd = match open_at(root, path, flags) {
        Err(Errno::NOENT) if pipe::writes(how) => {
            match open_at(root, path, flags | OFlags::CREATE | OFlags::EXCL) {
                // A link to nowhere: its target is made, and stays whatever comes.
                Err(Errno::EXIST) => open_at(root, path, flags | OFlags::CREATE)?,
                made => {
                    let made = made?;
                    created.extend(remember(path, root, &made));
                    made
                }
            }
        }
        found => found?,
    };
    if !how.contains(OFlags::NONBLOCK) {
        fcntl_setfl(&fd, how.intersection(OFlags::APPEND))?;
    }
    Ok(fd)
}

fn remember(path: &Path, root: Option<&OwnedFd>, made: &OwnedFd) -> Option<Created> {
    let name = path.file_name()?.as_bytes().to_vec();
    let parent = open_at(root, parent_of(path), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC).ok()?;
    let stat = fstat(made).ok()?;
    Some(Created { parent, name, identity: (stat.st_dev, stat.st_ino), kept: false })
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open_at(root: Option<&OwnedFd>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::io::retry_on_intr(|| match root {
        Some(root) => openat2(root, path, flags, mode, inside),
        None => rustix::fs::open(path, flags, mode),
    })
}

/// One that this process would pass on to a program that it starts: it was given it for others, while what it opened
/// itself is closed on exec, and must not get into a task by a wrong number.
fn check_descriptor(number: u32, want: OFlags) -> Result<()> {
    let doing = "taking a descriptor of this process";
    let wrong =
        |cause: &str| Box::new(Error::new(Code::Usage, doing).object(format!("fd:{number}")).cause(cause));
    let have = proc::fdinfo::read(std::process::id(), number).map_err(|error| match error.errno() {
        Some(libc::ENOENT) => wrong("there is no such descriptor"),
        _ => wrong(&error.cause()),
    })?;
    let have = OFlags::from_bits_retain(have.flags);
    if have.contains(OFlags::CLOEXEC) {
        return Err(wrong("this process was not given it: it is closed on exec"));
    }
    if (pipe::reads(want) && !pipe::reads(have)) || (pipe::writes(want) && !pipe::writes(have)) {
        return Err(wrong("it is not open for what the task's descriptor was open for"));
    }
    Ok(())
}

fn cannot(path: &Path, errno: Errno) -> Box<Error> {
    let code = match errno {
        Errno::ACCESS | Errno::PERM => Code::NotPermitted,
        Errno::NOENT | Errno::NOTDIR | Errno::ISDIR => Code::Usage,
        _ => Code::Failed,
    };
    let error = Error::new(code, "opening a replacement").object(path.display().to_string());
    Box::new(match errno {
        Errno::NXIO => error.cause("it is a FIFO that nobody reads from, or a device that is not there"),
        errno => error.cause(errno),
    })
}
