//! Freezing: every thread of a tree is stopped under ptrace, and nothing new can appear.

use std::os::fd::OwnedFd;

use crate::TaskName;

/// A process of a frozen tree.
#[derive(Debug)]
pub struct FrozenTask {
    /// Its id in the caller's pid namespace.
    pub host_pid: u32,
    /// Its id as the tree itself sees it.
    pub pid: u32,
    /// How errors name it.
    pub name: TaskName,
    /// A pidfd of it, for `pidfd_getfd`.
    pub pidfd: OwnedFd,
    /// Whether it has ended and waits to be reaped; then it has no threads, memory or files.
    pub zombie: bool,
}
