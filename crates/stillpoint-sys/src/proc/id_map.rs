//! `/proc/PID/uid_map` and `gid_map`: what ids of a user namespace mean outside of it.
//!
//! See user_namespaces(7) and `m_show` users in the kernel's `kernel/user_namespace.c`.

use super::source;
use super::text::{Text, exactly};
use crate::{Pid, Result};

const TEXT: Text = Text("reading the id map of a user namespace");

/// One line: `count` ids from `inside` on are the ids from `outside` on, as the reader's user namespace counts
/// (as its parent counts, where the reader is in the namespace itself).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First id in the namespace.
    pub inside: u32,
    /// First id outside; `u32::MAX` where it has no meaning to the reader.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Reads `/proc/PID/uid_map`. Empty when none was written yet.
///
/// # Errors
///
/// ENOENT or ESRCH when the task is gone, ENOENT without CONFIG_USER_NS, a text that is not understood.
pub fn uid(pid: Pid) -> Result<Vec<Extent>> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/uid_map"), parse)
}

/// Reads `/proc/PID/gid_map`. Empty when none was written yet.
///
/// # Errors
///
/// As [`uid`].
pub fn gid(pid: Pid) -> Result<Vec<Extent>> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/gid_map"), parse)
}

/// Parses the text of a map.
///
/// # Errors
///
/// Any line that is not three numbers.
pub fn parse(bytes: &[u8]) -> Result<Vec<Extent>> {
    let extent = |line| {
        let [inside, outside, count] = exactly(line).ok_or_else(|| TEXT.bad("a line of an id map", line))?;
        Ok(Extent {
            inside: TEXT.decimal("an id", inside)?,
            outside: TEXT.decimal("an id", outside)?,
            count: TEXT.decimal("a count", count)?,
        })
    };
    TEXT.lines(bytes)?.map(extent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_three_numbers() {
        let map = parse(b"         0          0 4294967295\n      1000     100000      65536\n").unwrap();
        assert_eq!(map[0], Extent { inside: 0, outside: 0, count: u32::MAX });
        assert_eq!(map[1], Extent { inside: 1000, outside: 100_000, count: 65536 });
        assert_eq!(parse(b"").unwrap(), []);
        for bad in [&b"0 0\n"[..], b"0 0 1 1\n", b"0 0 x\n", b"0 0 1", b"\n"] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn this_process() {
        assert!(!uid(std::process::id()).unwrap().is_empty());
        assert!(!gid(std::process::id()).unwrap().is_empty());
    }
}
