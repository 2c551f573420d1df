//! After the commit: the restoring process as the parent of the tree.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use stillpoint_sys::proc::stat;
use stillpoint_sys::signal::{self, ChildState, Received};
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
    /// Of a tree in the foreground: the signals that are waiting to be passed on.
    held: Option<Held>,
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

/// Signals that the terminal sends to its foreground group.
const KEYS: &[i32] =
    &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH];

/// Signals that are passed on, held back from before the commit on: one that arrives between the commit and the wait
/// would be lost otherwise. Dropping it lets them act on this process.
#[derive(Debug)]
pub(super) struct Held {
    before: u64,
    passed: u64,
}

impl Held {
    /// `ignored`: signals that this process was told to ignore, as by nohup(1). They do not reach the tree either.
    pub(super) fn back(ignored: u64) -> Result<Self> {
        let passed = PASSED.iter().fold(0, |all, signal| all | bit(*signal)) & !ignored;
        // The terminal is set and given away from the background too.
        let before = signal::set_mask(passed | bit(libc::SIGCHLD) | bit(libc::SIGTTOU))?;
        Ok(Held { before, passed })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A mask that was read from the kernel can be set.
        drop(signal::set_mask(self.before));
    }
}

impl Restored {
    pub(super) fn new(
        report: RestoreReport,
        private: Option<PrivatePids>,
        joined: Joined,
        held: Option<Held>,
    ) -> Self {
        Restored { report, private, joined, held }
    }

    /// Waits, as the parent, until the root task ends; passes the signals that this process receives on to it (those
    /// that arrived since the tree was let go included), and stops when the root is stopped by its terminal. Returns
    /// the wait status, as of wait(2).
    ///
    /// # Errors
    ///
    /// When waiting fails.
    pub fn wait(mut self) -> Result<i32> {
        let held = match self.held.take() {
            Some(held) => held,
            None => Held::back(0)?,
        };
        let status = self.until_it_ends(held.passed | bit(libc::SIGCHLD));
        self.joined.take_back();
        if status.as_ref().is_ok_and(|&status| libc::WIFSIGNALED(status)) {
            self.joined.reset();
        }
        if let Some(private) = &self.private {
            private.reap();
        }
        drop(held);
        status
    }

    fn until_it_ends(&mut self, mask: u64) -> Result<i32> {
        let pid = self.report.pid;
        let root = match task::pidfd(pid) {
            Ok(fd) => Some(fd),
            // It has ended already; the wait below tells how.
            Err(error) if error.errno() == Some(libc::ESRCH) => None,
            Err(error) => return Err(error.into()),
        };
        loop {
            match signal::child_state(pid)? {
                ChildState::Ended(status) => return Ok(status),
                ChildState::Stopped(by) => self.stopped(by),
                ChildState::Running => {}
            }
            match signal::wait(mask) {
                Ok(received) => self.received(received, root.as_ref()),
                Err(error) if error.errno() == Some(libc::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn received(&mut self, received: Received, root: Option<&OwnedFd>) {
        let by_key = received.from_kernel && KEYS.contains(&received.signal);
        match received.signal {
            libc::SIGCHLD => {}
            libc::SIGCONT => self.continued(root),
            _ if by_key && self.joined.shares_group() => {}
            // What stops a job or comes from a key is meant for the whole group.
            _ if by_key || received.signal == libc::SIGTSTP => self.to_the_group(received.signal),
            number => pass(root, number),
        }
    }

    /// The root was stopped: so is this process, that the shell which waits for it learns of it.
    fn stopped(&mut self, by: i32) {
        if !self.joined.is_a_job() {
            // Nobody waits for that: whoever has stopped the root continues it.
            return;
        }
        let lacks_terminal = by == libc::SIGTTIN || by == libc::SIGTTOU;
        if lacks_terminal && self.joined.in_foreground() {
            // A shell that brings a running job to the foreground tells nobody.
            drop(self.joined.hand_over());
            return self.to_the_group(libc::SIGCONT);
        }
        self.joined.take_back();
        // A stop would discard what continued the root already, and nobody would do so again.
        if !signal::is_pending(libc::SIGCONT) {
            signal::stop_self();
        }
        // Whatever continues this process waits in the mask.
    }

    /// This process was continued. A shell continues the whole group, so a root of the same group has been told.
    fn continued(&mut self, root: Option<&OwnedFd>) {
        drop(self.joined.hand_over());
        if !self.joined.shares_group() {
            self.to_the_group(libc::SIGCONT);
        } else if stat::read(self.report.pid).is_ok_and(|stat| stat.state == b'T') {
            pass(root, libc::SIGCONT);
        }
    }

    /// The root's group. It may have ended, and needs no signal then.
    fn to_the_group(&self, number: i32) {
        let root = Pid::from_raw(self.report.pid.cast_signed());
        let group = root.and_then(|root| getpgid(Some(root)).ok());
        if let (Some(group), Some(signal)) = (group, Signal::from_named_raw(number)) {
            let _ = kill_process_group(group, signal);
        }
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
