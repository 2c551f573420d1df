//! System calls that the freeze interrupted.
//!
//! The kernel leaves -ERESTART* in the result register of an interrupted call and decides, on the way back to
//! user mode, whether to make the call again. Put back with the same registers, a thread continues as if never
//! stopped. The exception is ERESTART_RESTARTBLOCK, whose state the kernel keeps in the thread itself and which a
//! restore cannot set directly.

use std::time::{Duration, Instant};

use stillpoint_image::records::Restart;
use stillpoint_sys::arch::Registers;
use stillpoint_sys::proc::stat;
use stillpoint_sys::ptrace::{Event, Running, Stop, Stopped, Until};
use stillpoint_sys::{Pid, RemoteAddr, vm};

use crate::freeze::FrozenThread;
use crate::{Code, Error, Result};

/// Make it again, unless a handler runs: include/linux/errno.h.
const ERESTARTNOHAND: i64 = 514;
/// Continue it from the restart block.
const ERESTART_RESTARTBLOCK: i64 = 516;

/// Not in libc.
const SYS_IO_PGETEVENTS: i64 = 333;

/// Calls that fail with a bare EINTR when they are interrupted by what is no signal in the end, and that have done
/// nothing then: signal(7), "Interruption of system calls and library functions by stop signals".
const NOTICING: &[i64] = &[
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    SYS_IO_PGETEVENTS,
    libc::SYS_io_uring_enter,
    libc::SYS_fallocate,
    // On sockets with SO_RCVTIMEO or SO_SNDTIMEO.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
];

/// The registers of a thread whose call the freeze has made fail: with them, the call is made anew unless a handler
/// runs, so that the program does not notice. Its timeout, if it has one, starts again.
#[must_use]
pub fn unnoticed(mut registers: Registers) -> Registers {
    let number = registers.syscall_number().map(u64::cast_signed);
    let interrupted = registers.result() == -i64::from(libc::EINTR);
    if interrupted && number.is_some_and(|number| NOTICING.contains(&number)) {
        registers.set_result(-ERESTARTNOHAND);
    }
    registers
}

/// Finds out which call a thread continues that was interrupted twice.
///
/// After the first interruption the kernel makes restart_syscall(2) in its place, and forgets which call it was: the
/// arguments are still there, the number is not. So the thread is let back into the call, and where it sleeps tells.
/// It does not get to user mode: system calls stop it at their exit.
///
/// # Errors
///
/// A refusal when the place is not one that is known.
pub fn identify(thread: &mut FrozenThread) -> Result<()> {
    let hidden = thread.registers.result() == -ERESTART_RESTARTBLOCK
        && thread.registers.syscall_number().map(u64::cast_signed) == Some(libc::SYS_restart_syscall);
    if !hidden {
        return Ok(());
    }
    let (exit, place) = sleep_again_and_look(thread.take()?, thread.host_tid)?;
    exit.interrupt_next()?;
    let stopped = match exit.resume(Until::Stop, 0)?.wait()? {
        Event::Stopped(stopped) => stopped,
        Event::Gone(_) => return Err(died(thread.host_tid)),
    };
    thread.registers = stopped.registers()?;
    thread.mask = stopped.signal_mask()?;
    thread.stopped = Some(stopped);
    if thread.registers.result() != -ERESTART_RESTARTBLOCK {
        // It was over meanwhile, and the thread is about to return from it.
        return Ok(());
    }
    let number = call_that_sleeps_in(&place, thread.registers.argument(0)).ok_or_else(|| {
        Error::new(Code::UnsupportedState, "looking at an interrupted system call")
            .object(format!("thread {}", thread.tid))
            .cause(format!("it continues a call that sleeps in {place:?}, which this version does not know"))
            .remedy("try again when the call is over")
    })?;
    thread.continues = Some(number.cast_unsigned());
    Ok(())
}

fn stop_at_syscall(mut running: Running) -> Result<Stopped> {
    let tid = running.tid();
    loop {
        match running.wait()? {
            Event::Stopped(stopped) if stopped.why() == Stop::Syscall => return Ok(stopped),
            Event::Stopped(stopped) => {
                let signal = match stopped.why() {
                    Stop::Signal(signal) => signal,
                    _ => 0,
                };
                running = stopped.resume(Until::Syscall, signal)?;
            }
            Event::Gone(_) => return Err(died(tid)),
        }
    }
}

/// Lets a thread back into its call until it is seen to sleep in a place that is known, or for a while; then interrupts
/// it. Returns it at the exit of the call, and the place where it was seen last.
fn sleep_again_and_look(mut thread: Stopped, tid: Pid) -> Result<(Stopped, String)> {
    let deadline = Instant::now() + Duration::from_millis(500);
    loop {
        let entry = stop_at_syscall(thread.resume(Until::Syscall, 0)?)?;
        let mut running = entry.resume(Until::Syscall, 0)?;
        let mut seen = 0;
        let exit = loop {
            let place = std::fs::read_to_string(format!("/proc/{tid}/wchan")).map_err(|error| {
                Error::new(Code::Failed, "reading where a thread sleeps").task(tid, "").cause(error)
            })?;
            // A place that is passed on the way is not where it sleeps.
            let sleeps = call_that_sleeps_in(&place, 0).is_some() && stat::read(tid)?.state == b'S';
            seen = if sleeps { seen + 1 } else { 0 };
            if seen > 3 || Instant::now() > deadline {
                running.interrupt()?;
                return Ok((stop_at_syscall(running)?, place));
            }
            match running.poll()? {
                Ok(Event::Stopped(stopped)) if stopped.why() == Stop::Syscall => break stopped,
                Ok(Event::Stopped(stopped)) => running = stopped.resume(Until::Syscall, 0)?,
                Ok(Event::Gone(_)) => return Err(died(tid)),
                Err(still) => running = still,
            }
            std::thread::sleep(Duration::from_micros(20));
        };
        // It was over, or interrupted by what was no signal in the end: then the kernel makes it once more.
        if exit.registers()?.result() != -ERESTART_RESTARTBLOCK {
            return Ok((exit, String::new()));
        }
        thread = exit;
    }
}

/// The call that sleeps in a function of the kernel and uses a restart block.
fn call_that_sleeps_in(place: &str, first_argument: u64) -> Option<i64> {
    // A sleep that is continued runs in functions that the kernel does not count as a place (those marked __sched,
    // which hrtimer_nanosleep_restart jumps to), so the place is that of any system call; the other calls that use a
    // restart block do show theirs.
    if place.contains("nanosleep") || place.contains("do_syscall_64") || place.contains("restart_syscall") {
        // The other call has an address there.
        return Some(if is_clock(first_argument) { libc::SYS_clock_nanosleep } else { libc::SYS_nanosleep });
    }
    if place.contains("futex") {
        return Some(libc::SYS_futex);
    }
    place.contains("poll").then_some(libc::SYS_poll)
}

/// Clocks of the system are small numbers, those of tasks are negative ones, in the lower half of the register.
fn is_clock(argument: u64) -> bool {
    let upper = argument >> 32;
    let lower = argument & 0xffff_ffff;
    (upper == 0 && lower < 4096) || ((upper == 0 || upper == 0xffff_ffff) && lower >= 0x8000_0000)
}

fn died(tid: Pid) -> Box<Error> {
    Box::new(
        Error::new(Code::NoSuchTask, "looking at an interrupted system call")
            .task(tid, "")
            .cause("it was killed"),
    )
}

/// The registers that the image holds: with the call that the thread continues, which a restored thread makes itself.
#[must_use]
pub fn recorded(thread: &FrozenThread) -> Registers {
    let mut registers = thread.registers;
    if let Some(number) = thread.continues {
        registers.set_interrupted_call(number);
    }
    registers
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_freeze_made_fail_is_made_again() {
        let stopped = |number: i64, result: i64| {
            let mut registers = Registers::default();
            registers.set_interrupted_call(number.cast_unsigned());
            registers.set_result(result);
            unnoticed(registers).result()
        };
        let failed = -i64::from(libc::EINTR);
        assert_eq!(stopped(libc::SYS_rt_sigtimedwait, failed), -ERESTARTNOHAND);
        assert_eq!(stopped(libc::SYS_epoll_wait, 1), 1);
        // A descriptor is closed whatever close(2) says.
        assert_eq!(stopped(libc::SYS_close, failed), failed);
        assert_eq!(stopped(-1, failed), failed);
    }

    #[test]
    fn the_place_and_the_first_argument_tell_the_call() {
        assert_eq!(call_that_sleeps_in("hrtimer_nanosleep", 1), Some(libc::SYS_clock_nanosleep));
        let of_a_task = u64::from((-6i32).cast_unsigned());
        assert_eq!(call_that_sleeps_in("hrtimer_nanosleep", of_a_task), Some(libc::SYS_clock_nanosleep));
        assert_eq!(call_that_sleeps_in("do_nanosleep", 0x7fff_0000_0000), Some(libc::SYS_nanosleep));
        assert_eq!(call_that_sleeps_in("futex_wait_queue", 0), Some(libc::SYS_futex));
        assert_eq!(call_that_sleeps_in("poll_schedule_timeout.constprop.0", 0), Some(libc::SYS_poll));
        assert_eq!(call_that_sleeps_in("pipe_read", 0), None);
    }
}
