//! A task's own state: one file per part of it. Each part says how it is read from a frozen task and how a
//! restore's program sets it.

pub mod attributes;
pub mod credentials;
pub mod dispatch;
pub mod futex;
pub mod job_control;
pub mod leftover;
pub mod limits;
pub mod namespaces;
pub mod posix_timers;
pub mod restart;
pub mod rseq;
pub mod scheduling;
pub mod seccomp;
pub mod semaphores;
pub mod settings;
pub mod sharing;
pub mod signals;
pub mod timers;
mod visit;
mod way_back;

use stillpoint_image::records::{PendingSignal, PosixTimer, SignalHandlers, Task, Thread};
use stillpoint_sys::arch;
use stillpoint_sys::proc::number::{oom_score_adj, personality};
use stillpoint_sys::proc::{boot, clocks, limits as proc_limits, stat, status, timers as proc_timers};

use crate::freeze::{FrozenTask, FrozenThread};
use crate::kind::support::{State, SupportRow};
use crate::memory::areas::Areas;
use crate::{Code, Error, Result, TaskName};

pub use attributes::ProcessAnswers;
pub use way_back::Gadgets;

/// What of a task's own state is saved or refused, for the support matrix.
pub const SUPPORT: &[SupportRow] = &[
    SupportRow::saved("process tree: parents, children, process ids", "5.5", "clone3 with set_tid"),
    SupportRow::saved("threads", "5.5", ""),
    SupportRow::saved(
        "sessions and process groups",
        "5.10",
        "led from inside the tree, from outside (the root's), or by a process that has ended",
    ),
    SupportRow::partly(
        "zombies with their exit status",
        "5.10",
        "the CPU times that their parent is told are those of the new one. Refused: one that dumped a core; the kernel says so \
         only of a process that does, which would write a file or start the machine's crash handler.",
    ),
    SupportRow::saved(
        "vfork and posix_spawn in flight",
        "5.10",
        "the child runs on until it executes a program or ends, for 2 seconds at most",
    ),
    SupportRow::saved("general purpose registers, TLS bases", "5.10", ""),
    SupportRow::saved("extended registers (XSAVE)", "5.10", "as the CPU lays them out"),
    SupportRow::saved("signal actions, masks, alternate stacks", "5.10", ""),
    SupportRow::saved("pending signals with siginfo, private and shared", "5.10", ""),
    SupportRow::saved("interval timers", "5.10", ""),
    SupportRow::partly(
        "POSIX timers (timer_create)",
        "5.10",
        "with their ids, on all clocks but CPU clocks of other processes, with the time that was left. A CLOCK_REALTIME timer \
         that was set for a time of day waits for that time where root saves it, and as long as was left otherwise. How often \
         a timer has expired since its pending signal was sent is counted anew, and said. Refused: one on \
         CLOCK_THREAD_CPUTIME_ID in a process of several threads, one that notifies a thread that has ended. Before Linux \
         6.15 only ids up to 20,000.",
    ),
    SupportRow::saved("resource limits", "5.10", "a hard limit is raised only with CAP_SYS_RESOURCE"),
    SupportRow::saved("umask, working directory, root", "5.10", ""),
    SupportRow::saved("credentials: ids, groups, capabilities, securebits, no_new_privs", "5.10", ""),
    SupportRow::saved("scheduling: policy, nice, affinity, I/O priority, timer slack", "5.10", ""),
    SupportRow::saved("robust futex lists, clear-tid addresses", "5.10", "CONFIG_CHECKPOINT_RESTORE"),
    SupportRow::saved("restartable sequences", "5.13", "PTRACE_GET_RSEQ_CONFIGURATION"),
    SupportRow::saved("membarrier registrations", "5.10", "read exactly from 6.3 on"),
    SupportRow::saved(
        "names, personality, dumpable, oom_score_adj, coredump filter, THP setting",
        "5.10",
        "",
    ),
    SupportRow::saved(
        "interrupted system calls",
        "5.10",
        "a wait with a relative timeout goes on with what was left where the kernel tells: nanosleep and clock_nanosleep with \
         a place for it, select, pselect and ppoll; as do all with a time of day. Others begin their timeout anew: poll, epoll, \
         futex, rt_sigtimedwait, semtimedop, io_getevents, a nanosleep without that place",
    ),
    SupportRow::saved(
        "job-control-stopped tasks",
        "5.10",
        "before 5.17 their parents are told of the stop once more; a report of SIGCONT that was not collected is lost",
    ),
    SupportRow::refused("traced tasks", "a task has one tracer"),
    SupportRow::partly(
        "seccomp: strict mode and filters",
        "5.10",
        "by whoever has CAP_SYS_ADMIN and is under no seccomp, and by nobody else: the kernel shows and suspends filters for \
         no other. Filters that all threads of a process begin with are shared again; what some threads share beyond that \
         becomes each one's own. Refused: filters that hand calls to a listener.",
    ),
    SupportRow::saved("locks of memory to come (mlockall with MCL_FUTURE, MCL_ONFAULT)", "5.10", ""),
    SupportRow::saved(
        "prctl: memory merging, deny-write-execute, machine check policy, speculation, TSC and CPUID faults, I/O flusher",
        "5.10",
        "those that the kernel has",
    ),
    SupportRow::partly(
        "syscall user dispatch",
        "6.4",
        "refused while the selector says that calls are caught: stillpoint's own would be",
    ),
    SupportRow::refused("thread and process keyrings (keyctl)", "nobody is given the keys of another"),
    SupportRow {
        what: "session keyrings, Landlock and other confinement by security modules",
        state: State::Outside,
        detail: "the kernel does not tell; restored tasks have those of whoever restores them",
        kernel: "",
        operations: &[],
    },
    SupportRow::refused("core scheduling cookies", "not yet"),
    SupportRow::saved(
        "descriptor tables (CLONE_FILES), working directories (CLONE_FS) shared by processes",
        "5.10",
        "with the process that made them; refused if a process outside the tree shares them",
    ),
    SupportRow::refused("memory or signal handlers shared by processes", "not yet"),
    SupportRow::refused("NUMA memory policies", "not yet"),
    SupportRow::refused("local descriptor tables, I/O port permissions, 32-bit tasks", "not yet"),
    SupportRow::refused("shadow stacks", "not yet"),
    SupportRow::refused("System V semaphore undo lists", "not yet"),
    SupportRow::refused("namespaces other than those a restore makes", "not yet"),
];

/// Everything of one process that its own state is made of.
#[derive(Debug)]
pub struct Captured {
    /// The process; ids of objects are not filled in.
    pub task: Task,
    /// Its threads, the leader first.
    pub threads: Vec<Thread>,
    /// Its signal actions.
    pub handlers: SignalHandlers,
    /// Attributes that belong to its memory.
    pub attributes: Option<ProcessAnswers>,
    /// Its umask.
    pub umask: u32,
    /// The kernel's vDSO, as it stands in the process.
    pub vdso: Vec<u8>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Saves a zombie: what its parent will read of it.
///
/// # Errors
///
/// When it was reaped meanwhile.
pub fn capture_zombie(task: &FrozenTask) -> Result<Captured> {
    let stat = stat::read(task.host_pid)?;
    if stat.exit_code & 0x80 != 0 {
        return Err(Error::new(Code::UnsupportedState, "saving a zombie")
            .in_task(&task.name)
            .cause("it ended with a core dump, and its parent would be told so; that cannot be made again")
            .remedy("let its parent reap it first")
            .into());
    }
    Ok(Captured {
        task: Task {
            zombie: true,
            exit_code: stat.exit_code.cast_unsigned(),
            credentials: Some(credentials::capture(&status::read(task.host_pid)?, 0)),
            ..base(task, &stat)
        },
        threads: Vec::new(),
        handlers: SignalHandlers::default(),
        attributes: None,
        umask: 0,
        vdso: Vec::new(),
        notes: Vec::new(),
    })
}

/// Saves a living process's own state.
///
/// # Errors
///
/// A refusal that names the state, or what the kernel answered.
pub fn capture(task: &mut FrozenTask, areas: &Areas, gadgets: &mut Gadgets) -> Result<Captured> {
    let name = task.name.clone();
    capture_alive(task, areas, gadgets).map_err(|error| Box::new((*error).in_task(&name)))
}

fn capture_alive(task: &mut FrozenTask, areas: &Areas, gadgets: &mut Gadgets) -> Result<Captured> {
    let pid = task.host_pid;
    let stat = stat::read(pid)?;
    let Settled { visit, statuses, pending, thread_pending, posix_timers } = settle(task, areas, gadgets)?;
    let mut threads = Vec::with_capacity(task.threads.len());
    let filters = seccomp::capture(task, &statuses)?;
    let state = statuses.iter().zip(&visit.threads).zip(thread_pending);
    for (thread, ((status, answers), pending)) in task.threads.iter().zip(state) {
        threads.push(capture_thread(task.pid, thread, status, answers, pending)?);
    }
    for (thread, (mode, chain)) in threads.iter_mut().zip(filters.threads) {
        (thread.seccomp, thread.seccomp_filters) = (mode, chain);
    }
    if let Some(leader) = threads.first_mut() {
        // Without CAP_SYS_RESOURCE it may not ask itself.
        let asked = visit.threads.first().and_then(|answers| answers.attributes.io_flusher);
        leader.io_flusher = asked.unwrap_or_else(|| attributes::flushes(stat.flags));
    }
    let notes = posix_timers::notes(&task.name, &posix_timers).collect();
    let umask = statuses.first().and_then(|status| status.umask);
    let all_pending = threads
        .iter()
        .fold(signals::pending_mask(&pending), |all, thread| all | signals::pending_mask(&thread.pending));
    let stop = job_control::capture(task, all_pending)?;
    Ok(Captured {
        task: Task {
            interval_timers: visit.interval_timers,
            posix_timers,
            limits: limits::record(&proc_limits::read(pid)?),
            pending,
            personality: personality::read(pid)?,
            oom_score_adj: oom_score_adj::read(pid)?,
            child_subreaper: visit.attributes.child_subreaper,
            settings: visit.attributes.settings.clone(),
            seccomp_filters: filters.filters,
            stop_signal: stop.map_or(0, |stop| stop.signal),
            stop_reported: stop.is_some_and(|stop| stop.reported),
            ..base(task, &stat)
        },
        threads,
        handlers: visit.handlers,
        attributes: Some(visit.attributes),
        umask: umask.unwrap_or(0o022),
        vdso: visit.vdso,
        notes,
    })
}

/// What was read of a process at one moment, as far as its timers go.
struct Settled {
    visit: visit::Visit,
    statuses: Vec<status::Status>,
    pending: Vec<PendingSignal>,
    /// Of each thread.
    thread_pending: Vec<Vec<PendingSignal>>,
    posix_timers: Vec<PosixTimer>,
}

/// Signals of interval timers: SIGALRM, SIGVTALRM, SIGPROF.
const TIMER_SIGNALS: u64 = 1 << (libc::SIGALRM - 1) | 1 << (libc::SIGVTALRM - 1) | 1 << (libc::SIGPROF - 1);

/// Visits a process until none of its timers fired between the reading of the timers and that of the pending signals:
/// else an expiry would be saved twice or not at all. A timer whose signal is pending already can fire no further.
fn settle(task: &mut FrozenTask, areas: &Areas, gadgets: &mut Gadgets) -> Result<Settled> {
    let pid = task.host_pid;
    for thread in &mut task.threads {
        restart::identify(thread)?;
    }
    let mut tries = 0;
    loop {
        let mut statuses = Vec::with_capacity(task.threads.len());
        for thread in &task.threads {
            let status = status::read_thread(pid, thread.host_tid)?;
            refuse_thread(&task.name, thread, &status)?;
            statuses.push(status);
        }
        seccomp::suspend(task, &statuses)?;
        let timers = proc_timers::read(pid)?;
        let before = statuses.first().map_or(0, |status| status.shd_pnd);
        let sent = if timers.is_empty() { Vec::new() } else { senders(&all_pending(task)?) };
        let from_ns = clocks::read().realtime;
        let visit = visit::visit(task, areas, gadgets, &statuses, &timers)?;
        let asked = posix_timers::Asked { from_ns, until_ns: clocks::read().realtime };
        let pendings = all_pending(task)?;
        tries += 1;
        let fired = signals::pending_mask(&pendings.0) & !before & TIMER_SIGNALS != 0
            || !timers.is_empty() && sent != senders(&pendings);
        if !fired {
            let (mut pending, mut thread_pending) = pendings;
            let mut posix_timers = posix_timers::record(task, &timers, &visit.posix_timers, asked)?;
            let discards = posix_timers::discards_stale_signals(&boot::read()?.release);
            let lists = thread_pending.iter_mut().chain([&mut pending]);
            posix_timers::match_pending(&mut posix_timers, lists, discards);
            return Ok(Settled { visit, statuses, pending, thread_pending, posix_timers });
        }
        if tries > 8 {
            return Err(Error::new(Code::UnsupportedState, "saving timers")
                .cause("they fire faster than they can be read")
                .into());
        }
    }
}

/// Signals pending for a process, and for each of its threads.
type Pending = (Vec<PendingSignal>, Vec<Vec<PendingSignal>>);

fn senders((shared, private): &Pending) -> Vec<u32> {
    posix_timers::senders(private.iter().chain([shared]))
}

fn all_pending(task: &FrozenTask) -> Result<Pending> {
    let pid = task.host_pid;
    let leader = task.threads.first().ok_or_else(|| Error::new(Code::NoSuchTask, "saving a task"))?;
    let shared = pending(leader.stopped()?, true, &task.name, || Ok(status::read(pid)?.shd_pnd))?;
    let mut private = Vec::with_capacity(task.threads.len());
    for thread in &task.threads {
        let name = TaskName { pid: task.pid, tid: Some(thread.tid), name: String::new() };
        let mask = || Ok(status::read_thread(pid, thread.host_tid)?.sig_pnd);
        private.push(pending(thread.stopped()?, false, &name, mask)?);
    }
    Ok((shared, private))
}

/// The pending signals with their siginfo: all of them, or a refusal. A legacy signal may be pending without a
/// siginfo, when its user's queue was full; the mask tells.
fn pending(
    stopped: &stillpoint_sys::ptrace::Stopped,
    shared: bool,
    name: &TaskName,
    mask: impl Fn() -> Result<u64>,
) -> Result<Vec<PendingSignal>> {
    let mut tries = 0;
    loop {
        let listed = signals::pending(&stopped.pending(shared)?);
        let (have, want) = (signals::pending_mask(&listed), mask()?);
        tries += 1;
        if have == want {
            return Ok(listed);
        }
        // Another may have come between the two readings.
        if tries > 8 {
            return Err(Error::new(Code::UnsupportedState, "saving pending signals")
                .in_task(name)
                .cause(format!(
                    "the kernel lists {have:#x} of the pending signals {want:#x} with their siginfo"
                ))
                .remedy("raise RLIMIT_SIGPENDING, or try again when they have been delivered")
                .into());
        }
    }
}

fn base(task: &FrozenTask, stat: &stat::Stat) -> Task {
    Task {
        pid: task.pid,
        exit_signal: stat.exit_signal.unsigned_abs(),
        name: stat.comm.clone(),
        terminal_device: stat.tty_nr.cast_unsigned(),
        ..Task::default()
    }
}

fn capture_thread(
    pid: u32,
    thread: &FrozenThread,
    status: &status::Status,
    answers: &visit::ThreadAnswers,
    pending: Vec<PendingSignal>,
) -> Result<Thread> {
    let stopped = thread.stopped()?;
    let registers = restart::recorded(thread);
    Ok(Thread {
        pid,
        tid: thread.tid,
        registers: registers.to_bytes(),
        extended: stopped.extended()?,
        signal_mask: thread.mask,
        alt_stack: Some(answers.alt_stack),
        pending,
        rseq: answers.rseq.as_ref().map(rseq::record),
        robust_list: futex::capture(thread.host_tid)?,
        clear_child_tid: answers.attributes.clear_child_tid,
        name: status.name.clone(),
        scheduling: Some(scheduling::capture(thread.host_tid)?),
        credentials: Some(credentials::capture(status, answers.attributes.secure_bits)),
        parent_death_signal: answers.attributes.parent_death_signal,
        timer_slack_ns: answers.attributes.timer_slack_ns,
        restart: restart::capture(thread.host_tid, &registers)?,
        settings: answers.attributes.settings.clone(),
        tsc_faults: answers.attributes.tsc_faults,
        io_flusher: answers.attributes.io_flusher.unwrap_or(false),
        syscall_dispatch: dispatch::capture(thread)?,
        ..Thread::default()
    })
}

fn refuse_thread(name: &TaskName, thread: &FrozenThread, status: &status::Status) -> Result<()> {
    let refused = |what: &str, cause: String| {
        let name = TaskName { tid: Some(thread.host_tid), ..name.clone() };
        Err(Error::new(Code::UnsupportedState, "saving a thread")
            .in_task(&name)
            .object(what)
            .cause(cause)
            .into())
    };
    if !thread.registers.is_native() {
        return refused("a 32-bit task", "only 64-bit tasks are supported yet".into());
    }
    if status.x86_thread_features.as_ref().is_some_and(|features| !features.is_empty()) {
        return refused("a shadow stack", "not supported yet".into());
    }
    if let Some(unknown) = status.unknown.first() {
        let error = Error::new(Code::Unknown, "reading a thread's status").in_task(name);
        return Err(error
            .object(format!("line {} of /proc/{}/status", unknown.escape_ascii(), thread.host_tid))
            .cause("this version does not know what it means")
            .remedy("a newer stillpoint may know it")
            .into());
    }
    dispatch::refuse_caught(name, thread)?;
    if arch::io_permissions(&thread.registers) || thread.stopped()?.io_bitmap()? {
        return refused("I/O port permissions", "not supported yet".into());
    }
    Ok(())
}

/// Whether a state row says that it is saved; used by the matrix.
#[must_use]
pub fn is_saved(row: &SupportRow) -> bool {
    row.state == State::Saved
}
