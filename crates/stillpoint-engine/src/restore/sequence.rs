//! A long list of calls for one task, cut into programs that fit a slot.

use std::borrow::Cow;

use stillpoint_sys::program::{Arg, Expect, Program};

/// Size of a slot of a restore's program areas, bytes.
pub const SLOT: u64 = 64 << 10;
/// Past this a new program is begun. What one part of a task's state adds at a time must fit into the rest.
const FULL: u64 = SLOT / 2;

/// Programs that run one after the other.
#[derive(Debug, Default)]
pub struct Sequence {
    done: Vec<Program>,
    current: Program,
}

impl Sequence {
    /// Nothing to do.
    #[must_use]
    pub fn new() -> Self {
        Sequence::default()
    }

    /// The program that is being filled: for data of the next call, and for parts that add several calls.
    pub fn current(&mut self) -> &mut Program {
        &mut self.current
    }

    /// Adds a call that must not fail.
    pub fn call<const N: usize>(&mut self, what: impl Into<Cow<'static, str>>, number: i64, args: [Arg; N]) {
        self.call_expecting(what, number, args, Expect::Success);
    }

    /// Adds a call with what is expected of its result.
    pub fn call_expecting<const N: usize>(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        number: i64,
        args: [Arg; N],
        expect: Expect,
    ) {
        self.current.call_expecting(what, number, args, expect);
        self.part();
    }

    /// Says that a part is complete, so that a new program may begin here.
    pub fn part(&mut self) {
        if self.current.size() > FULL {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    /// Begins a new program, for data that needs the room.
    pub fn begin(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    /// The programs.
    #[must_use]
    pub fn into_programs(mut self) -> Vec<Program> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_fits_a_slot() {
        let mut sequence = Sequence::new();
        for n in 0..5000u32 {
            sequence.call("moving a descriptor", libc::SYS_dup3, [n.into(), n.into(), Arg::Value(0)]);
        }
        let programs = sequence.into_programs();
        assert!(programs.len() > 5);
        assert_eq!(programs.iter().map(Program::len).sum::<usize>(), 5000);
        assert!(programs.iter().all(|program| program.size() <= SLOT));
    }
}
