//! Taking back: tasks that were made are killed and reaped.

use std::os::fd::AsFd;
use stillpoint_sys::ptrace::{Event, Running};
use stillpoint_sys::{Pid, task};

/// Kills a process that was made here and waits until it is gone. A failure leaves it to PTRACE_O_EXITKILL, which
/// ends it with this process.
pub(super) fn kill(pid: Pid, threads: impl Iterator<Item = Pid>) {
    let Ok(fd) = task::pidfd(pid) else { return };
    if task::signal(fd.as_fd(), libc::SIGKILL).is_err() {
        return;
    }
    let mut threads: Vec<Pid> = threads.collect();
    threads.reverse();
    for tid in threads {
        let mut running = Running::born(tid);
        while let Ok(Event::Stopped(stopped)) = running.wait() {
            running = stopped.killed();
        }
    }
    // The root is a child of ours too, and stays a zombie until it is reaped as one.
    drop(stillpoint_sys::clone::wait_child(pid, true));
}
