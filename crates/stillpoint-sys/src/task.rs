//! Calls on another task: pidfds, kcmp, scheduling, robust lists.
//!
//! rustix and nix lack these; each is one system call.

#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Error, Pid, RemoteAddr, Result};

/// A pidfd of a process: pidfd_open(2), Linux 5.3.
///
/// # Errors
///
/// ESRCH when there is no such process, EINVAL when `pid` is a thread that leads no group.
pub fn pidfd(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd, "opening a pidfd", pid)
}

/// A duplicate of a descriptor of another process, close-on-exec: pidfd_getfd(2), Linux 5.6.
///
/// # Errors
///
/// EBADF when the number is not open there, EPERM without ptrace access.
pub fn duplicate(pidfd: BorrowedFd<'_>, number: u32) -> Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes three integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(Error::last(format!("duplicating descriptor {number} of a task"), None));
    }
    // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw(fd)) })
}

/// Sends a signal through a pidfd: pidfd_send_signal(2), Linux 5.1.
///
/// # Errors
///
/// ESRCH when the process is gone.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo is allowed and means what kill(2) would send.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0)
    };
    if done < 0 { Err(Error::last(format!("sending signal {signal}"), None)) } else { Ok(()) }
}

/// What kcmp(2) can compare of two tasks, beside open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// The address space (mm).
    Memory,
    /// The descriptor table.
    Descriptors,
    /// Working directory, root and umask.
    FsContext,
    /// Signal handlers.
    Handlers,
    /// The I/O context.
    IoContext,
    /// The list of System V semaphore undo operations.
    SemUndo,
}

/// Orders two tasks by one of their kernel objects: `Equal` means that they share it.
///
/// # Errors
///
/// EPERM without ptrace access to both; ENOSYS where the kernel has no kcmp.
pub fn kcmp(a: Pid, b: Pid, what: Shared) -> Result<Ordering> {
    // KCMP_* of include/uapi/linux/kcmp.h.
    let kind = match what {
        Shared::Memory => 1,
        Shared::Descriptors => 2,
        Shared::FsContext => 3,
        Shared::Handlers => 4,
        Shared::IoContext => 5,
        Shared::SemUndo => 6,
    };
    raw_kcmp(a, b, kind, 0, 0)
}

/// Orders two descriptors by their open file description: `Equal` means that they share it.
///
/// # Errors
///
/// EBADF when one is not open, EPERM without ptrace access to both.
pub fn kcmp_file(a: Pid, fd_a: u32, b: Pid, fd_b: u32) -> Result<Ordering> {
    raw_kcmp(a, b, 0, u64::from(fd_a), u64::from(fd_b))
}

fn raw_kcmp(a: Pid, b: Pid, kind: u32, x: u64, y: u64) -> Result<Ordering> {
    // SAFETY: kcmp takes five integers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, x, y) } {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 | 3 => Ok(Ordering::Greater),
        _ => Err(Error::last(format!("comparing kernel objects of {a} and {b}"), Some(a))),
    }
}

/// Sends a signal to one thread: tkill(2). The caller holds it stopped, so that the id is not another's.
///
/// # Errors
///
/// ESRCH when it is gone, EPERM when that is not allowed.
pub fn signal_thread(tid: Pid, number: i32) -> Result<()> {
    // SAFETY: tkill takes two integers.
    match unsafe { libc::syscall(libc::SYS_tkill, tid, number) } {
        0 => Ok(()),
        _ => Err(Error::last("sending a signal to a thread", Some(tid))),
    }
}

/// Head and length of a thread's robust futex list: get_robust_list(2).
///
/// # Errors
///
/// EPERM without ptrace access.
pub fn robust_list(tid: Pid) -> Result<(RemoteAddr, u64)> {
    let mut head = 0u64;
    let mut length = 0u64;
    // SAFETY: the kernel writes one pointer and one size_t, both 64 bits here, to locals that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut length) };
    if done < 0 {
        return Err(Error::last("reading the robust futex list", Some(tid)));
    }
    Ok((RemoteAddr(head), length))
}

/// `struct sched_attr` of sched_setattr(2), in its second version of 56 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedAttr {
    /// Size of this structure.
    pub size: u32,
    /// SCHED_OTHER 0, FIFO 1, RR 2, BATCH 3, IDLE 5, DEADLINE 6.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// Of SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Static priority of SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Of SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// Of SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// Of SCHED_DEADLINE, nanoseconds.
    pub period: u64,
    /// The least utilization that is reckoned with, of 1024; Linux 5.3 with uclamp.
    pub utilization_min: u32,
    /// The most.
    pub utilization_max: u32,
}

const _: () = assert!(size_of::<SchedAttr>() == 56);

impl SchedAttr {
    /// As the kernel reads it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56);
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.policy.to_le_bytes());
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&self.nice.to_le_bytes());
        bytes.extend_from_slice(&self.priority.to_le_bytes());
        for word in [self.runtime, self.deadline, self.period] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.utilization_min.to_le_bytes());
        bytes.extend_from_slice(&self.utilization_max.to_le_bytes());
        bytes
    }
}

/// A thread's scheduling attributes: sched_getattr(2).
///
/// # Errors
///
/// ESRCH when the thread is gone.
pub fn scheduling(tid: Pid) -> Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most the 56 bytes that we say the structure has.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, 56, 0) };
    if done < 0 { Err(Error::last("reading scheduling attributes", Some(tid))) } else { Ok(attr) }
}

/// A prctl(2) option of the calling thread that takes numbers only; returns its answer.
///
/// # Errors
///
/// EINVAL where the kernel does not know it.
pub fn prctl(option: i32, value: u64) -> Result<i32> {
    // SAFETY: the caller passes an option that takes numbers, so no memory of ours is touched.
    let got = unsafe { libc::prctl(option, value, 0u64, 0u64, 0u64) };
    if got < 0 { Err(Error::last(format!("asking for prctl option {option}"), None)) } else { Ok(got) }
}

/// A thread's CPU affinity as the kernel's mask, trailing zero bytes removed: sched_getaffinity(2).
///
/// # Errors
///
/// ESRCH when the thread is gone.
pub fn affinity(tid: Pid) -> Result<Vec<u8>> {
    // 1 KiB holds 8,192 CPUs, the most that a kernel is built for.
    let mut mask = vec![0u8; 1024];
    // SAFETY: the kernel writes at most the number of bytes that we say the buffer has.
    let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), mask.as_mut_ptr()) };
    if got < 0 {
        return Err(Error::last("reading the CPU affinity", Some(tid)));
    }
    mask.truncate(usize::try_from(got).unwrap_or(0));
    while mask.len() > 8 && mask.last() == Some(&0) {
        mask.pop();
    }
    Ok(mask)
}

/// A thread's I/O priority: ioprio_get(2).
///
/// # Errors
///
/// ESRCH when the thread is gone.
pub fn io_priority(tid: Pid) -> Result<u32> {
    // SAFETY: ioprio_get takes two integers; 1 is IOPRIO_WHO_PROCESS, which means one thread.
    let got = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, tid) };
    u32::try_from(got).map_err(|_| Error::last("reading the I/O priority", Some(tid)))
}

fn owned(fd: i64, doing: &str, pid: Pid) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Error::last(doing, Some(pid)));
    }
    // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw(fd)) })
}

#[expect(clippy::cast_possible_truncation, reason = "descriptors are C ints; syscall(2) widens them")]
fn raw(fd: i64) -> i32 {
    fd as i32
}
