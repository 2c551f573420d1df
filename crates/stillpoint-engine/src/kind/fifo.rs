//! FIFOs: pipes that have a name. Their queue is saved as a pipe's; on restore the FIFO must be there, empty and
//! unused.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};

use super::identity::{cannot_open, differs, lookup, reopen};
use super::rebuild::{Check, HeldPipe};
use super::{Capture, Kind, Place, Rebuild, SeenFile, State, SupportRow};
use super::{failed, filesystem, identity, outside, pipe, record, regular};
use crate::{Code, Error, Result};

#[cfg(test)]
mod tests;

/// FIFOs.
#[derive(Debug)]
pub struct Fifo;

impl Kind for Fifo {
    fn name(&self) -> &'static str {
        "fifo-end"
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "FIFOs",
            state: State::Partly,
            detail: "As pipes. Found again by path; it must be empty and unused then. Refused: a deleted FIFO, \
                     and one whose readers have not all had a writer.",
            kernel: "5.6",
            operations: &["fs/pipe.c: pipefifo_fops"],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        seen.file_type() == FileType::Fifo && !seen.link.starts_with(b"pipe:[")
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        if seen.flags().contains(OFlags::PATH) {
            let cause = "it was opened with O_PATH, which is not supported yet";
            return Err(seen.refuse(Code::UnsupportedFileState, cause).into());
        }
        filesystem::require_ordinary(&seen)?;
        let file = regular::named(&seen, ctx)?;
        pipe::capture_end(self.name(), seen, Some(file), ctx)
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        pipe::check_end(object, at)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        pipe::rebuild_end(object, ctx).map(Some)
    }
}

/// Whether the FIFO is there and unused, as far as can be told without opening it.
pub(super) fn check_pipe(file: &record::FileIdentity, at: &Check<'_>) -> Result<()> {
    let found = identity::open_matching(at.place, file, OFlags::PATH)?;
    let stat = fstat(&found).map_err(|errno| failed("reading the status of a FIFO", errno))?;
    let sought = HashSet::from([(stat.st_dev, stat.st_ino)]);
    match outside::file_holder(&sought, FileType::Fifo, &[])? {
        Some((_, holder)) => {
            Err(in_use(file, &format!("process {} ({}) has it open", holder.pid, holder.comm.escape_ascii())))
        }
        None => Ok(()),
    }
}

/// Opens the FIFO for reading and writing, which keeps both sides open while the ends are made, and makes sure that
/// nobody else has it open. One that is `unwritten` is opened for reading alone: a writer, once there, would show as
/// a hang-up to its readers when it is gone.
pub(super) fn open_pipe(
    file: &record::FileIdentity,
    unwritten: bool,
    ctx: &Rebuild<'_>,
) -> Result<(HeldPipe, OwnedFd)> {
    let found = identity::open_matching(ctx.place, file, OFlags::PATH)?;
    match reopen(&found, OFlags::WRONLY | OFlags::NONBLOCK) {
        Err(Errno::NXIO) => {}
        Ok(_) => return Err(in_use(file, "somebody reads it")),
        Err(errno) => return Err(cannot_open(file, errno)),
    }
    let reader =
        reopen(&found, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|errno| cannot_open(file, errno))?;
    // tee(2) takes nothing out, and tells an empty queue with a writer from one without.
    let (_own, into) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("making a pipe", errno))?;
    match tee(&reader, &into, 1, SpliceFlags::NONBLOCK) {
        Ok(0) => {}
        Ok(_) => return Err(in_use(file, "it holds data")),
        Err(Errno::AGAIN) => return Err(in_use(file, "somebody has it open for writing")),
        Err(errno) => return Err(failed("looking into a FIFO", errno)),
    }
    let handle = if unwritten {
        reader
    } else {
        reopen(&found, OFlags::RDWR | OFlags::NONBLOCK).map_err(|errno| cannot_open(file, errno))?
    };
    let writer = rustix::io::fcntl_dupfd_cloexec(&handle, 0)
        .map_err(|errno| failed("duplicating a descriptor", errno))?;
    Ok((HeldPipe { handle, read: None, write: None, fifo: None }, writer))
}

/// Opens an end by name, for O_NOFOLLOW, and makes sure that it is the same FIFO.
pub(super) fn open_by_name(
    place: &Place,
    file: &record::FileIdentity,
    flags: OFlags,
    handle: &OwnedFd,
) -> Result<OwnedFd> {
    // Another FIFO put in its place would make an open wait: O_NONBLOCK does not, and the caller sets the flags.
    let flags = flags.difference(OFlags::DIRECT) | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = lookup(place, &file.path, flags).map_err(|errno| cannot_open(file, errno))?;
    let status = |fd| fstat(fd).map_err(|errno| failed("reading the status of a FIFO", errno));
    let (a, b) = (status(&fd)?, status(handle)?);
    if (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) {
        return Err(differs(file, "it was replaced while it was being opened"));
    }
    Ok(fd)
}

fn in_use(file: &record::FileIdentity, cause: &str) -> Box<Error> {
    let error =
        Error::new(Code::FileDiffers, "opening a FIFO").object(identity::show(&file.path)).cause(cause);
    Box::new(error.remedy("it must be empty and unused: end what uses it"))
}
