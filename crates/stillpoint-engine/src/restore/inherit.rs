//! Memory that children inherit: their parent has it before they are born, and they get rid of what is the parent's alone.

use super::build::{Builder, lost};
use super::fill;
use super::parts::{self, Tools};
use super::sequence::Sequence;
use crate::memory::{PAGE, rebuild};
use crate::plan::model::Body;
use crate::{Observer, Result};

impl Builder<'_> {
    /// Maps a process's memory, and first gets it rid of its parent's.
    pub(super) fn memory(&self, sequence: &mut Sequence, n: usize, body: &Body, tools: &Tools) -> Result<()> {
        let heir = self.model.inheritance.of(n);
        if n > 0 && !self.model.inheritance.is_empty() {
            let staged = self
                .staged
                .iter()
                .map(|(object, at)| (at.0, at.0 + self.model.shared.get(object).copied().unwrap_or(0)));
            let area = (self.area.start.0, self.area.start.0 + self.area.size().next_multiple_of(PAGE));
            let needed: Vec<(u64, u64)> = staged.chain([area]).collect();
            rebuild::sweep(sequence, heir, &needed);
        }
        parts::memory(sequence, body, self.filled(n), &self.staged, tools, heir)
    }

    /// Gives a process its memory before its children are born, who inherit of it.
    pub(super) fn bequeath(&mut self, n: usize, tools: &Tools, observer: &mut dyn Observer) -> Result<()> {
        let process = self.process(n)?;
        let body = process.body.as_ref().ok_or_else(|| lost(n))?;
        let mut sequence = Sequence::new();
        self.memory(&mut sequence, n, body, tools)?;
        self.run_leader(n, sequence)?;
        let pid = self.pid(n)?;
        let frames = self.image.data_of(process.task.mm).map(|frame| (frame, pid, 0)).collect();
        self.bequeathed += fill::fill(self.image, &frames, observer)?;
        Ok(())
    }
}
