//! Which file it is: a path is a hint, an identity is the truth.
//!
//! The kernel shows an open or mapped file by a path. That path is believed only if it leads to the same inode when
//! it is looked up again. On restore a file is found by its path and believed only if it is the one that was saved:
//!
//! | type | must be equal |
//! |---|---|
//! | regular file | type, size, modification time to the nanosecond |
//! | directory, FIFO | type (their size and times change by use) |
//! | device node | type and device number |
//!
//! Permission bits and owners are recorded and not compared: a descriptor outlives a change of either, and in a user
//! namespace or below `--root` they differ for good reasons. The kernel itself refuses an open that they forbid.
//!
//! Paths are those of the tool's own root directory and mount namespace.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, fstat, statat};
use rustix::io::Errno;

use super::place::Place;
use super::record::FileIdentity;
use crate::{Code, Error, Result};

/// What the kernel appends to the path of a file whose name is gone.
pub(super) const DELETED: &[u8] = b" (deleted)";

/// Whether a file that the kernel shows by a path can be found by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// Its path leads to it.
    Named(FileIdentity),
    /// It has no name any more; the path is the one it had, without the kernel's ` (deleted)`.
    Deleted(FileIdentity),
    /// It has names, or may have, but the path does not lead to it.
    Astray(Astray),
}

/// Why a path does not lead to the file that it was shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Astray {
    /// The name was removed, and the file lives on under another one.
    OtherName,
    /// Another file has that name now, or another file system is mounted above it.
    Replaced,
    /// Nothing has that name: a directory on the way is gone or not visible from here.
    Missing,
    /// The kernel shows no path.
    NoPath,
}

impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Astray::OtherName => {
                "the name that it was opened by was removed, and the file lives on under another"
            }
            Astray::Replaced => "another file has its name now, or a file system is mounted above it",
            Astray::Missing => {
                "nothing has its name: a directory on the way is gone or not visible from here"
            }
            Astray::NoPath => "the kernel shows no path for it",
        })
    }
}

/// The identity of a file with a path.
#[must_use]
pub fn identity(path: &[u8], stat: &Stat, filesystem: u64) -> FileIdentity {
    FileIdentity {
        path: path.to_vec(),
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_sec: stat.st_mtime,
        mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        device: stat.st_dev,
        inode: stat.st_ino,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        filesystem,
        build_id: Vec::new(),
    }
}

/// Finds out whether `link`, which the kernel shows for a file with that `stat`, leads to it.
///
/// # Errors
///
/// When the path cannot be looked up for want of permission: then nobody knows.
pub fn naming(link: &[u8], stat: &Stat, filesystem: u64) -> Result<Naming> {
    if link.first() != Some(&b'/') {
        return Ok(Naming::Astray(Astray::NoPath));
    }
    // A file may really be called "x (deleted)", so the text alone says nothing. A count of links does for what can
    // have several names; directories have no such count on some file systems, so theirs is not asked.
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let former = link.strip_suffix(DELETED);
    if stat.st_nlink == 0 && !directory {
        return Ok(match former {
            Some(former) => Naming::Deleted(identity(former, stat, filesystem)),
            None => Naming::Astray(Astray::NoPath),
        });
    }
    let gone = |otherwise| match former {
        Some(former) if directory => Naming::Deleted(identity(former, stat, filesystem)),
        Some(_) => Naming::Astray(Astray::OtherName),
        None => Naming::Astray(otherwise),
    };
    // The kernel's path holds no symbolic links, and the file itself is none.
    match statat(CWD, link, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
        Ok(there) if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) => {
            Ok(Naming::Named(identity(link, stat, filesystem)))
        }
        Ok(_) => Ok(gone(Astray::Replaced)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(gone(Astray::Missing)),
        Err(errno) => Err(Box::new(
            Error::new(Code::NotPermitted, "looking up the path of a file").object(show(link)).cause(errno),
        )),
    }
}

/// The identity of a file behind one of the kernel's magic links: `/proc/PID/exe`, `cwd`, `root`,
/// `map_files/START-END`, `fd/N`. The file must have a name that leads to it.
///
/// # Errors
///
/// [`Code::UnsupportedFileState`] when it has none.
pub fn identify(magic: &Path) -> Result<FileIdentity> {
    let failed = |errno: Errno| {
        let code = match errno {
            Errno::PERM | Errno::ACCESS => Code::NotPermitted,
            Errno::NOENT | Errno::SRCH => Code::NoSuchTask,
            _ => Code::Failed,
        };
        Box::new(Error::new(code, "identifying a file").object(magic.display().to_string()).cause(errno))
    };
    let link = rustix::fs::readlink(magic, Vec::new()).map_err(failed)?.into_bytes();
    let stat = rustix::fs::stat(magic).map_err(failed)?;
    let filesystem = rustix::fs::statfs(magic).map_err(failed)?.f_type;
    let refused = |cause: String| {
        Box::new(
            Error::new(Code::UnsupportedFileState, "identifying a file")
                .object(format!("{} -> {}", magic.display(), show(&link)))
                .cause(cause),
        )
    };
    match naming(&link, &stat, magic_number(filesystem))? {
        Naming::Named(identity) => Ok(identity),
        Naming::Deleted(_) => Err(refused("it was deleted".to_owned())),
        Naming::Astray(why) => Err(refused(why.to_string())),
    }
}

/// f_type of statfs(2) as a number without sign.
#[must_use]
pub(super) fn magic_number(f_type: impl Into<i64>) -> u64 {
    // Magic numbers have 32 bits; the field is a signed long, and some numbers come sign-extended.
    f_type.into().cast_unsigned() & 0xffff_ffff
}

/// Opens the file that an identity describes, with `flags`, after making sure that it is that file. Nothing is
/// created, truncated or waited for.
///
/// # Errors
///
/// [`Code::FileDiffers`] when another file, or none, is at its path; [`Code::NotPermitted`] when it may not be opened.
pub fn open_matching(place: &Place, want: &FileIdentity, flags: OFlags) -> Result<OwnedFd> {
    let found = find_matching(place, want)?;
    if flags.contains(OFlags::PATH) {
        return Ok(found);
    }
    let flags =
        flags.difference(OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC) | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = if flags.contains(OFlags::NOFOLLOW) {
        // The flag stays visible in F_GETFL and works on a name only, so this cannot go through /proc/self/fd.
        // What is opened is compared with what was checked.
        let opened = lookup(place, &want.path, flags).map_err(|errno| cannot_open(want, errno))?;
        let (a, b) = (status(&found)?, status(&opened)?);
        if (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) {
            return Err(differs(want, "it was replaced while it was being opened"));
        }
        opened
    } else {
        reopen(&found, flags).map_err(|errno| cannot_open(want, errno))?
    };
    Ok(opened)
}

/// Makes sure that the file that an identity describes is there. Touches nothing.
///
/// # Errors
///
/// As [`open_matching`].
pub fn check_matching(place: &Place, want: &FileIdentity) -> Result<()> {
    find_matching(place, want).map(drop)
}

/// As [`check_matching`], for a regular file, of which there may be thousands in one directory.
///
/// # Errors
///
/// As [`open_matching`].
pub(super) fn check_regular(place: &Place, want: &FileIdentity) -> Result<()> {
    match place.parent(&want.path).and_then(|(directory, name)| look(&directory, name, want)) {
        Some(_) => Ok(()),
        // Whatever is wrong, this tells what.
        None => check_matching(place, want),
    }
}

/// As [`open_matching`], for a regular file.
///
/// # Errors
///
/// As [`open_matching`].
pub(super) fn open_regular(place: &Place, want: &FileIdentity, flags: OFlags) -> Result<OwnedFd> {
    match place.parent(&want.path).and_then(|(directory, name)| open_beside(&directory, name, want, flags)) {
        Some(fd) => Ok(fd),
        None => open_matching(place, want, flags),
    }
}

/// The status of a regular file in a directory, if it is the one that is wanted.
fn look(directory: &OwnedFd, name: &[u8], want: &FileIdentity) -> Option<Stat> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT).ok()?;
    let is_it =
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && misfit(want, &stat).is_none();
    is_it.then_some(stat)
}

/// Looks at a regular file and opens it, both by its name in a directory; what is opened is compared with what was
/// seen. Nothing is waited for, should it have been replaced meanwhile by something that one waits for.
fn open_beside(directory: &OwnedFd, name: &[u8], want: &FileIdentity, flags: OFlags) -> Option<OwnedFd> {
    // These concern the name, so that the way of looking it up would show.
    if flags.intersects(OFlags::PATH | OFlags::NOFOLLOW) {
        return None;
    }
    let seen = look(directory, name, want)?;
    let flags = flags.difference(OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC);
    let how = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    let opened = rustix::fs::openat2(directory, name, how, Mode::empty(), resolve).ok()?;
    let stat = fstat(&opened).ok()?;
    if (stat.st_dev, stat.st_ino) != (seen.st_dev, seen.st_ino) || misfit(want, &stat).is_some() {
        return None;
    }
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(&opened, flags.intersection(super::state::CHANGEABLE)).ok()?;
    }
    Some(opened)
}

/// An O_PATH descriptor of the file, compared with its identity.
fn find_matching(place: &Place, want: &FileIdentity) -> Result<OwnedFd> {
    let found = lookup(place, &want.path, OFlags::PATH | OFlags::CLOEXEC)
        .map_err(|errno| cannot_open(want, errno))?;
    match misfit(want, &status(&found)?) {
        None => Ok(found),
        Some(misfit) => Err(differs(want, misfit)),
    }
}

/// What of a file is not as its identity says, or `None`.
#[must_use]
pub fn misfit(want: &FileIdentity, stat: &Stat) -> Option<String> {
    let (type_want, type_have) =
        (FileType::from_raw_mode(want.mode as RawMode), FileType::from_raw_mode(stat.st_mode));
    if type_want != type_have {
        return Some(format!("it should be a {} and is a {}", type_name(type_want), type_name(type_have)));
    }
    match type_want {
        FileType::RegularFile => {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            if want.size != size {
                return Some(format!("it had {} bytes and has {size} now", want.size));
            }
            let have = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
            let want = (want.mtime_sec, want.mtime_nsec);
            (want != have).then(|| {
                format!("it was last written at {}.{:09} and now at {}.{:09}", want.0, want.1, have.0, have.1)
            })
        }
        FileType::CharacterDevice | FileType::BlockDevice if want.rdev != stat.st_rdev => Some(format!(
            "it should be device {} and is device {}",
            device_number(want.rdev),
            device_number(stat.st_rdev)
        )),
        _ => None,
    }
}

/// Looks a path up: below `--root` if there is one, so that neither `..` nor a symbolic link leads out of it.
pub(super) fn lookup(place: &Place, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let (base, resolve) = match &place.root {
        Some(root) => (root.as_fd(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS),
        None => (CWD, ResolveFlags::NO_MAGICLINKS),
    };
    if path.first() != Some(&b'/') {
        return Err(Errno::INVAL);
    }
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(base, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere makes the kernel unsure whether `..` stayed inside; it asks to try again.
            Err(Errno::AGAIN | Errno::INTR) if tries < 100 => tries += 1,
            result => return result,
        }
    }
}

/// A new open file description of what a descriptor refers to.
pub(super) fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::io::retry_on_intr(|| rustix::fs::open(path.as_str(), flags | OFlags::CLOEXEC, Mode::empty()))
}

fn status(fd: &OwnedFd) -> Result<Stat> {
    fstat(fd).map_err(|errno| Box::new(Error::new(Code::Failed, "reading the status of a file").cause(errno)))
}

pub(super) fn differs(want: &FileIdentity, cause: impl fmt::Display) -> Box<Error> {
    Box::new(
        Error::new(Code::FileDiffers, "finding a file").object(show(&want.path)).cause(cause).remedy(
            "put back the file as it was at the checkpoint, with its modification time (cp -p, rsync -t), or give \
             --root a directory that has it",
        ),
    )
}

pub(super) fn cannot_open(want: &FileIdentity, errno: Errno) -> Box<Error> {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => differs(want, errno),
        _ => {
            let code = match errno {
                Errno::ACCESS | Errno::PERM => Code::NotPermitted,
                _ => Code::Failed,
            };
            Box::new(Error::new(code, "opening a file").object(show(&want.path)).cause(errno))
        }
    }
}

/// Kernel bytes as a message shows them.
pub(super) fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A device number as `major:minor`.
pub(super) fn device_number(rdev: u64) -> String {
    format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

/// What a file's type is called.
pub(super) fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "file of unknown type",
    }
}
