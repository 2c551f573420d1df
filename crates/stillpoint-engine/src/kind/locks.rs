//! File locks: of a process (fcntl(2), F_SETLK), of an open file description (F_OFD_SETLK, flock(2)).
//!
//! The kernel shows a lock in the fdinfo of the descriptors whose open file description it was set through, and of no
//! other descriptor of the file. A process's own locks belong to its descriptor table, so they are saved with that,
//! each with a descriptor through which it can be set again; the others are saved with the open file description.
//!
//! All are set by the tasks themselves, so that whoever asks for the holder is told the right process; those of an
//! open file description by the first process that has it. A process loses its locks on a file when it closes *any*
//! descriptor of that file, so they are set after the last descriptor was closed that the task inherited for its
//! rebuilding. Nothing that the restoring process closes matters: it is another owner.
//!
//! Somebody who waits for a lock (F_SETLKW, flock) waits in a system call, which is made again like any other. What
//! it waits for is held before anybody runs.
//!
//! *Architecture invariant:* a lock is neither weakened nor forced: where somebody else holds one that is in the way,
//! the place does not fit.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::OFlags;
use stillpoint_sys::lock::{self, Owner, RecordLock};
use stillpoint_sys::proc::fdinfo::FdInfo;
use stillpoint_sys::proc::locks::{Class, Line, Lock, parse};
use stillpoint_sys::proc::{link, status};

use super::capture::SeenFile;
use super::identity::show;
use super::support::{State, SupportRow};
use super::{Place, external, inconsistent, pipe, record};
use crate::freeze::FrozenTask;
use crate::plan::Model;
use crate::restore::sequence::Sequence;
use crate::{Code, Error, Result};

#[cfg(test)]
mod tests;

/// Rows of the support matrix.
pub(super) const SUPPORT: &[SupportRow] = &[
    SupportRow::saved(
        "file locks of a process: fcntl(2) F_SETLK, lockf(3)",
        "5.6",
        "Set again before anything runs; refused on restore where somebody else holds one that is in the way. A process \
         that waits for a lock waits again.",
    ),
    SupportRow {
        what: "file locks of an open file description: F_OFD_SETLK, flock(2)",
        state: State::Saved,
        detail: "As above; /proc/locks names the first process that has the open file as the one that set it.",
        kernel: "5.6",
        operations: &[],
    },
    SupportRow::refused("leases, delegations, mandatory locks", "not yet"),
];

/// The key of fdinfo under which locks are listed.
pub(super) const KEY: &[u8] = b"lock";

/// LOCK_SH and LOCK_EX of flock(2).
const SHARED: u32 = libc::LOCK_SH.unsigned_abs();
const EXCLUSIVE: u32 = libc::LOCK_EX.unsigned_abs();

/// The locks that a descriptor shows.
fn shown(info: &FdInfo) -> impl Iterator<Item = (&[u8], stillpoint_sys::Result<Line>)> {
    info.values(KEY).map(|line| (line, parse(line)))
}

/// The locks that belong to an open file description, into its record. Refuses every lock that is not saved.
///
/// # Errors
///
/// [`Code::UnsupportedFileState`] by name, [`Code::Unknown`] for a line that is not understood.
pub(super) fn of_description(seen: &SeenFile<'_>, open: &mut record::OpenFile) -> Result<()> {
    for (line, understood) in shown(&seen.info) {
        let Ok(understood) = understood else {
            let cause = format!("its fdinfo has a lock that is not known: {}", show(line));
            return Err(seen.refuse(Code::Unknown, cause).into());
        };
        let unsupported = match understood {
            Line::Lock(Lock { class: Class::Process, .. }) => continue, // Of the table: see `of_process`.
            Line::Lock(Lock { class: Class::Description, lock, .. }) => {
                open.locks.push(written(lock, 0));
                continue;
            }
            Line::Lock(Lock { class: Class::Whole, lock, .. }) => {
                open.flock = if lock.exclusive { EXCLUSIVE } else { SHARED };
                continue;
            }
            Line::Lease => "a lease",
            Line::Delegation => "a delegation",
            Line::Mandatory => "a mandatory lock",
        };
        let cause = format!("{unsupported} is held through it, which is not supported yet: {}", show(line));
        return Err(seen
            .refuse(Code::UnsupportedFileState, cause)
            .remedy("let the program give it up before the checkpoint")
            .into());
    }
    Ok(())
}

/// The locks of a process that one of its descriptors shows.
///
/// # Errors
///
/// [`Code::UnsupportedFileState`] for a lock that another process set for it, [`Code::Unknown`] for one that cannot
/// have been set through this descriptor.
pub(super) fn of_process(task: &FrozenTask, number: u32, info: &FdInfo) -> Result<Vec<record::RecordLock>> {
    let mut locks = Vec::new();
    let flags = OFlags::from_bits_retain(info.flags);
    for (line, understood) in shown(info) {
        let Ok(Line::Lock(Lock { class: Class::Process, pid, lock })) = understood else { continue };
        let refuse = |code, cause| {
            Box::new(
                Error::new(code, "saving a file lock")
                    .in_task(&task.name)
                    .object(format!("fd {number}: {}", show(line)))
                    .cause(cause),
            )
        };
        if u32::try_from(pid) != Ok(task.host_pid) {
            let cause = "another process that shared its descriptors has set it, and would not be named as its \
                         holder any more";
            return Err(refuse(Code::UnsupportedFileState, cause));
        }
        if !(if lock.exclusive { pipe::writes(flags) } else { pipe::reads(flags) }) {
            return Err(refuse(Code::Unknown, "the descriptor is not open for what such a lock needs"));
        }
        locks.push(written(lock, number));
    }
    Ok(locks)
}

fn written(lock: RecordLock, descriptor: u32) -> record::RecordLock {
    record::RecordLock { exclusive: lock.exclusive, start: lock.start, end: lock.end, descriptor }
}

fn read(lock: &record::RecordLock) -> RecordLock {
    RecordLock { exclusive: lock.exclusive, start: lock.start, end: lock.end }
}

/// Whether the locks of an open file description are some that there can be.
///
/// # Errors
///
/// [`Code::ImageInconsistent`].
pub(super) fn check_description(open: &record::OpenFile) -> Result<()> {
    let fits = |lock: &record::RecordLock| lock.descriptor == 0 && read(lock).is_valid();
    if open.locks.iter().all(fits) && open.flock <= EXCLUSIVE {
        return Ok(());
    }
    Err(Box::new(
        Error::new(Code::ImageInconsistent, "reading an open file of the image")
            .cause("it has locks that no file has"),
    ))
}

/// Whether the locks of a descriptor table are some that there can be.
///
/// # Errors
///
/// [`Code::ImageInconsistent`].
pub(super) fn check_table(object: &record::Object, table: &record::DescriptorTable) -> Result<()> {
    for lock in &table.locks {
        if !read(lock).is_valid() {
            return Err(inconsistent(object, "it has a lock on a range that no file has"));
        }
        if file_of(table, lock).is_none() {
            let cause = format!("it has a lock through descriptor {}, which it lacks", lock.descriptor);
            return Err(inconsistent(object, cause));
        }
    }
    Ok(())
}

/// The open file description through which a lock of a table was set.
fn file_of(table: &record::DescriptorTable, lock: &record::RecordLock) -> Option<u64> {
    let at = table.descriptors.binary_search_by_key(&lock.descriptor, |entry| entry.number).ok()?;
    table.descriptors.get(at).map(|entry| entry.file)
}

/// What all processes of a tree have to lock.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    by_process: HashMap<usize, Vec<Wanted>>,
}

/// One lock that a process has to set.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    descriptor: u32,
    file: u64,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Record(Owner, RecordLock),
    /// The operation of flock(2).
    Whole(u32),
}

impl Locks {
    /// Says which process sets which locks. Open files that the user replaced have none.
    ///
    /// # Errors
    ///
    /// [`Code::ImageInconsistent`] when a lock is of no open file.
    pub(crate) fn plan(model: &Model, place: &Place) -> Result<Self> {
        let tables = model
            .living()
            .filter(|(n, ..)| model.is_first(*n, |task| task.descriptors))
            .map(|(n, _, body)| (n, &body.table));
        Self::of_tables(tables, &model.objects, |file| place.replacements.contains_key(&file))
    }

    fn of_tables<'a>(
        tables: impl Iterator<Item = (usize, &'a record::DescriptorTable)>,
        objects: &[record::Object],
        replaced: impl Fn(u64) -> bool,
    ) -> Result<Self> {
        let mut described = HashMap::new();
        for object in objects.iter().filter(|object| super::registry::describes_open_file(&object.kind)) {
            let open = external::open_file_of(object)?;
            if (open.flock != 0 || !open.locks.is_empty()) && !replaced(object.id) {
                described.insert(object.id, open);
            }
        }
        let mut out = Locks::default();
        for (n, table) in tables {
            let mut wanted = Vec::new();
            for entry in &table.descriptors {
                let Some(open) = described.remove(&entry.file) else { continue };
                let mut add = |how| wanted.push(Wanted { descriptor: entry.number, file: entry.file, how });
                open.locks.iter().for_each(|lock| add(How::Record(Owner::Description, read(lock))));
                if open.flock != 0 {
                    add(How::Whole(open.flock));
                }
            }
            for lock in &table.locks {
                let file = file_of(table, lock).ok_or_else(|| {
                    let cause =
                        format!("the image holds a lock of descriptor {}, which is closed", lock.descriptor);
                    Box::new(Error::new(Code::ImageInconsistent, "reading the image").cause(cause))
                })?;
                if !replaced(file) {
                    let how = How::Record(Owner::Process, read(lock));
                    wanted.push(Wanted { descriptor: lock.descriptor, file, how });
                }
            }
            if !wanted.is_empty() {
                out.by_process.insert(n, wanted);
            }
        }
        Ok(out)
    }

    /// Looks for locks of others that are in the way. What flock(2) locks nobody can ask for: that shows when it is set.
    ///
    /// # Errors
    ///
    /// [`Code::FileDiffers`], naming the file, the range and the holder.
    pub(crate) fn look_for_holders(&self, files: &HashMap<u64, OwnedFd>) -> Result<()> {
        for wanted in self.by_process.values().flatten() {
            let (How::Record(_, lock), Some(fd)) = (wanted.how, files.get(&wanted.file)) else { continue };
            if let Some(holder) = lock::holder(fd, &lock)? {
                let who = match holder.pid {
                    Some(pid) => match status::read(pid) {
                        Ok(status) => format!("process {pid} ({})", status.name.escape_ascii()),
                        Err(_) => format!("process {pid}"),
                    },
                    None => "an open file description or a process that is not visible here".to_owned(),
                };
                let error = in_the_way("looking for locks of the tree's files")
                    .object(format!("{} of {}", range(&lock), name(fd)))
                    .cause(format!("{who} holds a {}", range(&holder.lock)));
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Sets the locks of a process, whose descriptors are at their numbers and will not be closed again.
    pub(crate) fn set(&self, sequence: &mut Sequence, n: usize, files: &HashMap<u64, OwnedFd>) {
        for wanted in self.by_process.get(&n).into_iter().flatten() {
            let name = files.get(&wanted.file).map_or_else(|| format!("fd {}", wanted.descriptor), name);
            match wanted.how {
                How::Record(owner, lock) => {
                    let data = sequence.current().data(&lock.to_bytes());
                    sequence.call(
                        format!("{SETTING} {} of {name}", range(&lock)),
                        libc::SYS_fcntl,
                        [wanted.descriptor.into(), owner.set_command().into(), data.into()],
                    );
                }
                How::Whole(operation) => sequence.call(
                    format!("{SETTING} flock of {name}"),
                    libc::SYS_flock,
                    [wanted.descriptor.into(), (operation | libc::LOCK_NB.unsigned_abs()).into()],
                ),
            }
        }
    }
}

/// How the steps of a program that set locks begin.
const SETTING: &str = "setting a file lock,";

/// The error of a task's program, if it is that a lock of somebody else was in the way.
pub(crate) fn refused(error: &stillpoint_sys::Error) -> Option<Error> {
    let refused = matches!(error.errno(), Some(libc::EAGAIN | libc::EACCES));
    let object = error.doing().strip_prefix(SETTING).filter(|_| refused)?;
    let cause = "somebody else holds a lock that is in the way; lslocks(8) shows who";
    Some(in_the_way("setting a file lock").object(object.trim_start()).cause(cause))
}

fn in_the_way(doing: &str) -> Error {
    Error::new(Code::FileDiffers, doing)
        .remedy("let the holder give up its lock, or end it, and restore again")
}

fn range(lock: &RecordLock) -> String {
    let mode = if lock.exclusive { "write" } else { "read" };
    match (lock.start, lock.end) {
        (0, RecordLock::EOF) => format!("{mode} lock on all"),
        (start, RecordLock::EOF) => format!("{mode} lock on bytes {start} to the end"),
        (start, end) => format!("{mode} lock on bytes {start} to {end}"),
    }
}

fn name(fd: &OwnedFd) -> String {
    let number = fd.as_raw_fd().unsigned_abs();
    link::fd(std::process::id(), number).map_or_else(|_| format!("fd {number}"), |link| show(&link))
}
