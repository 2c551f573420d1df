//! Restore: verify, plan, build, fill, resume.

use crate::{Code, Error, Observer, RestoreOptions, RestoreReport, Result};

/// A restored tree, running.
#[derive(Debug)]
pub struct Restored {
    /// What was done.
    pub report: RestoreReport,
}

impl Restored {
    /// Waits, as the parent, until the root task ends; passes the signals that this process receives on to it.
    /// Returns the wait status, as of wait(2).
    ///
    /// # Errors
    ///
    /// When waiting fails.
    pub fn wait(self) -> Result<i32> {
        Err(Box::new(Error::new(Code::Failed, "wait")))
    }
}

/// Brings the tree of an image back and lets it run. Every task runs, or nothing is left behind.
///
/// # Errors
///
/// With the reason; nothing is left behind.
pub fn restore(options: RestoreOptions, observer: &mut dyn Observer) -> Result<Restored> {
    let _ = (options, observer);
    Err(Box::new(Error::new(Code::Failed, "restore")))
}

/// Says what a restore would do and what does not fit, and touches nothing.
///
/// # Errors
///
/// When the image cannot be read.
pub fn dry_run(options: RestoreOptions, observer: &mut dyn Observer) -> Result<RestoreReport> {
    let _ = (options, observer);
    Err(Box::new(Error::new(Code::Failed, "dry run")))
}
