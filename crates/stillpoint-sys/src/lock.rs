//! Locks on ranges of files: fcntl(2), F_SETLK and its like.
//!
//! Absent, because rustix has it: flock(2).

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use crate::{Error, Pid, Result};

/// A lock on a range of a file, whoever owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLock {
    /// A write lock (F_WRLCK), as opposed to a read lock (F_RDLCK).
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte, which belongs to it; [`RecordLock::EOF`] when it goes to the end of the file, wherever that is.
    pub end: u64,
}

impl RecordLock {
    /// The end of every file: the kernel's OFFSET_MAX.
    pub const EOF: u64 = i64::MAX.cast_unsigned();

    /// Whether it is a range that a file can have.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.start <= self.end && self.end <= Self::EOF
    }

    /// `struct flock`, as a system call takes it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<libc::flock>()] {
        let flock = self.flock();
        let mut bytes = [0; size_of::<libc::flock>()];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(std::mem::offset_of!(libc::flock, l_type), &flock.l_type.to_ne_bytes());
        put(std::mem::offset_of!(libc::flock, l_whence), &flock.l_whence.to_ne_bytes());
        put(std::mem::offset_of!(libc::flock, l_start), &flock.l_start.to_ne_bytes());
        put(std::mem::offset_of!(libc::flock, l_len), &flock.l_len.to_ne_bytes());
        bytes
    }

    fn flock(&self) -> libc::flock {
        let length =
            if self.end >= Self::EOF { 0 } else { self.end.wrapping_sub(self.start).wrapping_add(1) };
        libc::flock {
            l_type: short(if self.exclusive { libc::F_WRLCK } else { libc::F_RDLCK }),
            l_whence: short(libc::SEEK_SET),
            l_start: self.start.cast_signed(),
            l_len: length.cast_signed(),
            l_pid: 0,
        }
    }
}

/// `struct flock` has its small constants as shorts.
const fn short(constant: i32) -> i16 {
    let [low, high, ..] = constant.to_le_bytes();
    i16::from_le_bytes([low, high])
}

/// Whose a record lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The descriptor table: a process (F_SETLK).
    Process,
    /// The open file description (F_OFD_SETLK).
    Description,
}

impl Owner {
    /// The command of fcntl(2) that sets such a lock without waiting.
    #[must_use]
    pub const fn set_command(self) -> i32 {
        match self {
            Owner::Process => libc::F_SETLK,
            Owner::Description => libc::F_OFD_SETLK,
        }
    }
}

/// Who holds a lock that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The process; none when an open file description holds it, or the process is not visible here.
    pub pid: Option<Pid>,
    /// Its lock.
    pub lock: RecordLock,
}

/// The first lock of somebody else that would not let this open file description set `lock`: fcntl(2),
/// F_OFD_GETLK. Locks of this very description are not in the way; those of this process are.
///
/// # Errors
///
/// EBADF on a descriptor that was opened with O_PATH.
#[doc(alias = "F_OFD_GETLK")]
pub fn holder(fd: impl AsFd, lock: &RecordLock) -> Result<Option<Holder>> {
    let mut flock = lock.flock();
    // SAFETY: F_OFD_GETLK reads and writes one struct flock, a local that outlives the call.
    let done = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut flock) };
    if done < 0 {
        return Err(Error::last("looking for locks of a file", None));
    }
    if i32::from(flock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let start = flock.l_start.cast_unsigned();
    let end = match flock.l_len {
        0 => RecordLock::EOF,
        length => start.wrapping_add(length.cast_unsigned()).wrapping_sub(1),
    };
    let exclusive = i32::from(flock.l_type) == libc::F_WRLCK;
    let pid = Pid::try_from(flock.l_pid).ok().filter(|&pid| pid != 0);
    Ok(Some(Holder { pid, lock: RecordLock { exclusive, start, end } }))
}

/// Sets a lock without waiting: fcntl(2), F_SETLK or F_OFD_SETLK.
///
/// # Errors
///
/// EAGAIN or EACCES when a lock of somebody else is in the way; EBADF when the file is not open for it.
#[doc(alias = "F_SETLK")]
#[doc(alias = "F_OFD_SETLK")]
pub fn set(fd: impl AsFd, owner: Owner, lock: &RecordLock) -> Result<()> {
    let flock = lock.flock();
    // SAFETY: both commands read one struct flock, a local that outlives the call.
    let done = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), owner.set_command(), &raw const flock) };
    if done < 0 { Err(Error::last("setting a lock on a file", None)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn lock(start: u64, end: u64) -> RecordLock {
        RecordLock { exclusive: true, start, end }
    }

    #[test]
    fn a_range_to_the_end_has_no_length() {
        assert_eq!((lock(5, 9).flock().l_start, lock(5, 9).flock().l_len), (5, 5));
        assert_eq!(lock(5, RecordLock::EOF).flock().l_len, 0);
        assert_eq!(lock(0, RecordLock::EOF - 1).flock().l_len, i64::MAX);
        assert!(lock(7, 7).is_valid() && !lock(7, 6).is_valid() && !lock(0, u64::MAX).is_valid());
        assert!(lock(RecordLock::EOF, RecordLock::EOF).is_valid());
    }

    #[test]
    fn the_holder_of_a_lock_is_named() {
        let path = std::env::temp_dir().join(format!("stillpoint-lock-{}", std::process::id()));
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        File::create(&path).unwrap();
        let (a, b) = (open(), open());
        std::fs::remove_file(&path).unwrap();
        set(&a, Owner::Description, &lock(10, 19)).unwrap();
        set(&a, Owner::Process, &lock(100, RecordLock::EOF)).unwrap();
        let expected = Holder { pid: None, lock: lock(10, 19) };
        assert_eq!(set(&b, Owner::Description, &lock(0, 10)).unwrap_err().errno(), Some(libc::EAGAIN));
        assert_eq!(holder(&b, &lock(0, 9)).unwrap(), None);
        assert_eq!(holder(&b, &lock(0, 10)).unwrap(), Some(expected));
        assert_eq!(holder(&a, &lock(0, 10)).unwrap(), None);
        let expected = Holder { pid: Some(std::process::id()), lock: lock(100, RecordLock::EOF) };
        assert_eq!(holder(&b, &lock(50, RecordLock::EOF)).unwrap(), Some(expected));
    }
}
