//! `/proc/PID/timers`: the timers of timer_create(2).
//!
//! See proc_pid_timers(5) and `show_timer` in the kernel's `fs/proc/base.c`. What time is left is not here:
//! timer_gettime(2) says that, in the task.

use super::source;
use super::text::{Text, split_once};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a process's timers");

/// How a timer tells that it expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    /// SIGEV_NONE.
    None,
    /// SIGEV_SIGNAL.
    Signal,
    /// SIGEV_THREAD, which the C library does and the kernel only stores.
    Thread,
}

/// One timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Its id, which the task holds as its `timer_t`.
    pub id: u32,
    /// The signal that it sends.
    pub signal: i32,
    /// The value that the signal carries.
    pub value: u64,
    /// How it notifies.
    pub notify: Notify,
    /// SIGEV_THREAD_ID: the signal goes to one thread, not to the process.
    pub to_thread: bool,
    /// The process or thread that it notifies; 0 when it is gone or outside of the pid namespace.
    pub target: Pid,
    /// `CLOCK_*`, or a negative number made of a pid: the CPU clock of another task.
    pub clock: i32,
}

/// Reads `/proc/PID/timers`, in the kernel's order. The file needs CONFIG_CHECKPOINT_RESTORE before Linux 4.10.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT or ESRCH when the process is gone, a text that is not understood.
pub fn read(pid: Pid) -> Result<Vec<Timer>> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/timers"), parse)
}

/// Parses the text of `/proc/PID/timers`.
///
/// # Errors
///
/// Anything but groups of the four lines that the kernel prints.
pub fn parse(bytes: &[u8]) -> Result<Vec<Timer>> {
    let mut timers = Vec::new();
    let mut lines = TEXT.lines(bytes)?;
    while let Some(first) = lines.next() {
        let id = first.strip_prefix(b"ID: ").ok_or_else(|| TEXT.bad("a timer's ID", first))?;
        let mut value = |key: &[u8]| {
            let line = lines.next().unwrap_or(b"");
            line.strip_prefix(key).ok_or_else(|| TEXT.bad("a line of a timer", line))
        };
        let (signal, notify, clock) = (value(b"signal: ")?, value(b"notify: ")?, value(b"ClockID: ")?);
        let (signal, sigval) =
            split_once(signal, b'/').ok_or_else(|| TEXT.bad("a timer's signal", signal))?;
        let (notify, to_thread, target) = parse_notify(notify)?;
        timers.push(Timer {
            id: TEXT.decimal("a timer's ID", id)?,
            signal: TEXT.signed("a timer's signal", signal)?,
            // %px: the digits of a pointer, or `(null)` where the kernel's printf says so.
            value: if sigval == b"(null)" { 0 } else { TEXT.hex("a timer's value", sigval)? },
            notify,
            to_thread,
            target,
            clock: TEXT.signed("a timer's clock", clock)?,
        });
    }
    Ok(timers)
}

/// `signal/tid.1234`.
fn parse_notify(text: &[u8]) -> Result<(Notify, bool, Pid)> {
    let bad = || TEXT.bad("a timer's notification", text);
    let (how, to) = split_once(text, b'/').ok_or_else(bad)?;
    let (kind, target) = split_once(to, b'.').ok_or_else(bad)?;
    let how = match how {
        b"none" => Notify::None,
        b"signal" => Notify::Signal,
        b"thread" => Notify::Thread,
        _ => return Err(bad()),
    };
    let to_thread = match kind {
        b"pid" => false,
        b"tid" => true,
        _ => return Err(bad()),
    };
    Ok((how, to_thread, TEXT.decimal("a timer's target", target)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints() {
        let timers = parse(
            b"ID: 0\nsignal: 34/00007f0012345678\nnotify: signal/tid.77\nClockID: 1\n\
            ID: 3\nsignal: 0/0000000000000000\nnotify: none/pid.0\nClockID: -6\n",
        )
        .unwrap();
        assert_eq!(
            timers,
            [
                Timer {
                    id: 0,
                    signal: 34,
                    value: 0x7f00_1234_5678,
                    notify: Notify::Signal,
                    to_thread: true,
                    target: 77,
                    clock: 1
                },
                Timer {
                    id: 3,
                    signal: 0,
                    value: 0,
                    notify: Notify::None,
                    to_thread: false,
                    target: 0,
                    clock: -6
                },
            ]
        );
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b"ID: 0\n"[..],
            b"ID: 0\nsignal: 34/0\nnotify: signal/tid.77\n",
            b"ID: 0\nsignal: 34/0\nnotify: smoke/tid.77\nClockID: 1\n",
            b"ID: 0\nsignal: 34/0\nnotify: signal/uid.77\nClockID: 1\n",
            b"ID: 0\nsignal: 34\nnotify: signal/tid.77\nClockID: 1\n",
            b"ID: 0\nsignal: 34/0\nnotify: signal/tid.77\nClockID: 1\nNew: 1\n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_timer_of_a_child() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        // Python's standard library has no timer_create; its ctypes has.
        let Ok(mut child) = Command::new("python3")
            .args([
                "-c",
                "import ctypes,time\nc=ctypes.CDLL(None)\nt=ctypes.c_void_p()\n\
                   print(c.timer_create(1,None,ctypes.byref(t)),flush=True)\ntime.sleep(100)",
            ])
            .stdout(Stdio::piped())
            .spawn()
        else {
            return;
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let timers = read(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        if line == "0\n" {
            let timers = timers.unwrap();
            assert_eq!(timers.len(), 1);
            assert_eq!(timers[0].signal, libc::SIGALRM);
            assert_eq!((timers[0].notify, timers[0].target), (Notify::Signal, child.id()));
        }
    }
}
