//! Signals of this process itself: blocking, waiting, dispositions.

#![allow(unsafe_code)]

use crate::{Error, Result};

/// Gives SIGCHLD its default action, whatever this process inherited: with "ignore", children would be reaped
/// unseen, and so would those of tasks that inherit it.
///
/// # Errors
///
/// None that is known of.
pub fn default_child_action() -> Result<()> {
    // SAFETY: SIG_DFL installs no handler.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(Error::last("resetting the action of SIGCHLD", None));
    }
    Ok(())
}

/// Replaces the calling thread's signal mask; returns the old one.
///
/// # Errors
///
/// None that is known of.
pub fn set_mask(mask: u64) -> Result<u64> {
    let mut old = 0u64;
    // SAFETY: both masks are 8 bytes and outlive the call; SIG_SETMASK is 2 on all machines that are supported.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 2, &raw const mask, &raw mut old, 8) };
    if done < 0 { Err(Error::last("setting the signal mask", None)) } else { Ok(old) }
}

/// A signal that was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel itself sent it: a key on the terminal, a hangup, a resize. It went to the whole group.
    pub from_kernel: bool,
}

/// Waits for one of the blocked signals of a mask: rt_sigtimedwait(2).
///
/// # Errors
///
/// EINTR when a handler of another signal ran.
pub fn wait(mask: u64) -> Result<Received> {
    let mut info = [0i32; 32];
    // SAFETY: the kernel reads 8 bytes of mask and writes 128 bytes of siginfo; no timeout is given.
    let got = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const mask,
            info.as_mut_ptr(),
            std::ptr::null::<u8>(),
            8,
        )
    };
    match i32::try_from(got) {
        // si_code is the third word; SI_KERNEL is 0x80.
        Ok(signal @ 1..) => Ok(Received { signal, from_kernel: info[2] == 0x80 }),
        _ => Err(Error::last("waiting for signals", None)),
    }
}

/// Whether a blocked signal is waiting for the calling thread or its process: rt_sigpending(2).
#[must_use]
pub fn is_pending(signal: i32) -> bool {
    let mut set = 0u64;
    // SAFETY: the kernel writes 8 bytes to a local of that size.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut set, 8) };
    done == 0 && set & (1 << (signal - 1)) != 0
}

/// Stops this process, as SIGSTOP does. Returns when it is continued.
pub fn stop_self() {
    // SAFETY: raise takes a number.
    unsafe {
        libc::raise(libc::SIGSTOP);
    }
}

/// What became of a child that is not traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// It runs.
    Running,
    /// It was stopped by this signal.
    Stopped(i32),
    /// It ended with this wait status, and was reaped.
    Ended(i32),
}

/// Looks at a child without waiting.
///
/// # Errors
///
/// ECHILD when it is not our child.
pub fn child_state(pid: crate::Pid) -> Result<ChildState> {
    let mut status = 0;
    let flags = libc::WNOHANG | libc::WUNTRACED;
    // SAFETY: `status` outlives the call.
    let got = unsafe { libc::waitpid(i32::try_from(pid).unwrap_or(-1), &raw mut status, flags) };
    match got {
        0 => Ok(ChildState::Running),
        1.. if libc::WIFSTOPPED(status) => Ok(ChildState::Stopped(libc::WSTOPSIG(status))),
        1.. => Ok(ChildState::Ended(status)),
        _ => Err(Error::last("waiting for the root task", Some(pid))),
    }
}
