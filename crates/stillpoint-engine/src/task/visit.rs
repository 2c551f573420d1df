//! The visit to a frozen process: a program runs in each of its threads and asks what only they can.

use stillpoint_image::records::{AltStack, IntervalTimer, Setting, SignalHandlers};
use stillpoint_sys::proc::maps::Mapping;
use stillpoint_sys::proc::smaps;
use stillpoint_sys::proc::status::{self, Status};
use stillpoint_sys::proc::timers::Timer;
use stillpoint_sys::program::{
    self, AREA_HINT, CODE_SIZE, CallSite, Finished, Guard, Marker, Program, ProgramArea,
};
use stillpoint_sys::ptrace::{self, Rseq};
use stillpoint_sys::{RemoteAddr, vm};

use super::attributes::{Defaults, ProcessAnswers, ProcessAttributes, ThreadAttributes};
use super::signals::{Actions, AlternateStack};
use super::timers::IntervalTimers;
use super::way_back::{Gadgets, WayBack};
use super::{attributes, posix_timers, restart, rseq, settings};
use crate::freeze::{FrozenTask, FrozenThread};
use crate::memory::areas::Areas;
use crate::{Code, Error, Result};

/// What the visit learned of a process.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) handlers: SignalHandlers,
    pub(super) interval_timers: Vec<IntervalTimer>,
    pub(super) posix_timers: Vec<posix_timers::Answer>,
    pub(super) attributes: ProcessAnswers,
    pub(super) threads: Vec<ThreadAnswers>,
    pub(super) vdso: Vec<u8>,
}

/// What it learned of a thread.
#[derive(Debug)]
pub(super) struct ThreadAnswers {
    pub(super) alt_stack: AltStack,
    pub(super) attributes: attributes::ThreadAnswers,
    pub(super) rseq: Option<Rseq>,
}

/// Visits a process.
pub(super) fn visit(
    task: &mut FrozenTask,
    areas: &Areas,
    gadgets: &mut Gadgets,
    statuses: &[Status],
    timers: &[Timer],
) -> Result<Visit> {
    let pid = task.host_pid;
    let vdso = areas.vdso(task)?;
    let mut image = vec![0; usize::try_from(vdso.1 - vdso.0).unwrap_or(0)];
    vm::read(pid, RemoteAddr(vdso.0), &mut image)?;
    let mut sequences = Vec::with_capacity(task.threads.len());
    for thread in &mut task.threads {
        let sequence = rseq::capture(thread.stopped()?)?;
        if let Some(sequence) = &sequence {
            let mut registers = thread.registers;
            if rseq::leave_critical_section(thread.stopped()?, sequence, &mut registers)? {
                thread.registers = registers;
                thread.disturbed = true;
            }
        }
        sequences.push(sequence);
    }
    let programs: Vec<(Program, Questions)> = (0..task.threads.len())
        .map(|n| {
            let mut program = Program::new();
            let questions = Questions::ask(&mut program, n == 0, timers);
            (program, questions)
        })
        .collect();
    let maps: Vec<Mapping> = areas.maps().cloned().collect();
    let way = WayBack::lay(task, &maps, gadgets)?;
    let finished = run(task, way.site, &programs, statuses);
    // At once, not when they are let go of: the way back of the leader ends here.
    let undisturbed = undisturb(&mut task.threads);
    let cleared = way.clear(pid);
    let (finished, locks_future) = finished?;
    undisturbed?;
    cleared?;
    let mut threads = Vec::with_capacity(finished.len());
    let mut process = None;
    for (((_, questions), finished), rseq) in programs.iter().zip(&finished).zip(sequences) {
        questions.defaults.check(finished)?;
        if let Some(asked) = &questions.process {
            process = Some((
                asked.actions.answer(finished),
                asked.timers.answer(finished),
                asked.posix_timers.answer(finished),
                asked.attributes.answer(finished),
            ));
        }
        threads.push(ThreadAnswers {
            alt_stack: questions.alt_stack.answer(finished),
            attributes: questions.attributes.answer(finished),
            rseq,
        });
    }
    let (handlers, interval_timers, posix_timers, mut attributes) = process
        .ok_or_else(|| Error::new(Code::NoSuchTask, "visiting a task").cause("it has no thread left"))?;
    let future = locks_future.map(|value| Setting { number: settings::LOCK_FUTURE, value });
    attributes.settings.extend(future);
    Ok(Visit { handlers, interval_timers, posix_timers, attributes, threads, vdso: image })
}

struct Questions {
    alt_stack: AlternateStack,
    attributes: ThreadAttributes,
    defaults: Defaults,
    process: Option<ProcessQuestions>,
}

struct ProcessQuestions {
    actions: Actions,
    timers: IntervalTimers,
    posix_timers: posix_timers::Questions,
    attributes: ProcessAttributes,
}

impl Questions {
    fn ask(program: &mut Program, leader: bool, timers: &[Timer]) -> Self {
        Questions {
            alt_stack: AlternateStack::ask(program),
            attributes: ThreadAttributes::ask(program),
            defaults: Defaults::ask(program, leader),
            process: leader.then(|| ProcessQuestions {
                actions: Actions::ask(program),
                timers: IntervalTimers::ask(program),
                posix_timers: posix_timers::Questions::ask(program, timers),
                attributes: ProcessAttributes::ask(program),
            }),
        }
    }
}

/// Maps a program area, runs one program per thread, all at once, and unmaps the area whatever happened.
fn run(
    task: &mut FrozenTask,
    site: CallSite,
    programs: &[(Program, Questions)],
    statuses: &[Status],
) -> Result<(Vec<Finished>, Option<u64>)> {
    let largest = programs.iter().map(|(program, _)| program.size()).max().unwrap_or(0);
    let slots = u32::try_from(programs.len()).unwrap_or(u32::MAX);
    let mut guard = 0;
    for thread in &task.threads {
        guard = guard.max(Guard::size(thread.stopped()?.extended()?.len()));
    }
    let slot_size = (largest + guard).next_multiple_of(64);
    let mut area = ProgramArea { start: RemoteAddr(0), slot_size, slots };
    let size = area.size().next_multiple_of(CODE_SIZE);
    let pid = task.host_pid;
    let mapped = map_area(task, site, size, READ_WRITE | libc::PROT_EXEC, None);
    // Memory that may be written may not be executed: PR_SET_MDWE, and SELinux's execmem.
    let apart = mapped.as_ref().is_err_and(|error| error.code == Code::NotPermitted);
    let address = if apart { map_area_apart(task, site, size)? } else { mapped? };
    area.start = RemoteAddr(address.cast_unsigned());
    let outcome = install(task, &area, apart).and_then(|()| run_in(task, &area, programs, statuses));
    // A thread that a failure has lost is still somewhere in the area.
    for thread in task.threads.iter_mut().filter(|thread| thread.stopped.is_none()) {
        thread.stopped = ptrace::regain(thread.host_tid)?;
    }
    // They have to be home before the area is gone; the leader has its way back.
    let home = undisturb(task.threads.get_mut(1..).unwrap_or_default());
    let future = match &outcome {
        Ok(_) => locks_new_areas(pid, statuses, area.start, size),
        Err(_) => Ok(None),
    };
    let unmapped = leader_call(
        task,
        site,
        "unmapping the program area",
        libc::SYS_munmap,
        [area.start.0, size, 0, 0, 0, 0],
    );
    let finished = outcome?;
    unmapped?;
    home?;
    Ok((finished, future?))
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Maps memory for a program area, or for a part of it, at a place.
fn map_area(
    task: &mut FrozenTask,
    site: CallSite,
    size: u64,
    protection: i32,
    place: Option<u64>,
) -> Result<i64> {
    let fixed = if place.is_some() { libc::MAP_FIXED } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    let arguments = [
        place.unwrap_or(AREA_HINT.0),
        size,
        protection.unsigned_abs().into(),
        flags.unsigned_abs().into(),
        u64::MAX,
        0,
    ];
    leader_call(task, site, "mapping a program area", libc::SYS_mmap, arguments)
}

/// Maps a program area whose first page is executable and not writable, and the others the other way round.
fn map_area_apart(task: &mut FrozenTask, site: CallSite, size: u64) -> Result<i64> {
    for thread in task.threads.iter_mut().filter(|thread| thread.stopped.is_none()) {
        thread.stopped = ptrace::regain(thread.host_tid)?;
    }
    let start = map_area(task, site, size, READ_WRITE, None)?;
    let code = libc::PROT_READ | libc::PROT_EXEC;
    map_area(task, site, CODE_SIZE, code, Some(start.cast_unsigned()))
}

fn install(task: &FrozenTask, area: &ProgramArea, apart: bool) -> Result<()> {
    if !apart {
        return Ok(area.install(task.host_pid)?);
    }
    let leader = task.threads.first().ok_or_else(|| Error::new(Code::NoSuchTask, "visiting a task"))?;
    Ok(area.install_read_only(leader.stopped()?)?)
}

fn run_in(
    task: &mut FrozenTask,
    area: &ProgramArea,
    programs: &[(Program, Questions)],
    statuses: &[Status],
) -> Result<Vec<Finished>> {
    let pid = task.pid;
    let mut started = Vec::with_capacity(programs.len());
    let mut failure: Option<Box<Error>> = None;
    for (slot, ((thread, (program, _)), status)) in
        (0u32..).zip(task.threads.iter_mut().zip(programs).zip(statuses))
    {
        let marker = match marker(pid, thread.tid, status) {
            Ok(marker) => marker,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        let guard = Guard { registers: restart::recorded(thread), mask: thread.mask };
        let start = |stopped| Ok(program::start(program, stopped, area, slot, marker, Some(&guard))?);
        match thread.take().and_then(start) {
            Ok(running) => started.push(running),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let mut finished = Vec::with_capacity(started.len());
    for (thread, running) in task.threads.iter_mut().zip(started) {
        match running.finish(|_| {}) {
            Ok((stopped, answers)) => {
                thread.stopped = Some(stopped);
                finished.push(answers);
            }
            Err(error) => {
                failure.get_or_insert_with(|| error.into());
            }
        }
    }
    match failure {
        None => Ok(finished),
        Some(error) => Err(error),
    }
}

fn undisturb(threads: &mut [FrozenThread]) -> Result<()> {
    let all: Vec<Result<()>> = threads.iter_mut().map(FrozenThread::undisturb).collect();
    all.into_iter().collect()
}

/// Whether new areas are locked, which no file of /proc tells but the program area does: the flags of mlockall(2).
fn locks_new_areas(pid: u32, statuses: &[Status], start: RemoteAddr, size: u64) -> Result<Option<u64>> {
    const MCL_ONFAULT: i32 = 4;
    let locked = |status: &Status| status.memory.as_ref().map_or(0, |memory| memory.locked);
    let before = statuses.first().map_or(0, locked);
    if locked(&status::read(pid)?).saturating_sub(before) < size {
        return Ok(None);
    }
    let areas = smaps::read(pid)?;
    let area = areas.iter().find(|area| area.map.start <= start.0 && start.0 < area.map.end);
    let on_fault = area.is_some_and(|area| area.vm_flags.iter().any(|flag| flag == b"lf"));
    let flags = libc::MCL_FUTURE | if on_fault { MCL_ONFAULT } else { 0 };
    Ok(Some(flags.unsigned_abs().into()))
}

/// Signals that do no harm when they reach a process that neither handles nor is traced: ignored by default.
const IGNORED_BY_DEFAULT: u64 = 1 << (libc::SIGURG - 1) | 1 << (libc::SIGWINCH - 1);

fn marker(pid: u32, tid: u32, status: &Status) -> Result<Marker> {
    let harmless = (status.sig_ign | IGNORED_BY_DEFAULT) & !status.sig_cgt;
    Marker::choose(pid, tid, status.sig_pnd | status.shd_pnd, harmless).ok_or_else(|| {
        Error::new(Code::UnsupportedState, "visiting a thread")
            .object(format!("thread {tid}"))
            .cause("every signal is pending for it")
            .into()
    })
}

fn leader_call(
    task: &mut FrozenTask,
    site: CallSite,
    what: &str,
    number: i64,
    arguments: [u64; 6],
) -> Result<i64> {
    let leader = task.threads.first_mut().ok_or_else(|| Error::new(Code::NoSuchTask, "visiting a task"))?;
    let (stopped, result) = program::single(leader.take()?, site, what, number, arguments)?;
    leader.stopped = Some(stopped);
    Ok(result)
}
