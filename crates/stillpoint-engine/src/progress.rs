//! How long work tells what it is at, and how it is interrupted.

use std::time::Duration;

use crate::RestoreReport;

/// The phases of a checkpoint and a restore, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Stopping every thread of the tree.
    Freeze,
    /// Reading the state of tasks and open files.
    Collect,
    /// Copying memory and file contents.
    Pages,
    /// Writing the index and the seal, syncing, renaming.
    Seal,
    /// Ending the tasks or letting them run on.
    Release,
    /// Checking the image's integrity.
    Verify,
    /// Computing what is to be done, and checking that the place fits.
    Plan,
    /// Creating processes and threads, and their open files.
    Build,
    /// Filling memory.
    Fill,
    /// Setting registers and letting the tasks run.
    Resume,
}

impl Phase {
    /// The name that `--json` uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Freeze => "freeze",
            Phase::Collect => "collect",
            Phase::Pages => "pages",
            Phase::Seal => "seal",
            Phase::Release => "release",
            Phase::Verify => "verify",
            Phase::Plan => "plan",
            Phase::Build => "build",
            Phase::Fill => "fill",
            Phase::Resume => "resume",
        }
    }
}

/// How long a phase took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseTime {
    /// Which.
    pub phase: Phase,
    /// How long.
    pub time: Duration,
}

/// Watches long work and may interrupt it.
pub trait Observer {
    /// A phase begins; `total` is the amount of bytes it will handle, where that is known.
    fn phase(&mut self, phase: Phase, total: Option<u64>);
    /// So many more bytes of the phase are done.
    fn advance(&mut self, bytes: u64);
    /// A restore is about to let the tree run: everything is done but that. The last moment at which something can be
    /// said on a terminal that will be the tree's.
    fn resuming(&mut self, report: &RestoreReport) {
        let _ = report;
    }
    /// Asked often; `true` makes the engine undo everything and return [`Code::Interrupted`](crate::Code).
    fn interrupted(&self) -> bool;
}

/// An observer that does not look.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn phase(&mut self, _: Phase, _: Option<u64>) {}
    fn advance(&mut self, _: u64) {}
    fn interrupted(&self) -> bool {
        false
    }
}
