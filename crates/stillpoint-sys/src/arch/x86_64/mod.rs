//! x86-64.

mod calls;
mod cpu;
mod program;
mod registers;
mod sigframe;

pub use calls::{CPU_IDENTIFICATION, FAULT_CPU_IDENTIFICATION, SEGMENT_TABLE_CALL, map_kernel_areas};
pub use cpu::{enabled_xstate, xstate_size};
pub use program::{RESTORERS, SYSCALL_AND_RETURN, SYSCALL_INSTRUCTION, program_loop};
pub use registers::{
    EXTENDED_STATE_NOTE, NAME, Registers, TASK_SIZE, io_permissions, xstate_components, xstate_mask,
};
pub use sigframe::SignalFrame;
