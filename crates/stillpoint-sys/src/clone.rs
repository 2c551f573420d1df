//! Making tasks and namespaces: clone3(2), unshare(2).
//!
//! The code that runs in a new task here makes raw system calls only: after a fork of a process with threads,
//! locks of the C library may be held for ever.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Error, Pid, RemoteAddr, Result};

/// `struct clone_args` of clone3(2), with `set_tid` (Linux 5.5): 80 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs {
    /// CLONE_*.
    pub flags: u64,
    /// Where to store a pidfd.
    pub pidfd: u64,
    /// Where the child stores its tid.
    pub child_tid: u64,
    /// Where the parent stores it.
    pub parent_tid: u64,
    /// Signal to the parent at the end.
    pub exit_signal: u64,
    /// Lowest byte of the child's stack.
    pub stack: u64,
    /// Its size.
    pub stack_size: u64,
    /// Thread pointer, with CLONE_SETTLS.
    pub tls: u64,
    /// Array of ids to take, innermost pid namespace first.
    pub set_tid: u64,
    /// Its length.
    pub set_tid_size: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 80);

impl CloneArgs {
    /// As the kernel reads it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [
            self.flags,
            self.pidfd,
            self.child_tid,
            self.parent_tid,
            self.exit_signal,
            self.stack,
            self.stack_size,
            self.tls,
            self.set_tid,
            self.set_tid_size,
        ]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
    }
}

/// Makes a child that waits in pause(2), with a given id in the pid namespace that children of this process go
/// to, and dies with this thread. It inherits this process's memory and descriptors.
///
/// # Errors
///
/// EEXIST when the id is taken; EPERM without CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) in that namespace.
pub fn paused_child(id: u32) -> Result<Pid> {
    let set_tid = [id];
    let parent = std::process::id();
    let args = CloneArgs {
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        set_tid: set_tid.as_ptr() as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: `args` and `set_tid` outlive the call. No stack is given, so the child goes on here in its own copy
    // of this memory, and makes raw system calls only.
    let got = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if got == 0 {
        pause_until_killed(i64::from(parent));
    }
    Pid::try_from(got).map_err(|_| Error::last(format!("making a process with id {id}"), None))
}

fn pause_until_killed(parent: i64) -> ! {
    // SAFETY: raw calls without pointers.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // It may have died before that. A parent outside of this pid namespace shows as 0, whoever adopts an orphan as
        // another.
        if !matches!(libc::syscall(libc::SYS_getppid), 0) && libc::syscall(libc::SYS_getppid) != parent {
            libc::syscall(libc::SYS_exit_group, 1);
        }
        loop {
            libc::syscall(libc::SYS_pause);
        }
    }
}

/// Moves this process, or its future children, to new namespaces: unshare(2) with CLONE_NEW*.
///
/// # Errors
///
/// EPERM where this is not allowed, EINVAL for CLONE_NEWUSER in a process with threads, ENOSPC past
/// `/proc/sys/user/max_*_namespaces`.
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: unshare takes an integer. CLONE_FILES and CLONE_FS are not passed by any caller, so no invariant of
    // the standard library changes.
    if unsafe { libc::unshare(flags) } < 0 {
        return Err(Error::last("entering new namespaces", None));
    }
    Ok(())
}

/// Makes the first process of the pid namespace that children of this process go to. It reaps what is left to
/// it, and ends when `alive` (the read end of a pipe) reports that all its writers are gone and no child is left.
/// It has a mount namespace of its own with the new namespace's `/proc`, where the kernel allows one.
///
/// # Errors
///
/// What clone(2) and pipe(2) say.
pub fn spawn_init(alive: BorrowedFd<'_>) -> Result<Pid> {
    let alive = alive.as_raw_fd();
    let args = CloneArgs { exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()), ..CloneArgs::default() };
    // SAFETY: `args` outlives the call; the child makes raw system calls only.
    let got = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if got == 0 {
        init(alive);
    }
    Pid::try_from(got).map_err(|_| Error::last("making the init of a pid namespace", None))
}

fn init(alive: i32) -> ! {
    // SAFETY: raw calls; the strings are static, the buffers are locals.
    unsafe {
        // Keep nothing open but `alive`: a pipe or terminal of the caller must see its end when others close it.
        if libc::syscall(libc::SYS_dup3, alive, 0, 0) < 0 && alive != 0 {
            libc::syscall(libc::SYS_exit_group, 1);
        }
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        // In a session of its own no terminal reaches it, and it holds no caller's session.
        libc::syscall(libc::SYS_setsid);
        let mut caller_gone = false;
        loop {
            if !caller_gone {
                let mut byte = [0u8; 1];
                // A read of 0 bytes is the end of all writers. Children that end meanwhile wait until then.
                caller_gone = libc::syscall(libc::SYS_read, 0, byte.as_mut_ptr(), 1) == 0;
                continue;
            }
            let reaped = libc::syscall(libc::SYS_wait4, -1, 0, libc::__WALL, 0);
            if reaped < 0 && *libc::__errno_location() == libc::ECHILD {
                // The caller's descriptors are closed before its children become ours: only when no other process
                // of the namespace is left is there none to come.
                if libc::syscall(libc::SYS_kill, -1, 0) < 0 {
                    libc::syscall(libc::SYS_exit_group, 0);
                }
                let moment = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                libc::syscall(libc::SYS_nanosleep, &raw const moment, 0);
            }
        }
    }
}

/// Maps zeroed memory at exactly that address of this process, for children to inherit.
///
/// # Errors
///
/// EEXIST when something is mapped there.
pub fn map_here(at: RemoteAddr, size: u64) -> Result<()> {
    let length = usize::try_from(size).unwrap_or(0);
    // SAFETY: MAP_FIXED_NOREPLACE never touches an existing mapping; nothing here keeps a reference into it.
    let got = unsafe {
        libc::mmap(
            at.0 as *mut libc::c_void,
            length,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(Error::last("mapping a program area", None));
    }
    if got as u64 != at.0 {
        unmap_here(RemoteAddr(got as u64), size);
        return Err(Error::Errno { doing: "mapping a program area".into(), pid: None, errno: libc::EEXIST });
    }
    Ok(())
}

/// Unmaps what [`map_here`] mapped.
pub fn unmap_here(at: RemoteAddr, size: u64) {
    // SAFETY: callers pass what map_here mapped, into which no reference exists.
    unsafe {
        libc::munmap(at.0 as *mut libc::c_void, usize::try_from(size).unwrap_or(0));
    }
}

/// Waits for a child that is not traced: its wait status, or none with `nohang` while it runs.
///
/// # Errors
///
/// ECHILD when it is not our child; EINTR when a signal handler ran.
pub fn wait_child(pid: Pid, nohang: bool) -> Result<Option<i32>> {
    let mut status = 0;
    let flags = libc::__WALL | if nohang { libc::WNOHANG } else { 0 };
    // SAFETY: `status` outlives the call.
    let got = unsafe { libc::waitpid(i32::try_from(pid).unwrap_or(-1), &raw mut status, flags) };
    match got {
        0 => Ok(None),
        1.. => Ok(Some(status)),
        _ => Err(Error::last("waiting for a child", Some(pid))),
    }
}
