//! Timing of phases.

use std::time::Instant;

use crate::Phase;
use crate::progress::PhaseTime;

/// Records how long each phase took.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch(Vec<PhaseTime>);

impl Stopwatch {
    /// Runs `work` as a phase, or as more of the same.
    pub(crate) fn time<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        match self.0.last_mut().filter(|last| last.phase == phase) {
            Some(last) => last.time += start.elapsed(),
            None => self.0.push(PhaseTime { phase, time: start.elapsed() }),
        }
        result
    }

    /// The phases so far.
    pub(crate) fn phases(&self) -> Vec<PhaseTime> {
        self.0.clone()
    }

    /// The phases in order.
    pub(crate) fn into_phases(self) -> Vec<PhaseTime> {
        self.0
    }
}
