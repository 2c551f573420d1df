//! Timers of timer_create(2).
//!
//! `/proc/PID/timers` lists them with their ids, and the task itself is asked what time is left. A timer goes on with
//! what was left; one that was set for a time of the wall clock waits for that time, where the kernel shows it
//! ([`timer_list`]). A timer whose signal is pending is made to expire again instead of queueing what looks like its
//! signal: only the kernel's own signal starts an interval timer again when it is taken (kernel/signal.c,
//! posixtimer_deliver_signal).

use stillpoint_image::records::{PendingSignal, PosixTimer, Thread};
use stillpoint_sys::proc::timers::{Notify, Timer};
use stillpoint_sys::proc::{clocks, timer_list};
use stillpoint_sys::program::{Arg, Data, Expect, Finished, Index, Program};

use super::signals;
use crate::freeze::FrozenTask;
use crate::restore::sequence::Sequence;
use crate::{Code, Error, Result};

/// prctl(2): timer_create(2) takes the id that it is given. Linux 6.15.
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
const RESTORE_IDS_OFF: u64 = 0;
const RESTORE_IDS_ON: u64 = 1;
const RESTORE_IDS_GET: u64 = 2;

/// Before that, ids are counted up; past this one, counting takes too long.
const COUNTED_IDS: u32 = 20_000;

/// `struct sigevent`.
const SIGEVENT: usize = 64;
const SIGEV_THREAD_ID: u32 = 4;
/// The siginfo of a timer: si_code and si_timerid.
const SI_TIMER: i32 = -2;

/// Questions about the timers of a process.
#[derive(Debug)]
pub struct Questions(Vec<(Data, Index)>);

/// What a timer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    interval_ns: u64,
    remaining_ns: u64,
    overruns: u32,
}

impl Questions {
    /// Adds the questions to a program.
    pub fn ask(program: &mut Program, timers: &[Timer]) -> Self {
        let asked = timers.iter().map(|timer| {
            let room = program.room(32);
            program.call(
                format!("reading POSIX timer {}", timer.id),
                libc::SYS_timer_gettime,
                [timer.id.into(), room.into()],
            );
            let overruns = program.call(
                format!("reading the overruns of POSIX timer {}", timer.id),
                libc::SYS_timer_getoverrun,
                [timer.id.into()],
            );
            (room, overruns)
        });
        Questions(asked.collect())
    }

    /// The answers, in the order of the timers.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> Vec<Answer> {
        let ns = |room, at| finished.word(room, at) * 1_000_000_000 + finished.word(room, at + 8);
        let answer = |&(room, overruns): &(Data, Index)| Answer {
            interval_ns: ns(room, 0),
            remaining_ns: ns(room, 16),
            overruns: u32::try_from(finished.result(overruns)).unwrap_or(0),
        };
        self.0.iter().map(answer).collect()
    }
}

/// The timers as the image stores them, but for what depends on pending signals.
///
/// # Errors
///
/// A refusal that names the timer.
pub fn record(
    task: &FrozenTask,
    timers: &[Timer],
    answers: &[Answer],
    asked: Asked,
) -> Result<Vec<PosixTimer>> {
    let absolute = asked.on_the_wall_clock(timers, answers);
    let records = timers.iter().zip(answers).zip(absolute).map(|((timer, answer), absolute_ns)| {
        let refused = |cause: &str| {
            Error::new(Code::UnsupportedState, "saving timers")
                .object(format!("POSIX timer {}", timer.id))
                .cause(cause.to_owned())
        };
        let thread = match timer.to_thread.then_some(timer.target) {
            None => 0,
            Some(target) => match task.threads.iter().find(|thread| thread.host_tid == target) {
                Some(thread) => thread.tid,
                None => return Err(refused("the thread that it notifies has ended").into()),
            },
        };
        check_clock(task, timer.clock).map_err(refused)?;
        Ok(PosixTimer {
            id: timer.id,
            clock: timer.clock,
            notify: match timer.notify {
                Notify::Signal => 0,
                Notify::None => 1,
                Notify::Thread => 2,
            },
            signal: timer.signal,
            value: timer.value,
            thread,
            interval_ns: answer.interval_ns,
            remaining_ns: answer.remaining_ns,
            absolute_ns,
            overruns: answer.overruns,
            pending: false,
        })
    });
    records.collect()
}

/// Whether a timer on this clock can be made again. Numbers of clocks: include/linux/posix-timers_types.h. The kernel
/// keeps CLOCK_THREAD_CPUTIME_ID as the clock of thread 0 (kernel/time/posix-cpu-timers.c, thread_cpu_timer_create).
fn check_clock(task: &FrozenTask, clock: i32) -> std::result::Result<(), &'static str> {
    const OF_A_THREAD: i32 = 4;
    if clock >= 0 {
        return Ok(());
    }
    if clock & 7 == 3 {
        return Err("it runs on a clock that is a device");
    }
    let id = (!(clock >> 3)).cast_unsigned();
    if id == 0 && clock & OF_A_THREAD != 0 && task.threads.len() > 1 {
        return Err(
            "it counts the CPU time of the thread that made it, and the kernel does not tell which that was; \
                    one with a clock of pthread_getcpuclockid(3) would be saved",
        );
    }
    let own = id == 0 || id == task.pid || task.threads.iter().any(|thread| thread.tid == id);
    if own { Ok(()) } else { Err("it counts the CPU time of another process or of a thread that has ended") }
}

/// Between which two moments of the wall clock timers were asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Before it.
    pub from_ns: i64,
    /// After it.
    pub until_ns: i64,
}

impl Asked {
    /// For each timer the time at which it expires, if that is one of the wall clock. Whoever may not read the kernel's
    /// list of timers is told that none is.
    fn on_the_wall_clock(self, timers: &[Timer], answers: &[Answer]) -> Vec<u64> {
        let concerned =
            |timer: &Timer, answer: &Answer| timer.clock == libc::CLOCK_REALTIME && answer.remaining_ns != 0;
        let any = timers.iter().zip(answers).any(|(timer, answer)| concerned(timer, answer));
        let listed = if any { timer_list::realtime_posix_timers().unwrap_or_default() } else { Vec::new() };
        let expiry = |(timer, answer): (&Timer, &Answer)| {
            let left = i128::from(answer.remaining_ns);
            let (from, until) = (i128::from(self.from_ns) + left, i128::from(self.until_ns) + left);
            let found = listed.iter().find(|&&at| (from..=until).contains(&i128::from(at)));
            found.copied().filter(|_| concerned(timer, answer)).unwrap_or(0)
        };
        timers.iter().zip(answers).map(expiry).collect()
    }
}

/// The id of the timer that sent a signal.
fn timer_of(signal: &PendingSignal) -> Option<u32> {
    let word = |at: usize| signal.siginfo.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let code = word(8).map(i32::from_le_bytes)?;
    (code == SI_TIMER).then(|| word(16).map(u32::from_le_bytes)).flatten()
}

/// The ids of the timers that have signals in these lists, in order.
pub fn senders<'a>(lists: impl Iterator<Item = &'a Vec<PendingSignal>>) -> Vec<u32> {
    lists.flatten().filter_map(timer_of).collect()
}

/// Notes which timers' signals are pending, and removes signals that will never be delivered: of timers that were
/// deleted or set anew since, which the kernel discards when their turn comes, from Linux 6.13 on.
pub fn match_pending<'a>(
    timers: &mut [PosixTimer],
    lists: impl Iterator<Item = &'a mut Vec<PendingSignal>>,
    discards: bool,
) {
    for list in lists {
        list.retain(|signal| {
            let Some(id) = timer_of(signal) else { return true };
            match timers.iter_mut().find(|timer| timer.id == id) {
                // A timer without an interval has expired or it has time left, not both.
                Some(timer) if timer.interval_ns != 0 || timer.remaining_ns == 0 => {
                    timer.pending = true;
                    true
                }
                _ => !discards,
            }
        });
    }
}

/// Whether this kernel discards signals of timers that are gone.
#[must_use]
pub fn discards_stale_signals(release: &[u8]) -> bool {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(0)
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 13)
}

/// What is not as it was after a restore.
pub fn notes(name: &crate::TaskName, timers: &[PosixTimer]) -> impl Iterator<Item = String> {
    let lost = timers.iter().filter(|timer| timer.pending && timer.interval_ns != 0);
    lost.map(move |timer| {
        format!(
            "{name}: the signal of POSIX timer {} is pending; how many more times the timer has expired is counted anew",
            timer.id
        )
    })
}

/// Whether this kernel makes timers with given ids.
#[must_use]
pub fn kernel_takes_ids() -> bool {
    stillpoint_sys::task::prctl(PR_TIMER_CREATE_RESTORE_IDS, RESTORE_IDS_GET).is_ok()
}

/// Makes the timers of a process; none of them runs yet. `takes_ids`: see [`kernel_takes_ids`].
///
/// # Errors
///
/// [`Code::KernelLacks`] when an id cannot be had, [`Code::ImageInconsistent`].
pub fn create(sequence: &mut Sequence, timers: &[PosixTimer], takes_ids: bool) -> Result<()> {
    if timers.is_empty() {
        return Ok(());
    }
    if takes_ids {
        restore_ids(sequence, RESTORE_IDS_ON);
        // The kernel lists the newest first.
        for timer in timers.iter().rev() {
            create_one(sequence, timer);
        }
        restore_ids(sequence, RESTORE_IDS_OFF);
        return Ok(());
    }
    let mut sorted: Vec<&PosixTimer> = timers.iter().collect();
    sorted.sort_by_key(|timer| timer.id);
    let mut next = 0;
    for timer in sorted {
        if timer.id > COUNTED_IDS {
            return Err(Error::new(Code::KernelLacks, "making timers")
                .object(format!("POSIX timer {}", timer.id))
                .cause("this kernel cannot make a timer with such an id")
                .remedy("restore on Linux 6.15 or later")
                .into());
        }
        for id in next..timer.id {
            count_up(sequence, id);
        }
        create_one(sequence, timer);
        next = timer.id + 1;
    }
    Ok(())
}

fn restore_ids(sequence: &mut Sequence, mode: u64) {
    sequence.call(
        "choosing the ids of POSIX timers",
        libc::SYS_prctl,
        [PR_TIMER_CREATE_RESTORE_IDS.into(), mode.into(), 0u64.into(), 0u64.into(), 0u64.into()],
    );
}

/// A timer that is made for its id only.
fn count_up(sequence: &mut Sequence, id: u32) {
    let program = sequence.current();
    let room = program.room(8);
    let clock = Arg::from(libc::CLOCK_MONOTONIC);
    program.call(
        "counting up the ids of POSIX timers",
        libc::SYS_timer_create,
        [clock, 0u64.into(), room.into()],
    );
    sequence.call("counting up the ids of POSIX timers", libc::SYS_timer_delete, [id.into()]);
}

fn create_one(sequence: &mut Sequence, timer: &PosixTimer) {
    let program = sequence.current();
    let notify = timer.notify | if timer.thread == 0 { 0 } else { SIGEV_THREAD_ID };
    let mut event = [0; SIGEVENT];
    let (value, rest) = event.split_at_mut(8);
    value.copy_from_slice(&timer.value.to_le_bytes());
    let words = [timer.signal.cast_unsigned(), notify, timer.thread];
    for (place, word) in rest.chunks_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let event = program.data(&event);
    // In: the id that is wanted. Out: the one that it has.
    let id = program.data(&timer.id.to_le_bytes());
    let what = format!("making POSIX timer {}", timer.id);
    program.call(what, libc::SYS_timer_create, [timer.clock.into(), event.into(), id.into()]);
    // Of a process that is being built nobody else asks for timers, so the ids are those that were counted on; this
    // says so, should it not be true.
    let room = program.room(32);
    sequence.call(
        format!("finding POSIX timer {} by its id", timer.id),
        libc::SYS_timer_gettime,
        [timer.id.into(), room.into()],
    );
}

/// Starts the timers that run and have no signal pending. Comes before any signal is queued.
pub fn start(sequence: &mut Sequence, timers: &[PosixTimer]) {
    for timer in timers.iter().filter(|timer| !timer.pending) {
        if timer.remaining_ns == 0 && timer.interval_ns == 0 {
            continue;
        }
        if let Some(expiry) = before_the_overruns(timer) {
            expire_and_take(sequence, timer, expiry);
            continue;
        }
        let absolute = timer.absolute_ns != 0;
        let value = if absolute { timer.absolute_ns } else { timer.remaining_ns };
        set(sequence, timer, value, absolute);
    }
}

/// For a timer that has overruns to answer with: when it must have expired to have had them, and the same time left.
fn before_the_overruns(timer: &PosixTimer) -> Option<u64> {
    let can = timer.overruns != 0 && timer.notify != 1 && timer.thread == 0 && timer.absolute_ns == 0;
    let back = u64::from(timer.overruns).checked_add(1)?.checked_mul(timer.interval_ns)?;
    if can { past(timer, back) } else { None }
}

/// So long before its next expiry, on its own clock; none where that cannot be, as on the CPU clocks of new tasks.
fn past(timer: &PosixTimer, back_ns: u64) -> Option<u64> {
    let now = u64::try_from(clocks::one(timer.clock)?).ok()?;
    now.checked_add(timer.remaining_ns)?.checked_sub(back_ns).filter(|&at| at != 0)
}

/// Lets a timer expire, and takes its signal: that is when the kernel counts overruns.
fn expire_and_take(sequence: &mut Sequence, timer: &PosixTimer, at: u64) {
    set(sequence, timer, at, true);
    let program = sequence.current();
    let signals = 1u64 << (timer.signal.clamp(1, 64) - 1);
    let signals = program.data(&signals.to_le_bytes());
    let patience = program.data(&[1u64.to_le_bytes(), 0u64.to_le_bytes()].concat());
    sequence.call(
        format!("taking the signal of POSIX timer {}", timer.id),
        libc::SYS_rt_sigtimedwait,
        [signals.into(), 0u64.into(), patience.into(), 8u64.into()],
    );
}

/// Queues pending signals again, in order; a timer's own signal by letting the timer expire.
///
/// # Errors
///
/// When a record is not a siginfo.
pub fn queue(
    sequence: &mut Sequence,
    pending: &[PendingSignal],
    timers: &[PosixTimer],
    pid: u32,
    tid: Option<u32>,
) -> Result<()> {
    for signal in pending {
        let timer =
            timer_of(signal).and_then(|id| timers.iter().find(|timer| timer.id == id && timer.pending));
        match timer {
            Some(timer) => expire(sequence, timer),
            None => signals::queue(sequence.current(), std::slice::from_ref(signal), pid, tid)?,
        }
        sequence.part();
    }
    Ok(())
}

/// Lets a timer expire at once, so that its next expiry comes after the time that was left.
fn expire(sequence: &mut Sequence, timer: &PosixTimer) {
    let at = if timer.interval_ns == 0 { None } else { past(timer, timer.interval_ns) };
    set(sequence, timer, at.unwrap_or(1), at.is_some());
    let program = sequence.current();
    // What is queued after it must come after it: it takes an interrupt until the signal is there.
    let moment = program.data(&[0u64.to_le_bytes(), 20_000u64.to_le_bytes()].concat());
    program.call_expecting(
        "waiting for a timer's signal",
        libc::SYS_nanosleep,
        [moment.into(), 0u64.into()],
        Expect::Anything,
    );
}

fn set(sequence: &mut Sequence, timer: &PosixTimer, value_ns: u64, absolute: bool) {
    let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
    let times: Vec<u8> = [split(timer.interval_ns), split(value_ns)]
        .as_flattened()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let data = sequence.current().data(&times);
    let flags = if absolute { libc::TIMER_ABSTIME } else { 0 };
    sequence.call(
        format!("starting POSIX timer {}", timer.id),
        libc::SYS_timer_settime,
        [timer.id.into(), flags.into(), data.into(), 0u64.into()],
    );
}

/// Checks what an image says of a process's timers; says what is wrong.
#[must_use]
pub fn check(timers: &[PosixTimer], threads: &[Thread]) -> Option<&'static str> {
    let known = |id: u32| threads.iter().any(|thread| thread.tid == id);
    let mut seen = std::collections::HashSet::new();
    timers.iter().find_map(|timer| {
        if timer.notify > 2 {
            Some("a timer that notifies in no known way")
        } else if timer.id > i32::MAX.unsigned_abs() || !seen.insert(timer.id) {
            Some("a timer's id is not one that a timer can have")
        } else if timer.thread != 0 && !known(timer.thread) {
            Some("a timer that notifies a thread of no process")
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(code: i32, id: u32) -> PendingSignal {
        let mut siginfo = vec![0; 128];
        siginfo[..4].copy_from_slice(&40u32.to_le_bytes());
        siginfo[8..12].copy_from_slice(&code.to_le_bytes());
        siginfo[16..20].copy_from_slice(&id.to_le_bytes());
        PendingSignal { siginfo }
    }

    #[test]
    fn signals_of_timers_that_are_gone_are_dropped_where_the_kernel_does() {
        let timers = [
            PosixTimer { id: 1, interval_ns: 5, remaining_ns: 3, ..PosixTimer::default() },
            PosixTimer { id: 2, remaining_ns: 3, ..PosixTimer::default() },
            PosixTimer { id: 3, ..PosixTimer::default() },
        ];
        for (discards, left) in [(true, 3), (false, 5)] {
            let mut timers = timers;
            let mut list = vec![
                signal(SI_TIMER, 1),
                signal(SI_TIMER, 2),
                signal(SI_TIMER, 3),
                signal(SI_TIMER, 9),
                signal(-1, 2),
            ];
            match_pending(&mut timers, [&mut list].into_iter(), discards);
            assert_eq!(list.len(), left);
            assert_eq!(timers.map(|timer| timer.pending), [true, false, true]);
        }
    }

    #[test]
    fn without_the_kernels_help_ids_are_counted_up() {
        let timers = [3, 1].map(|id| PosixTimer { id, ..PosixTimer::default() });
        let length = |timers: &[PosixTimer], takes_ids| {
            let mut sequence = Sequence::new();
            create(&mut sequence, timers, takes_ids).unwrap();
            sequence.into_programs().iter().map(Program::len).sum::<usize>()
        };
        assert_eq!(length(&timers, true), 2 + 4);
        // 0 and 2 are made and deleted.
        assert_eq!(length(&timers, false), 4 + 4);
        let far = PosixTimer { id: COUNTED_IDS + 1, ..PosixTimer::default() };
        assert_eq!(create(&mut Sequence::new(), &[far], false).unwrap_err().code, Code::KernelLacks);
    }

    #[test]
    fn a_release_tells_whether_stale_signals_are_discarded() {
        for (release, discards) in [
            (&b"6.18.44-fc"[..], true),
            (b"6.13.0", true),
            (b"6.12.9", false),
            (b"5.10.0-x", false),
            (b"7.0", true),
        ] {
            assert_eq!(discards_stale_signals(release), discards);
        }
    }
}
