//! Births: processes are made by their parents, or by the leaders of their sessions, and join their groups.

use stillpoint_sys::program::{Arg, Expect, Program};

use super::build::{Builder, Made, OwnedTools, await_birth, lost, tools_of};
use super::parts;
use super::sequence::Sequence;
use crate::plan::lineage::Departed;
use crate::{Observer, Result};

impl Builder<'_> {
    /// Makes every process, and ends leaders that are needed for births only.
    pub(super) fn make_processes(
        &mut self,
        tools: &[(usize, OwnedTools)],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (processes, lineage) = (&self.model.processes, self.lineage);
        let departed = lineage.departed_ids().count();
        self.made.resize_with(processes.len() + departed, Made::default);
        let root = self.make_root()?;
        self.adopt(0, root)?;
        let mut next = vec![0];
        while let Some(n) = next.pop() {
            if n == 0 {
                self.clean_root()?;
                let mut sequence = Sequence::new();
                let areas = self.model.areas();
                crate::memory::rebuild::stage(&mut sequence, &self.staged, &self.model.shared, areas);
                self.run_leader(n, sequence)?;
            }
            if self.model.inheritance.is_parent(n) {
                self.bequeath(n, &tools_of(tools, n)?.numbers(), observer)?;
            }
            let mut sequence = Sequence::new();
            let birth = lineage.births.get(n).ok_or_else(|| lost(n))?;
            parts::births(&mut sequence, n, &lineage.births, processes);
            let order = birth.before.iter().chain(&birth.after).chain(&birth.beside);
            self.bear(n, sequence, order.copied())?;
            for (k, departed) in lineage.departed_sessions.iter().enumerate() {
                if departed.parent == n {
                    self.lead_session(processes.len() + k, departed)?;
                }
            }
            next.extend(lineage.made_after(n));
        }
        Ok(())
    }

    /// Lets every process join its group. A group whose leader has ended is led by one that ends again.
    pub(super) fn join_groups(&mut self) -> Result<()> {
        let first = self.model.processes.len() + self.lineage.departed_sessions.len();
        let leaders = || self.lineage.departed_groups.iter().enumerate().map(|(k, group)| (first + k, group));
        for (at, departed) in leaders() {
            let mut sequence = Sequence::new();
            parts::make(&mut sequence, departed.id, 0, departed.exit_signal);
            self.bear(departed.parent, sequence, std::iter::once(at))?;
            let mut sequence = Sequence::new();
            parts::lead_group(&mut sequence);
            self.run_leader(at, sequence)?;
        }
        for (n, birth) in self.lineage.births.iter().enumerate() {
            let Some(group) = birth.joins_group else { continue };
            let mut sequence = Sequence::new();
            sequence.call(
                format!("joining process group {group}"),
                libc::SYS_setpgid,
                [0.into(), group.into()],
            );
            self.run_leader(n, sequence)?;
        }
        for (at, departed) in leaders() {
            self.depart(at, departed)?;
        }
        Ok(())
    }

    /// The leader that has ended of that number, if it is one.
    pub(super) fn departed(&self, n: usize) -> Option<&Departed> {
        let at = n.checked_sub(self.model.processes.len())?;
        self.lineage.departed_sessions.iter().chain(&self.lineage.departed_groups).nth(at)
    }

    /// Makes a session's leader, lets it make the members that have no parent in the session, and ends it.
    fn lead_session(&mut self, at: usize, departed: &Departed) -> Result<()> {
        let mut sequence = Sequence::new();
        // What its members share with their parent passes through it.
        let all = libc::CLONE_FILES | libc::CLONE_FS;
        parts::make(&mut sequence, departed.id, all, departed.exit_signal);
        self.bear(departed.parent, sequence, std::iter::once(at))?;
        let mut sequence = Sequence::new();
        sequence.call("making a session", libc::SYS_setsid, [] as [Arg; 0]);
        parts::siblings(&mut sequence, &departed.makes, &self.lineage.births, &self.model.processes);
        self.bear(at, sequence, departed.makes.iter().copied())?;
        self.depart(at, departed)
    }

    /// Runs a sequence that makes processes, and takes them on.
    fn bear(&mut self, n: usize, sequence: Sequence, order: impl Iterator<Item = usize>) -> Result<()> {
        let order: Vec<usize> = order.collect();
        let born = self.run_leader(n, sequence)?;
        if born.len() != order.len() {
            return Err(lost(n));
        }
        for (child, pid) in order.into_iter().zip(born) {
            self.adopt(child, await_birth(pid)?)?;
        }
        Ok(())
    }

    /// Ends a leader, and lets its parent reap it: its id stays that of what it has led.
    fn depart(&mut self, at: usize, departed: &Departed) -> Result<()> {
        let mut program = Program::new();
        program.call("ending a leader", libc::SYS_exit_group, [Arg::Value(0)]);
        self.end_by(at, &program, 0)?;
        if let Some(made) = self.made.get_mut(at) {
            *made = Made::default();
        }
        let mut sequence = Sequence::new();
        sequence.call_expecting(
            "reaping a leader",
            libc::SYS_wait4,
            [departed.id.into(), Arg::Value(0), libc::__WALL.into(), Arg::Value(0)],
            Expect::Exactly(i64::from(departed.id)),
        );
        self.run_leader(departed.parent, sequence).map(drop)
    }
}
