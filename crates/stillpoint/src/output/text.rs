//! Plain lines, for people. Names come from programs that nobody vouches for, so what a terminal might obey is
//! escaped here, at the last moment.

use std::fmt::Write as _;
use std::time::Duration;

use stillpoint_engine::report::{CheckpointReport, RestoreReport};
use stillpoint_engine::{Error, Fate};

/// Text with its control characters, and those that reorder a line, escaped.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Kernel bytes as a line's text: everything but printable ASCII is escaped, so that two names never look alike.
pub(crate) fn escape_bytes(bytes: &[u8]) -> String {
    // Quotes need no escape: nothing here quotes.
    bytes.escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

/// An error, as one line and what can be done; the errors that came with it after it.
pub(crate) fn error(error: &Error) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(out, "stillpoint: {}", escape(&error.to_string()));
    if let Some(remedy) = &error.remedy {
        let _ = writeln!(out, "  try: {}", escape(remedy));
    }
    for other in &error.others {
        let _ = writeln!(out, "  also: {}", escape(&other.to_string()));
        if let Some(remedy) = other.remedy.as_ref().filter(|&remedy| error.remedy.as_ref() != Some(remedy)) {
            let _ = writeln!(out, "    try: {}", escape(remedy));
        }
    }
    out
}

/// What a checkpoint did.
pub(crate) fn checkpoint(report: &CheckpointReport, image: &str, fate: Fate) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "saved {}, {} to {image}, frozen for {}; the tasks {}",
        population(report.tasks, report.threads),
        size(report.image_bytes),
        time(report.frozen),
        fate_words(fate),
    );
    notes(&mut out, &report.notes);
    out
}

/// What a restore did.
pub(crate) fn restore(report: &RestoreReport, image: &str) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "restored {}, {} from {image} in {}; the root is pid {}{}",
        population(report.tasks, report.threads),
        size(report.content_bytes),
        time(report.phases.iter().map(|phase| phase.time).sum()),
        report.pid,
        if report.private_pids { ", in a pid namespace of its own" } else { "" },
    );
    notes(&mut out, &report.notes);
    out
}

/// What a restore would do.
pub(crate) fn dry_run(report: &RestoreReport, image: &str) -> String {
    let mut out = String::new();
    for step in &report.steps {
        let _ = writeln!(out, "{}", escape(step));
    }
    notes(&mut out, &report.notes);
    for misfit in &report.misfits {
        let _ = writeln!(out, "does not fit: {}", escape(&misfit.to_string()));
        if let Some(remedy) = &misfit.remedy {
            let _ = writeln!(out, "  try: {}", escape(remedy));
        }
    }
    let population = population(report.tasks, report.threads);
    let _ = match report.misfits.len() {
        0 => writeln!(out, "{image} would be restored: {population}, {}", size(report.content_bytes)),
        1 => writeln!(out, "{image} would not be restored: 1 thing does not fit"),
        n => writeln!(out, "{image} would not be restored: {n} things do not fit"),
    };
    out
}

fn notes(out: &mut String, notes: &[String]) {
    for note in notes {
        let _ = writeln!(out, "  note: {}", escape(note));
    }
}

/// "3 tasks (17 threads)"
pub(crate) fn population(tasks: u64, threads: u64) -> String {
    format!("{} ({})", count(tasks, "task"), count(threads, "thread"))
}

/// "1 task", "2 tasks"
pub(crate) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn fate_words(fate: Fate) -> &'static str {
    match fate {
        Fate::End => "are ended",
        Fate::LeaveRunning => "run on",
        Fate::LeaveStopped => "are left stopped",
    }
}

/// Bytes, in the unit that keeps the number short.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return count(bytes, "byte");
    }
    let mut unit = 0;
    let mut whole = bytes;
    while whole >= 1024 * 1024 && unit + 1 < UNITS.len() {
        whole /= 1024;
        unit += 1;
    }
    // Now `whole` counts 1024ths of UNITS[unit]; one decimal, rounded down so that nothing claims to be more.
    format!("{}.{} {}", whole / 1024, whole % 1024 * 10 / 1024, UNITS[unit])
}

/// A duration with three digits at most before it changes its unit.
pub(crate) fn time(time: Duration) -> String {
    let us = time.as_micros();
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillpoint_engine::Code;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(1024 * 1024 - 1), "1023.9 KiB");
        assert_eq!(size(50_541_363), "48.1 MiB");
        assert_eq!(size(u64::MAX), "16383.9 PiB");
        assert_eq!(time(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(time(Duration::from_millis(2_055)), "2.05 s");
        assert_eq!(time(Duration::ZERO), "0 us");
    }

    #[test]
    fn hostile_names_do_not_reach_the_terminal() {
        assert_eq!(escape("a\x1b[31m\n\u{202e}b\u{e9}"), "a\\u{1b}[31m\\n\\u{202e}b\u{e9}");
        assert_eq!(escape_bytes(b"it's \xff\x1b"), "it's \\xff\\x1b");
    }

    #[test]
    fn an_error_is_a_line_and_a_remedy() {
        let mut refused = Error::new(Code::UnsupportedFile, "saving an open file")
            .task(42, "re\ndis")
            .object("fd 7 -> socket:[99]")
            .cause("sockets are not supported yet")
            .remedy("close it before the checkpoint");
        refused.others.push(Error::new(Code::UnsupportedFile, "saving an open file").object("fd 8"));
        assert_eq!(
            error(&refused),
            "stillpoint: saving an open file, task 42 (re\\ndis), fd 7 -> socket:[99]: sockets are not supported yet\n  \
             try: close it before the checkpoint\n  also: saving an open file, fd 8\n"
        );
    }

    #[test]
    fn a_checkpoint_is_a_line() {
        let report = CheckpointReport {
            tasks: 3,
            threads: 17,
            image_bytes: 50_541_363,
            frozen: Duration::from_micros(8_400),
            notes: vec!["session 812 is led from outside the tree".to_owned()],
            ..CheckpointReport::default()
        };
        assert_eq!(
            checkpoint(&report, "counter.sp", Fate::End),
            "saved 3 tasks (17 threads), 48.1 MiB to counter.sp, frozen for 8.4 ms; the tasks are ended\n  \
             note: session 812 is led from outside the tree\n"
        );
    }

    #[test]
    fn a_dry_run_ends_with_its_verdict() {
        let mut report = RestoreReport { tasks: 1, threads: 1, ..RestoreReport::default() };
        assert_eq!(dry_run(&report, "x.sp"), "x.sp would be restored: 1 task (1 thread), 0 bytes\n");
        report
            .misfits
            .push(Error::new(Code::PidTaken, "creating task 7").cause("pid 7 is taken").remedy("--pidns"));
        let text = dry_run(&report, "x.sp");
        assert!(text.contains("does not fit: creating task 7: pid 7 is taken\n  try: --pidns\n"), "{text}");
        assert!(text.ends_with("x.sp would not be restored: 1 thing does not fit\n"), "{text}");
    }
}
