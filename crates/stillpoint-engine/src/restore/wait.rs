//! After the commit: the restoring process as the parent of the tree.

use std::os::fd::{AsFd, OwnedFd};

use stillpoint_sys::signal::{self, ChildState};
use stillpoint_sys::task;

use super::namespace::PrivatePids;
use super::terminal::Joined;
use crate::{RestoreReport, Result};

/// A restored tree, running.
#[derive(Debug)]
pub struct Restored {
    /// What was done.
    pub report: RestoreReport,
    private: Option<PrivatePids>,
    joined: Joined,
}

/// Signals that are passed on to the root task. Those that a terminal sends reach it by themselves where it shares
/// this process's group.
const PASSED: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGWINCH,
    libc::SIGURG,
    libc::SIGIO,
    libc::SIGPWR,
];

impl Restored {
    pub(super) fn new(report: RestoreReport, private: Option<PrivatePids>, joined: Joined) -> Self {
        Restored { report, private, joined }
    }

    /// Waits, as the parent, until the root task ends; passes the signals that this process receives on to it, and
    /// stops when the root is stopped by its terminal. Returns the wait status, as of wait(2).
    ///
    /// # Errors
    ///
    /// When waiting fails.
    pub fn wait(self) -> Result<i32> {
        let pid = self.report.pid;
        let mask =
            PASSED.iter().chain(&[libc::SIGCHLD, libc::SIGTTOU]).fold(0, |all, signal| all | bit(*signal));
        let before = signal::set_mask(mask)?;
        let status = self.wait_blocked(pid, mask & !bit(libc::SIGTTOU));
        self.joined.take_back();
        if let Some(private) = &self.private {
            private.reap();
        }
        signal::set_mask(before)?;
        status
    }

    fn wait_blocked(&self, pid: u32, mask: u64) -> Result<i32> {
        let root = match task::pidfd(pid) {
            Ok(fd) => Some(fd),
            // It has ended already; the wait below tells how.
            Err(error) if error.errno() == Some(libc::ESRCH) => None,
            Err(error) => return Err(error.into()),
        };
        loop {
            match signal::child_state(pid)? {
                ChildState::Ended(status) => return Ok(status),
                ChildState::Stopped(_) => self.stopped(root.as_ref()),
                ChildState::Running => {}
            }
            let received = match signal::wait(mask) {
                Ok(received) => received,
                Err(error) if error.errno() == Some(libc::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let reaches_it = received.from_kernel && self.joined.shares_group();
            if received.signal != libc::SIGCHLD && !reaches_it {
                pass(root.as_ref(), received.signal);
            }
        }
    }

    /// The root was stopped: so is this process, that the shell which waits for it learns of it.
    fn stopped(&self, root: Option<&OwnedFd>) {
        self.joined.take_back();
        signal::stop_self();
        // It goes on when it is continued, with the terminal if it had that.
        drop(self.joined.give_terminal(self.report.pid));
        pass(root, libc::SIGCONT);
    }
}

/// A root that has ended needs no signal.
fn pass(root: Option<&OwnedFd>, number: i32) {
    if let Some(root) = root {
        drop(task::signal(root.as_fd(), number));
    }
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}
