//! The loop that runs a syscall program inside a task. See [`crate::program`].

#![allow(unsafe_code)]

use std::arch::global_asm;

/// The instruction that enters the kernel, as it is found in a vDSO.
pub const SYSCALL_INSTRUCTION: &[u8] = &[0x0f, 0x05];

/// The same, followed by a return to the caller: the end of any plain wrapper of a system call.
pub const SYSCALL_AND_RETURN: &[u8] = &[0x0f, 0x05, 0xc3];

/// What a signal handler returns to, which calls rt_sigreturn(2): `mov $15, %rax` or `mov $15, %eax`, then `syscall`.
/// Every C library and the Go runtime have one of the two.
pub const RESTORERS: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05], &[0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05]];

// rbx: the current record; r12: the record to go on with when one fails; r13: the record that failed, or 0.
// The kernel preserves all three. Offsets are those of `program::Record`. Position independent.
global_asm!(
    ".pushsection .rodata.stillpoint_program,\"a\",@progbits",
    ".globl stillpoint_program_start",
    ".globl stillpoint_program_end",
    "stillpoint_program_start:",
    "2: mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "mov [rbx + 72], rax",
    "cmp rax, [rbx + 56]",
    "jl 3f",
    "cmp rax, [rbx + 64]",
    "jg 3f",
    "add rbx, 80",
    "jmp 2b",
    "3: mov r13, rbx",
    "mov rbx, r12",
    "jmp 2b",
    "stillpoint_program_end:",
    ".popsection",
);

unsafe extern "C" {
    static stillpoint_program_start: u8;
    static stillpoint_program_end: u8;
}

/// The loop's machine code.
#[must_use]
pub fn program_loop() -> &'static [u8] {
    // SAFETY: both symbols delimit the bytes that the assembly above puts into read-only data.
    unsafe {
        let start = &raw const stillpoint_program_start;
        let end = &raw const stillpoint_program_end;
        std::slice::from_raw_parts(start, end.addr() - start.addr())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loop_is_short_and_enters_the_kernel_once() {
        let code = super::program_loop();
        assert!(code.len() < 100, "{} bytes", code.len());
        assert_eq!(code.windows(2).filter(|w| w == &super::SYSCALL_INSTRUCTION).count(), 1);
    }
}
