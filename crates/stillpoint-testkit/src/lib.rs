//! Proof: what says that a restored tree is the tree that was saved.
//!
//! Three parts, which know nothing of each other's insides:
//!
//! - [`equality`] records what the kernel shows of a tree and compares two records. It reads `/proc` with code of its
//!   own, independent of `stillpoint-sys` on purpose, so that one bug cannot hide another.
//! - `sp-work` (`src/workload/`) is a program with one subcommand for each state: it sets the state up, then verifies
//!   from inside, several times a second, that it is still as it was set up.
//! - [`harness`] starts workloads, puts them through the `stillpoint` command, and asks both of the above.
//!
//! *Invariant:* nothing here links the engine. The command is run as a user runs it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod equality;
pub mod harness;
