//! Attributes that prctl(2) and its kin keep: asked in the task, set in the task. Those that nothing here rebuilds
//! must have their default, else the checkpoint is refused.

use stillpoint_image::records::{Setting, Thread};
use stillpoint_sys::arch;
use stillpoint_sys::program::{Arg, Data, Expect, Finished, Index, Program};

use super::settings;
use crate::{Code, Error, Result};

const fn prctl(option: i32) -> [Arg; 5] {
    [Arg::Value(option as u64), Arg::Value(0), Arg::Value(0), Arg::Value(0), Arg::Value(0)]
}

const PR_GET_TSC: i32 = 25;
const PR_GET_TID_ADDRESS: i32 = 40;
const PR_GET_IO_FLUSHER: i32 = 58;
const PR_SET_IO_FLUSHER: i32 = 57;
const PR_SCHED_CORE: i32 = 62;
/// PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE of include/linux/sched.h, which PR_SET_IO_FLUSHER sets.
const IO_FLUSHER_FLAGS: u32 = 0x0018_0000;
/// KEYCTL_GET_KEYRING_ID, and the special ids of keyrings that belong to one thread or process. The third, a session's,
/// is made by asking for it.
const KEYCTL_GET_KEYRING_ID: u64 = 0;
const KEYRINGS: [(i64, &str); 2] = [(-1, "a thread keyring"), (-2, "a process keyring")];
const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;

/// Questions that must be answered by the default.
#[derive(Debug)]
pub struct Defaults {
    segments: Option<Index>,
    keyrings: Vec<(&'static str, Index)>,
    core: (Index, Data),
    policy: (Index, Data),
}

impl Defaults {
    /// Adds the questions about a thread and, for the leader, about its process.
    pub fn ask(program: &mut Program, leader: bool) -> Self {
        let segments = arch::SEGMENT_TABLE_CALL.filter(|_| leader).map(|number| {
            // Function 0 reads; a table that was never made has no bytes.
            let room = program.room(16);
            let arguments = [Arg::Value(0), room.into(), Arg::Value(16)];
            program.call_expecting("reading the local descriptor table", number, arguments, Expect::Anything)
        });
        let keyrings = KEYRINGS.map(|(id, what)| {
            let arguments = [Arg::Value(KEYCTL_GET_KEYRING_ID), id.into(), Arg::Value(0)];
            (
                what,
                program.call_expecting(
                    "reading a keyring's id",
                    libc::SYS_keyctl,
                    arguments,
                    Expect::Anything,
                ),
            )
        });
        let cookie = program.room(8);
        // Of this thread: PR_SCHED_CORE_GET, itself, PIDTYPE_PID.
        let core = program.call_expecting(
            "reading the core scheduling cookie",
            libc::SYS_prctl,
            [PR_SCHED_CORE.into(), Arg::Value(0), Arg::Value(0), Arg::Value(0), cookie.into()],
            Expect::Anything,
        );
        let mode = program.room(8);
        let policy = program.call_expecting(
            "reading the memory policy",
            libc::SYS_get_mempolicy,
            [mode.into(), Arg::Value(0), Arg::Value(0), Arg::Value(0), Arg::Value(0)],
            Expect::Anything,
        );
        Defaults { segments, keyrings: keyrings.to_vec(), core: (core, cookie), policy: (policy, mode) }
    }

    /// Checks the answers. A kernel that does not know an attribute cannot have it set.
    ///
    /// # Errors
    ///
    /// A refusal that names the attribute.
    pub fn check(&self, finished: &Finished) -> Result<()> {
        if self.segments.is_some_and(|index| finished.result(index) > 0) {
            let error = refused("a local descriptor table (modify_ldt)", "it has entries".into());
            return Err(error.remedy("16-bit and 32-bit segments are not supported yet").into());
        }
        for &(what, index) in &self.keyrings {
            if finished.result(index) > 0 {
                let cause = "the kernel gives the keys of nobody else to whoever restores".into();
                return Err(refused(what, cause).into());
            }
        }
        let (index, cookie) = self.core;
        if finished.result(index) == 0 && finished.word(cookie, 0) != 0 {
            let cause = "it shares CPU cores with chosen tasks only; not supported yet".into();
            return Err(refused("a core scheduling cookie (PR_SCHED_CORE)", cause).into());
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
    settings: settings::Questions,
}

/// The answers.
#[derive(Debug, Clone)]
pub struct ProcessAnswers {
    /// Other settings that have not their default.
    pub settings: Vec<Setting>,
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
        let settings = settings::Questions::ask(program, true);
        ProcessAttributes { dumpable, thp, subreaper, membarrier, brk, settings }
    }

    /// The answers.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> ProcessAnswers {
        ProcessAnswers {
            settings: self.settings.answer(finished),
            brk: finished.result(self.brk).cast_unsigned(),
            dumpable: u32::try_from(finished.result(self.dumpable)).unwrap_or(1),
            thp_disabled: finished.result(self.thp) == 1,
            child_subreaper: finished.word(self.subreaper, 0) & 0xffff_ffff != 0,
            // Before Linux 6.3 registrations cannot be read: register for what the CPU and kernel offer, so that
            // no call of the program fails that did not before.
            membarrier: u32::try_from(finished.result(self.membarrier)).unwrap_or(1 << 4),
        }
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
    settings: settings::Questions,
    tsc: (Index, Data),
    io_flusher: Index,
}

/// The answers.
#[derive(Debug, Clone)]
pub struct ThreadAnswers {
    /// Other settings that have not their default.
    pub settings: Vec<Setting>,
    /// PR_GET_TSC: whether reading the time stamp counter is a fault.
    pub tsc_faults: bool,
    /// PR_GET_IO_FLUSHER, none where the thread may not ask.
    pub io_flusher: Option<bool>,
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
        let settings = settings::Questions::ask(program, false);
        let room = program.room(8);
        let tsc = program.call_expecting(
            "reading the time stamp counter's mode",
            libc::SYS_prctl,
            [PR_GET_TSC.into(), room.into()],
            Expect::Anything,
        );
        let io_flusher = program.call_expecting(
            "reading the I/O flusher state",
            libc::SYS_prctl,
            prctl(PR_GET_IO_FLUSHER),
            Expect::Anything,
        );
        let tsc = (tsc, room);
        ThreadAttributes {
            parent_death,
            secure_bits,
            timer_slack,
            clear_child_tid,
            settings,
            tsc,
            io_flusher,
        }
    }

    /// The answers.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> ThreadAnswers {
        let (tsc, room) = self.tsc;
        ThreadAnswers {
            settings: self.settings.answer(finished),
            // PR_TSC_SIGSEGV is 2.
            tsc_faults: finished.result(tsc) == 0 && finished.word(room, 0) & 0xffff_ffff == 2,
            io_flusher: match finished.result(self.io_flusher) {
                answer @ 0.. => Some(answer != 0),
                refused if refused == -i64::from(libc::EPERM) => None,
                _ => Some(false),
            },
            parent_death_signal: u32::try_from(finished.word(self.parent_death, 0) & 0xffff_ffff)
                .unwrap_or(0),
            secure_bits: u32::try_from(finished.result(self.secure_bits)).unwrap_or(0),
            timer_slack_ns: finished.result(self.timer_slack).cast_unsigned(),
            clear_child_tid: finished.word(self.clear_child_tid, 0),
        }
    }
}

/// Whether a process is an I/O flusher, by the flags of its stat.
#[must_use]
pub fn flushes(flags: u32) -> bool {
    flags & IO_FLUSHER_FLAGS == IO_FLUSHER_FLAGS
}

/// Sets what a thread has beside the settings that are alike.
pub fn set_others(program: &mut Program, thread: &Thread) {
    if thread.tsc_faults {
        // PR_TSC_SIGSEGV is 2.
        set(program, "making reads of the time stamp counter fault", libc::PR_SET_TSC, 2);
    }
    if thread.io_flusher {
        set(program, "setting the I/O flusher state", PR_SET_IO_FLUSHER, 1);
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
