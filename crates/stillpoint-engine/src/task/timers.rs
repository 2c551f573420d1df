//! Interval timers of a process: setitimer(2).

use stillpoint_image::records::IntervalTimer;
use stillpoint_sys::program::{Arg, Data, Finished, Program};

/// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
const TIMERS: u32 = 3;

/// Questions about the interval timers.
#[derive(Debug)]
pub struct IntervalTimers(Vec<Data>);

impl IntervalTimers {
    /// Adds the questions to a program.
    pub fn ask(program: &mut Program) -> Self {
        let asked = (0..TIMERS).map(|which| {
            let room = program.room(32);
            program.call("reading an interval timer", libc::SYS_getitimer, [which.into(), room.into()]);
            room
        });
        IntervalTimers(asked.collect())
    }

    /// The answers, in the order of the timers' numbers.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> Vec<IntervalTimer> {
        let microseconds = |room, at| finished.word(room, at) * 1_000_000 + finished.word(room, at + 8);
        self.0
            .iter()
            .map(|&room| IntervalTimer {
                interval_us: microseconds(room, 0),
                value_us: microseconds(room, 16),
            })
            .collect()
    }
}

/// Starts the interval timers with the time that was left.
pub fn set_interval_timers(program: &mut Program, timers: &[IntervalTimer]) {
    for (which, timer) in (0..TIMERS).zip(timers) {
        if timer.value_us == 0 && timer.interval_us == 0 {
            continue;
        }
        // A real timer that has fired is started again only when its signal is taken. Firing at once brings it into
        // that state: the signal is queued already or is now.
        let fired = which == 0 && timer.value_us == 0;
        let value_us = if fired { 1 } else { timer.value_us };
        let split = |us: u64| [us / 1_000_000, us % 1_000_000];
        let bytes: Vec<u8> = [split(timer.interval_us), split(value_us)]
            .as_flattened()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let data = program.data(&bytes);
        program.call(
            "starting an interval timer",
            libc::SYS_setitimer,
            [which.into(), data.into(), Arg::Value(0)],
        );
    }
}
