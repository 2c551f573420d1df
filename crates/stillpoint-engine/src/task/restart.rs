//! System calls that the freeze interrupted.
//!
//! The kernel leaves -ERESTART* in the result register of an interrupted call and decides, on the way back to
//! user mode, whether to make the call again. Put back with the same registers, a thread continues as if never
//! stopped. The exception is ERESTART_RESTARTBLOCK, whose state the kernel keeps in the thread itself and which a
//! restore cannot set directly.

use stillpoint_image::records::Restart;
use stillpoint_sys::arch::Registers;
use stillpoint_sys::{Pid, RemoteAddr, vm};

use crate::Result;

/// Make it again, unless a handler runs: include/linux/errno.h.
const ERESTARTNOHAND: i64 = 514;
/// Continue it from the restart block.
const ERESTART_RESTARTBLOCK: i64 = 516;

/// How an interrupted call goes on after a restore; none where the registers alone say so.
///
/// A relative sleep with a place for the remaining time has that time there already: the kernel writes it at
/// every interruption (kernel/time/hrtimer.c, nanosleep_copyout).
///
/// # Errors
///
/// When the remaining time cannot be read.
pub fn capture(tid: Pid, registers: &Registers) -> Result<Option<Restart>> {
    if registers.result() != -ERESTART_RESTARTBLOCK {
        return Ok(None);
    }
    let (clock, remaining) = match registers.syscall_number().map(u64::cast_signed) {
        Some(libc::SYS_nanosleep) => (libc::CLOCK_MONOTONIC, registers.argument(1)),
        Some(libc::SYS_clock_nanosleep) => {
            (i32::try_from(registers.argument(0).cast_signed()).unwrap_or(-1), registers.argument(3))
        }
        _ => return Ok(Some(Restart::default())),
    };
    if remaining == 0 {
        return Ok(Some(Restart::default()));
    }
    let mut time = [0; 16];
    vm::read(tid, RemoteAddr(remaining), &mut time)?;
    let word = |at: usize| time.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    Ok(Some(Restart {
        sleep: true,
        remaining_ns: word(0).saturating_mul(1_000_000_000).saturating_add(word(8)),
        clock: clock.cast_unsigned(),
    }))
}

/// The registers with which a restored thread makes its interrupted call anew, from its arguments: what
/// ERESTART_RESTARTBLOCK becomes when the remaining time is not known. With a handler to run it fails with EINTR,
/// as it would have.
#[must_use]
pub fn from_the_start(mut registers: Registers) -> Registers {
    if registers.in_syscall() && registers.result() == -ERESTART_RESTARTBLOCK {
        registers.set_result(-ERESTARTNOHAND);
    }
    registers
}

/// The call that rebuilds the restart block of a sleep: the same call with the time that remains, which is then
/// interrupted at once. Returns number and arguments; `request` is the address of the remaining time.
#[must_use]
pub fn sleep_again(registers: &Registers, request: u64) -> Option<(i64, [u64; 6])> {
    let number = registers.syscall_number()?.cast_signed();
    let mut arguments: [u64; 6] = std::array::from_fn(|n| registers.argument(n));
    match number {
        libc::SYS_nanosleep => arguments[0] = request,
        libc::SYS_clock_nanosleep => arguments[2] = request,
        _ => return None,
    }
    Some((number, arguments))
}
