//! What is queued in a pipe, read without being consumed.
//!
//! tee(2) shares the pipe's pages with a pipe of the tool's own, which is then read.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee};

use super::super::outside::First;
use crate::{Code, Error};

/// Why a queue could not be read.
pub(super) enum Refused {
    Failed(&'static str, Errno),
    State(String),
}

impl Refused {
    pub(super) fn about(self, first: &First) -> Box<Error> {
        match self {
            Refused::Failed(doing, errno) => Box::new(
                Error::new(Code::Failed, doing)
                    .in_task(&first.task)
                    .object(first.object.clone())
                    .cause(errno),
            ),
            Refused::State(cause) => super::refused(first, Code::UnsupportedFileState, &cause),
        }
    }
}

/// What a pipe holds.
pub(super) struct Queue {
    pub(super) bytes: Vec<u8>,
    /// It is empty, and there is no writer.
    pub(super) at_end: bool,
}

/// Copies what is queued, without consuming it. Packets are noticed and refused: how the bytes come out of the copy
/// tells whether a read would stop, or drop the rest, at some boundary.
pub(super) fn read_queue(
    pipe: impl AsFd,
    capacity: usize,
    copy: &mut Option<(OwnedFd, OwnedFd)>,
) -> Result<Queue, Refused> {
    let fail = |doing| move |errno| Refused::Failed(doing, errno);
    let count = rustix::io::ioctl_fionread(&pipe).map_err(fail("reading how much a pipe holds"))?;
    let count = usize::try_from(count).map_err(|_| Refused::State(format!("it holds {count} bytes")))?;
    let (read, write) = match copy.take() {
        Some(ends) => ends,
        None => pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(fail("making a pipe"))?,
    };
    let size = fcntl_getpipe_size(&write).map_err(fail("reading the capacity of a pipe"))?;
    if size < capacity {
        // tee(2) shares pages, so the copy needs as many slots as the pipe has, however few bytes they hold.
        fcntl_setpipe_size(&write, capacity).map_err(|errno| {
            Refused::State(format!(
                "it has a capacity of {capacity} bytes, and this user may not make such a pipe: {errno} \
                 (see /proc/sys/fs/pipe-max-size and pipe-user-pages-soft)"
            ))
        })?;
    }
    if count == 0 {
        let at_end = match tee(&pipe, &write, 1, SpliceFlags::NONBLOCK) {
            Ok(0) => true,
            Err(Errno::AGAIN) => false,
            Ok(_) => return Err(Refused::State("it is written to although the tree is stopped".to_owned())),
            Err(errno) => return Err(Refused::Failed("copying what a pipe holds", errno)),
        };
        *copy = Some((read, write));
        return Ok(Queue { bytes: Vec::new(), at_end });
    }
    let copied =
        tee(&pipe, &write, count, SpliceFlags::NONBLOCK).map_err(fail("copying what a pipe holds"))?;
    if copied != count {
        return Err(Refused::State(format!("it holds {count} bytes, of which {copied} could be copied")));
    }
    let packets = || Refused::State("it holds packets (O_DIRECT), which is not supported yet".to_owned());
    let mut bytes = vec![0; count + 1];
    if count == 1 {
        // A packet of one byte ends a read that asks for more.
        rustix::io::write(&write, b"x").map_err(fail("writing to a pipe"))?;
        let got = rustix::io::read(&read, &mut bytes).map_err(fail("reading a pipe"))?;
        if got != 2 {
            return Err(packets());
        }
    } else {
        let got = rustix::io::read(&read, &mut bytes[..count - 1]).map_err(fail("reading a pipe"))?;
        let rest = rustix::io::ioctl_fionread(&read).map_err(fail("reading how much a pipe holds"))?;
        if got != count - 1 || rest != 1 {
            return Err(packets());
        }
        rustix::io::read(&read, &mut bytes[count - 1..count]).map_err(fail("reading a pipe"))?;
    }
    bytes.truncate(count);
    *copy = Some((read, write));
    Ok(Queue { bytes, at_end: false })
}
