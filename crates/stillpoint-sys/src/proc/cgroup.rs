//! `/proc/PID/cgroup`: the control groups of a task.
//!
//! See cgroups(7) and `proc_cgroup_show` in the kernel's `kernel/cgroup/cgroup.c`.

use super::source;
use super::text::{Text, split_once};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's control groups");

/// The task's group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Number of the hierarchy; 0 is cgroup v2.
    pub hierarchy: u32,
    /// Controllers or the `name=` of a v1 hierarchy; empty for v2.
    pub controllers: Vec<u8>,
    /// Path below the root of the reader's cgroup namespace: `/../` at its start leads out of it, ` (deleted)` at
    /// its end says that the group was removed.
    pub path: Vec<u8>,
}

/// Reads `/proc/PID/cgroup`; a thread id serves as well as a process id.
///
/// # Errors
///
/// ENOENT or ESRCH when the task is gone, ENOENT without CONFIG_CGROUPS, a text that is not understood.
pub fn read(pid: Pid) -> Result<Vec<Cgroup>> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/cgroup"), parse)
}

/// Parses the text of `/proc/PID/cgroup`. Names of groups hold no newline: mkdir(2) refuses one.
///
/// # Errors
///
/// Any line that is not understood.
pub fn parse(bytes: &[u8]) -> Result<Vec<Cgroup>> {
    let parse_line = |line| {
        let bad = || TEXT.bad("a line of cgroup", line);
        let (hierarchy, rest) = split_once(line, b':').ok_or_else(bad)?;
        // A v1 hierarchy may be named with a colon, a path may hold one: the path begins at the first `:/`.
        let at = rest.windows(2).position(|pair| pair == b":/").ok_or_else(bad)?;
        Ok(Cgroup {
            hierarchy: TEXT.decimal("number of a hierarchy", hierarchy)?,
            controllers: rest[..at].to_vec(),
            path: rest[at + 1..].to_vec(),
        })
    };
    TEXT.lines(bytes)?.map(parse_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let groups =
            parse(b"9:name=systemd:/\n3:cpu,cpuacct:/a:b c\xff (deleted)\n0::/user.slice\n").unwrap();
        assert_eq!(groups[0].controllers, b"name=systemd");
        assert_eq!(groups[1].path, b"/a:b c\xff (deleted)");
        assert_eq!((groups[2].hierarchy, &groups[2].path[..]), (0, &b"/user.slice"[..]));
        for bad in [&b"0:/\n"[..], b"0::\n", b"x::/\n", b"0::/", b"\n"] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn this_process() {
        read(std::process::id()).unwrap();
    }
}
