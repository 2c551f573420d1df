//! Who outside the tree holds what the tree holds: pipes, FIFOs and deleted files must not be shared with a process
//! that is not saved, or the two would part in silence.
//!
//! An ordinary user sees only its own processes. What another user's process holds is found for one-ended pipes
//! (the kernel says whether the other end exists), not for others.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, makedev, statx};
use stillpoint_sys::proc::{fdinfo, holders, link, maps, stat, tasks};
use stillpoint_sys::task::{Shared, kcmp};

use super::eventfd;
use super::identity::DELETED;
use crate::freeze::FrozenTask;
use crate::{Code, Error, Result, TaskName};

/// Where in the tree an object was met first.
#[derive(Debug, Clone)]
pub(super) struct First {
    /// The task.
    pub(super) task: TaskName,
    /// Its id as the tree sees it, by which options name it.
    pub(super) pid: u32,
    /// Its descriptor there.
    pub(super) number: u32,
    /// How errors name it.
    pub(super) object: String,
}

/// A descriptor of a process outside the tree.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) comm: Vec<u8>,
    pub(super) fd: u32,
}

/// A holder that is gone after so many looks was a process on its way to exec: it had inherited the descriptor.
const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(5);

/// What the tool itself has open, by device and inode. Nothing, if the tool is in the tree itself.
pub(super) fn own_files(tree: &[FrozenTask]) -> Result<HashMap<(u64, u64), u32>> {
    let me = std::process::id();
    let mut own = HashMap::new();
    if tree.iter().any(|task| task.host_pid == me) {
        return Ok(own);
    }
    for fd in tasks::descriptors(me)? {
        // One that is gone was that of the directory listing.
        if let Ok(status) = fs::metadata(format!("/proc/self/fd/{fd}")) {
            own.insert((status.dev(), status.ino()), fd);
        }
    }
    Ok(own)
}

/// The first holder outside the tree of one of these pipes, with the pipe's number.
pub(super) fn pipe_holder(pipes: &BTreeSet<u64>, tree: &[FrozenTask]) -> Result<Option<(u64, Holder)>> {
    let sought = holders::Sought::Pipes(pipes.clone());
    steady(|| {
        let found = holders::find(&sought, in_tree_or_self(tree))?.found.into_iter().next();
        Ok(found.and_then(|found| {
            let number = found.link.strip_prefix(b"pipe:[")?.strip_suffix(b"]")?;
            let number = std::str::from_utf8(number).ok()?.parse().ok()?;
            Some((number, Holder { pid: found.pid, comm: found.comm, fd: found.fd }))
        }))
    })
}

/// The first holder outside the tree of one of these files, by device and inode.
pub(super) fn file_holder(
    files: &HashSet<(u64, u64)>,
    kind: FileType,
    tree: &[FrozenTask],
) -> Result<Option<((u64, u64), Holder)>> {
    let except = in_tree_or_self(tree);
    steady(|| {
        for pid in tasks::processes()?.into_iter().filter(|&pid| !except(pid)) {
            for tid in tables(pid) {
                // Processes that end, and those of other users, are passed over.
                let Ok(numbers) = tasks::descriptors(tid) else { continue };
                if let Some((key, fd)) =
                    numbers.into_iter().find_map(|fd| Some((holds(tid, fd, files, kind)?, fd)))
                {
                    let comm = stat::read(pid).map(|stat| stat.comm).unwrap_or_default();
                    return Ok(Some((key, Holder { pid, comm, fd })));
                }
            }
        }
        Ok(None)
    })
}

/// The first holder outside the tree of one of these event counters, with the kernel's number for it.
pub(super) fn eventfd_holder(
    sought: impl Fn(&[u8]) -> bool,
    tree: &[FrozenTask],
) -> Result<Option<(Vec<u8>, Holder)>> {
    let except = in_tree_or_self(tree);
    let number = |tid: u32, fd: u32| -> Option<Vec<u8>> {
        if link::fd(tid, fd).ok()? != eventfd::LINK {
            return None;
        }
        let info = fdinfo::read(tid, fd).ok()?;
        info.value(eventfd::ID).filter(|id| sought(id)).map(<[u8]>::to_vec)
    };
    steady(|| {
        for pid in tasks::processes()?.into_iter().filter(|&pid| !except(pid)) {
            for tid in tables(pid) {
                // Processes that end, and those of other users, are passed over.
                let numbers = tasks::descriptors(tid).unwrap_or_default();
                if let Some((id, fd)) = numbers.into_iter().find_map(|fd| Some((number(tid, fd)?, fd))) {
                    let comm = stat::read(pid).map(|stat| stat.comm).unwrap_or_default();
                    return Ok(Some((id, Holder { pid, comm, fd })));
                }
            }
        }
        Ok(None)
    })
}

/// A process outside the tree that maps something.
#[derive(Debug)]
pub(crate) struct Mapper {
    /// Device and inode of what it maps, as `maps` shows them.
    pub(crate) file: (u64, u64),
    pub(crate) pid: u32,
    pub(crate) comm: Vec<u8>,
}

/// The first process outside the tree that maps one of these files, with the file's device and inode as `maps` shows
/// them. An ordinary user sees only its own processes.
pub(crate) fn mapping_holder(
    sought: impl Fn(&(u64, u64)) -> bool,
    tree: &[FrozenTask],
) -> Result<Option<Mapper>> {
    let except = in_tree_or_self(tree);
    steady(|| {
        for pid in tasks::processes()?.into_iter().filter(|&pid| !except(pid)) {
            // Processes that end, and those of other users, are passed over.
            let areas = maps::read(pid).unwrap_or_default();
            let mut keys = areas.iter().map(|area| (makedev(area.dev.0, area.dev.1), area.inode));
            if let Some(key) = keys.find(|key| key.1 != 0 && sought(key)) {
                let comm = stat::read(pid).map(|stat| stat.comm).unwrap_or_default();
                return Ok(Some(Mapper { file: key, pid, comm }));
            }
        }
        Ok(None)
    })
}

/// The threads of a process that may have a descriptor table of their own: the first, and those that differ from it.
fn tables(pid: u32) -> Vec<u32> {
    let threads = tasks::threads(pid).unwrap_or_default();
    let own = |&tid: &u32| kcmp(pid, tid, Shared::Descriptors).ok() != Some(Ordering::Equal);
    std::iter::once(pid).chain(threads.into_iter().filter(|&tid| tid != pid).filter(own)).collect()
}

fn holds(tid: u32, fd: u32, files: &HashSet<(u64, u64)>, kind: FileType) -> Option<(u64, u64)> {
    let text = link::fd(tid, fd).ok()?;
    let candidate = match kind {
        FileType::RegularFile => text.ends_with(DELETED),
        _ => text.first() == Some(&b'/'),
    };
    if !candidate {
        return None;
    }
    // Device and inode do not change, and a dead network file system would never answer for more.
    let path = format!("/proc/{tid}/fd/{fd}");
    let status = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    let key = (makedev(status.stx_dev_major, status.stx_dev_minor), status.stx_ino);
    files.get(&key).copied()
}

fn in_tree_or_self(tree: &[FrozenTask]) -> impl Fn(u32) -> bool + use<> {
    let mut pids: HashSet<u32> = tree.iter().map(|task| task.host_pid).collect();
    // The tool's own duplicates are no holders; what it had before is looked up in `own_files`.
    pids.insert(std::process::id());
    move |pid| pids.contains(&pid)
}

/// Looks again before believing that there is a holder.
fn steady<T>(mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let mut found = None;
    for round in 0..LOOKS {
        if round > 0 {
            std::thread::sleep(PAUSE);
        }
        found = look()?;
        if found.is_none() {
            break;
        }
    }
    Ok(found)
}

/// The refusal of something that is shared with the outside.
pub(super) fn refusal(first: &First, what: &str, holder: Option<&Holder>) -> Box<Error> {
    let cause = match holder {
        Some(holder) if holder.pid == std::process::id() => {
            format!("{what} this process itself has open (fd {})", holder.fd)
        }
        Some(Holder { pid, comm, fd }) => {
            format!("{what} process {pid} ({}) outside the tree has open (fd {fd})", comm.escape_ascii())
        }
        None => format!("{what} a process outside the tree has open, one that this user may not look at"),
    };
    let remedy = format!(
        "save that process too, by a PID further up, or say what the descriptor is given on restore: \
         --external {}:{}=PATH, or =fd:N",
        first.pid, first.number
    );
    Box::new(
        Error::new(Code::OutsideTree, "saving an open file")
            .in_task(&first.task)
            .object(first.object.clone())
            .cause(cause)
            .remedy(remedy),
    )
}
