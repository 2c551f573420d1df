//! What was done, as data.

use crate::progress::PhaseTime;

/// What a checkpoint did.
#[derive(Debug, Clone, Default)]
pub struct CheckpointReport {
    /// How long each phase took, in order.
    pub phases: Vec<PhaseTime>,
    /// How long no task of the tree ran.
    pub frozen: std::time::Duration,
    /// Processes, zombies included.
    pub tasks: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptions.
    pub files: u64,
    /// Bytes of memory and file contents, before compression.
    pub content_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// What the user should know: lines such as "session 812 is led from outside the tree".
    pub notes: Vec<String>,
}

/// What a restore did, or, for a dry run, would do.
#[derive(Debug, Clone, Default)]
pub struct RestoreReport {
    /// How long each phase took, in order.
    pub phases: Vec<PhaseTime>,
    /// The root's pid in the caller's pid namespace (0 in a dry run).
    pub pid: u32,
    /// Processes, zombies included.
    pub tasks: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptions.
    pub files: u64,
    /// Bytes of memory and file contents.
    pub content_bytes: u64,
    /// Whether the tree is in a pid namespace of its own.
    pub private_pids: bool,
    /// What the user should know: which session and terminal the tree joined.
    pub notes: Vec<String>,
    /// Of a dry run: what would be done, one step a line.
    pub steps: Vec<String>,
    /// Of a dry run: what does not fit.
    pub misfits: Vec<crate::Error>,
}
