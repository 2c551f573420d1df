//! Pipes: what is queued in them is read without being consumed, and all their ends must be in the tree.
//!
//! An object "pipe" stands for the pipe, for FIFOs too; an object "pipe-end" for each open file description. Both
//! ends may be in the tree, or one of them while the other is closed everywhere. The queue is copied with tee(2)
//! into a pipe of the tool's own.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use stillpoint_sys::file;

use super::outside::{self, First, Holder};
use super::rebuild::{Check, Held, HeldPipe};
use super::{Capture, Key, Kind, Met, Rebuild, SeenFile, Source, State, SupportRow};
use super::{decode, failed, fifo, identity, inconsistent, record, required, state};
use crate::{Code, Error, Result};

mod queue;

#[cfg(test)]
mod tests;

use queue::{Refused, read_queue};

/// Anonymous pipes.
#[derive(Debug)]
pub struct Pipe;

/// The object of the pipe itself, for FIFOs too.
pub(super) const PIPE: &str = "pipe";

/// The pipes and FIFOs met so far in a capture.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    met: HashMap<u64, Seen>,
    /// A pipe of the tool's own that queues are copied into.
    copy: Option<(OwnedFd, OwnedFd)>,
}

/// What is known of one pipe.
#[derive(Debug)]
struct Seen {
    first: First,
    key: (u64, u64),
    fifo: Option<record::FileIdentity>,
    capacity: usize,
    /// Flags of each end.
    ends: Vec<OFlags>,
    /// What is queued, once it was read.
    queued: Option<(Vec<u8>, Vec<record::PipeSegment>)>,
    /// A write end, kept until the queue was read.
    writer: Option<OwnedFd>,
    /// Owner and permission bits.
    inode: (u32, u32, u32),
    /// What poll(2) says of a read end: all writers are gone.
    hung_up: bool,
    /// What poll(2) says of another: it has a writer, or has not had one yet.
    waiting: bool,
    /// What tee(2) says of an empty queue: there is no writer.
    at_end: bool,
    /// What poll(2) says of a write end: all readers are gone.
    broken: bool,
}

impl Kind for Pipe {
    fn name(&self) -> &'static str {
        "pipe-end"
    }

    fn parts(&self) -> &'static [&'static str] {
        &[PIPE]
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "pipes",
            state: State::Partly,
            detail: "What is queued, packets (O_DIRECT) among it, capacity, flags of each end, several open file descriptions of an end; one \
                         end alone if the other is closed everywhere. Refused unless replaced by --external: a pipe \
                         that a process outside the tree holds too. Refused: notification queues. An ordinary user does not see what other users' processes hold.",
            kernel: "5.6",
            operations: &["fs/pipe.c: pipefifo_fops"],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        seen.file_type() == FileType::Fifo && seen.link.starts_with(b"pipe:[")
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        if file::is_notification_pipe(&seen.fd).map_err(|error| seen.failed(&error))? {
            let cause =
                "it is a queue of kernel notifications (O_NOTIFICATION_PIPE), which is not supported yet";
            return Err(seen.refuse(Code::UnsupportedFileState, cause).into());
        }
        capture_end(self.name(), seen, None, ctx)
    }

    fn finish(&self, ctx: &mut Capture<'_>) -> Result<()> {
        finish(ctx)
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        if object.kind == PIPE {
            let body: record::Pipe = decode(object)?;
            check_segments(object, &body)?;
            return body.fifo.as_ref().map_or(Ok(()), |identity| fifo::check_pipe(identity, at));
        }
        check_end(object, at)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        if object.kind != PIPE {
            return rebuild_end(object, ctx).map(Some);
        }
        let body: record::Pipe = decode(object)?;
        let (mut pipe, writer) = match &body.fifo {
            Some(identity) => fifo::open_pipe(identity, body.unwritten, ctx)?,
            None => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
                    .map_err(|errno| failed("making a pipe", errno))?;
                own(&read, &body)?;
                let handle = duplicate(&read)?;
                let writer = duplicate(&write)?;
                (HeldPipe { handle, read: Some(read), write: Some(write), fifo: None }, writer)
            }
        };
        resize(&writer, &body)?;
        fill(object.id, &body, &writer, ctx)?;
        pipe.fifo = body.fifo;
        ctx.hold(object.id, Held::Pipe(pipe));
        Ok(None)
    }
}

/// Saves one end of a pipe or FIFO.
pub(super) fn capture_end(
    kind: &str,
    seen: SeenFile<'_>,
    fifo: Option<record::FileIdentity>,
    ctx: &mut Capture<'_>,
) -> Result<u64> {
    let open = record::OpenFile { position: 0, ..state::open_file(&seen)? };
    let flags = seen.flags();
    let key = (seen.stat.st_dev, seen.stat.st_ino);
    let first = First {
        task: seen.task.name.clone(),
        pid: seen.task.pid,
        number: seen.number,
        object: seen.object(),
    };
    if let Some(&fd) = ctx.own.get(&key) {
        let me = Holder { pid: std::process::id(), comm: Vec::new(), fd };
        return Err(outside::refusal(&first, "it is a pipe that", Some(&me)));
    }
    let id = ctx.objects.meet(Key::Pipe(key.0, key.1));
    let Pipes { met, copy } = &mut ctx.pipes;
    if let Met::New(id) = id {
        let capacity = fcntl_getpipe_size(&seen.fd)
            .map_err(|errno| seen.errno("reading the capacity of a pipe", errno))?;
        let new = Seen {
            first,
            key,
            fifo,
            capacity,
            ends: Vec::new(),
            queued: None,
            writer: None,
            inode: (seen.stat.st_uid, seen.stat.st_gid, seen.stat.st_mode & 0o7777),
            hung_up: false,
            waiting: false,
            at_end: false,
            broken: false,
        };
        met.insert(id, new);
    }
    let id = id.id();
    let Some(pipe) = met.get_mut(&id) else {
        return Err(seen.refuse(Code::Failed, "its pipe was met and is not known").into());
    };
    pipe.ends.push(flags);
    let revents = poll_now(&seen.fd).map_err(|errno| seen.errno("polling a pipe", errno))?;
    if reads(flags) {
        let hung_up = revents.contains(PollFlags::HUP);
        pipe.hung_up |= hung_up;
        pipe.waiting |= !hung_up;
        if pipe.queued.is_none() {
            let read = read_queue(&seen.fd, pipe.capacity, copy).map_err(|cause| cause.about(&pipe.first))?;
            pipe.at_end = read.at_end;
            pipe.queued = Some((read.bytes, read.segments));
            pipe.writer = None;
        }
    }
    if writes(flags) {
        pipe.broken |= revents.contains(PollFlags::ERR);
        if pipe.queued.is_none() && pipe.writer.is_none() {
            pipe.writer = Some(seen.fd);
        }
    }
    Ok(ctx.objects.add(kind, &record::PipeEnd { open: Some(open), pipe: id }))
}

/// After all files were seen: are all ends of every pipe in the tree?
fn finish(ctx: &mut Capture<'_>) -> Result<()> {
    let Pipes { mut met, mut copy } = std::mem::take(&mut ctx.pipes);
    refuse_outsiders(&met, ctx)?;
    let mut ids: Vec<_> = met.keys().copied().collect();
    ids.sort_unstable();
    for id in ids {
        let Some(pipe) = met.remove(&id) else { continue };
        let unwritten = one_ended(&pipe)?;
        refuse_unlike_pipe2(&pipe)?;
        let (queued, segments) = match (pipe.queued, pipe.writer) {
            (Some(queued), _) => queued,
            (None, Some(writer)) => {
                // No reader anywhere, yet the queue stays: one who opens /proc/PID/fd/N may still read it.
                let reader =
                    identity::reopen(&writer, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|errno| {
                        Refused::Failed("opening a pipe for reading", errno).about(&pipe.first)
                    })?;
                let read = read_queue(&reader, pipe.capacity, &mut copy);
                let read = read.map_err(|cause| cause.about(&pipe.first))?;
                (read.bytes, read.segments)
            }
            (None, None) => (Vec::new(), Vec::new()),
        };
        let body = record::Pipe {
            capacity: u32::try_from(pipe.capacity).unwrap_or(u32::MAX),
            queued: queued.len() as u64,
            uid: if pipe.fifo.is_some() { 0 } else { pipe.inode.0 },
            gid: if pipe.fifo.is_some() { 0 } else { pipe.inode.1 },
            mode: if pipe.fifo.is_some() { 0 } else { pipe.inode.2 },
            fifo: pipe.fifo,
            unwritten,
            segments,
        };
        ctx.objects.put(id, PIPE, &body);
        if !queued.is_empty() {
            ctx.objects.content(id, Source::Bytes(queued));
        }
    }
    Ok(())
}

fn refuse_outsiders(met: &HashMap<u64, Seen>, ctx: &Capture<'_>) -> Result<()> {
    let named: HashSet<_> = met.values().filter(|pipe| pipe.fifo.is_some()).map(|pipe| pipe.key).collect();
    let pipes: BTreeSet<_> = met.values().filter(|pipe| pipe.fifo.is_none()).map(|pipe| pipe.key.1).collect();
    let mut found = None;
    if !pipes.is_empty() {
        found = outside::pipe_holder(&pipes, ctx.tasks)?.and_then(|(inode, holder)| {
            Some((met.values().find(|p| p.fifo.is_none() && p.key.1 == inode)?, holder))
        });
    }
    if found.is_none() && !named.is_empty() {
        found = outside::file_holder(&named, FileType::Fifo, ctx.tasks)?
            .and_then(|(key, holder)| Some((met.values().find(|p| p.key == key)?, holder)));
    }
    match found {
        Some((pipe, holder)) => Err(outside::refusal(&pipe.first, what(pipe), Some(&holder))),
        None => Ok(()),
    }
}

fn what(pipe: &Seen) -> &'static str {
    if pipe.fifo.is_some() { "it is a FIFO that" } else { "it is a pipe that" }
}

/// An end that the tree lacks must be closed everywhere. The kernel says so on the end that the tree has. Returns
/// whether it is a FIFO whose readers have not had a writer yet, which show no hang-up.
fn one_ended(pipe: &Seen) -> Result<bool> {
    let readers = pipe.ends.iter().any(|&flags| reads(flags));
    let writers = pipe.ends.iter().any(|&flags| writes(flags));
    if readers && !writers && pipe.at_end && pipe.waiting && pipe.fifo.is_some() {
        if pipe.hung_up {
            let cause = "some of its readers have had a writer and others not, which is not supported yet";
            return Err(refused(&pipe.first, Code::UnsupportedFileState, cause));
        }
        return Ok(true);
    }
    let (no_writers, no_readers) = (pipe.hung_up && !pipe.waiting, pipe.broken);
    if (readers && (writers || no_writers)) || (writers && no_readers) {
        return Ok(false);
    }
    Err(outside::refusal(&pipe.first, &format!("{} at its other end", what(pipe)), None))
}

/// Of an anonymous pipe, pipe2(2) gives one end of each side without O_LARGEFILE; all others were opened through
/// /proc and have it. More than can be rebuilt is not known to exist.
fn refuse_unlike_pipe2(pipe: &Seen) -> Result<()> {
    if pipe.fifo.is_some() {
        return Ok(());
    }
    let small: Vec<_> = pipe.ends.iter().filter(|flags| !flags.contains(OFlags::LARGEFILE)).collect();
    let readers =
        small.iter().filter(|&&&flags| flags.intersection(OFlags::RWMODE) == OFlags::RDONLY).count();
    let writers =
        small.iter().filter(|&&&flags| flags.intersection(OFlags::RWMODE) == OFlags::WRONLY).count();
    if readers > 1 || writers > 1 || readers + writers < small.len() {
        return Err(refused(&pipe.first, Code::Unknown, "it has ends that pipe(2) does not make"));
    }
    Ok(())
}

fn refused(first: &First, code: Code, cause: &str) -> Box<Error> {
    let error = Error::new(code, "saving an open file").in_task(&first.task);
    Box::new(error.object(first.object.clone()).cause(cause))
}

fn poll_now(fd: &OwnedFd) -> Result<PollFlags, Errno> {
    let mut fds = [PollFd::new(fd, PollFlags::IN | PollFlags::OUT)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
    Ok(fds[0].revents())
}

/// Whether an open file description can read.
pub(super) fn reads(flags: OFlags) -> bool {
    flags.intersection(OFlags::RWMODE) != OFlags::WRONLY
}

/// Whether an open file description can write.
pub(super) fn writes(flags: OFlags) -> bool {
    flags.intersection(OFlags::RWMODE) != OFlags::RDONLY
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(|errno| failed("duplicating a descriptor", errno))
}

/// The owner decides who may open the pipe again through /proc/PID/fd.
fn own(pipe: &OwnedFd, body: &record::Pipe) -> Result<()> {
    let doing = "setting the owner of a pipe";
    let stat = fstat(pipe).map_err(|errno| failed(doing, errno))?;
    if (stat.st_uid, stat.st_gid) != (body.uid, body.gid) {
        fchown(pipe, Some(Uid::from_raw(body.uid)), Some(Gid::from_raw(body.gid))).map_err(|errno| {
            let code = if errno == Errno::PERM { Code::NotPermitted } else { Code::Failed };
            Error::new(code, doing).object(format!("user {}, group {}", body.uid, body.gid)).cause(errno)
        })?;
    }
    if stat.st_mode & 0o7777 != body.mode {
        fchmod(pipe, Mode::from_raw_mode(body.mode)).map_err(|errno| failed(doing, errno))?;
    }
    Ok(())
}

fn resize(pipe: &OwnedFd, body: &record::Pipe) -> Result<()> {
    let doing = "setting the capacity of a pipe";
    let want = usize::try_from(body.capacity).unwrap_or(usize::MAX);
    if fcntl_getpipe_size(pipe).map_err(|errno| failed(doing, errno))? == want {
        return Ok(());
    }
    match fcntl_setpipe_size(pipe, want) {
        Ok(size) if size == want => Ok(()),
        Ok(size) => Err(Error::new(Code::Failed, doing)
            .cause(format!("it should be {want} bytes and is {size}"))
            .into()),
        Err(Errno::PERM) => Err(Error::new(Code::LimitTooSmall, doing)
            .cause(format!("this user may not make a pipe of {want} bytes here"))
            .remedy("raise /proc/sys/fs/pipe-max-size and pipe-user-pages-soft, or restore as root")
            .into()),
        Err(errno) => Err(failed(doing, errno)),
    }
}

fn fill(id: u64, body: &record::Pipe, writer: &OwnedFd, ctx: &mut Rebuild<'_>) -> Result<()> {
    if body.queued == 0 {
        return Ok(());
    }
    if !body.segments.is_empty() {
        return fill_packets(id, body, writer, ctx);
    }
    let mut written = 0;
    ctx.contents(id, &mut |offset, bytes| {
        if offset != written {
            return Err(mismatch(id, format!("its contents have a hole before {offset}")));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(writer, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(mismatch(id, "it holds more than its capacity")),
                Err(errno) => return Err(failed("writing what a pipe held", errno)),
            }
        }
        written += bytes.len() as u64;
        Ok(())
    })?;
    if written == body.queued {
        return Ok(());
    }
    Err(mismatch(id, format!("it should hold {} bytes and the image has {written}", body.queued)))
}

/// Parts of a queue that make it up, packets of at most a page among them.
fn check_segments(object: &record::Object, body: &record::Pipe) -> Result<()> {
    let total: u64 = body.segments.iter().map(|segment| u64::from(segment.length)).sum();
    let bad = |segment: &record::PipeSegment| {
        segment.length == 0 || segment.packet && u64::from(segment.length) > crate::memory::PAGE
    };
    if body.segments.is_empty() || total == body.queued && !body.segments.iter().any(bad) {
        return Ok(());
    }
    Err(inconsistent(object, "its packets are not what it holds"))
}

/// Each packet is one write with O_DIRECT set; what lies between is written without.
fn fill_packets(id: u64, body: &record::Pipe, writer: &OwnedFd, ctx: &mut Rebuild<'_>) -> Result<()> {
    let mut queued = Vec::new();
    ctx.contents(id, &mut |offset, bytes| {
        if offset != queued.len() as u64 || offset + bytes.len() as u64 > body.queued {
            return Err(mismatch(id, "its contents are not as long as it says"));
        }
        queued.extend_from_slice(bytes);
        Ok(())
    })?;
    let before = state::status_flags(writer)?;
    let mut rest = queued.as_slice();
    for segment in &body.segments {
        let mode = before.difference(OFlags::DIRECT);
        state::change_flags(writer, if segment.packet { mode | OFlags::DIRECT } else { mode })?;
        let length = usize::try_from(segment.length).unwrap_or(usize::MAX);
        let Some((mut part, tail)) = rest.split_at_checked(length) else {
            return Err(mismatch(id, "its contents are shorter than it says"));
        };
        while !part.is_empty() {
            match rustix::io::write(writer, part) {
                Ok(count) => part = part.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(mismatch(id, "it holds more than its capacity")),
                Err(errno) => return Err(failed("writing what a pipe held", errno)),
            }
        }
        rest = tail;
    }
    state::change_flags(writer, before)
}

fn mismatch(id: u64, cause: impl std::fmt::Display) -> Box<Error> {
    let object = record::Object { id, kind: PIPE.to_owned(), body: Vec::new() };
    inconsistent(&object, cause)
}

/// Whether an end's record makes sense.
pub(super) fn check_end(object: &record::Object, at: &Check<'_>) -> Result<()> {
    let body: record::PipeEnd = decode(object)?;
    state::open_flags(&required(object, body.open, "open file")?)?;
    at.object(object, body.pipe, PIPE).map(drop)
}

/// Rebuilds one end of a pipe or FIFO.
pub(super) fn rebuild_end(object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<OwnedFd> {
    let body: record::PipeEnd = decode(object)?;
    let open = required(object, body.open, "open file")?;
    let flags = state::open_flags(&open)?;
    let place = ctx.place;
    let Some(Held::Pipe(pipe)) = ctx.held(body.pipe) else {
        return Err(inconsistent(object, format!("its pipe, object {}, is not there before it", body.pipe)));
    };
    let taken = if pipe.fifo.is_none() && !flags.contains(OFlags::LARGEFILE) {
        if flags.intersection(OFlags::RWMODE) == OFlags::RDONLY {
            pipe.read.take()
        } else {
            pipe.write.take()
        }
    } else {
        None
    };
    let fd = match (taken, &pipe.fifo) {
        (Some(fd), _) => fd,
        (None, Some(identity)) if flags.contains(OFlags::NOFOLLOW) => {
            fifo::open_by_name(place, identity, flags, &pipe.handle)?
        }
        // The handle reads and writes, or both ends are open still, so this would not wait; that of a FIFO that
        // nobody writes to only reads, and one of those must not wait. The caller's flags are set below.
        (None, _) => identity::reopen(&pipe.handle, flags.difference(OFlags::DIRECT) | OFlags::NONBLOCK)
            .map_err(|errno| failed("opening a pipe", errno))?,
    };
    state::change_flags(&fd, flags)?;
    state::settle(fd, &open, false)
}
