//! `/proc/timer_list`: the kernel's running timers, which root may read.
//!
//! See `print_active_timers` in the kernel's `kernel/time/timer_list.c`. It names no task; but it tells on which clock a
//! timer runs, which nothing else does: one that was set for a time of the wall clock runs on that clock, one that was
//! set for a time from then on does not.

use super::source;
use super::text::{Text, split_once, trim};
use crate::Result;

const TEXT: Text = Text("reading the kernel's timers");

/// The index of the clock that CLOCK_REALTIME timers with an absolute time run on: `HRTIMER_BASE_REALTIME`.
const REALTIME: u64 = 1;
/// The same for timers that expire in a soft interrupt.
const REALTIME_SOFT: u64 = 5;

/// When timers of timer_create(2) expire that run on the wall clock: nanoseconds since 1970.
///
/// # Errors
///
/// EACCES without privilege, a text that is not understood.
pub fn realtime_posix_timers() -> Result<Vec<u64>> {
    source::parse_system(TEXT.0, "/proc/timer_list", parse)
}

/// Parses the text of `/proc/timer_list` for them.
///
/// # Errors
///
/// A clock or a timer without the number that belongs to it.
pub fn parse(bytes: &[u8]) -> Result<Vec<u64>> {
    let mut expiries = Vec::new();
    let mut index = None;
    let mut posix = false;
    for line in TEXT.lines(bytes)? {
        let line = trim(line);
        if let Some(number) = line.strip_prefix(b".index:") {
            index = Some(TEXT.decimal::<u64>("a clock's index", trim(number))?);
        } else if line.starts_with(b"#") && !line.starts_with(b"# expires at ") {
            // ` #0: <address>, function, S:01`
            posix =
                line.split(|byte| *byte == b',').nth(1).is_some_and(|name| trim(name) == b"posix_timer_fn");
        } else if let Some(times) = line.strip_prefix(b"# expires at ") {
            // From the earliest to the latest time; those of timers have no slack.
            let (earliest, _) = split_once(times, b'-').ok_or_else(|| TEXT.bad("a timer's expiry", line))?;
            let earliest = TEXT.decimal("a timer's expiry", earliest)?;
            if posix && matches!(index, Some(REALTIME | REALTIME_SOFT)) {
                expiries.push(earliest);
            }
        }
    }
    Ok(expiries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_of_the_wall_clock_are_found() {
        let text = b"Timer List Version: v0.10\n\nclock 0:\n  .index:      0\nactive timers:\n\
            \x20#0: <00000000cc1e0aa8>, posix_timer_fn, S:01\n # expires at 5-5 nsecs [in 1 to 1 nsecs]\n\
            \x20clock 1:\n  .index:      1\nactive timers:\n\
            \x20#0: <0000000005acaac8>, hrtimer_wakeup, S:01\n # expires at 6-7 nsecs [in 1 to 2 nsecs]\n\
            \x20#1: <00000000cc1e0aa8>, posix_timer_fn, S:01\n # expires at 8-8 nsecs [in 3 to 3 nsecs]\n";
        assert_eq!(parse(text).unwrap(), [8]);
        assert!(parse(b" # expires at soon\n").is_err());
        assert!(parse(b"  .index:      x\n").is_err());
    }

    #[test]
    fn what_this_kernel_says_is_understood() {
        match realtime_posix_timers() {
            Ok(_) => {}
            Err(error) => assert!(matches!(error.errno(), Some(libc::EACCES | libc::ENOENT)), "{error}"),
        }
    }
}
