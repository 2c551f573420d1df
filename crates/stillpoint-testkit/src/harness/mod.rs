//! Starts workloads, puts them through the `stillpoint` command, and asks the workload and the checker whether all is well.
//!
//! ```text
//! SP_KEEP=1            keeps the directories of cases, with images and records
//! STILLPOINT_BIN=PATH  the command to test; else the one that was built beside the tests
//! ```
//!
//! A case as root runs everything as root. A case as an ordinary user runs the workload and the command with the ids of
//! [`USER`], who exists nowhere, or as whoever runs the tests if that is an ordinary user. Only the checker then keeps
//! root's eyes. Each case has a directory of its own; when it ends, however it ends, its processes are killed and its directory removed.
//!
//! *Invariant:* no assertion depends on how long something takes. Deadlines are there so that a hang ends, and are long.

mod place;
mod process;
mod pty;
mod scenario;
mod tool;
mod workload;

use std::fmt;

pub use place::{Place, program};
pub use process::{Guard, ends, kill_tree, naming, parent_of, running, tree_of};
pub use pty::Pty;
pub use scenario::{busy_round, leave_running, refused, round_trip, rules_for, two_rounds};
pub use tool::{Job, Ran, Tool};
pub use workload::Workload;

/// What a case returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a case failed, in words; printed as it is by the test runner.
pub struct Failure(String);

impl Failure {
    /// A failure.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T: fmt::Display> From<T> for Failure
where
    T: std::error::Error,
{
    fn from(error: T) -> Self {
        Self(error.to_string())
    }
}

/// Fails a case unless the condition holds.
#[macro_export]
macro_rules! expect {
    ($cond:expr, $($text:tt)+) => {
        if !$cond {
            return Err($crate::harness::Failure::new(format!($($text)+)));
        }
    };
}

/// The ids of the ordinary user.
pub const USER: u32 = 12345;

/// As whom a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The superuser.
    Root,
    /// Anybody else.
    User,
}

impl Who {
    /// Whether the tests run as root.
    #[must_use]
    pub fn are_root() -> bool {
        // SAFETY: takes nothing and always succeeds.
        unsafe { libc::geteuid() == 0 }
    }

    /// Whether a case as this one can run here; says on stderr that it is skipped if it cannot.
    #[must_use]
    pub fn can_run(self) -> bool {
        let can = self == Who::User || Self::are_root();
        if !can {
            skip("needs root");
        }
        can
    }
}

/// Says that a case is skipped, past the test runner's capture, so that a log shows it.
pub fn skip(why: &str) {
    note(&format!("skipped: {why}"));
}

/// Says something of a case in the same way.
pub fn note(text: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "{}: {text}", thread.name().unwrap_or("a case"));
}

/// How long a hang may last: far longer than anything takes on a busy machine.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Waits until something is there.
///
/// # Errors
///
/// When it never comes, or `look` fails.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let start = std::time::Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(found) = look()? {
            return Ok(found);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Err(Failure::new(format!("waited in vain for {what}")))
}
