//! `/proc/PID/timens_offsets`: the offsets of the time namespace that a task's children will be in.
//!
//! See time_namespaces(7) and `proc_timens_show_offsets` in the kernel's `kernel/time/namespace.c`.

use super::source;
use super::text::{Text, exactly};
use crate::{Pid, Result};

const TEXT: Text = Text("reading the offsets of a time namespace");

/// What is added to the clocks of the initial time namespace, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// To CLOCK_MONOTONIC.
    pub monotonic: i128,
    /// To CLOCK_BOOTTIME.
    pub boottime: i128,
}

/// Reads `/proc/PID/timens_offsets`; none where the kernel has no time namespaces, and for a zombie.
///
/// Which namespace it speaks of: `time_for_children` of the task, which differs from its own `time` namespace
/// after unshare(CLONE_NEWTIME).
///
/// # Errors
///
/// ENOENT or ESRCH when the task is gone, a text that is not understood.
pub fn read(pid: Pid) -> Result<Option<Offsets>> {
    match source::parse(TEXT.0, pid, &format!("/proc/{pid}/timens_offsets"), parse) {
        Ok(offsets) => Ok(offsets),
        Err(e) if e.errno() == Some(libc::ENOENT) && std::fs::metadata(format!("/proc/{pid}")).is_ok() => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Parses the text of `/proc/PID/timens_offsets`.
///
/// # Errors
///
/// Anything but the two clocks, each once, or nothing.
pub fn parse(bytes: &[u8]) -> Result<Option<Offsets>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut monotonic, mut boottime) = (None, None);
    for line in TEXT.lines(bytes)? {
        let bad = || TEXT.bad("a line of timens_offsets", line);
        let [clock, seconds, nanoseconds] = exactly(line).ok_or_else(bad)?;
        let seconds: i64 = TEXT.signed("seconds", seconds)?;
        let nanoseconds: i64 = TEXT.signed("nanoseconds", nanoseconds)?;
        let offset = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let slot = match clock {
            b"monotonic" => &mut monotonic,
            b"boottime" => &mut boottime,
            _ => return Err(bad()),
        };
        if slot.replace(offset).is_some() {
            return Err(bad());
        }
    }
    match (monotonic, boottime) {
        (Some(monotonic), Some(boottime)) => Ok(Some(Offsets { monotonic, boottime })),
        _ => Err(TEXT.bad("a clock is missing", bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clocks() {
        let offsets = parse(b"monotonic           0         0\nboottime           -2 500000000\n").unwrap();
        assert_eq!(offsets, Some(Offsets { monotonic: 0, boottime: -1_500_000_000 }));
        assert_eq!(parse(b"").unwrap(), None);
        for bad in [
            &b"monotonic 0 0\n"[..],
            b"monotonic 0 0\nmonotonic 0 0\n",
            b"monotonic 0 0\nboottime 0\n",
            b"monotonic 0 0\nboottime 0 0\ntai 0 0\n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn this_process() {
        read(std::process::id()).unwrap();
    }
}
