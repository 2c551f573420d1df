//! What each task is told to do: pure functions from the model to sequences of calls.

use std::collections::HashMap;

use stillpoint_image::records::{Area, Backing, Credentials, SignalHandlers, Task, Thread};
use stillpoint_sys::arch::TASK_SIZE;
use stillpoint_sys::clone::CloneArgs;
use stillpoint_sys::program::{Arg, Expect, Program, ProgramArea};

use super::sequence::Sequence;
use crate::Result;
use crate::memory::PAGE;
use crate::memory::rebuild::{self, Filled, Staged};
use crate::plan::Model;
use crate::plan::inherit::Heir;
use crate::plan::lineage::Birth;
use crate::plan::model::{Body, Process};
use crate::task::{attributes, credentials, futex, limits, posix_timers, rseq, scheduling};
use crate::task::{seccomp, settings, signals, timers};

const THREAD_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

/// The root empties itself of what it inherited from the restoring process.
pub(super) fn clean(
    sequence: &mut Sequence,
    area: &ProgramArea,
    inherited: Option<&stillpoint_image::records::Rseq>,
) {
    if let Some(inherited) = inherited {
        rseq::unregister(sequence.current(), inherited);
    }
    let end = area.start.0 + area.size().next_multiple_of(PAGE);
    sequence.call(
        "unmapping what is below the program",
        libc::SYS_munmap,
        [Arg::Value(0), area.start.into()],
    );
    sequence.call(
        "unmapping what is above it",
        libc::SYS_munmap,
        [Arg::Value(end), Arg::Value(TASK_SIZE - end)],
    );
}

/// Children, and the session between those that are born before and after it.
pub(super) fn births(sequence: &mut Sequence, n: usize, births: &[Birth], processes: &[Process]) {
    let Some(birth) = births.get(n) else { return };
    let child = |sequence: &mut Sequence, index: &usize| {
        if let (Some(process), Some(birth)) = (processes.get(*index), births.get(*index)) {
            make(sequence, process.task.pid, birth.shares, process.task.exit_signal);
        }
    };
    birth.before.iter().for_each(|index| child(sequence, index));
    if birth.leads_session {
        sequence.call("making a session", libc::SYS_setsid, [] as [Arg; 0]);
    }
    birth.after.iter().for_each(|index| child(sequence, index));
    if birth.leads_group {
        lead_group(sequence);
    }
    siblings(sequence, &birth.beside, births, processes);
}

/// A child.
pub(super) fn make(sequence: &mut Sequence, pid: u32, shares: i32, exit_signal: u32) {
    let flags = u64::from(shares.unsigned_abs());
    clone(sequence, format!("making process {pid}"), flags, u64::from(exit_signal), pid);
}

/// A process group of one's own.
pub(super) fn lead_group(sequence: &mut Sequence) {
    sequence.call("making a process group", libc::SYS_setpgid, [Arg::Value(0), Arg::Value(0)]);
}

/// Processes of the caller's session that are children of its parent. They inherit the signal of its end.
pub(super) fn siblings(sequence: &mut Sequence, indices: &[usize], births: &[Birth], processes: &[Process]) {
    for (process, birth) in indices.iter().filter_map(|&index| processes.get(index).zip(births.get(index))) {
        let what = format!("making process {} as a sibling", process.task.pid);
        let flags = libc::CLONE_PARENT | birth.shares;
        clone(sequence, what, u64::from(flags.unsigned_abs()), 0, process.task.pid);
    }
}

/// The threads of a process beside its leader.
pub(super) fn threads(sequence: &mut Sequence, threads: &[Thread]) {
    for thread in threads.iter().skip(1) {
        clone(
            sequence,
            format!("making thread {}", thread.tid),
            u64::from(THREAD_FLAGS.unsigned_abs()),
            0,
            thread.tid,
        );
    }
}

fn clone(sequence: &mut Sequence, what: String, flags: u64, exit_signal: u64, id: u32) {
    let program = sequence.current();
    let set_tid = program.data(&id.to_le_bytes());
    let args = CloneArgs { flags, exit_signal, set_tid_size: 1, ..CloneArgs::default() };
    let args = program.data_pointing(&args.to_bytes(), SET_TID, set_tid);
    sequence.call_expecting(
        what,
        libc::SYS_clone3,
        [args.into(), (size_of::<CloneArgs>() as u64).into()],
        Expect::Exactly(i64::from(id)),
    );
}

/// Offset of `set_tid` in `struct clone_args`.
const SET_TID: usize = 64;
const _: () = assert!(std::mem::offset_of!(CloneArgs, set_tid) == SET_TID);

/// Descriptors that a process inherits for its own rebuilding.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) executable: u32,
    pub(super) cwd: u32,
    /// Where the process is confined to, if anywhere.
    pub(super) root: Option<u32>,
    pub(super) mapped: rebuild::Files,
}

/// Maps the memory of a process, but for what it inherits.
pub(super) fn memory(
    sequence: &mut Sequence,
    body: &Body,
    filled: &Filled,
    staged: &Staged,
    tools: &Tools,
    heir: Option<&Heir>,
) -> Result<()> {
    // The kernel refuses to replace an executable that is still mapped (kernel/fork.c, replace_mm_exe_file), and the
    // tree's may be the one that it has now: this program itself. So this comes while nothing is mapped. An heir has
    // its parent's, and has it mapped.
    rebuild::set_layout(sequence, &body.mm, heir.is_none().then_some(tools.executable));
    rebuild::map(sequence, &body.mm, filled, &tools.mapped, staged, heir)
}

/// Root, working directory and umask; once for all processes that share them.
pub(super) fn fs_context(sequence: &mut Sequence, body: &Body, tools: &Tools) {
    if let Some(root) = tools.root {
        let here = sequence.current().string(b".");
        sequence.current().call("entering the root directory", libc::SYS_fchdir, [root.into()]);
        sequence.call("confining to the root directory", libc::SYS_chroot, [here.into()]);
    }
    sequence.call("entering the working directory", libc::SYS_fchdir, [tools.cwd.into()]);
    sequence.call("setting the umask", libc::SYS_umask, [body.fs.umask.into()]);
}

/// Protections, advice, and an end to what was staged.
pub(super) fn protect(sequence: &mut Sequence, body: &Body, filled: &Filled, staged: &Staged, model: &Model) {
    rebuild::finish(sequence, &body.mm, filled);
    rebuild::unstage(sequence, staged, &model.shared);
    rebuild::seal(sequence, &body.mm);
}

/// A thread's own state, up to but without its credentials.
pub(super) fn thread_state(sequence: &mut Sequence, thread: &Thread, process: &Process) -> Result<()> {
    let task = &process.task;
    let program = sequence.current();
    if let Some(stack) = &thread.alt_stack {
        signals::set_alternate_stack(program, stack);
    }
    futex::set(program, thread.tid, thread.robust_list.as_ref(), thread.clear_child_tid);
    if let Some(area) = &thread.rseq {
        rseq::register(program, area);
    }
    attributes::set_name(program, &thread.name);
    attributes::set(program, "setting the timer slack", libc::PR_SET_TIMERSLACK, thread.timer_slack_ns);
    if let Some(scheduling) = &thread.scheduling {
        scheduling::set(program, scheduling);
    }
    attributes::set_others(program, thread);
    sequence.part();
    settings::set(sequence, &thread.settings, false);
    seccomp::install_own(sequence, task, &process.threads, thread);
    posix_timers::queue(sequence, &thread.pending, &task.posix_timers, thread.pid, Some(thread.tid))
}

/// What belongs to the process as a whole; done by its leader. Timers run from here on.
pub(super) fn process_state(sequence: &mut Sequence, process: &Process, body: &Body) -> Result<()> {
    let task = &process.task;
    signals::set_actions(sequence.current(), &body.handlers);
    sequence.part();
    let program = sequence.current();
    attributes::set_membarrier(program, body.mm.membarrier);
    if body.mm.thp_disabled {
        attributes::set(program, "disabling huge pages", libc::PR_SET_THP_DISABLE, 1);
    }
    let subreaper = u64::from(task.child_subreaper);
    attributes::set(
        program,
        "setting the child subreaper attribute",
        libc::PR_SET_CHILD_SUBREAPER,
        subreaper,
    );
    program.call("setting the personality", libc::SYS_personality, [task.personality.into()]);
    sequence.part();
    memory_to_come(sequence, task, body);
    settings::set(sequence, &task.settings, true);
    seccomp::install_shared(sequence, task, &process.threads);
    posix_timers::create(sequence, &task.posix_timers, posix_timers::kernel_takes_ids())?;
    posix_timers::start(sequence, &task.posix_timers);
    posix_timers::queue(sequence, &task.pending, &task.posix_timers, task.pid, None)?;
    limits::set(sequence.current(), &task.limits);
    timers::set_interval_timers(sequence.current(), &task.interval_timers);
    sequence.part();
    Ok(())
}

/// Locks and merging of memory to come. Memory that there is keeps what it was given.
fn memory_to_come(sequence: &mut Sequence, task: &Task, body: &Body) {
    if let Some(flags) = settings::value(&task.settings, settings::LOCK_FUTURE) {
        sequence.call("locking memory to come", libc::SYS_mlockall, [Arg::Value(flags)]);
    }
    if settings::value(&task.settings, settings::MERGE).is_none() {
        return;
    }
    settings::set_one(sequence, &task.settings, settings::MERGE);
    // The kernel has made all areas mergeable.
    let kept = |area: &&Area| area.flags.iter().any(|flag| flag == "mg");
    for area in body.mm.areas.iter().filter(|area| !kept(area)) {
        if !matches!(area.backing(), Backing::Anonymous | Backing::PrivateFile) {
            continue;
        }
        let range = [Arg::Value(area.start), Arg::Value(area.end - area.start)];
        sequence.call(
            format!("taking the merging from area {:x}", area.start),
            libc::SYS_madvise,
            [range[0], range[1], libc::MADV_UNMERGEABLE.into()],
        );
    }
}

/// A thread's credentials, and what a change of them resets.
pub(super) fn identity(sequence: &mut Sequence, thread: &Thread, have: &Credentials, dumpable: Option<u32>) {
    let program = sequence.current();
    if let Some(want) = &thread.credentials {
        credentials::set(program, want, have);
    }
    let signal = u64::from(thread.parent_death_signal);
    attributes::set(program, "setting the parent-death signal", libc::PR_SET_PDEATHSIG, signal);
    match dumpable {
        Some(value @ (0 | 1)) => {
            attributes::set(program, "setting dumpable", libc::PR_SET_DUMPABLE, u64::from(value));
        }
        // 2 cannot be set: it is what a change of credentials leaves where fs.suid_dumpable says so.
        Some(value) => {
            program.call_expecting(
                "checking dumpable",
                libc::SYS_prctl,
                [libc::PR_GET_DUMPABLE.into()],
                Expect::Exactly(i64::from(value)),
            );
        }
        None => {}
    }
    sequence.part();
}

/// What a zombie is told before its end, and its end if it ended by itself.
pub(super) fn zombie(task: &Task, have: &Credentials) -> Program {
    let mut program = Program::new();
    // Handlers that were inherited from the restoring process lead nowhere.
    signals::set_actions(&mut program, &SignalHandlers::default());
    attributes::set_name(&mut program, &task.name);
    if let Some(want) = &task.credentials {
        credentials::set(&mut program, want, have);
    }
    // It dumps no core on the way: a limit of one byte, unlike none, holds for a handler of core_pattern too
    // (fs/coredump.c). Not being dumpable would do as well, but then nobody without privilege may look at it.
    let limit = program.data(&[1u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
    program.call(
        "forbidding a core dump",
        libc::SYS_prlimit64,
        [Arg::Value(0), libc::RLIMIT_CORE.into(), limit.into(), Arg::Value(0)],
    );
    if task.exit_code & 0x7f == 0 {
        let none = program.data(&[0; 8]);
        program.call(
            "unblocking all signals",
            libc::SYS_rt_sigprocmask,
            [libc::SIG_SETMASK.into(), none.into(), Arg::Value(0), Arg::Value(8)],
        );
        program.call("ending a zombie", libc::SYS_exit_group, [Arg::from(task.exit_code >> 8 & 0xff)]);
    }
    program
}

/// Where each object's contents go that tasks hold in memory.
pub(super) fn fills<S: stillpoint_image::ReadAt>(
    image: &stillpoint_image::VerifiedImage<S>,
    model: &Model,
) -> HashMap<u64, Filled> {
    let mut fills: HashMap<u64, Filled> =
        model.living().map(|(_, process, _)| (process.task.mm, Filled::default())).collect();
    for frame in image.data() {
        if let Some(filled) = fills.get_mut(&frame.object) {
            frame.runs.iter().for_each(|run| filled.add(run.offset, run.length));
        }
    }
    fills.values_mut().for_each(Filled::finish);
    fills
}
