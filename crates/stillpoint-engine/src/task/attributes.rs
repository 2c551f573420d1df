//! Attributes that prctl(2) and its kin keep: asked in the task, set in the task. Those that nothing here rebuilds
//! must have their default, else the checkpoint is refused.

use stillpoint_sys::arch;
use stillpoint_sys::program::{Arg, Data, Expect, Finished, Index, Program};

use crate::{Code, Error, Result};

/// An attribute that is read with one call and must have its default.
struct MustBe {
    what: &'static str,
    number: i64,
    arguments: [Arg; 5],
    default: i64,
    remedy: &'static str,
}

const fn prctl(option: i32) -> [Arg; 5] {
    [Arg::Value(option as u64), Arg::Value(0), Arg::Value(0), Arg::Value(0), Arg::Value(0)]
}

const PR_GET_TSC: i32 = 25;
const PR_GET_TID_ADDRESS: i32 = 40;
const PR_GET_IO_FLUSHER: i32 = 58;
const PR_GET_MDWE: i32 = 66;
const PR_GET_MEMORY_MERGE: i32 = 68;
const PR_MCE_KILL_GET: i32 = 34;
const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;

/// Of the process.
const PROCESS: &[MustBe] = &[
    MustBe {
        what: "memory-deny-write-execute (PR_SET_MDWE)",
        number: libc::SYS_prctl,
        arguments: prctl(PR_GET_MDWE),
        default: 0,
        remedy: "start the program without it",
    },
    MustBe {
        what: "memory merging for the whole process (PR_SET_MEMORY_MERGE)",
        number: libc::SYS_prctl,
        arguments: prctl(PR_GET_MEMORY_MERGE),
        default: 0,
        remedy: "start the program without it",
    },
];

/// Of each thread.
const THREAD: &[MustBe] = &[
    MustBe {
        what: "the I/O flusher state (PR_SET_IO_FLUSHER)",
        number: libc::SYS_prctl,
        arguments: prctl(PR_GET_IO_FLUSHER),
        default: 0,
        remedy: "not supported yet",
    },
    MustBe {
        what: "a machine check policy (PR_MCE_KILL)",
        number: libc::SYS_prctl,
        arguments: prctl(PR_MCE_KILL_GET),
        default: 2,
        remedy: "not supported yet",
    },
];

/// Questions that must be answered by the default.
#[derive(Debug)]
pub struct Defaults {
    asked: Vec<(&'static str, Index, i64, &'static str)>,
    tsc: Option<(Index, Data)>,
    policy: (Index, Data),
}

impl Defaults {
    /// Adds the questions about a thread and, for the leader, about its process.
    pub fn ask(program: &mut Program, leader: bool) -> Self {
        let process = if leader { PROCESS } else { &[] };
        let mut asked = Vec::new();
        if let Some(number) = arch::SEGMENT_TABLE_CALL.filter(|_| leader) {
            // Function 0 reads; a table that was never made has no bytes.
            let room = program.room(16);
            let arguments = [Arg::Value(0), room.into(), Arg::Value(16)];
            let what = "a local descriptor table (modify_ldt)";
            let index =
                program.call_expecting(format!("reading {what}"), number, arguments, Expect::Anything);
            asked.push((what, index, 0, "16-bit and 32-bit segments are not supported yet"));
        }
        asked.extend(process.iter().chain(THREAD).map(|must| {
            let what = format!("reading {}", must.what);
            let index = program.call_expecting(what, must.number, must.arguments, Expect::Anything);
            (must.what, index, must.default, must.remedy)
        }));
        let room = program.room(8);
        let tsc = program.call_expecting(
            "reading the time stamp counter's mode",
            libc::SYS_prctl,
            [PR_GET_TSC.into(), room.into()],
            Expect::Anything,
        );
        let mode = program.room(8);
        let policy = program.call_expecting(
            "reading the memory policy",
            libc::SYS_get_mempolicy,
            [mode.into(), Arg::Value(0), Arg::Value(0), Arg::Value(0), Arg::Value(0)],
            Expect::Anything,
        );
        Defaults { asked, tsc: Some((tsc, room)), policy: (policy, mode) }
    }

    /// Checks the answers. A kernel that does not know an attribute cannot have it set.
    ///
    /// # Errors
    ///
    /// A refusal that names the attribute.
    pub fn check(&self, finished: &Finished) -> Result<()> {
        for &(what, index, default, remedy) in &self.asked {
            let result = finished.result(index);
            let lacking = [-i64::from(libc::EINVAL), -i64::from(libc::ENOSYS), -i64::from(libc::EPERM)];
            if result != default && !lacking.contains(&result) {
                return Err(refused(what, format!("it is {result}")).remedy(remedy).into());
            }
        }
        if let Some((index, room)) = self.tsc
            && finished.result(index) == 0
            && finished.word(room, 0) & 0xffff_ffff != 1
        {
            return Err(
                refused("the time stamp counter's mode (PR_SET_TSC)", "reading it faults".into()).into()
            );
        }
        let (index, mode) = self.policy;
        if finished.result(index) == 0 && finished.word(mode, 0) & 0xffff_ffff != 0 {
            return Err(refused("a NUMA memory policy (set_mempolicy)", "it is not the default".into())
                .remedy("start the program without numactl; not supported yet")
                .into());
        }
        Ok(())
    }
}

fn refused(what: &str, cause: String) -> Error {
    Error::new(Code::UnsupportedState, "saving a task's attributes").object(what).cause(cause)
}

/// Questions about a process's attributes that are rebuilt.
#[derive(Debug)]
pub struct ProcessAttributes {
    dumpable: Index,
    thp: Index,
    subreaper: Data,
    membarrier: Index,
    brk: Index,
}

/// The answers.
#[derive(Debug, Clone, Copy)]
pub struct ProcessAnswers {
    /// The end of the heap, to the byte: brk(2) with an impossible request answers with it.
    pub brk: u64,
    /// PR_GET_DUMPABLE.
    pub dumpable: u32,
    /// PR_GET_THP_DISABLE.
    pub thp_disabled: bool,
    /// PR_GET_CHILD_SUBREAPER.
    pub child_subreaper: bool,
    /// Registered membarrier(2) commands; what the kernel cannot tell is what C libraries register.
    pub membarrier: u32,
}

impl ProcessAttributes {
    /// Adds the questions.
    pub fn ask(program: &mut Program) -> Self {
        let dumpable = program.call("reading dumpable", libc::SYS_prctl, prctl(libc::PR_GET_DUMPABLE));
        let thp =
            program.call("reading the huge page setting", libc::SYS_prctl, prctl(libc::PR_GET_THP_DISABLE));
        let subreaper = program.room(8);
        program.call(
            "reading the child subreaper attribute",
            libc::SYS_prctl,
            [libc::PR_GET_CHILD_SUBREAPER.into(), subreaper.into()],
        );
        let membarrier = program.call_expecting(
            "reading membarrier registrations",
            libc::SYS_membarrier,
            [Arg::Value(MEMBARRIER_CMD_GET_REGISTRATIONS), Arg::Value(0), Arg::Value(0)],
            Expect::Anything,
        );
        let brk = program.call("reading the end of the heap", libc::SYS_brk, [Arg::Value(0)]);
        ProcessAttributes { dumpable, thp, subreaper, membarrier, brk }
    }

    /// The answers.
    ///
    /// # Errors
    ///
    /// When a huge page setting is one that this version does not know.
    pub fn answer(&self, finished: &Finished) -> Result<ProcessAnswers> {
        let thp = finished.result(self.thp);
        if thp > 1 {
            return Err(refused("a huge page setting (PR_SET_THP_DISABLE)", format!("it is {thp}")).into());
        }
        Ok(ProcessAnswers {
            brk: finished.result(self.brk).cast_unsigned(),
            dumpable: u32::try_from(finished.result(self.dumpable)).unwrap_or(1),
            thp_disabled: thp == 1,
            child_subreaper: finished.word(self.subreaper, 0) & 0xffff_ffff != 0,
            // Before Linux 6.3 registrations cannot be read: register for what the CPU and kernel offer, so that
            // no call of the program fails that did not before.
            membarrier: u32::try_from(finished.result(self.membarrier)).unwrap_or(1 << 4),
        })
    }
}

/// Registers for the membarrier commands of a mask.
pub fn set_membarrier(program: &mut Program, mask: u32) {
    for command in (0..32).map(|bit| 1u32 << bit).filter(|command| mask & command != 0) {
        program.call(
            format!("registering for membarrier command {command}"),
            libc::SYS_membarrier,
            [Arg::from(command), Arg::Value(0), Arg::Value(0)],
        );
    }
}

/// Questions about a thread's attributes that are rebuilt.
#[derive(Debug)]
pub struct ThreadAttributes {
    parent_death: Data,
    secure_bits: Index,
    timer_slack: Index,
    clear_child_tid: Data,
}

/// The answers.
#[derive(Debug, Clone, Copy)]
pub struct ThreadAnswers {
    /// PR_GET_PDEATHSIG.
    pub parent_death_signal: u32,
    /// PR_GET_SECUREBITS.
    pub secure_bits: u32,
    /// PR_GET_TIMERSLACK, nanoseconds.
    pub timer_slack_ns: u64,
    /// PR_GET_TID_ADDRESS.
    pub clear_child_tid: u64,
}

impl ThreadAttributes {
    /// Adds the questions.
    pub fn ask(program: &mut Program) -> Self {
        let parent_death = program.room(8);
        program.call(
            "reading the parent-death signal",
            libc::SYS_prctl,
            [libc::PR_GET_PDEATHSIG.into(), parent_death.into()],
        );
        let secure_bits = program.call("reading securebits", libc::SYS_prctl, prctl(libc::PR_GET_SECUREBITS));
        let timer_slack =
            program.call("reading the timer slack", libc::SYS_prctl, prctl(libc::PR_GET_TIMERSLACK));
        let clear_child_tid = program.room(8);
        program.call(
            "reading the clear-tid address",
            libc::SYS_prctl,
            [PR_GET_TID_ADDRESS.into(), clear_child_tid.into()],
        );
        ThreadAttributes { parent_death, secure_bits, timer_slack, clear_child_tid }
    }

    /// The answers.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> ThreadAnswers {
        ThreadAnswers {
            parent_death_signal: u32::try_from(finished.word(self.parent_death, 0) & 0xffff_ffff)
                .unwrap_or(0),
            secure_bits: u32::try_from(finished.result(self.secure_bits)).unwrap_or(0),
            timer_slack_ns: finished.result(self.timer_slack).cast_unsigned(),
            clear_child_tid: finished.word(self.clear_child_tid, 0),
        }
    }
}

/// Sets the calling thread's name.
pub fn set_name(program: &mut Program, name: &[u8]) {
    let data = program.string(name);
    program.call("setting the thread's name", libc::SYS_prctl, [libc::PR_SET_NAME.into(), data.into()]);
}

/// Sets one prctl option of the calling thread.
pub fn set(program: &mut Program, what: &'static str, option: i32, value: u64) {
    program.call(
        what,
        libc::SYS_prctl,
        [Arg::from(option), Arg::Value(value), Arg::Value(0), Arg::Value(0), Arg::Value(0)],
    );
}
