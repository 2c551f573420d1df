//! Freezing: every thread of a tree is stopped under ptrace, and nothing new can appear.
//!
//! Threads and processes that appear meanwhile are caught twice: the kernel attaches to what a seized task makes,
//! and the walk over the tree is repeated until it finds nothing new while everything known is stopped.
//!
//! A frozen tree runs on by itself when this process dies: tasks are seized without PTRACE_O_EXITKILL.

mod tree;
mod vfork;

use std::os::fd::{AsFd, OwnedFd};

use stillpoint_sys::arch::Registers;
use stillpoint_sys::proc::status;
use stillpoint_sys::ptrace::{self, Event, Stopped};
use stillpoint_sys::{Pid, task};

pub(crate) use tree::OPTIONS;
pub use tree::freeze;

use crate::{Code, Error, Result, TaskName};

/// A process of a frozen tree.
#[derive(Debug)]
pub struct FrozenTask {
    /// Its id in the caller's pid namespace.
    pub host_pid: u32,
    /// Its id as the tree itself sees it.
    pub pid: u32,
    /// How errors name it.
    pub name: TaskName,
    /// A pidfd of it, for `pidfd_getfd`.
    pub pidfd: OwnedFd,
    /// Whether it has ended and waits to be reaped; then it has no threads, memory or files.
    pub zombie: bool,
    /// Its threads, the leader first; none of a zombie.
    pub threads: Vec<FrozenThread>,
}

/// A thread of a frozen tree, with what of it must be put back before it may run on.
#[derive(Debug)]
pub struct FrozenThread {
    /// Its id in the caller's pid namespace.
    pub host_tid: u32,
    /// Its id as the tree itself sees it.
    pub tid: u32,
    /// The stop that holds it. Taken out while a program runs in it.
    pub stopped: Option<Stopped>,
    /// Its registers when it was stopped.
    pub registers: Registers,
    /// Its signal mask when it was stopped.
    pub mask: u64,
    /// The system call that it continues by restart_syscall(2), which hides it; see [`crate::task::restart`].
    pub continues: Option<u64>,
    /// Whether registers or mask have been changed since.
    pub disturbed: bool,
}

/// A frozen tree: parents before their children.
#[derive(Debug)]
pub struct FrozenTree {
    /// Its processes; the first is the root.
    pub tasks: Vec<FrozenTask>,
    /// When the first thread was stopped.
    pub since: std::time::Instant,
}

impl FrozenThread {
    /// The stop, for a question to the kernel.
    ///
    /// # Errors
    ///
    /// When an earlier failure lost it.
    pub fn stopped(&self) -> Result<&Stopped> {
        self.stopped.as_ref().ok_or_else(|| lost(self.host_tid))
    }

    /// Takes the stop out, to let a program run.
    ///
    /// # Errors
    ///
    /// When an earlier failure lost it.
    pub fn take(&mut self) -> Result<Stopped> {
        self.disturbed = true;
        self.stopped.take().ok_or_else(|| lost(self.host_tid))
    }

    /// Puts the mask and then the registers back: should this process be killed in between, the thread comes home by
    /// its guard.
    ///
    /// # Errors
    ///
    /// When the thread was killed.
    pub fn undisturb(&mut self) -> Result<()> {
        if self.stopped.is_none() {
            self.stopped = ptrace::regain(self.host_tid)?;
        }
        if let (true, Some(stopped)) = (self.disturbed, &self.stopped) {
            stopped.set_signal_mask(self.mask)?;
            stopped.set_registers(&self.registers)?;
            self.disturbed = false;
        }
        Ok(())
    }

    fn release(mut self) -> Result<()> {
        self.undisturb()?;
        let Some(stopped) = self.stopped else { return Ok(()) };
        Ok(stopped.detach(0)?)
    }
}

fn lost(tid: Pid) -> Box<Error> {
    Box::new(
        Error::new(Code::Failed, format!("working on thread {tid}")).cause("it is no longer held stopped"),
    )
}

impl FrozenTree {
    /// The error that says that somebody has killed a task since the freeze, if so: whatever else has failed, that is why.
    #[must_use]
    pub fn killed(&self) -> Option<Error> {
        // The signal is seen before its work is done.
        let ended = |task: &&FrozenTask| {
            status::read(task.host_pid).map_or(true, |now| {
                matches!(now.state, b'Z' | b'X')
                    || (now.sig_pnd | now.shd_pnd) & 1 << (libc::SIGKILL - 1) != 0
            })
        };
        let task = self.tasks.iter().filter(|task| !task.zombie).find(ended)?;
        let error = Error::new(Code::NoSuchTask, "saving the tree").in_task(&task.name);
        Some(error.cause("it was killed while it was saved"))
    }

    /// Lets the tree run on. A task that somebody has killed meanwhile is passed over.
    ///
    /// # Errors
    ///
    /// The first failure, after everything else was let go of.
    pub fn release(self) -> Result<()> {
        let mut first = Ok(());
        for thread in self.tasks.into_iter().flat_map(|task| task.threads) {
            match thread.release() {
                Err(error) if error.code != Code::NoSuchTask && first.is_ok() => first = Err(error),
                _ => {}
            }
        }
        first
    }

    /// Lets the tree go, stopped as by SIGSTOP.
    ///
    /// # Errors
    ///
    /// See [`FrozenTree::release`].
    pub fn release_stopped(self) -> Result<()> {
        for task in self.tasks.iter().filter(|task| !task.zombie) {
            task::signal(task.pidfd.as_fd(), libc::SIGSTOP)?;
        }
        self.release()
    }

    /// Ends every task, and returns when none is left.
    ///
    /// # Errors
    ///
    /// When a task cannot be signalled.
    pub fn end(self) -> Result<()> {
        // Should this process be killed from here on, the rest of the tree ends with it.
        let leaders = self.tasks.iter().filter_map(|task| task.threads.first()?.stopped.as_ref());
        for leader in leaders {
            match leader.set_options(ptrace::options::EXIT_KILL) {
                Err(error) if error.errno() != Some(libc::ESRCH) => return Err(error.into()),
                _ => {}
            }
        }
        for task in self.tasks.iter().filter(|task| !task.zombie) {
            match task::signal(task.pidfd.as_fd(), libc::SIGKILL) {
                Err(error) if error.errno() != Some(libc::ESRCH) => return Err(error.into()),
                _ => {}
            }
        }
        for task in self.tasks {
            // The leader's end is reported last, when the other threads are gone.
            for thread in task.threads.into_iter().rev() {
                if let Some(stopped) = thread.stopped {
                    reap(stopped)?;
                }
            }
        }
        Ok(())
    }
}

/// Waits until a killed tracee is gone, so that its parent learns of it.
fn reap(stopped: Stopped) -> Result<()> {
    let mut running = stopped.killed();
    loop {
        match running.wait() {
            Ok(Event::Gone(_)) => return Ok(()),
            Ok(Event::Stopped(stopped)) => running = stopped.killed(),
            Err(error) if error.errno() == Some(libc::ECHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
