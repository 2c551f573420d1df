//! What all workloads use: reports, the verifying loop, system calls, patterns.

#[macro_use]
mod macros;
mod memory;
mod party;
pub(crate) mod puppet;
mod registers;
mod tasks;

pub(crate) use memory::{Map, fill, holds, matches};
pub(crate) use party::{Ctx, Party, report_failure};
pub(crate) use registers::{Hold, HoldKind};
pub(crate) use tasks::{Crew, child, gettid, pause_ms, reap, until};

/// The result of a step or a verification: what is wrong, in words.
pub(crate) type Check<T = ()> = Result<T, String>;
