//! The files of `/proc/PID` that hold one number.

use super::source;
use super::text::Text;
use crate::{Pid, Result};

/// The execution domain, `PER_*` and its flags: personality(2). Needs ptrace access.
pub mod personality {
    use super::*;

    const TEXT: Text = Text("reading a task's personality");

    /// Reads `/proc/PID/personality`; each thread has its own, and a thread id serves as well.
    ///
    /// # Errors
    ///
    /// EPERM or EACCES without ptrace access, ENOENT or ESRCH when the task is gone.
    pub fn read(pid: Pid) -> Result<u32> {
        source::parse_single(TEXT.0, pid, &format!("/proc/{pid}/personality"), parse)
    }

    /// Parses `%08x`.
    ///
    /// # Errors
    ///
    /// Anything else.
    pub fn parse(bytes: &[u8]) -> Result<u32> {
        TEXT.hex("personality", TEXT.one_line(bytes)?)
    }
}

/// The adjustment of the out-of-memory killer's score, from -1000 to 1000.
pub mod oom_score_adj {
    use super::*;

    const TEXT: Text = Text("reading a process's oom_score_adj");

    /// Reads `/proc/PID/oom_score_adj`.
    ///
    /// # Errors
    ///
    /// ENOENT or ESRCH when the process is gone.
    pub fn read(pid: Pid) -> Result<i32> {
        source::parse_single(TEXT.0, pid, &format!("/proc/{pid}/oom_score_adj"), parse)
    }

    /// Parses a number from -1000 to 1000.
    ///
    /// # Errors
    ///
    /// Anything else.
    pub fn parse(bytes: &[u8]) -> Result<i32> {
        match TEXT.signed("oom_score_adj", TEXT.one_line(bytes)?)? {
            score @ -1000..=1000 => Ok(score),
            _ => Err(TEXT.bad("a score out of range", bytes)),
        }
    }
}

/// Which areas a core dump holds: core(5).
pub mod coredump_filter {
    use super::*;

    const TEXT: Text = Text("reading a process's coredump_filter");

    /// Reads `/proc/PID/coredump_filter`; none for a task without an address space.
    ///
    /// # Errors
    ///
    /// ENOENT or ESRCH when the process is gone, ENOENT on a kernel without CONFIG_ELF_CORE.
    pub fn read(pid: Pid) -> Result<Option<u32>> {
        source::parse_single(TEXT.0, pid, &format!("/proc/{pid}/coredump_filter"), parse)
    }

    /// Parses `%08lx`, or nothing.
    ///
    /// # Errors
    ///
    /// Anything else.
    pub fn parse(bytes: &[u8]) -> Result<Option<u32>> {
        match bytes {
            [] => Ok(None),
            _ => TEXT.hex("coredump_filter", TEXT.one_line(bytes)?).map(Some),
        }
    }
}

/// How late a thread's timeouts may be: PR_SET_TIMERSLACK of prctl(2), for another thread.
pub mod timerslack {
    use super::*;

    const TEXT: Text = Text("reading a thread's timer slack");

    /// Reads `/proc/TID/timerslack_ns`, in nanoseconds. A thread id serves, though the kernel has the file only in
    /// the directories of `/proc` itself, not below `task`.
    ///
    /// # Errors
    ///
    /// EPERM for any thread but the caller, also of the same user, without CAP_SYS_NICE; ENOENT or ESRCH when the
    /// thread is gone. PR_GET_TIMERSLACK in the thread itself needs nothing.
    pub fn read(tid: Pid) -> Result<u64> {
        source::parse_single(TEXT.0, tid, &format!("/proc/{tid}/timerslack_ns"), parse)
    }

    /// Parses a number of nanoseconds.
    ///
    /// # Errors
    ///
    /// Anything else.
    pub fn parse(bytes: &[u8]) -> Result<u64> {
        TEXT.decimal("timer slack", TEXT.one_line(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let pid = std::process::id();
        assert_eq!(personality::read(pid).unwrap() & 0xff, 0);
        oom_score_adj::read(pid).unwrap();
        coredump_filter::read(pid).unwrap().unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        assert!(timerslack::read(tid).unwrap() > 0);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(personality::parse(b"00040000\n").unwrap(), 0x40000);
        assert_eq!(oom_score_adj::parse(b"-1000\n").unwrap(), -1000);
        assert_eq!(coredump_filter::parse(b"00000033\n").unwrap(), Some(0x33));
        assert_eq!(coredump_filter::parse(b"").unwrap(), None);
        assert!(personality::parse(b"").is_err());
        assert!(personality::parse(b"0\n0\n").is_err());
        assert!(oom_score_adj::parse(b"1001\n").is_err());
        assert!(timerslack::parse(b"50000").is_err());
        assert!(timerslack::parse(b"-1\n").is_err());
    }
}
