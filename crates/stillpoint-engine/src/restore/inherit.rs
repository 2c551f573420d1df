//! Memory that children inherit: their parent has it before they are born, and they get rid of what is the parent's alone.
//!
//! A child that a brother makes (the leader of its session, see [`crate::plan::lineage`]) is born with the brother's memory,
//! which may be another by then. It inherits nothing: what it has in common with its parent is copied.

use std::collections::{BTreeSet, HashMap};

use stillpoint_sys::{RemoteAddr, vm};

use super::build::{Builder, lost};
use super::fill;
use super::parts::{self, Tools};
use super::sequence::Sequence;
use crate::memory::PAGE;
use crate::memory::rebuild::{self, Filled};
use crate::plan::inherit::Heir;
use crate::plan::model::Body;
use crate::plan::{Lineage, Model};
use crate::{Observer, Result};

/// How much is copied at once.
const STEP: u64 = 1 << 20;

/// Heirs that are not made by their parent, by index; parents before their children.
pub(super) fn made_by_brothers(model: &Model, lineage: &Lineage) -> BTreeSet<usize> {
    let beside = lineage.births.iter().flat_map(|birth| &birth.beside).copied();
    beside.filter(|&n| model.inheritance.of(n).is_some()).collect()
}

/// Adds to what will be filled what is copied.
pub(super) fn add_copies(model: &Model, copied: &BTreeSet<usize>, fills: &mut HashMap<u64, Filled>) {
    for (_, process, body) in model.living().filter(|(n, ..)| copied.contains(n)) {
        if let Some(filled) = fills.get_mut(&process.task.mm) {
            body.mm.inherited.iter().for_each(|run| filled.add(run.offset, run.length));
            filled.finish();
        }
    }
}

impl Builder<'_> {
    /// What a process does with the memory that it is born with.
    fn heir(&self, n: usize) -> Option<&Heir> {
        self.model.inheritance.of(n).filter(|_| !self.copied.contains(&n))
    }

    /// Copies to those that are made by brothers what they have in common with their parents, but to those that had it
    /// already to pass it on.
    pub(super) fn copy_common(&self) -> Result<u64> {
        let late = self.copied.iter().filter(|&&n| !self.model.inheritance.is_parent(n));
        late.map(|&n| self.copy_from_parent(n)).sum()
    }

    /// Copies what a process has in common with its parent, who has it.
    fn copy_from_parent(&self, n: usize) -> Result<u64> {
        let process = self.process(n)?;
        let body = process.body.as_ref().ok_or_else(|| lost(n))?;
        let processes = &self.model.processes;
        let parent = processes.iter().position(|other| other.task.pid == process.task.parent);
        let from = vm::Memory::open(self.pid(parent.ok_or_else(|| lost(n))?)?)?;
        let mut buffer = Vec::new();
        for run in &body.mm.inherited {
            let mut done = 0;
            while done < run.length {
                let length = STEP.min(run.length - done);
                buffer.resize(usize::try_from(length).unwrap_or(0), 0);
                let at = RemoteAddr(run.offset + done);
                from.read(at, &mut buffer)?;
                vm::write(self.pid(n)?, at, &buffer)?;
                done += length;
            }
        }
        Ok(body.mm.inherited.iter().map(|run| run.length).sum())
    }

    /// Maps a process's memory, and first gets it rid of its parent's.
    pub(super) fn memory(&self, sequence: &mut Sequence, n: usize, body: &Body, tools: &Tools) -> Result<()> {
        let heir = self.heir(n);
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
        if self.copied.contains(&n) {
            self.bequeathed += self.copy_from_parent(n)?;
        }
        Ok(())
    }
}
