//! Job control: a process that a signal has stopped.
//!
//! The stop belongs to the process (`SIGNAL_STOP_STOPPED` of its signal_struct), and so does what wait(2) tells its
//! parent of it, once. Tracing changes neither (kernel/ptrace.c, __ptrace_unlink; kernel/exit.c, task_stopped_code).

use stillpoint_sys::proc::stat;
use stillpoint_sys::ptrace::Stop;

use crate::Result;
use crate::freeze::FrozenTask;

const CONTINUED: u64 = 1 << (libc::SIGCONT - 1);

/// A stop by job control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoppedBy {
    /// The signal.
    pub signal: u32,
    /// Whether the parent has collected the report of it.
    pub reported: bool,
}

/// Whether job control has stopped a process, as of its leader's last stop. `pending`: every signal that was saved as
/// pending for it or one of its threads.
///
/// # Errors
///
/// When it was killed meanwhile.
pub fn capture(task: &FrozenTask, pending: u64) -> Result<Option<StoppedBy>> {
    let Some(leader) = task.threads.first() else { return Ok(None) };
    let Stop::Group(signal) = leader.stopped()?.why() else { return Ok(None) };
    // One that has come since takes the stop back. (A stop signal would have removed it.)
    if pending & CONTINUED != 0 {
        return Ok(None);
    }
    // What wait(2) would report stands in the exit code of a stopped process until it is collected.
    let reported = tells_reports() && stat::read(task.host_pid)?.exit_code == 0;
    Ok(Some(StoppedBy { signal: signal.unsigned_abs(), reported }))
}

/// Whether stat shows the exit code of the process: Linux 5.17 ("exit: Use the correct exit_code in /proc/<pid>/stat").
/// To be told twice of a stop does less harm than never, so an older kernel counts as not having told.
fn tells_reports() -> bool {
    let release = rustix::system::uname();
    version(release.release().to_bytes()).is_some_and(|version| version >= (5, 17))
}

fn version(release: &[u8]) -> Option<(u32, u32)> {
    let mut numbers = std::str::from_utf8(release).ok()?.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version(b"6.18.3-amd64"), Some((6, 18)));
        assert_eq!(version(b"5.10.0"), Some((5, 10)));
        assert_eq!(version(b"x"), None);
        assert!(version(b"5.4-rc1") < Some((5, 17)));
    }
}
