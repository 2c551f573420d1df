//! Timing of phases.

use std::time::Instant;

use crate::Phase;
use crate::progress::PhaseTime;

/// Records how long each phase took.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch(Vec<PhaseTime>);

impl Stopwatch {
    /// Runs `work` as a phase.
    pub(crate) fn time<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0.push(PhaseTime { phase, time: start.elapsed() });
        result
    }

    /// The phases in order.
    pub(crate) fn into_phases(self) -> Vec<PhaseTime> {
        self.0
    }
}
