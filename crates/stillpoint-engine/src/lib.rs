//! Transparent checkpoint/restart for Linux, as a library.
//!
//! [`checkpoint`](checkpoint::checkpoint) saves a running process tree to one sealed image;
//! [`restore`](restore::restore) brings it back. A tree is either saved whole or refused with a reason: every
//! failure is an [`Error`] with a stable [`Code`], the task, the object, the cause and the remedy.
//!
//! The engine never prints and never decides on an exit status; [`Code::class`] says what a caller should make
//! of an error.

pub mod checkpoint;
pub mod error;
pub mod freeze;
pub mod inspect;
pub mod kind;
pub mod memory;
pub mod options;
pub mod plan;
pub mod progress;
pub mod report;
pub mod restore;
mod stopwatch;
pub mod task;

pub use error::{Class, Code, Error, Result, TaskName};
pub use options::{
    CheckpointOptions, Compression, External, Fate, Foreground, Output, Replacement, RestoreOptions,
};
pub use progress::{Observer, Phase, Silent};
pub use report::{CheckpointReport, RestoreReport};
