//! Open file descriptions: what fcntl(2) and ioctl(2) tell of them that rustix does not wrap.
//!
//! Absent, because rustix has them: F_GETFL and F_SETFL, F_GETPIPE_SZ and F_SETPIPE_SZ, FIONREAD, TIOCGWINSZ,
//! tee(2), flock(2).

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use crate::{Error, Result};

// include/uapi/asm-generic/fcntl.h
const F_GETSIG: i32 = 11;
const F_SETSIG: i32 = 10;
const F_GETOWN_EX: i32 = 16;
const F_SETOWN_EX: i32 = 15;
// include/uapi/asm-generic/ioctls.h, the same on x86_64 and aarch64.
const TCGETS2: u64 = 0x802c_542a;
const TCSETS2: u64 = 0x402c_542b;
const TIOCGETD: u64 = 0x5424;
const TIOCGDEV: u64 = 0x8004_5432;
const TIOCGEXCL: u64 = 0x8004_5440;
// include/uapi/linux/watch_queue.h
const IOC_WATCH_QUEUE_SET_SIZE: u64 = 0x5760;

/// Who is sent SIGIO for an open file description: `struct f_owner_ex`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2. It stays set when the owner is gone.
    pub kind: i32,
    /// In the caller's pid namespace; 0 when there is none, it is gone, or it is not visible here.
    pub pid: i32,
}

const _: () = assert!(size_of::<Owner>() == 8);

/// The owner of an open file description: fcntl(2), F_GETOWN_EX. Directory notification (F_NOTIFY) sets it too.
///
/// # Errors
///
/// EBADF on a descriptor that was opened with O_PATH.
#[doc(alias = "F_GETOWN_EX")]
pub fn owner(fd: impl AsFd) -> Result<Owner> {
    let mut owner = Owner::default();
    // SAFETY: F_GETOWN_EX writes one f_owner_ex, whose layout Owner has, to a local that outlives the call.
    let done = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETOWN_EX, &raw mut owner) };
    if done < 0 { Err(Error::last("reading the owner of an open file", None)) } else { Ok(owner) }
}

/// Sets the owner of an open file description: fcntl(2), F_SETOWN_EX.
///
/// # Errors
///
/// ESRCH when there is no such process, thread or group.
#[doc(alias = "F_SETOWN_EX")]
pub fn set_owner(fd: impl AsFd, owner: Owner) -> Result<()> {
    // SAFETY: F_SETOWN_EX reads one f_owner_ex from a local that outlives the call.
    let done = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETOWN_EX, &raw const owner) };
    if done < 0 { Err(Error::last("setting the owner of an open file", None)) } else { Ok(()) }
}

/// The signal that is sent in place of SIGIO, 0 for SIGIO itself: fcntl(2), F_GETSIG.
///
/// # Errors
///
/// EBADF on a descriptor that was opened with O_PATH.
#[doc(alias = "F_GETSIG")]
pub fn signal(fd: impl AsFd) -> Result<i32> {
    integer(fd, F_GETSIG, None, "reading the signal of an open file")
}

/// Sets the signal that is sent in place of SIGIO: fcntl(2), F_SETSIG.
///
/// # Errors
///
/// EINVAL when there is no such signal.
#[doc(alias = "F_SETSIG")]
pub fn set_signal(fd: impl AsFd, signal: i32) -> Result<()> {
    integer(fd, F_SETSIG, Some(signal), "setting the signal of an open file").map(drop)
}

/// A lease that an open file description holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// F_RDLCK.
    Read,
    /// F_WRLCK.
    Write,
    /// F_UNLCK.
    None,
}

/// The lease held through this open file description: fcntl(2), F_GETLEASE.
///
/// # Errors
///
/// EBADF on a descriptor that was opened with O_PATH.
#[doc(alias = "F_GETLEASE")]
pub fn lease(fd: impl AsFd) -> Result<Lease> {
    let doing = "reading the lease of an open file";
    match integer(fd, libc::F_GETLEASE, None, doing)? {
        libc::F_RDLCK => Ok(Lease::Read),
        libc::F_WRLCK => Ok(Lease::Write),
        libc::F_UNLCK => Ok(Lease::None),
        other => Err(Error::parse(doing, format!("lease {other}"))),
    }
}

/// Takes or gives up a lease: fcntl(2), F_SETLEASE.
///
/// # Errors
///
/// EAGAIN when others have the file open; EACCES on a file of another user.
#[doc(alias = "F_SETLEASE")]
pub fn set_lease(fd: impl AsFd, lease: Lease) -> Result<()> {
    let lease = match lease {
        Lease::Read => libc::F_RDLCK,
        Lease::Write => libc::F_WRLCK,
        Lease::None => libc::F_UNLCK,
    };
    integer(fd, libc::F_SETLEASE, Some(lease), "setting the lease of an open file").map(drop)
}

/// Whether a pipe is a queue of kernel notifications (pipe2(2) with O_NOTIFICATION_PIPE).
///
/// It asks to set the queue's size to nothing, which is never done: a pipe that is none answers ENODEV, one that is
/// answers EINVAL or EBUSY, and a kernel without such queues answers ENOTTY.
///
/// # Errors
///
/// When the kernel answers something else.
#[doc(alias = "IOC_WATCH_QUEUE_SET_SIZE")]
pub fn is_notification_pipe(pipe: impl AsFd) -> Result<bool> {
    // SAFETY: the argument of this request is an integer, not a pointer; 0 is refused by every kernel that knows it.
    let done = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), IOC_WATCH_QUEUE_SET_SIZE, 0) };
    if done == 0 {
        return Ok(true);
    }
    let error = Error::last("asking whether a pipe is a notification queue", None);
    match error.errno() {
        Some(libc::ENODEV | libc::ENOTTY) => Ok(false),
        Some(libc::EINVAL | libc::EBUSY) => Ok(true),
        _ => Err(error),
    }
}

/// `struct termios2`, as the kernel gives it: the same 44 bytes on x86_64 and aarch64.
pub type Termios2 = [u8; 44];

/// Settings of a terminal: ioctl(2), TCGETS2. Unlike tcgetattr(3) it loses neither speed nor line discipline.
///
/// # Errors
///
/// EIO when the terminal's other side is gone, ENOTTY when it is none.
#[doc(alias = "TCGETS2")]
pub fn termios(terminal: impl AsFd) -> Result<Termios2> {
    let mut out = [0; 44];
    // SAFETY: TCGETS2 writes one struct termios2 of 44 bytes to a local of that size.
    let done = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), TCGETS2, out.as_mut_ptr()) };
    if done < 0 { Err(Error::last("reading the settings of a terminal", None)) } else { Ok(out) }
}

/// Sets a terminal: ioctl(2), TCSETS2. SIGTTOU is blocked meanwhile, so that a caller in the background is not stopped.
///
/// # Errors
///
/// EIO when the terminal's other side is gone.
#[doc(alias = "TCSETS2")]
pub fn set_termios(terminal: impl AsFd, settings: &Termios2) -> Result<()> {
    // SAFETY: sigset_t is plain data for which all zeroes is a value; sigemptyset and sigaddset write only to it.
    let ttou = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTTOU);
        set
    };
    // SAFETY: as above.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: both sets are initialised locals; only this thread's mask changes, and it is put back below.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const ttou, &raw mut before) };
    // SAFETY: TCSETS2 reads one struct termios2 of 44 bytes from an array of that size.
    let done = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), TCSETS2, settings.as_ptr()) };
    let result = if done < 0 { Err(Error::last("setting a terminal", None)) } else { Ok(()) };
    // SAFETY: `before` is the mask that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    result
}

/// The device number of the terminal that is really behind a descriptor, also of `/dev/tty`: ioctl(2), TIOCGDEV.
///
/// # Errors
///
/// EIO when the terminal is hung up, ENOTTY when it is none.
#[doc(alias = "TIOCGDEV")]
pub fn terminal_device(terminal: impl AsFd) -> Result<u32> {
    // The kernel's new_encode_dev(), which stat(2) and tty_nr of /proc/PID/stat use too.
    query(terminal, TIOCGDEV, "reading which terminal it is").map(i32::cast_unsigned)
}

/// Whether a terminal is in exclusive mode: ioctl(2), TIOCGEXCL.
///
/// # Errors
///
/// EIO when the terminal is hung up, ENOTTY when it is none.
#[doc(alias = "TIOCGEXCL")]
pub fn terminal_exclusive(terminal: impl AsFd) -> Result<bool> {
    query(terminal, TIOCGEXCL, "reading whether a terminal is exclusive").map(|on| on != 0)
}

/// The line discipline of a terminal, 0 for the usual one (N_TTY): ioctl(2), TIOCGETD.
///
/// # Errors
///
/// EIO when the terminal is hung up, ENOTTY when it is none.
#[doc(alias = "TIOCGETD")]
pub fn line_discipline(terminal: impl AsFd) -> Result<i32> {
    query(terminal, TIOCGETD, "reading the line discipline of a terminal")
}

/// Marks every descriptor of this process from `first` on close-on-exec, so that a program it starts does not
/// inherit what it was itself given: close_range(2), Linux 5.11.
///
/// # Errors
///
/// ENOSYS or EINVAL on an older kernel.
#[doc(alias = "CLOSE_RANGE_CLOEXEC")]
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: with this flag nothing is closed; a flag of each descriptor changes, which no memory safety rests on.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    if done < 0 { Err(Error::last("marking descriptors close-on-exec", None)) } else { Ok(()) }
}

fn query(fd: impl AsFd, request: u64, doing: &str) -> Result<i32> {
    let mut out = 0i32;
    // SAFETY: each request that this module passes writes one int, to a local that outlives the call.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut out) };
    if done < 0 { Err(Error::last(doing, None)) } else { Ok(out) }
}

fn integer(fd: impl AsFd, command: i32, argument: Option<i32>, doing: &str) -> Result<i32> {
    // SAFETY: each command that this module passes takes an integer or nothing.
    let got = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, argument.unwrap_or(0)) };
    if got < 0 { Err(Error::last(doing, None)) } else { Ok(got) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::FromRawFd;

    #[test]
    fn owner_and_signal_are_read_back() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(owner(&file).unwrap(), Owner::default());
        assert_eq!(signal(&file).unwrap(), 0);
        let me = Owner { kind: 1, pid: i32::try_from(std::process::id()).unwrap() };
        set_owner(&file, me).unwrap();
        set_signal(&file, libc::SIGUSR1).unwrap();
        assert_eq!(owner(&file).unwrap(), me);
        assert_eq!(signal(&file).unwrap(), libc::SIGUSR1);
    }

    #[test]
    fn lease_is_read_back() {
        let path = std::env::temp_dir().join(format!("stillpoint-lease-{}", std::process::id()));
        File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(lease(&file).unwrap(), Lease::None);
        set_lease(&file, Lease::Read).unwrap();
        assert_eq!(lease(&file).unwrap(), Lease::Read);
    }

    #[test]
    fn a_pipe_is_not_a_notification_queue() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(!is_notification_pipe(&read).unwrap());
        assert!(!is_notification_pipe(&write).unwrap());
    }

    #[test]
    fn terminal_settings_survive_a_round_trip() {
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: openpty writes two descriptors to locals; name, settings and size may be null.
        let done = unsafe {
            let none = std::ptr::null_mut();
            libc::openpty(&raw mut master, &raw mut slave, none, std::ptr::null(), std::ptr::null())
        };
        if done < 0 {
            return; // No devpts here.
        }
        // SAFETY: both descriptors are new, and nothing else owns them.
        let (_master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
        let mut settings = termios(&slave).unwrap();
        settings[0] ^= 1; // IGNBRK
        set_termios(&slave, &settings).unwrap();
        assert_eq!(termios(&slave).unwrap(), settings);
        assert_eq!(line_discipline(&slave).unwrap(), 0);
        assert!(!terminal_exclusive(&slave).unwrap());
        assert_eq!(u64::from(terminal_device(&slave).unwrap()), rustix::fs::fstat(&slave).unwrap().st_rdev);
        assert!(termios(File::open("/dev/null").unwrap()).is_err());
    }
}
