//! The state that every open file description has: flags, position, owner, locks, leases.
//!
//! What is here and is not saved is refused, for every kind alike: a lease or a SIGIO owner must not be lost because
//! the kind at hand did not think of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, SeekFrom};
use stillpoint_sys::file::{self, Lease};

use super::capture::SeenFile;
use super::identity::show;
use super::{locks, record};
use crate::{Code, Error, Result};

/// O_TMPFILE without O_DIRECTORY, which rustix's constant includes: the bit that tells such a file.
pub(super) const TMPFILE: OFlags = OFlags::TMPFILE.difference(OFlags::DIRECTORY);

/// F_GETFL flags that are understood. O_ASYNC and O_PATH are too, and refused by name.
const KNOWN: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::DIRECT)
    .union(OFlags::LARGEFILE)
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOATIME)
    .union(TMPFILE);

/// O_ASYNC, which rustix does not name.
const ASYNC: OFlags = OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned());

/// Reads the common state of an open file description and refuses what of it is not saved.
///
/// # Errors
///
/// [`Code::UnsupportedFileState`] by name, [`Code::Unknown`] for what the kernel shows and we do not know.
pub(super) fn open_file(seen: &SeenFile<'_>) -> Result<record::OpenFile> {
    open_file_with(seen, &[])
}

/// The same for a kind whose fdinfo has lines of its own, which it reads itself.
///
/// # Errors
///
/// As [`open_file`].
pub(super) fn open_file_with(seen: &SeenFile<'_>, own: &[&[u8]]) -> Result<record::OpenFile> {
    let flags = seen.flags();
    if flags.contains(OFlags::PATH) {
        return Err(seen
            .refuse(Code::UnsupportedFileState, "it was opened with O_PATH, which is not supported yet")
            .into());
    }
    if let Some((key, value)) =
        seen.info.rest.iter().find(|(key, _)| key != locks::KEY && !own.contains(&&key[..]))
    {
        let cause = format!("its fdinfo has a line that is not known: {}: {}", show(key), show(value));
        return Err(seen.refuse(Code::Unknown, cause).into());
    }
    let mut open =
        record::OpenFile { flags: flags.bits(), position: seen.info.pos, ..record::OpenFile::default() };
    locks::of_description(seen, &mut open)?;
    if flags.contains(ASYNC) {
        return Err(seen
            .refuse(Code::UnsupportedFileState, "it sends signals (O_ASYNC), which is not supported yet")
            .into());
    }
    let unknown = flags.difference(KNOWN);
    if !unknown.is_empty() {
        return Err(seen
            .refuse(Code::Unknown, format!("it has open flags that are not known: {:#o}", unknown.bits()))
            .into());
    }
    if flags.contains(OFlags::RWMODE) {
        return Err(seen
            .refuse(Code::UnsupportedFileState, "it was opened for ioctl(2) alone (access mode 3)")
            .into());
    }
    let owner = file::owner(&seen.fd).map_err(|error| seen.failed(&error))?;
    if owner != file::Owner::default() {
        return Err(seen
            .refuse(
                Code::UnsupportedFileState,
                format!(
                    "it has an owner for signals, {} (F_SETOWN or F_NOTIFY), not supported yet",
                    owner.pid
                ),
            )
            .into());
    }
    let signal = file::signal(&seen.fd).map_err(|error| seen.failed(&error))?;
    if signal != 0 {
        return Err(seen
            .refuse(
                Code::UnsupportedFileState,
                format!("it sends signal {signal} in place of SIGIO (F_SETSIG), which is not supported yet"),
            )
            .into());
    }
    match file::lease(&seen.fd).map_err(|error| seen.failed(&error))? {
        Lease::None => {}
        lease => {
            let lease = if lease == Lease::Read { "read" } else { "write" };
            return Err(seen
                .refuse(
                    Code::UnsupportedFileState,
                    format!("it holds a {lease} lease (F_SETLEASE), which is not supported yet"),
                )
                .into());
        }
    }
    Ok(open)
}

/// The flags to open a file with, of an image's record. An image is not trusted: only known flags pass.
///
/// # Errors
///
/// [`Code::ImageUnknown`] for flags that are not known, [`Code::ImageInconsistent`] for locks that no file has.
pub(super) fn open_flags(open: &record::OpenFile) -> Result<OFlags> {
    let flags = OFlags::from_bits_retain(open.flags);
    if !KNOWN.contains(flags) || flags.contains(OFlags::RWMODE) || open.owner.is_some() {
        return Err(Box::new(
            Error::new(Code::ImageUnknown, "reading an open file of the image")
                .cause(format!("it has flags {:#o} or an owner that this version does not know", open.flags)),
        ));
    }
    locks::check_description(open)?;
    Ok(flags)
}

/// Sets the position, and makes sure that flags and position are those of the image.
///
/// # Errors
///
/// [`Code::Failed`] when they are not: then the task could tell.
pub(super) fn settle(fd: OwnedFd, open: &record::OpenFile, seekable: bool) -> Result<OwnedFd> {
    let failed =
        |doing: &str, cause: &dyn std::fmt::Display| Box::new(Error::new(Code::Failed, doing).cause(cause));
    if seekable {
        let position = u64::try_from(open.position).map_err(|_| {
            Box::new(
                Error::new(Code::ImageInconsistent, "reading an open file of the image")
                    .cause(format!("its position is {}", open.position)),
            )
        })?;
        if position != 0 {
            match rustix::fs::seek(&fd, SeekFrom::Start(position)) {
                Ok(there) if there == position => {}
                Ok(there) => {
                    return Err(failed("setting the position of a file", &format!("it is at {there}")));
                }
                Err(errno) => return Err(failed("setting the position of a file", &errno)),
            }
        }
    }
    let have = status_flags(&fd)?;
    if have.bits() != open.flags {
        let cause = format!("they should be {:#o} and are {:#o}", open.flags, have.bits());
        return Err(failed("setting the flags of a file", &cause));
    }
    Ok(fd)
}

/// F_GETFL.
pub(super) fn status_flags(fd: impl AsFd) -> Result<OFlags> {
    rustix::fs::fcntl_getfl(fd)
        .map_err(|errno| Box::new(Error::new(Code::Failed, "reading the flags of a file").cause(errno)))
}

/// The flags that F_SETFL can change.
pub(super) const CHANGEABLE: OFlags =
    OFlags::APPEND.union(OFlags::NONBLOCK).union(OFlags::DIRECT).union(OFlags::NOATIME);

/// Sets those flags of a new file that can be changed after it was opened.
pub(super) fn change_flags(fd: impl AsFd, flags: OFlags) -> Result<()> {
    rustix::fs::fcntl_setfl(fd, flags.intersection(CHANGEABLE))
        .map_err(|errno| Box::new(Error::new(Code::Failed, "setting the flags of a file").cause(errno)))
}
