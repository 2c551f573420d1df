//! What the demo's workload has counted, read from outside.

use std::fmt;
use std::fs;
use std::path::Path;

use stillpoint_engine::{Code, Error, Result};

use super::workload::COUNTERS;

/// How far each thread has come. Reading them checks that no number is missing or there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts([u64; COUNTERS.len()]);

impl Counts {
    /// While the threads count. A line that crosses a page can be seen half written, so an unfinished one does not
    /// count yet.
    pub(super) fn of_running(directory: &Path) -> Result<Counts> {
        Counts::read(directory, |text| {
            let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
            unbroken(&text[..whole])
        })
    }

    /// Once they are gone: nothing may be unfinished.
    pub(super) fn of_stopped(directory: &Path) -> Result<Counts> {
        Counts::read(directory, unbroken)
    }

    fn read(directory: &Path, judge: impl Fn(&[u8]) -> Option<u64>) -> Result<Counts> {
        let mut counts = [0; COUNTERS.len()];
        for (count, name) in counts.iter_mut().zip(COUNTERS) {
            // A thread that has not begun has no file yet.
            let text = fs::read(directory.join(name)).unwrap_or_default();
            *count = judge(&text).ok_or_else(|| {
                Error::new(Code::Failed, "checking the demo's counts")
                    .object(name)
                    .cause("a count is missing or double")
            })?;
        }
        Ok(Counts(counts))
    }

    pub(super) fn lowest(&self) -> u64 {
        self.0.iter().copied().min().unwrap_or_default()
    }

    pub(super) fn highest(&self) -> u64 {
        self.0.iter().copied().max().unwrap_or_default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, two, three, four] = self.0;
        write!(f, "{one}, {two}, {three} and {four}")
    }
}

/// The N of a file that holds the lines 1 to N and nothing else.
fn unbroken(text: &[u8]) -> Option<u64> {
    let mut last = 0;
    for line in text.split_inclusive(|&b| b == b'\n') {
        let number = line.strip_suffix(b"\n")?;
        last += 1;
        if std::str::from_utf8(number).ok()?.parse() != Ok(last) {
            return None;
        }
    }
    Some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_doubles_and_halves_are_seen() {
        assert_eq!(unbroken(b""), Some(0));
        assert_eq!(unbroken(b"1\n2\n3\n"), Some(3));
        for broken in [&b"1\n3\n"[..], b"1\n1\n", b"2\n", b"1\n\0\0\n2\n", b"1\n2"] {
            assert_eq!(unbroken(broken), None, "{}", broken.escape_ascii());
        }
    }
}
