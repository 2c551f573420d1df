//! Holds patterns in registers across a wait that is written in assembly, so that nothing saves them but the kernel.

use std::arch::global_asm;
use std::sync::atomic::AtomicU64;

use super::{Check, fill};

// Each function: rdi = patterns in, rsi = patterns out, rdx = word to watch, rcx = value that it has, r8 = time to sleep between
// looks (0: spin). Returns 0 in rax if general registers kept their patterns. Vector registers are the caller's to lose.
global_asm!(
    r"
    .macro SP_ENTER
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov r12, rsi
        mov r13, rdx
        mov r14, rcx
        mov r15, r8
        movabs rbx, 0x1122334455667788
        movabs rbp, 0x99aabbccddeeff00
        movabs r9, 0x0123456789abcdef
        movabs r10, 0xfedcba9876543210
    .endm
    .macro SP_WAIT
    2:  cmp [r13], r14
        jne 4f
        test r15, r15
        jz 3f
        mov eax, 35
        mov rdi, r15
        xor esi, esi
        syscall
        jmp 2b
    3:  pause
        jmp 2b
    4:
    .endm
    .macro SP_LEAVE
        xor eax, eax
        movabs rcx, 0x1122334455667788
        cmp rbx, rcx
        jne 5f
        movabs rcx, 0x99aabbccddeeff00
        cmp rbp, rcx
        jne 5f
        movabs rcx, 0x0123456789abcdef
        cmp r9, rcx
        jne 5f
        movabs rcx, 0xfedcba9876543210
        cmp r10, rcx
        je 6f
    5:  mov eax, 1
    6:  pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret
    .endm

    .globl sp_hold_sse
    sp_hold_sse:
        SP_ENTER
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movdqu xmm\n, [rdi + 16*\n]
        .endr
        SP_WAIT
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movdqu [r12 + 16*\n], xmm\n
        .endr
        SP_LEAVE

    .globl sp_hold_avx
    sp_hold_avx:
        SP_ENTER
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovdqu ymm\n, [rdi + 32*\n]
        .endr
        SP_WAIT
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovdqu [r12 + 32*\n], ymm\n
        .endr
        vzeroupper
        SP_LEAVE

    .globl sp_hold_avx512
    sp_hold_avx512:
        SP_ENTER
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        vmovdqu64 zmm\n, [rdi + 64*\n]
        .endr
        .irp n,0,1,2,3,4,5,6,7
        kmovw k\n, [rdi + 2048 + 2*\n]
        .endr
        SP_WAIT
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        vmovdqu64 [r12 + 64*\n], zmm\n
        .endr
        .irp n,0,1,2,3,4,5,6,7
        kmovw [r12 + 2048 + 2*\n], k\n
        .endr
        vzeroupper
        SP_LEAVE

    .globl sp_hold_x87
    sp_hold_x87:
        SP_ENTER
        sub rsp, 16
        fnstcw [rsp]
        stmxcsr [rsp + 8]
        .irp n,0,1,2,3,4,5,6
        fild qword ptr [rdi + 8*\n]
        .endr
        fldcw [rdi + 64]
        ldmxcsr [rdi + 72]
        SP_WAIT
        fnstcw [r12 + 64]
        stmxcsr [r12 + 72]
        fldcw [rsp]
        ldmxcsr [rsp + 8]
        .irp n,6,5,4,3,2,1,0
        fistp qword ptr [r12 + 8*\n]
        .endr
        add rsp, 16
        SP_LEAVE
    "
);

type Holder = unsafe extern "C" fn(*const u8, *mut u8, *const AtomicU64, u64, *const libc::timespec) -> u64;

unsafe extern "C" {
    fn sp_hold_sse(_: *const u8, _: *mut u8, _: *const AtomicU64, _: u64, _: *const libc::timespec) -> u64;
    fn sp_hold_avx(_: *const u8, _: *mut u8, _: *const AtomicU64, _: u64, _: *const libc::timespec) -> u64;
    fn sp_hold_avx512(_: *const u8, _: *mut u8, _: *const AtomicU64, _: u64, _: *const libc::timespec)
    -> u64;
    fn sp_hold_x87(_: *const u8, _: *mut u8, _: *const AtomicU64, _: u64, _: *const libc::timespec) -> u64;
}

/// Which registers hold a pattern.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HoldKind {
    Sse,
    Avx,
    Avx512,
    X87,
}

impl HoldKind {
    /// Those that this CPU has.
    pub(crate) fn available() -> Vec<Self> {
        let mut out = vec![Self::X87, Self::Sse];
        if std::arch::is_x86_feature_detected!("avx") {
            out.push(Self::Avx);
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            out.push(Self::Avx512);
        }
        out
    }

    fn parts(self) -> (Holder, usize) {
        match self {
            Self::Sse => (sp_hold_sse, 256),
            Self::Avx => (sp_hold_avx, 512),
            Self::Avx512 => (sp_hold_avx512, 2048 + 16),
            Self::X87 => (sp_hold_x87, 80),
        }
    }
}

/// A pattern to be held.
pub(crate) struct Hold {
    kind: HoldKind,
    pattern: Vec<u8>,
    out: Vec<u8>,
    sleep: Option<libc::timespec>,
}

impl Hold {
    /// A pattern of its own for each seed; `sleep`: wait in nanosleep between looks rather than spin.
    pub(crate) fn new(kind: HoldKind, seed: u64, sleep: bool) -> Self {
        let mut pattern = vec![0; kind.parts().1];
        fill(&mut pattern, seed);
        if matches!(kind, HoldKind::X87) {
            // Seven integers (exact in 80 bits), a control word with another precision and rounding, an MXCSR with
            // flush-to-zero and rounding up.
            pattern[56..].fill(0);
            pattern[64..66].copy_from_slice(&0x0b7f_u16.to_le_bytes());
            pattern[72..76].copy_from_slice(&0xdf80_u32.to_le_bytes());
        }
        let sleep = sleep.then_some(libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 });
        Self { kind, out: vec![0; pattern.len()], pattern, sleep }
    }

    /// Holds it until the word differs from `value`, then compares.
    pub(crate) fn until_changed(&mut self, word: &AtomicU64, value: u64) -> Check {
        let sleep = self.sleep.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the patterns have the size that the function loads and stores; it keeps to the C calling convention, and
        // the CPU has the registers that `available` named.
        let kept =
            unsafe { self.kind.parts().0(self.pattern.as_ptr(), self.out.as_mut_ptr(), word, value, sleep) };
        ensure!(kept == 0, "{:?}: general registers differ", self.kind);
        ensure!(
            self.out == self.pattern,
            "{:?}: registers differ: {:x?} was {:x?}",
            self.kind,
            self.out,
            self.pattern
        );
        Ok(())
    }
}
