//! The kernel boundary: everything that Stillpoint asks of Linux beyond what ordinary libraries wrap.
//!
//! Typed ptrace states, syscall programs that run inside a task, cross-process memory, pidfds, page maps, and
//! parsers of `/proc` (bytes in, types out). This is the only crate of the workspace with `unsafe`.
//!
//! Addresses of another task are [`RemoteAddr`], never references.

#![deny(unsafe_code)]

pub mod arch;
pub mod clone;
pub mod error;
pub mod file;
pub mod frames;
pub mod lock;
pub mod pagemap;
pub mod proc;
pub mod program;
pub mod ptrace;
pub mod signal;
pub mod sweep;
pub mod task;
pub mod vm;

pub use error::{Error, Result};

/// An address in another task's memory. Never dereferenced here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RemoteAddr(pub u64);

/// A process or thread id in the caller's pid namespace.
pub type Pid = u32;
