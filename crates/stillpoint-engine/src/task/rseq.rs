//! Restartable sequences: rseq(2).
//!
//! The kernel moves a thread that was preempted inside a critical section to the section's abort handler, but
//! only while the thread's own registers are in place. A program run in the thread, or a restore, hides the
//! section from it: so a thread found inside one is moved here, which is what any preemption may do.

use stillpoint_image::records::Rseq as Record;
use stillpoint_sys::arch::Registers;
use stillpoint_sys::program::{Arg, Program};
use stillpoint_sys::ptrace::{Rseq, Stopped};
use stillpoint_sys::{RemoteAddr, vm};

use crate::{Code, Error, Result};

/// Offset of `rseq_cs` in `struct rseq`.
const CRITICAL_SECTION: u64 = 8;
/// RSEQ_FLAG_UNREGISTER.
const UNREGISTER: u64 = 1;

/// The registered area, if there is one.
///
/// # Errors
///
/// When the kernel cannot tell (before Linux 5.13).
pub fn capture(thread: &Stopped) -> Result<Option<Rseq>> {
    thread.rseq().map_err(|error| {
        let lacking = error.errno() == Some(libc::EIO);
        let error = Box::<Error>::from(error);
        if lacking { Box::new(error.remedy("PTRACE_GET_RSEQ_CONFIGURATION needs Linux 5.13")) } else { error }
    })
}

/// As the image stores it.
#[must_use]
pub fn record(rseq: &Rseq) -> Record {
    Record { pointer: rseq.pointer, size: rseq.size, signature: rseq.signature, flags: rseq.flags }
}

/// Moves a thread that stands inside a critical section to its abort handler, as the kernel would
/// (kernel/rseq.c, rseq_ip_fixup). Returns whether it did.
///
/// # Errors
///
/// When the section's descriptor is not readable or its abort handler lacks the signature: the kernel would kill
/// the thread.
pub fn leave_critical_section(thread: &Stopped, rseq: &Rseq, registers: &mut Registers) -> Result<bool> {
    let tid = thread.tid();
    let mut word = [0; 8];
    vm::read(tid, RemoteAddr(rseq.pointer + CRITICAL_SECTION), &mut word)?;
    let descriptor = u64::from_le_bytes(word);
    if descriptor == 0 {
        return Ok(false);
    }
    // struct rseq_cs: version, flags (u32 each), start_ip, post_commit_offset, abort_ip.
    let mut bytes = [0; 32];
    vm::read(tid, RemoteAddr(descriptor), &mut bytes)?;
    let field =
        |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let (start, length, abort) = (field(8), field(16), field(24));
    let Some(abort) = abort_of(registers.ip(), start, length, abort) else { return Ok(false) };
    let mut signature = [0; 4];
    vm::read(tid, RemoteAddr(abort.wrapping_sub(4)), &mut signature)?;
    if u32::from_le_bytes(signature) != rseq.signature {
        return Err(Error::new(Code::UnsupportedState, "leaving a restartable sequence")
            .object(format!("abort handler at {abort:#x}"))
            .cause("it does not follow the registered signature")
            .into());
    }
    registers.set_ip(abort);
    // In this order: should this process be killed in between, the kernel finds the thread outside of the section.
    thread.set_registers(registers)?;
    vm::write(tid, RemoteAddr(rseq.pointer + CRITICAL_SECTION), &[0; 8])?;
    Ok(true)
}

fn abort_of(ip: u64, start: u64, length: u64, abort: u64) -> Option<u64> {
    (ip.wrapping_sub(start) < length).then_some(abort)
}

/// Registers the calling thread's area.
pub fn register(program: &mut Program, rseq: &Record) {
    call(program, "registering the rseq area", rseq, 0);
}

/// Unregisters an area that the calling thread inherited; the kernel would kill it once the area is unmapped.
pub fn unregister(program: &mut Program, rseq: &Record) {
    call(program, "unregistering the inherited rseq area", rseq, UNREGISTER);
}

fn call(program: &mut Program, what: &'static str, rseq: &Record, flags: u64) {
    program.call(
        what,
        libc::SYS_rseq,
        [Arg::Value(rseq.pointer), rseq.size.into(), Arg::Value(flags), rseq.signature.into()],
    );
}

#[cfg(test)]
mod tests {
    use super::abort_of;

    #[test]
    fn only_an_address_inside_is_moved() {
        assert_eq!(abort_of(0x1000, 0x1000, 0x10, 0x2000), Some(0x2000));
        assert_eq!(abort_of(0x100f, 0x1000, 0x10, 0x2000), Some(0x2000));
        assert_eq!(abort_of(0x1010, 0x1000, 0x10, 0x2000), None);
        assert_eq!(abort_of(0xfff, 0x1000, 0x10, 0x2000), None);
    }
}
