//! Kinds of open files: one file of source each, which holds how it is recognised, captured, checked and rebuilt.
//!
//! Adding a kind is adding a file here and one line in [`registry::KINDS`]. What no kind recognises is refused by
//! the registry itself.

use std::os::fd::OwnedFd;

use crate::freeze::FrozenTask;
use crate::{Result, TaskName};

/// One open file description, as it was first met in a frozen task.
#[derive(Debug)]
pub struct SeenFile<'a> {
    /// The task in whose table it was met.
    pub task: &'a FrozenTask,
    /// The number that it has there.
    pub number: u32,
    /// A duplicate of it (`pidfd_getfd`): every query is made on this, from outside.
    pub fd: OwnedFd,
    /// The link of `/proc/PID/fd/N`, kernel bytes.
    pub link: Vec<u8>,
}

/// What a kind knows how to do. See the module's documentation.
pub trait Kind: Sync {
    /// The name that the image and the support matrix use.
    fn name(&self) -> &'static str;
    /// Whether this kind stands for that file. At most one kind answers yes.
    fn recognise(&self, seen: &SeenFile<'_>) -> bool;
    // capture, check, rebuild, finish: see the task of this module.
}

/// How errors name a descriptor: `fd 7 -> /path`.
#[must_use]
pub fn descriptor_name(number: u32, link: &[u8]) -> String {
    format!("fd {number} -> {}", link.escape_ascii())
}

/// A placeholder until the capture context exists.
pub fn refuse(_: &TaskName) -> Result<()> {
    Ok(())
}
