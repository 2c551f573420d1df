//! vfork(2) in flight: the parent waits, where no tracer can stop it, until its child executes a program or ends
//! (kernel/fork.c, wait_for_vfork_done: killable only). So the child alone runs on until then.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use stillpoint_sys::Pid;
use stillpoint_sys::proc::{stat, syscall};
use stillpoint_sys::task::{Shared, kcmp};

/// How long a child may take. The rest of the tree is stopped meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Calls that make a task and may wait for it.
const CALLS: &[i64] = &[libc::SYS_vfork, libc::SYS_clone, libc::SYS_clone3];

/// Children that run on while the rest of the tree is stopped.
#[derive(Debug, Default)]
pub(super) struct Released {
    children: Vec<Child>,
    since: Option<Instant>,
}

/// A child that its parent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Child {
    /// The process that waits.
    pub(super) parent: Pid,
    /// The thread of it that does.
    pub(super) thread: Pid,
    /// The child.
    pub(super) pid: Pid,
}

impl Released {
    /// Whether a process runs on: it is not to be asked to stop.
    pub(super) fn runs(&self, pid: Pid) -> bool {
        self.children.iter().any(|child| child.pid == pid)
    }

    /// Notes a child; false if it runs on already.
    pub(super) fn add(&mut self, child: Child) -> bool {
        if self.runs(child.pid) {
            return false;
        }
        self.since.get_or_insert_with(Instant::now);
        self.children.push(child);
        true
    }

    /// The wait of a thread is over, if it was in one: the child that may be stopped now.
    pub(super) fn over(&mut self, thread: Pid) -> Option<Pid> {
        let at = self.children.iter().position(|child| child.thread == thread)?;
        Some(self.children.swap_remove(at).pid)
    }

    /// A child that has taken too long.
    pub(super) fn late(&self) -> Option<Child> {
        let since = self.since.filter(|since| since.elapsed() > PATIENCE);
        since.and(self.children.last().copied())
    }
}

/// The child that a thread waits for, if it is in such a wait; one of the processes that are given.
pub(super) fn awaited(parent: Pid, thread: Pid, mut processes: impl Iterator<Item = Pid>) -> Option<Child> {
    // Whoever cannot be looked at has ended, and is no such thread then.
    let waits = stat::read_thread(parent, thread).is_ok_and(|stat| stat.state == b'D')
        && matches!(syscall::read(parent, thread), Ok(syscall::Syscall::In { number, .. }) if CALLS.contains(&number.into()));
    if !waits {
        return None;
    }
    let shares = |&pid: &Pid| {
        pid != parent
            && stat::read(pid).is_ok_and(|stat| stat.state != b'Z')
            && kcmp(parent, pid, Shared::Memory).is_ok_and(|order| order == Ordering::Equal)
    };
    processes.find(shares).map(|pid| Child { parent, thread, pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_runs_until_the_wait_of_its_parent_is_over() {
        let mut released = Released::default();
        let child = Child { parent: 1, thread: 2, pid: 3 };
        assert!(released.add(child) && !released.add(child));
        assert!(released.runs(3) && !released.runs(1));
        assert_eq!(released.late(), None);
        assert_eq!((released.over(1), released.over(2), released.over(2)), (None, Some(3), None));
        assert!(!released.runs(3));
    }
}
