//! What a caller can ask for: one definition of each option.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Options of a checkpoint.
#[derive(Debug)]
pub struct CheckpointOptions {
    /// The root of the tree, in the caller's pid namespace.
    pub pid: u32,
    /// Where the image goes.
    pub output: Output,
    /// What happens to the tasks once the image is sealed.
    pub fate: Fate,
    /// Compression of memory and file contents.
    pub compression: Compression,
    /// What stands in for objects that reach outside the tree.
    pub externals: Vec<External>,
}

/// Where an image goes.
#[derive(Debug)]
pub enum Output {
    /// A file, written beside its final name and renamed when sealed.
    File {
        /// The final name.
        path: PathBuf,
        /// Whether an existing file is replaced.
        force: bool,
    },
    /// An open descriptor, written in order; for pipes.
    Stream(OwnedFd),
}

/// What happens to the tasks once the image is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// They are ended.
    #[default]
    End,
    /// They run on.
    LeaveRunning,
    /// They are left stopped, as by SIGSTOP.
    LeaveStopped,
}

/// Compression of memory and file contents, per chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// LZ4: fast.
    Lz4,
    /// Zstandard at a level of 1 to 19.
    Zstd(i32),
}

/// `--external [PID:]FD=PATH|fd:N`: what the descriptor FD is given on restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The task whose descriptor it is, as the tree sees it; none: the root.
    pub pid: Option<u32>,
    /// The descriptor's number in that task.
    pub fd: u32,
    /// What it becomes.
    pub replacement: Replacement,
}

/// What stands in for an object outside the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replacement {
    /// A file, opened with the access mode that the original had; created if it is written to and not there.
    Path(PathBuf),
    /// A descriptor of the process that calls restore.
    Descriptor(u32),
}

/// Options of a restore.
#[derive(Debug)]
pub struct RestoreOptions {
    /// The image.
    pub input: Input,
    /// Whether the tree is let go of, in sessions of its own, or stays the caller's child.
    pub foreground: Foreground,
    /// Directory below which all paths are looked up; none: `/`.
    pub root: Option<PathBuf>,
    /// Always enter a new pid namespace. (An ordinary user's restore does so anyway.)
    pub private_pids: bool,
    /// Replacements that override those recorded in the image.
    pub externals: Vec<External>,
    /// Where the root's pid is written, in the caller's pid namespace.
    pub pid_file: Option<PathBuf>,
}

/// Where an image is read from.
#[derive(Debug)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// An open descriptor; a pipe is read to its end into anonymous memory first.
    Stream(OwnedFd),
}

/// Whether the caller stays the parent of the restored tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Foreground {
    /// The caller stays as the parent; the tree joins its session and terminal.
    #[default]
    Attached,
    /// The tree gets a session of its own and outlives the caller.
    Detached,
}
