//! `/proc/PID/limits`: resource limits, for tasks on which prlimit(2) fails.
//!
//! See proc_pid_limits(5) and `proc_pid_limits` in the kernel's `fs/proc/base.c`.

use super::source;
use super::text::{Text, words};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's resource limits");

/// No limit: RLIM64_INFINITY.
pub const UNLIMITED: u64 = u64::MAX;

/// Soft and hard limits, indexed by `RLIMIT_*` as on every architecture but alpha, mips and sparc.
pub type Limits = [(u64, u64); COUNT];

/// The number of limits: RLIM_NLIMITS.
pub const COUNT: usize = 16;

/// Name and unit of each limit, by its number.
const NAMES: [(&[u8], &[u8]); COUNT] = [
    (b"Max cpu time", b"seconds"),
    (b"Max file size", b"bytes"),
    (b"Max data size", b"bytes"),
    (b"Max stack size", b"bytes"),
    (b"Max core file size", b"bytes"),
    (b"Max resident set", b"bytes"),
    (b"Max processes", b"processes"),
    (b"Max open files", b"files"),
    (b"Max locked memory", b"bytes"),
    (b"Max address space", b"bytes"),
    (b"Max file locks", b"locks"),
    (b"Max pending signals", b"signals"),
    (b"Max msgqueue size", b"bytes"),
    (b"Max nice priority", b""),
    (b"Max realtime priority", b""),
    (b"Max realtime timeout", b"us"),
];

/// Reads `/proc/PID/limits`, which anybody may.
///
/// # Errors
///
/// ENOENT or ESRCH when the task is gone (a zombie has no limits left), and a text that is not understood.
pub fn read(pid: Pid) -> Result<Limits> {
    source::parse_single(TEXT.0, pid, &format!("/proc/{pid}/limits"), parse)
}

/// Parses the text of `/proc/PID/limits`.
///
/// # Errors
///
/// Anything but the 16 limits that we know, each once.
pub fn parse(bytes: &[u8]) -> Result<Limits> {
    let mut limits = [None; COUNT];
    let mut lines = TEXT.lines(bytes)?;
    match lines.next() {
        Some(title) if words(title).eq(words(b"Limit Soft Limit Hard Limit Units")) => {}
        title => return Err(TEXT.bad("the title of limits", title.unwrap_or(b""))),
    }
    for line in lines {
        let bad = || TEXT.bad("a limit", line);
        let number = NAMES
            .iter()
            .position(|(name, _)| line.strip_prefix(*name).is_some_and(|rest| rest.first() == Some(&b' ')));
        let number = number.ok_or_else(bad)?;
        let (name, unit) = NAMES[number];
        let mut fields = words(&line[name.len()..]);
        let mut value = || match fields.next() {
            Some(b"unlimited") => Ok(UNLIMITED),
            Some(digits) => TEXT.decimal("a limit", digits),
            None => Err(bad()),
        };
        let pair = (value()?, value()?);
        if fields.next().unwrap_or(b"") != unit || fields.next().is_some() {
            return Err(bad());
        }
        if limits[number].replace(pair).is_some() {
            return Err(TEXT.bad("a limit that comes twice", line));
        }
    }
    let mut all = [(0, 0); COUNT];
    for ((into, from), (name, _)) in all.iter_mut().zip(limits).zip(NAMES) {
        *into = from.ok_or_else(|| TEXT.bad("a limit is missing", name))?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel() {
        let limits = parse(include_bytes!("testdata/limits-6.18")).unwrap();
        assert_eq!(limits[0], (UNLIMITED, UNLIMITED));
        assert_eq!(limits[3], (8_388_608, UNLIMITED));
        assert_eq!(limits[7], (20_000, 20_000));
        assert_eq!(limits[13], (0, 0));
        assert_eq!(limits[15], (UNLIMITED, UNLIMITED));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let good = include_bytes!("testdata/limits-6.18");
        let with = |from: &[u8], to: &[u8]| parse(&super::super::text::replace(good, from, to));
        assert!(with(b"x", b"x").is_ok());
        assert!(with(b"Max open files", b"Max open flies").is_err());
        assert!(with(b"Max open files", b"Max processes ").is_err());
        assert!(with(b"96365", b"96365.").is_err());
        assert!(with(b"seconds", b"minutes").is_err());
        assert!(with(b"Soft", b"Hard").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn this_process_as_prlimit_says() {
        let limits = read(std::process::id()).unwrap();
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limits[7], (files.current.unwrap_or(UNLIMITED), files.maximum.unwrap_or(UNLIMITED)));
    }
}
