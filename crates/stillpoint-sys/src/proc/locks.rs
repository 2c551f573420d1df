//! Lines of file locks: `lock:` in `/proc/PID/fdinfo/FD`.
//!
//! See proc_pid_fdinfo(5) and `lock_get_status` in the kernel's `fs/locks.c`. A descriptor shows the locks that were
//! set through its open file description, if they are the description's own or those of the process that is looked
//! at: no other descriptor of the same file shows them.

use super::text::{Text, exactly, split_once};
use crate::Result;
use crate::lock::RecordLock;

const TEXT: Text = Text("reading the locks of an open file");

/// What a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// fcntl(2), F_SETLK: belongs to the descriptor table of a process.
    Process,
    /// fcntl(2), F_OFD_SETLK: belongs to the open file description.
    Description,
    /// flock(2): belongs to the open file description, and covers the whole file.
    Whole,
}

/// One lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// What it is.
    pub class: Class,
    /// The process that set it: -1 for one of an open file description, 0 when it is not visible here.
    pub pid: i32,
    /// Its mode and range.
    pub lock: RecordLock,
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// A lock that is held.
    Lock(Lock),
    /// fcntl(2), F_SETLEASE.
    Lease,
    /// A lease that a file server took (F_SETDELEG or nfsd).
    Delegation,
    /// A record lock that read(2) and write(2) obey; before Linux 5.15.
    Mandatory,
}

/// Parses what is behind `lock:`.
///
/// # Errors
///
/// Everything that is not the line of a lock that is held: somebody who waits (`->`), a class, a mode or a range that
/// is not known.
pub fn parse(value: &[u8]) -> Result<Line> {
    let bad = || TEXT.bad("a lock", value);
    let [id, class, binding, mode, pid, inode, start, end] = exactly(value).ok_or_else(bad)?;
    TEXT.decimal::<u64>("the number of a lock", id.strip_suffix(b":").ok_or_else(bad)?)?;
    // MAJOR:MINOR:INODE; which file it is, the descriptor tells.
    let (major, rest) = split_once(inode, b':').ok_or_else(bad)?;
    let (minor, inode) = split_once(rest, b':').ok_or_else(bad)?;
    TEXT.hex::<u32>("the device of a lock", major)?;
    TEXT.hex::<u32>("the device of a lock", minor)?;
    TEXT.decimal::<u64>("the inode of a lock", inode)?;
    let pid = TEXT.signed("the process of a lock", pid)?;
    let exclusive = match mode {
        b"WRITE" => true,
        b"READ" => false,
        // A lease that is being given up.
        b"UNLCK" if class == b"LEASE" => false,
        _ => return Err(bad()),
    };
    let start = TEXT.decimal("the start of a lock", start)?;
    let end = if end == b"EOF" { RecordLock::EOF } else { TEXT.decimal("the end of a lock", end)? };
    let lock = RecordLock { exclusive, start, end };
    if !lock.is_valid() {
        return Err(bad());
    }
    let class = match (class, binding) {
        (b"POSIX", b"ADVISORY") => Class::Process,
        (b"OFDLCK", b"ADVISORY") => Class::Description,
        (b"FLOCK", b"ADVISORY") if start == 0 && end == RecordLock::EOF => Class::Whole,
        (b"POSIX" | b"OFDLCK", b"MANDATORY") => return Ok(Line::Mandatory),
        (b"LEASE", b"ACTIVE" | b"BREAKING" | b"BREAKER") => return Ok(Line::Lease),
        (b"DELEG", b"ACTIVE" | b"BREAKING" | b"BREAKER") => return Ok(Line::Delegation),
        _ => return Err(bad()),
    };
    Ok(Line::Lock(Lock { class, pid, lock }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(class: Class, pid: i32, exclusive: bool, start: u64, end: u64) -> Line {
        Line::Lock(Lock { class, pid, lock: RecordLock { exclusive, start, end } })
    }

    #[test]
    fn every_kind_of_line() {
        let eof = RecordLock::EOF;
        for (line, expected) in [
            (
                &b"1: POSIX  ADVISORY  WRITE 1963 fe:00:10010666 0 9"[..],
                lock(Class::Process, 1963, true, 0, 9),
            ),
            (b"2: POSIX  ADVISORY  READ 1 00:1f:7 20 EOF", lock(Class::Process, 1, false, 20, eof)),
            (b"3: OFDLCK ADVISORY  READ -1 fe:00:7 4 4", lock(Class::Description, -1, false, 4, 4)),
            (b"4: FLOCK  ADVISORY  WRITE 0 fe:00:7 0 EOF", lock(Class::Whole, 0, true, 0, eof)),
            (b"5: LEASE  ACTIVE    READ 5 fe:00:7 0 EOF", Line::Lease),
            (b"5: LEASE  BREAKING  UNLCK 5 fe:00:7 0 EOF", Line::Lease),
            (b"6: DELEG  ACTIVE    READ 5 fe:00:7 0 EOF", Line::Delegation),
            (b"7: POSIX  MANDATORY WRITE 5 fe:00:7 0 EOF", Line::Mandatory),
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b""[..],
            b"1: -> POSIX  ADVISORY  WRITE 1 fe:00:7 0 9",
            b"1: POSIX  *NOINODE*  WRITE 1 <none>:0 0 9",
            b"1: ACCESS ADVISORY  WRITE 1 fe:00:7 0 9",
            b"1: UNKNOWN UNKNOWN  WRITE 1 fe:00:7 0 9",
            b"1: FLOCK  MSNFS     RW    1 fe:00:7 0 EOF",
            b"1: FLOCK  ADVISORY  WRITE 1 fe:00:7 0 9",
            b"1: POSIX  ADVISORY  UNLCK 1 fe:00:7 0 9",
            b"1: POSIX  ADVISORY  WRITE 1 fe:00:7 9 8",
            b"1: POSIX  ADVISORY  WRITE 1 fe:00:7 -1 8",
            b"1: POSIX  ADVISORY  WRITE 1 fe:00:7 0 9223372036854775808",
            b"1: POSIX  ADVISORY  WRITE 1 fe:00:7 0 9 9",
            b"1 POSIX  ADVISORY  WRITE 1 fe:00:7 0 9",
            b"1: POSIX  ADVISORY  WRITE x fe:00:7 0 9",
            b"1: POSIX  ADVISORY  WRITE 1 fe:00 0 9",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
