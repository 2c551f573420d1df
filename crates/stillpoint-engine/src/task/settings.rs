//! Settings that a call reads as a number and a call sets: those of prctl(2) and arch_prctl(2) that are alike.
//!
//! Each is a row here. One whose answer is the default, or that this kernel does not know, is not recorded.

use stillpoint_image::records::Setting;
use stillpoint_sys::arch;
use stillpoint_sys::program::{Arg, Expect, Finished, Index, Program};

use crate::restore::sequence::Sequence;

/// How a recorded value is set.
type Set = fn(u64) -> (i64, [Arg; 5]);

/// One setting.
struct Row {
    /// Its number in images, which it keeps for ever.
    number: u32,
    what: &'static str,
    read: (i64, [Arg; 5]),
    /// Whether an answer is worth recording.
    differs: fn(i64) -> bool,
    set: Set,
}

const fn prctl(arguments: [u64; 5]) -> (i64, [Arg; 5]) {
    let [a, b, c, d, e] = arguments;
    (libc::SYS_prctl, [Arg::Value(a), Arg::Value(b), Arg::Value(c), Arg::Value(d), Arg::Value(e)])
}

const PR_MCE_KILL: u64 = 33;
const PR_MCE_KILL_GET: u64 = 34;
const PR_MCE_KILL_DEFAULT: i64 = 2;
const PR_SET_THP_DISABLE: u64 = 41;
const PR_GET_THP_DISABLE: u64 = 42;
const PR_GET_SPECULATION_CTRL: u64 = 52;
const PR_SET_SPECULATION_CTRL: u64 = 53;
const PR_SET_MDWE: u64 = 65;
const PR_GET_MDWE: u64 = 66;
const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_GET_MEMORY_MERGE: u64 = 68;

/// PR_SPEC_PRCTL: a task may choose.
const SPEC_PRCTL: i64 = 1;
const SPEC_ENABLE: i64 = 2;
/// PR_SPEC_DISABLE, PR_SPEC_FORCE_DISABLE, PR_SPEC_DISABLE_NOEXEC.
const SPEC_DISABLED: i64 = 4 | 8 | 16;

/// Memory deny-write-execute.
pub const MDWE: u32 = 1;
/// Locks of memory to come; read by what becomes of an area, set with the flags of mlockall(2).
pub const LOCK_FUTURE: u32 = 4;
/// Memory merging for the whole process.
pub const MERGE: u32 = 2;

/// Of a process.
const PROCESS: &[Row] = &[
    Row {
        number: MERGE,
        what: "memory merging for the whole process",
        read: prctl([PR_GET_MEMORY_MERGE, 0, 0, 0, 0]),
        differs: |answer| answer > 0,
        set: |_| prctl([PR_SET_MEMORY_MERGE, 1, 0, 0, 0]),
    },
    // Bit 0 says that huge pages are disabled, the others are flags: 1 alone is recorded with the memory.
    Row {
        number: 3,
        what: "huge pages for nothing but what asks for them",
        read: prctl([PR_GET_THP_DISABLE, 0, 0, 0, 0]),
        differs: |answer| answer > 1,
        set: |value| prctl([PR_SET_THP_DISABLE, 1, value & !1, 0, 0]),
    },
    // Last: nothing may become executable any more.
    Row {
        number: MDWE,
        what: "memory-deny-write-execute",
        read: prctl([PR_GET_MDWE, 0, 0, 0, 0]),
        differs: |answer| answer > 0,
        set: |value| prctl([PR_SET_MDWE, value, 0, 0, 0]),
    },
];

/// Of a thread.
const THREAD: &[Row] = &[
    Row {
        number: 11,
        what: "the machine check policy",
        read: prctl([PR_MCE_KILL_GET, 0, 0, 0, 0]),
        differs: |answer| answer >= 0 && answer != PR_MCE_KILL_DEFAULT,
        // PR_MCE_KILL_SET is 1.
        set: |value| prctl([PR_MCE_KILL, 1, value, 0, 0]),
    },
    Row {
        number: 13,
        what: "the speculative store bypass",
        read: prctl([PR_GET_SPECULATION_CTRL, 0, 0, 0, 0]),
        differs: is_disabled,
        set: |value| prctl([PR_SET_SPECULATION_CTRL, 0, choice(value), 0, 0]),
    },
    Row {
        number: 14,
        what: "indirect branch speculation",
        read: prctl([PR_GET_SPECULATION_CTRL, 1, 0, 0, 0]),
        differs: is_disabled,
        set: |value| prctl([PR_SET_SPECULATION_CTRL, 1, choice(value), 0, 0]),
    },
    Row {
        number: 15,
        what: "the flush of the data cache",
        read: prctl([PR_GET_SPECULATION_CTRL, 2, 0, 0, 0]),
        differs: |answer| answer > 0 && answer & SPEC_PRCTL != 0 && answer & SPEC_ENABLE != 0,
        set: |value| prctl([PR_SET_SPECULATION_CTRL, 2, choice(value), 0, 0]),
    },
    Row {
        number: 16,
        what: "faulting of the CPU's identification",
        read: arch::CPU_IDENTIFICATION,
        differs: |answer| answer == 0,
        set: |_| arch::FAULT_CPU_IDENTIFICATION,
    },
];

fn is_disabled(answer: i64) -> bool {
    answer > 0 && answer & SPEC_PRCTL != 0 && answer & SPEC_DISABLED != 0
}

fn choice(value: u64) -> u64 {
    value & (SPEC_ENABLE | SPEC_DISABLED).cast_unsigned()
}

/// Questions about settings.
#[derive(Debug)]
pub struct Questions(Vec<(usize, Index)>, bool);

impl Questions {
    /// Adds the questions about a process's settings to a program, or those about a thread's.
    pub fn ask(program: &mut Program, process: bool) -> Self {
        let asked = rows(process).iter().enumerate().map(|(at, row)| {
            let (number, arguments) = row.read;
            let what = format!("reading {}", row.what);
            (at, program.call_expecting(what, number, arguments, Expect::Anything))
        });
        Questions(asked.collect(), process)
    }

    /// What differs from the default.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> Vec<Setting> {
        let rows = rows(self.1);
        let answered =
            self.0.iter().filter_map(|&(at, index)| rows.get(at).zip(Some(finished.result(index))));
        let differing = answered.filter(|&(row, answer)| (row.differs)(answer));
        differing.map(|(row, answer)| Setting { number: row.number, value: answer.cast_unsigned() }).collect()
    }
}

const fn rows(process: bool) -> &'static [Row] {
    if process { PROCESS } else { THREAD }
}

/// Sets one setting of a process, if it was recorded.
pub fn set_one(sequence: &mut Sequence, settings: &[Setting], number: u32) {
    set_rows(sequence, settings, PROCESS.iter().filter(|row| row.number == number));
}

/// Sets what was recorded, in the order of the rows; but for memory merging, which comes with more.
pub fn set(sequence: &mut Sequence, settings: &[Setting], process: bool) {
    set_rows(sequence, settings, rows(process).iter().filter(|row| !process || row.number != MERGE));
}

fn set_rows(sequence: &mut Sequence, settings: &[Setting], rows: impl Iterator<Item = &'static Row>) {
    for row in rows {
        for setting in settings.iter().filter(|setting| setting.number == row.number) {
            let (number, arguments) = (row.set)(setting.value);
            sequence.call(format!("setting {}", row.what), number, arguments);
        }
    }
}

/// The recorded value of a setting.
#[must_use]
pub fn value(settings: &[Setting], number: u32) -> Option<u64> {
    settings.iter().find(|setting| setting.number == number).map(|setting| setting.value)
}

/// Whether an image records only settings that are known, of a process or a thread.
#[must_use]
pub fn are_known(settings: &[Setting], process: bool) -> bool {
    settings.iter().all(|setting| {
        process && setting.number == LOCK_FUTURE
            || rows(process).iter().any(|row| row.number == setting.number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique() {
        let mut numbers: Vec<u32> = PROCESS.iter().chain(THREAD).map(|row| row.number).collect();
        numbers.push(LOCK_FUTURE);
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(are_known(&[Setting { number: LOCK_FUTURE, value: 2 }], true));
        assert!(!are_known(&[Setting { number: MDWE, value: 1 }], false));
    }

    #[test]
    fn a_cpu_that_cannot_choose_has_nothing_to_record() {
        assert!(!is_disabled(8) && !is_disabled(2) && !is_disabled(-19) && !is_disabled(3));
        assert!(is_disabled(5) && is_disabled(9) && is_disabled(17));
    }
}
