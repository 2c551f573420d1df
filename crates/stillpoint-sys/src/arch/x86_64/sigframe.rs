//! The frame that rt_sigreturn(2) restores a thread from: arch/x86/kernel/signal_64.c, and signal.c of its fpu folder.

use super::cpu::xstate_end;
use super::registers::{Registers, xstate_components};

/// FP_XSTATE_MAGIC1 and FP_XSTATE_MAGIC2 of arch/x86/include/uapi/asm/sigcontext.h.
const MAGICS: [u32; 2] = [0x4650_5853, 0x4650_5845];
/// The software-reserved bytes of the legacy part.
const RESERVED: usize = 464;
/// The first two components are restored even where they are in their initial state.
const LEGACY: u64 = 3;
/// `struct ucontext`: flags, link, alternate stack, context, mask.
const CONTEXT: usize = 8 + 8 + 24 + 256 + 8;
/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const FLAGS: u64 = 7;
/// No mode of sigaltstack(2): the kernel leaves the alternate stack as it is.
const NO_MODE: u64 = 0x7fff_ffff;

/// A frame, placed.
#[derive(Debug)]
pub struct SignalFrame {
    /// Where it goes.
    pub start: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The stack pointer with which rt_sigreturn(2) finds it. The word below it holds the address that a handler
    /// would return to. As in a frame of the kernel's, nothing of it lies below that word, where the next one goes.
    pub stack: u64,
    /// The size of the extended state that it was built from.
    pub extended: usize,
}

impl SignalFrame {
    /// The room that a frame needs from wherever it is to start.
    #[must_use]
    pub fn size(extended: usize) -> usize {
        // Alignment, the return address, alignment again, the second magic.
        64 + 8 + CONTEXT + 64 + extended + 4
    }

    /// A frame with a thread's registers, signal mask and extended state (a note, as ptrace gives it), in the room from
    /// `start` on; `restorer` is where a handler would return to.
    #[must_use]
    pub fn build(start: u64, registers: &Registers, mask: u64, note: &[u8], restorer: u64) -> Self {
        let start = start.next_multiple_of(64);
        let context_end = start + 8 + CONTEXT as u64;
        let state_start = context_end.next_multiple_of(64);
        let state = extended_state(note);
        let r = registers.calling_again();
        let segments = (r.cs & 0xffff) | (r.ss & 0xffff) << 48;
        let words = [restorer, FLAGS, 0, 0, NO_MODE, 0]
            .into_iter()
            .chain([r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15])
            .chain([r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx, r.rsp, r.rip, r.eflags, segments])
            // Error code, trap number, an old mask, cr2.
            .chain([0; 4])
            .chain([if state.is_some() { state_start } else { 0 }])
            .chain([0; 8])
            .chain([mask]);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        if let Some(state) = state {
            // XRSTOR needs it aligned.
            bytes.resize(bytes.len().next_multiple_of(64), 0);
            bytes.extend(state);
        }
        SignalFrame { start, bytes, stack: start + 8, extended: note.len() }
    }
}

/// The extended state as a signal frame holds it: as large as what is in use needs, since a frame for more than the
/// thread has room for is taken for one of the legacy part alone.
fn extended_state(note: &[u8]) -> Option<Vec<u8>> {
    let components = xstate_components(note)? | LEGACY;
    let size = (0..63).filter(|n| components & 1 << n != 0).map(xstate_end).max()?;
    let mut state = note.get(..size)?.to_vec();
    // struct _fpx_sw_bytes: magic, size with the second magic, components, size.
    let mut reserved = [0; 48];
    reserved.get_mut(0..4)?.copy_from_slice(&MAGICS[0].to_le_bytes());
    reserved.get_mut(4..8)?.copy_from_slice(&u32::try_from(size + 4).ok()?.to_le_bytes());
    reserved.get_mut(8..16)?.copy_from_slice(&components.to_le_bytes());
    reserved.get_mut(16..20)?.copy_from_slice(&u32::try_from(size).ok()?.to_le_bytes());
    state.get_mut(RESERVED..RESERVED + 48)?.copy_from_slice(&reserved);
    state.extend_from_slice(&MAGICS[1].to_le_bytes());
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_its_room_wherever_that_starts() {
        let mut note = vec![0; 2696];
        note[512] = 3;
        for start in [0x1000, 0x1008, 0x103f] {
            let frame = SignalFrame::build(start, &Registers::default(), 1, &note, 0x4321);
            assert!(frame.start >= start && frame.start.is_multiple_of(64));
            assert!(frame.start + frame.bytes.len() as u64 <= start + SignalFrame::size(note.len()) as u64);
            assert_eq!(frame.stack, frame.start + 8);
            assert_eq!(frame.bytes.first_chunk(), Some(&0x4321u64.to_le_bytes()));
            assert_eq!(frame.bytes[CONTEXT..].first_chunk(), Some(&1u64.to_le_bytes()));
        }
    }

    #[test]
    fn an_interrupted_call_is_made_again() {
        let registers =
            Registers { rip: 0x102, rax: (-516i64).cast_unsigned(), orig_rax: 35, ..Registers::default() };
        let again = registers.calling_again();
        assert_eq!((again.rip, again.rax), (0x100, 35));
        let ended = Registers { rax: 0, ..registers };
        assert_eq!(ended.calling_again(), ended);
    }
}
