//! Files without a name behind areas of memory: deleted files and memfds that are mapped, and perhaps open nowhere.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Key, Met, Objects, SeenFile, deleted, filesystem, identity, memfd};
use crate::freeze::FrozenTask;
use crate::{Code, Error, Result};

/// Saves the file behind an area unless it was met before, and returns its object. `device` and `inode` are those that
/// `maps` shows.
///
/// # Errors
///
/// A refusal, with the reason.
pub fn capture(
    task: &FrozenTask,
    area: (u64, u64),
    (device, inode): (u64, u64),
    objects: &mut Objects,
) -> Result<u64> {
    if let Some(id) = objects.known(&Key::DeletedFile(device, inode)) {
        return Ok(id);
    }
    let (fd, link) = open(task, area)?;
    let seen = SeenFile::mapped(task, fd, link)?;
    let id = match objects.meet(Key::DeletedFile(seen.stat.st_dev, seen.stat.st_ino)) {
        Met::Known(id) => return Ok(id),
        Met::New(id) => id,
    };
    if memfd::is_memfd(&seen) {
        memfd::capture_inode(id, &seen, objects)?;
    } else if seen.file_type() == FileType::RegularFile && seen.stat.st_nlink == 0 {
        filesystem::require_ordinary(&seen)?;
        let status = rustix::fs::fstatfs(&seen.fd)
            .map_err(|errno| seen.errno("reading the status of a file system", errno))?;
        deleted::capture_inode(id, &seen, identity::magic_number(status.f_type), objects)?;
    } else {
        let cause = "its file's name leads to another file now: it was deleted, renamed over or mounted over";
        return Err(seen.refuse(Code::UnsupportedArea, cause).into());
    }
    Ok(id)
}

/// Whether a file is a memfd that is sealed against writing altogether, and has been so since before it was mapped.
///
/// # Errors
///
/// When its record is not one.
pub fn is_write_sealed(objects: &Objects, id: u64) -> Result<bool> {
    match objects.record(id).filter(|object| object.kind == memfd::INODE) {
        Some(object) => Ok(memfd::facts(object)?.seals & memfd::WRITE != 0),
        None => Ok(false),
    }
}

pub use super::deleted::extents;

/// What an area may map of a file without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Size of its huge pages, 0 for none.
    pub huge_page_size: u64,
    /// Its seals, if it is a memfd.
    pub seals: u32,
}

/// The facts of an object of an image; none of one that areas cannot map.
///
/// # Errors
///
/// When its record makes no sense.
pub fn facts(object: &super::record::Object) -> Result<Option<Facts>> {
    match object.kind.as_str() {
        memfd::INODE => memfd::facts(object).map(Some),
        deleted::INODE => Ok(Some(Facts::default())),
        _ => Ok(None),
    }
}

/// The file, by the kernel's own link to it, which only CAP_CHECKPOINT_RESTORE lets follow.
fn open(task: &FrozenTask, (start, end): (u64, u64)) -> Result<(OwnedFd, Vec<u8>)> {
    let path = format!("/proc/{}/map_files/{start:x}-{end:x}", task.host_pid);
    let cannot = |errno| {
        let error = Error::new(Code::UnsupportedArea, "saving an area of memory");
        Box::new(match errno {
            Errno::PERM | Errno::ACCESS => error
                .cause("it maps a file without a name that no descriptor of the tree has open")
                .remedy("run the checkpoint with CAP_CHECKPOINT_RESTORE, as root has it, which may look at such files"),
            errno => error.cause(errno),
        })
    };
    let link = rustix::fs::readlink(path.as_str(), Vec::new()).map_err(cannot)?.into_bytes();
    let open =
        |flags| rustix::fs::open(path.as_str(), flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    let fd = open(OFlags::RDONLY | OFlags::NOATIME)
        .or_else(|errno| if errno == Errno::PERM { open(OFlags::RDONLY) } else { Err(errno) })
        .map_err(cannot)?;
    Ok((fd, link))
}
