//! What is queued in a pipe, read without being consumed.
//!
//! tee(2) shares the pipe's pages with a pipe of the tool's own, which is then read.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee};

use super::super::outside::First;
use super::super::record;
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
    /// Where packets are among it, all its parts in order.
    pub(super) segments: Vec<record::PipeSegment>,
    /// It is empty, and there is no writer.
    pub(super) at_end: bool,
}

/// Copies what is queued, without consuming it. Packets (O_DIRECT) are noticed: how the bytes come out of the copy
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
        return Ok(Queue { bytes: Vec::new(), segments: Vec::new(), at_end });
    }
    let copied =
        tee(&pipe, &write, count, SpliceFlags::NONBLOCK).map_err(fail("copying what a pipe holds"))?;
    if copied != count {
        return Err(Refused::State(format!("it holds {count} bytes, of which {copied} could be copied")));
    }
    let mut bytes = vec![0; count + 1];
    if has_packets(&read, &write, &mut bytes, count)? {
        let (bytes, segments) = read_packets(&pipe, count, capacity)?;
        *copy = None;
        return Ok(Queue { bytes, segments, at_end: false });
    }
    bytes.truncate(count);
    *copy = Some((read, write));
    Ok(Queue { bytes, segments: Vec::new(), at_end: false })
}

/// Reads the copy of a queue into `bytes`, and tells whether there are packets in it: a read stops at the end of one, and
/// drops what of it did not fit.
fn has_packets(read: &OwnedFd, write: &OwnedFd, bytes: &mut [u8], count: usize) -> Result<bool, Refused> {
    let fail = |doing| move |errno| Refused::Failed(doing, errno);
    let got = rustix::io::read(read, &mut bytes[..count - 1]).map_err(fail("reading a pipe"))?;
    let rest = rustix::io::ioctl_fionread(read).map_err(fail("reading how much a pipe holds"))?;
    if got != count - 1 || rest != 1 {
        return Ok(true);
    }
    // A packet of one byte ends a read that asks for more.
    rustix::io::write(write, b"x").map_err(fail("writing to a pipe"))?;
    Ok(rustix::io::read(read, &mut bytes[count - 1..]).map_err(fail("reading a pipe"))? != 2)
}

/// Takes a queue apart that holds packets. Each begins a look of its own: a copy of the first two bytes tells whether
/// they are of a packet, since a read of one byte drops the rest of it and nothing else.
fn read_packets(
    pipe: impl AsFd,
    count: usize,
    capacity: usize,
) -> Result<(Vec<u8>, Vec<record::PipeSegment>), Refused> {
    let fail = |doing| move |errno| Refused::Failed(doing, errno);
    let copy = |from: BorrowedFd<'_>, count: usize, room: usize| -> Result<OwnedFd, Refused> {
        let (read, write) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(fail("making a pipe"))?;
        if room > 0 && fcntl_getpipe_size(&write).map_err(fail("reading the capacity of a pipe"))? < room {
            fcntl_setpipe_size(&write, room).map_err(fail("setting the capacity of a pipe"))?;
        }
        let copied =
            tee(from, &write, count, SpliceFlags::NONBLOCK).map_err(fail("copying what a pipe holds"))?;
        if copied == count {
            Ok(read)
        } else {
            Err(Refused::State("its packets cannot be copied".to_owned()))
        }
    };
    let own = copy(pipe.as_fd(), count, capacity)?;
    let mut bytes = vec![0; count];
    let mut segments: Vec<record::PipeSegment> = Vec::new();
    let mut at = 0;
    while at < count {
        let look = (count - at).min(2);
        let packet = {
            let read = copy(own.as_fd(), look, 0)?;
            let mut two = [0; 2];
            rustix::io::read(&read, &mut two[..1]).map_err(fail("reading a pipe"))?;
            let left = rustix::io::ioctl_fionread(&read).map_err(fail("reading how much a pipe holds"))?;
            if left == 1 {
                // A byte that is no packet, or a packet of one byte: that ends a read of two.
                let read = copy(own.as_fd(), look, 0)?;
                rustix::io::read(&read, &mut two).map_err(fail("reading a pipe"))? == 1
            } else if look == 2 {
                true
            } else {
                last_is_packet(&own)?
            }
        };
        // A packet is read whole; bytes one by one, since a packet may follow any of them.
        let room = if packet { count - at } else { 1 };
        let got = rustix::io::read(&own, &mut bytes[at..at + room]).map_err(fail("reading a pipe"))?;
        match segments.last_mut() {
            Some(last) if !packet && !last.packet => last.length += 1,
            _ => segments.push(record::PipeSegment { length: u32::try_from(got).unwrap_or(0), packet }),
        }
        at += got;
    }
    Ok((bytes, segments))
}

/// Whether the only byte that is left is a packet: one that is added after it is then not read with it.
fn last_is_packet(own: &OwnedFd) -> Result<bool, Refused> {
    let fail = |doing| move |errno| Refused::Failed(doing, errno);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(fail("making a pipe"))?;
    tee(own, &write, 1, SpliceFlags::NONBLOCK).map_err(fail("copying what a pipe holds"))?;
    rustix::io::write(&write, b"x").map_err(fail("writing to a pipe"))?;
    Ok(rustix::io::read(&read, &mut [0; 2]).map_err(fail("reading a pipe"))? == 1)
}
