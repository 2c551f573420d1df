//! The clocks that an image records, as the caller's time namespace shows them.

use rustix::time::{ClockId, DynamicClockId, clock_gettime, clock_gettime_dynamic};

/// Nanoseconds on the clocks that a task must never see run backwards, and on the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_REALTIME: nanoseconds since 1970.
    pub realtime: i64,
    /// CLOCK_MONOTONIC: nanoseconds without the time that the machine was suspended.
    pub monotonic: i64,
    /// CLOCK_BOOTTIME: nanoseconds with it.
    pub boottime: i64,
}

/// Reads the clocks, one right after the other.
#[must_use]
pub fn read() -> Clocks {
    let ns = |clock| {
        let time = clock_gettime(clock);
        // Holds for 292 years either way; clocks cannot be set that far.
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    Clocks {
        realtime: ns(ClockId::Realtime),
        monotonic: ns(ClockId::Monotonic),
        boottime: ns(ClockId::Boottime),
    }
}

/// Nanoseconds on one clock of the system, by its `CLOCK_*` number; none where the machine does not have it.
#[must_use]
pub fn one(clock: i32) -> Option<i64> {
    use DynamicClockId::{Boottime, Known, Tai};
    const NAMED: [(i32, DynamicClockId<'_>); 4] = [
        (libc::CLOCK_REALTIME, Known(ClockId::Realtime)),
        (libc::CLOCK_MONOTONIC, Known(ClockId::Monotonic)),
        (libc::CLOCK_BOOTTIME, Boottime),
        (libc::CLOCK_TAI, Tai),
    ];
    // An alarm clock is the clock itself with the power to wake the machine.
    let clock = match clock {
        libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        libc::CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
        other => other,
    };
    let (_, id) = NAMED.into_iter().find(|(number, _)| *number == clock)?;
    let time = clock_gettime_dynamic(id).ok()?;
    Some(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_run_forwards() {
        let (one, two) = (super::read(), super::read());
        assert!(one.monotonic <= two.monotonic && one.boottime <= two.boottime);
        assert!(one.monotonic > 0 && one.realtime > one.boottime);
    }
}
