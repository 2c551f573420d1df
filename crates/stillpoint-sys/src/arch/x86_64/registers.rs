//! `struct user_regs_struct` of arch/x86/include/asm/user_64.h, and the XSAVE header.

#![allow(unsafe_code)]

/// The name of the architecture, as images record it.
pub const NAME: &str = "x86_64";

/// The ptrace note of the extended state.
pub const EXTENDED_STATE_NOTE: i32 = 0x202;

/// The end of user addresses with four-level page tables; no task without MAP_FIXED hints above has more.
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// General purpose registers, as ptrace gives them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are the machine's")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const _: () = assert!(size_of::<Registers>() == 27 * 8);

impl Registers {
    /// As the image stores them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut copy = *self;
        copy.as_bytes_mut().to_vec()
    }

    /// From the image; none when the length is not right.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut registers = Registers::default();
        let target = registers.as_bytes_mut();
        if bytes.len() != target.len() {
            return None;
        }
        target.copy_from_slice(bytes);
        Some(registers)
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the structure is 27 u64 without padding, and every byte pattern is a valid value.
        unsafe { std::slice::from_raw_parts_mut((&raw mut *self).cast::<u8>(), size_of::<Self>()) }
    }

    /// The instruction pointer.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.rip
    }

    /// Sets the instruction pointer.
    pub fn set_ip(&mut self, ip: u64) {
        self.rip = ip;
    }

    /// The stack pointer.
    #[must_use]
    pub fn stack(&self) -> u64 {
        self.rsp
    }

    /// Sets the stack pointer.
    pub fn set_stack(&mut self, sp: u64) {
        self.rsp = sp;
    }

    /// Whether it is a 64-bit task's code segment; a 32-bit one has 0x23.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.cs == 0x33
    }

    /// Whether it runs the x32 ABI or a system call of it.
    #[must_use]
    pub fn in_syscall(&self) -> bool {
        self.orig_rax.cast_signed() >= 0
    }

    /// The number of the system call that it is stopped in.
    #[must_use]
    pub fn syscall_number(&self) -> Option<u64> {
        self.in_syscall().then_some(self.orig_rax)
    }

    /// An argument of that system call, 0 to 5.
    #[must_use]
    pub fn argument(&self, n: usize) -> u64 {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9].get(n).copied().unwrap_or(0)
    }

    /// What the system call returned.
    #[must_use]
    pub fn result(&self) -> i64 {
        self.rax.cast_signed()
    }

    /// Sets what the system call returns.
    pub fn set_result(&mut self, result: i64) {
        self.rax = result.cast_unsigned();
    }

    /// Sets the number of the system call that it is stopped in.
    pub fn set_interrupted_call(&mut self, number: u64) {
        self.orig_rax = number;
    }

    /// Points it at a `syscall` instruction with a call to make, and with no call to restart.
    pub fn set_call(&mut self, at: u64, number: u64, args: [u64; 6]) {
        self.rip = at;
        self.rax = number;
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9] = args;
        self.orig_rax = u64::MAX;
    }

    /// Points it at the program loop, with the first record and the one to go on with when a record fails.
    ///
    /// The flags are cleared of the direction and trap bits that a task may have been stopped with.
    pub fn set_program(&mut self, code: u64, first: u64, last: u64) {
        self.rip = code;
        self.rbx = first;
        self.r12 = last;
        self.r13 = 0;
        self.orig_rax = u64::MAX;
        self.eflags = 0x202;
        self.cs = 0x33;
        self.ss = 0x2b;
    }
}

impl Registers {
    /// The address of the record that the program loop is at.
    #[must_use]
    pub fn record(&self) -> u64 {
        self.rbx
    }

    /// What the kernel would make of an interrupted system call on the way to user mode: the call is made again. A call
    /// that the kernel would continue by what it keeps of it begins anew.
    #[must_use]
    pub fn calling_again(&self) -> Self {
        // ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK of include/linux/errno.h.
        let interrupted = self.in_syscall() && matches!(self.result(), -514..=-512 | -516);
        if interrupted {
            Registers { rip: self.rip.wrapping_sub(2), rax: self.orig_rax, ..*self }
        } else {
            *self
        }
    }

    /// The address of the record that failed, at the end of a program.
    #[must_use]
    pub fn failed_record(&self) -> Option<u64> {
        (self.r13 != 0).then_some(self.r13)
    }
}

/// The components that the kernel has enabled (XCR0), as the note tells in its software-reserved bytes.
#[must_use]
pub fn xstate_mask(note: &[u8]) -> Option<u64> {
    note.get(464..472)?.try_into().ok().map(u64::from_le_bytes)
}

/// Whether the task may access I/O ports: iopl(2), in the flags.
#[must_use]
pub fn io_permissions(registers: &Registers) -> bool {
    registers.eflags & 0x3000 != 0
}

/// The components that are in use in an NT_X86_XSTATE note: XSTATE_BV of the XSAVE header.
#[must_use]
pub fn xstate_components(note: &[u8]) -> Option<u64> {
    note.get(512..520)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_survive_bytes() {
        let registers = Registers { rip: 1, gs: 2, r15: 3, ..Registers::default() };
        assert_eq!(Registers::from_bytes(&registers.to_bytes()), Some(registers));
        assert_eq!(Registers::from_bytes(&[0; 3]), None);
    }
}
