//! x86-64.

mod program;
mod registers;

pub use program::{SYSCALL_INSTRUCTION, program_loop};
pub use registers::{EXTENDED_STATE_NOTE, NAME, Registers, TASK_SIZE, xstate_components};
