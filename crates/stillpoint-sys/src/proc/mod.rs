//! Parsers of `/proc`: bytes in, types out. What is not understood is an error, never dropped.
//!
//! Each file of `/proc` is one file here, with a pure `parse(&[u8])` and a thin `read(pid)` over it. Names that
//! the kernel gives (paths, comm, VMA names) stay bytes. Pids are in the pid namespace of the caller's `/proc`.
//!
//! What the kernel prints while the task runs is a moving picture; read what must be consistent while the task
//! is stopped.

pub mod auxv;
pub mod boot;
pub mod cgroup;
pub mod clocks;
pub mod cpuinfo;
pub mod fdinfo;
pub mod holders;
pub mod id_map;
pub mod limits;
pub mod link;
pub mod locks;
pub mod maps;
pub mod mountinfo;
pub mod namespaces;
pub mod number;
pub mod smaps;
pub mod stat;
pub mod status;
pub mod syscall;
pub mod tasks;
pub mod timens;
pub mod timer_list;
pub mod timers;

mod fuzz;
mod source;
mod text;

#[doc(hidden)]
pub use fuzz::{PARSERS, fuzz_one};
pub use number::{coredump_filter, oom_score_adj, personality, timerslack};
