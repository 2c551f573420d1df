//! System V semaphore adjustments (SEM_UNDO of semop(2)), which the kernel shows nowhere.
//!
//! What can be known: a task that never had adjustments, nor any thread (threads share a list, empty or not), compares
//! equal to this process, which never had. And where every semaphore that a task may operate on was last operated on
//! before the task began, it has none. In all other cases the task is refused.

use std::cmp::Ordering;

use stillpoint_sys::proc::{clocks, stat, status};
use stillpoint_sys::task::{Shared, kcmp};

use crate::freeze::FrozenTask;
use crate::{Code, Error, Result};

/// A second that is not over yet, and one of rounding.
const MARGIN: i64 = 2;
/// Clock ticks per second in `/proc/PID/stat`: USER_HZ, 100 on all machines that are supported.
const TICK_NS: i64 = 10_000_000;

/// Refuses a task that may have adjustments to undo.
///
/// # Errors
///
/// A refusal that says how to find the semaphore.
pub fn refuse_undo(task: &FrozenTask) -> Result<()> {
    for thread in &task.threads {
        match kcmp(thread.host_tid, std::process::id(), Shared::SemUndo) {
            Ok(Ordering::Equal) => {}
            // Kernels without System V IPC.
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {}
            Ok(_) => {
                if let Some(id) = suspect(task)? {
                    return Err(Error::new(Code::UnsupportedState, "saving a task")
                        .in_task(&task.name)
                        .object(format!("System V semaphore set {id}"))
                        .cause(
                            "it may have adjustments to undo (SEM_UNDO): the set was operated on since the task began, \
                             and the kernel does not tell by whom",
                        )
                        .remedy("see ipcs -s -t; not supported yet")
                        .into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A semaphore set that the task may have operated on.
fn suspect(task: &FrozenTask) -> Result<Option<i64>> {
    let text = std::fs::read_to_string("/proc/sysvipc/sem")
        .map_err(|error| Error::new(Code::Failed, "reading System V semaphores").cause(error))?;
    if text.lines().nth(1).is_none() {
        return Ok(None);
    }
    let ids = status::read(task.host_pid)?;
    let now = clocks::read();
    let started = i64::try_from(stat::read(task.host_pid)?.start_time).unwrap_or(0) * TICK_NS;
    let began = (now.realtime - (now.boottime - started)) / 1_000_000_000;
    for line in text.lines().skip(1) {
        let set = parse(line).ok_or_else(|| {
            Error::new(Code::Unknown, "reading System V semaphores")
                .object(line)
                .cause("this version does not know this form of /proc/sysvipc/sem")
        })?;
        if set.operated != 0 && set.operated + MARGIN >= began && set.allows(&ids) {
            return Ok(Some(set.id));
        }
    }
    Ok(None)
}

/// A line of `/proc/sysvipc/sem`: ipc/sem.c, sysvipc_sem_proc_show.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    id: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    creator_uid: u32,
    creator_gid: u32,
    operated: i64,
}

fn parse(line: &str) -> Option<Set> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, id, mode, _, uid, gid, creator_uid, creator_gid, operated, ..] = fields.as_slice() else {
        return None;
    };
    Some(Set {
        id: id.parse().ok()?,
        mode: u32::from_str_radix(mode, 8).ok()?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        creator_uid: creator_uid.parse().ok()?,
        creator_gid: creator_gid.parse().ok()?,
        operated: operated.parse().ok()?,
    })
}

impl Set {
    /// Whether the kernel lets a task alter it: ipc/util.c, ipcperms.
    fn allows(&self, ids: &status::Status) -> bool {
        let (uid, gid) = (ids.uid[1], ids.gid[1]);
        let mine = |id: u32| id == gid || ids.groups.contains(&id);
        let bit = if uid == self.uid || uid == self.creator_uid {
            0o200
        } else if mine(self.gid) || mine(self.creator_gid) {
            0o020
        } else {
            0o002
        };
        uid == 0 || ids.cap_eff != 0 || self.mode & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_from_the_kernels_line() {
        let line =
            "         0          7   640          1  1000   100     5     6          1795562500 1795562419";
        let set = parse(line).unwrap();
        assert_eq!((set.id, set.mode, set.uid, set.gid), (7, 0o640, 1000, 100));
        assert_eq!((set.creator_uid, set.creator_gid, set.operated), (5, 6, 1_795_562_500));
        assert_eq!(parse("       key      semid perms"), None);
    }
}
