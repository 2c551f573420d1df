//! Finding and stopping every thread of a tree.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use stillpoint_sys::proc::{stat, status, tasks};
use stillpoint_sys::ptrace::{self, Event, Running, Stop, Stopped, Until, options};
use stillpoint_sys::{Pid, task};

use super::vfork::{self, Released};
use super::{FrozenTask, FrozenThread, FrozenTree};
use crate::task::restart;
use crate::{Code, Error, Observer, Result, TaskName};

/// How long a task may take to stop. One in an uninterruptible wait (a dead NFS server, a vfork whose child does
/// not exec) never does.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the tasks that still run are looked at before the first pause.
const YIELDS: u32 = 50;

/// What a tree is traced with.
pub(crate) const OPTIONS: u64 = options::SYSCALL_GOOD | options::NEW_TASKS | options::EXEC;

/// Stops every thread of the tree under `root`.
///
/// # Errors
///
/// With the tree running on unharmed: no such task, not permitted, traced by another, or it would not stop.
pub fn freeze(root: Pid, observer: &dyn Observer) -> Result<FrozenTree> {
    let mut freezer = Freezer::new(root)?;
    match freezer.run(observer) {
        Ok(()) => freezer.into_tree(),
        Err(error) => {
            freezer.abandon();
            Err(error)
        }
    }
}

/// A process while it is being stopped.
struct Process {
    order: usize,
    zombie: bool,
    threads: BTreeMap<Pid, Held>,
}

enum Held {
    Running(Running),
    Stopped(Stopped),
}

struct Freezer {
    root: Pid,
    since: Instant,
    deadline: Instant,
    processes: BTreeMap<Pid, Process>,
    /// Threads that the kernel attached to at birth.
    born: BTreeSet<Pid>,
    /// Processes that the last walk has met.
    visited: BTreeSet<Pid>,
    /// Children that run on because their parents cannot be stopped before.
    released: Released,
    /// Parents and their children by a scan of `/proc`, of this walk: made where the kernel has no `children` files.
    scanned: Option<BTreeMap<Pid, Vec<Pid>>>,
    changed: bool,
}

impl Freezer {
    fn new(root: Pid) -> Result<Self> {
        refuse_own_tree(root)?;
        let now = Instant::now();
        Ok(Freezer {
            root,
            since: now,
            deadline: now + PATIENCE,
            processes: BTreeMap::new(),
            born: BTreeSet::new(),
            visited: BTreeSet::new(),
            released: Released::default(),
            scanned: None,
            changed: false,
        })
    }

    fn run(&mut self, observer: &dyn Observer) -> Result<()> {
        loop {
            self.changed = false;
            self.scanned = None;
            self.visited.clear();
            self.walk(self.root)?;
            self.let_strays_go();
            self.settle(observer)?;
            if !self.changed {
                return Ok(());
            }
            if Instant::now() > self.deadline {
                return Err(would_not_stop(self.root).into());
            }
        }
    }

    /// Attaches to every thread of a process and of its descendants that is not attached to yet.
    fn walk(&mut self, pid: Pid) -> Result<()> {
        self.visited.insert(pid);
        let tids = self.attach_threads(pid)?;
        if self.processes.get(&pid).is_none_or(|process| process.zombie) {
            return Ok(());
        }
        for child in self.children(pid, &tids)? {
            self.walk(child)?;
        }
        Ok(())
    }

    /// The children of a process, of all its threads. What is missed because something ends meanwhile is found by the
    /// next walk: there is one after each in which anything was new or is gone.
    fn children(&mut self, pid: Pid, tids: &[Pid]) -> Result<Vec<Pid>> {
        let mut children = Vec::new();
        for &tid in tids {
            if self.scanned.is_some() {
                break;
            }
            match tasks::children_of_thread(pid, tid) {
                Ok(Some(found)) => children.extend(found),
                Ok(None) => self.scan()?,
                Err(error) if vanished(&error) => self.changed = true,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(scanned) = &self.scanned {
            children = scanned.get(&pid).cloned().unwrap_or_default();
        }
        Ok(children)
    }

    fn scan(&mut self) -> Result<()> {
        let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
        for (child, parent) in tasks::parents()? {
            children.entry(parent).or_default().push(child);
        }
        self.scanned = Some(children);
        Ok(())
    }

    /// Returns the threads that were there.
    fn attach_threads(&mut self, pid: Pid) -> Result<Vec<Pid>> {
        let tids = match tasks::threads(pid) {
            Ok(tids) => tids,
            Err(error) if vanished(&error) => return self.lost(pid).map(|()| Vec::new()),
            Err(error) => return Err(error.into()),
        };
        if !self.processes.contains_key(&pid) {
            self.changed = true;
            let order = self.processes.len();
            self.processes.insert(pid, Process { order, zombie: false, threads: BTreeMap::new() });
        }
        for &tid in &tids {
            if self.processes.get(&pid).is_some_and(|p| p.zombie || p.threads.contains_key(&tid)) {
                continue;
            }
            match self.attach(tid, pid, tids.len())? {
                Attached::Thread(running) => {
                    self.changed = true;
                    if let Some(process) = self.processes.get_mut(&pid) {
                        process.threads.insert(tid, Held::Running(running));
                    }
                }
                Attached::Zombie => {
                    self.changed = true;
                    if let Some(process) = self.processes.get_mut(&pid) {
                        process.zombie = true;
                    }
                }
                Attached::Vanished => self.changed = true,
            }
        }
        Ok(tids)
    }

    fn attach(&mut self, tid: Pid, pid: Pid, threads: usize) -> Result<Attached> {
        let error = match ptrace::seize(tid, OPTIONS) {
            Ok(running) => {
                return match running.interrupt() {
                    Ok(()) => Ok(Attached::Thread(running)),
                    Err(error) if vanished(&error) => Ok(Attached::Vanished),
                    Err(error) => Err(error.into()),
                };
            }
            Err(error) => error,
        };
        if self.born.contains(&tid) {
            return Ok(Attached::Thread(Running::born(tid)));
        }
        let status = match status::read_thread(pid, tid) {
            Ok(status) => status,
            Err(error) if vanished(&error) => return Ok(Attached::Vanished),
            Err(error) => return Err(error.into()),
        };
        // The walk may meet a new task before its creator's event is read.
        if status.tracer_pid != 0 && status.tracer_pid == own_tid() {
            return Ok(Attached::Thread(Running::born(tid)));
        }
        match status.state {
            b'Z' | b'X' if tid == pid && threads > 1 => match first_thread(pid) {
                First::EndedAlone => Err(ended_alone(pid)),
                First::EndedWithAll | First::Runs => Ok(Attached::Vanished),
            },
            b'Z' if tid == pid => Ok(Attached::Zombie),
            b'Z' | b'X' => Ok(Attached::Vanished),
            _ if status.tracer_pid != 0 => Err(refusal(pid, Code::UnsupportedState)
                .cause(format!("it is traced by process {}", status.tracer_pid))
                .remedy("detach the debugger or tracer first")
                .into()),
            _ => Err(not_permitted(pid, &error)),
        }
    }

    /// A process that was there a moment ago is gone.
    fn lost(&mut self, pid: Pid) -> Result<()> {
        if pid == self.root {
            return Err(no_such_task(pid).into());
        }
        self.changed = true;
        self.processes.remove(&pid);
        Ok(())
    }

    /// Waits until every known thread is stopped or gone.
    fn settle(&mut self, observer: &dyn Observer) -> Result<()> {
        let mut pause = Duration::from_micros(20);
        let mut patient = 0;
        loop {
            let mut waiting = None;
            let mut progress = false;
            let pids: Vec<Pid> = self.processes.keys().copied().collect();
            for pid in pids {
                let Some(process) = self.processes.get_mut(&pid) else { continue };
                let running: Vec<Pid> = process
                    .threads
                    .iter()
                    .filter(|(_, held)| matches!(held, Held::Running(_)))
                    .map(|(&tid, _)| tid)
                    .collect();
                for tid in running {
                    let Some(Held::Running(thread)) =
                        self.processes.get_mut(&pid).and_then(|p| p.threads.remove(&tid))
                    else {
                        continue;
                    };
                    match self.step(pid, thread)? {
                        Step::Waits(thread) => {
                            waiting = Some(pid);
                            self.put(pid, tid, Held::Running(thread));
                        }
                        Step::Moved(thread) => {
                            progress = true;
                            waiting = Some(pid);
                            self.put(pid, tid, Held::Running(thread));
                        }
                        Step::Stopped(thread) => {
                            progress = true;
                            self.put(pid, tid, Held::Stopped(thread));
                            self.end_wait(tid)?;
                        }
                        Step::Gone => {
                            progress = true;
                            self.changed = true;
                            self.end_wait(tid)?;
                        }
                    }
                }
            }
            let Some(pid) = waiting else { break };
            if observer.interrupted() {
                return Err(Error::new(Code::Interrupted, "freezing the tree")
                    .cause("interrupted by a signal")
                    .into());
            }
            if Instant::now() > self.deadline {
                return Err(would_not_stop(pid).into());
            }
            if progress {
                pause = Duration::from_micros(20);
                patient = 0;
            } else if patient < YIELDS {
                // A task that waits stops within a few microseconds of its being woken, on another processor; to sleep
                // takes longer than that, whatever is asked for.
                patient += 1;
                std::thread::yield_now();
            } else {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(2));
                if pause == Duration::from_millis(2) {
                    self.look_for_ended(pid)?;
                    self.look_for_vforks()?;
                }
            }
        }
        // A process whose threads are all gone is a zombie now, or reaped; the next walk tells.
        self.processes.retain(|_, process| process.zombie || !process.threads.is_empty());
        match self.processes.get(&self.root) {
            Some(root) if !root.zombie => Ok(()),
            _ => Err(no_such_task(self.root).into()),
        }
    }

    /// The end of a process's first thread is not reported before its other threads are reaped. If all have been killed,
    /// those that were stopped already are waited for once more; if others run on, it never comes.
    fn look_for_ended(&mut self, pid: Pid) -> Result<()> {
        match first_thread(pid) {
            First::Runs => return Ok(()),
            First::EndedAlone => return Err(ended_alone(pid)),
            First::EndedWithAll => {}
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            for (&tid, held) in &mut process.threads {
                *held = Held::Running(Running::born(tid));
            }
        }
        Ok(())
    }

    /// Lets children run on for which a thread waits that would not stop before.
    fn look_for_vforks(&mut self) -> Result<()> {
        let running = |process: &Process| -> Vec<Pid> {
            let held = process.threads.iter().filter(|(_, held)| matches!(held, Held::Running(_)));
            held.map(|(&tid, _)| tid).collect()
        };
        let waiting: Vec<(Pid, Pid)> = self
            .processes
            .iter()
            .flat_map(|(&pid, process)| running(process).into_iter().map(move |tid| (pid, tid)))
            .collect();
        for (pid, tid) in waiting {
            let Some(child) = vfork::awaited(pid, tid, self.processes.keys().copied()) else { continue };
            if !self.released.add(child) {
                continue;
            }
            if let Some(process) = self.processes.get_mut(&child.pid) {
                for held in process.threads.values_mut() {
                    let_run(held)?;
                }
            }
        }
        match self.released.late() {
            Some(child) => Err(still_shares(child).into()),
            None => Ok(()),
        }
    }

    /// A thread has stopped or is gone: if it was waiting for a child, that is stopped as well.
    fn end_wait(&mut self, thread: Pid) -> Result<()> {
        let Some(child) = self.released.over(thread) else { return Ok(()) };
        self.changed = true;
        let threads = self.processes.get(&child).map(|process| &process.threads);
        for held in threads.into_iter().flat_map(BTreeMap::values) {
            if let Held::Running(running) = held {
                match running.interrupt() {
                    Err(error) if !vanished(&error) => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, pid: Pid, tid: Pid, held: Held) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.insert(tid, held);
        }
    }

    /// Looks at one running thread.
    fn step(&mut self, pid: Pid, thread: Running) -> Result<Step> {
        let stopped = match thread.poll() {
            Ok(Err(running)) => return Ok(Step::Waits(running)),
            Ok(Ok(Event::Gone(_))) => return Ok(Step::Gone),
            Ok(Ok(Event::Stopped(stopped))) => stopped,
            Err(error) if error.errno() == Some(libc::ECHILD) => return Ok(Step::Gone),
            Err(error) => return Err(error.into()),
        };
        // Any stop clears the request to stop, so it is made anew. A signal is delivered, not held back: the
        // frame of its handler, or the end of the task, is part of the state then.
        let runs_on = self.released.runs(pid);
        let signal = match stopped.why() {
            // An earlier request.
            Stop::Interrupt if runs_on => 0,
            Stop::Interrupt | Stop::Group(_) => return Ok(Step::Stopped(stopped)),
            Stop::Signal(signal) => signal,
            Stop::NewTask => {
                self.born.insert(stopped.new_task()?);
                self.changed = true;
                0
            }
            Stop::Exec => {
                self.changed = true;
                0
            }
            Stop::Syscall => 0,
        };
        let resumed = stopped.resume(Until::Stop, signal).and_then(|running| {
            if !runs_on {
                running.interrupt()?;
            }
            Ok(running)
        });
        match resumed {
            Ok(running) => Ok(Step::Moved(running)),
            Err(error) if vanished(&error) => Ok(Step::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets go of processes that are no part of the tree any more: reaped, or children of one that has ended.
    fn let_strays_go(&mut self) {
        let strays: Vec<Pid> =
            self.processes.keys().filter(|pid| !self.visited.contains(pid)).copied().collect();
        for pid in strays {
            self.changed = true;
            let threads = self.processes.remove(&pid).map(|process| process.threads).unwrap_or_default();
            let_all_go(threads.into_values().collect());
        }
    }

    /// Lets everything go after a failure. Threads that still run get the stop that was asked for, and are let
    /// go of then; what does not stop in time is let go of when this process ends.
    fn abandon(self) {
        let_all_go(self.processes.into_values().flat_map(|p| p.threads.into_values()).collect());
    }

    fn into_tree(self) -> Result<FrozenTree> {
        let mut processes: Vec<(Pid, Process)> = self.processes.into_iter().collect();
        processes.sort_by_key(|(_, process)| process.order);
        let mut tasks = Vec::with_capacity(processes.len());
        let mut failure = None;
        for (pid, process) in processes {
            match frozen_task(pid, process) {
                Ok(task) => tasks.push(task),
                Err((error, threads)) => {
                    // Whatever failed, it did so because the task was killed meanwhile.
                    let killed = !matches!(first_thread(pid), First::Runs);
                    failure.get_or_insert(if killed { Box::new(no_such_task(pid)) } else { error });
                    let_all_go(threads);
                }
            }
        }
        let tree = FrozenTree { tasks, since: self.since };
        match failure {
            None => Ok(tree),
            Some(error) => {
                tree.release()?;
                Err(error)
            }
        }
    }
}

enum Attached {
    Thread(Running),
    Zombie,
    Vanished,
}

enum Step {
    Waits(Running),
    Moved(Running),
    Stopped(Stopped),
    Gone,
}

/// Resumes a stopped thread.
fn let_run(held: &mut Held) -> Result<()> {
    let Held::Stopped(stopped) = held else { return Ok(()) };
    let tid = stopped.tid();
    let Held::Stopped(stopped) = std::mem::replace(held, Held::Running(Running::born(tid))) else {
        return Ok(());
    };
    match stopped.resume(Until::Stop, 0) {
        Ok(running) => *held = Held::Running(running),
        Err(error) if vanished(&error) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Detaches threads, those that still run when they stop. What does not stop in time is let go of when this process
/// ends.
fn let_all_go(mut left: Vec<Held>) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while !left.is_empty() && Instant::now() < deadline {
        left = left.into_iter().filter_map(let_go).collect();
        if !left.is_empty() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Detaches a stopped thread; gives back one that still runs.
fn let_go(held: Held) -> Option<Held> {
    match held {
        Held::Stopped(stopped) => {
            let signal = match stopped.why() {
                Stop::Signal(signal) => signal,
                _ => 0,
            };
            // It fails only when the thread was killed meanwhile.
            drop(stopped.detach(signal));
            None
        }
        Held::Running(running) => match running.poll() {
            Ok(Err(running)) => Some(Held::Running(running)),
            Ok(Ok(Event::Stopped(stopped))) => let_go(Held::Stopped(stopped)),
            Ok(Ok(Event::Gone(_))) | Err(_) => None,
        },
    }
}

type Unusable = (Box<Error>, Vec<Held>);

fn frozen_task(pid: Pid, process: Process) -> std::result::Result<FrozenTask, Unusable> {
    let keep = |error: Box<Error>| error;
    let (status, pidfd) = match status::read(pid).and_then(|s| Ok((s, task::pidfd(pid)?))) {
        Ok(both) => both,
        Err(error) => return Err((keep(error.into()), process.threads.into_values().collect())),
    };
    let name = TaskName { pid, tid: None, name: status.name.escape_ascii().to_string() };
    let mut threads = Vec::with_capacity(process.threads.len());
    let mut failure = None;
    for (tid, held) in process.threads {
        let Held::Stopped(stopped) = held else { continue };
        match frozen_thread(pid, tid, &stopped, status.ns_tgid.len() > 1) {
            Ok((tid_inside, seen, mask)) => {
                // A call that job control has made fail is to be seen to fail.
                let registers = match stopped.why() {
                    Stop::Group(_) => seen,
                    _ => restart::unnoticed(seen),
                };
                threads.push(FrozenThread {
                    host_tid: tid,
                    tid: tid_inside,
                    stopped: Some(stopped),
                    registers,
                    mask,
                    continues: None,
                    disturbed: registers != seen,
                })
            }
            Err(error) => {
                failure.get_or_insert(error);
                let_all_go(vec![Held::Stopped(stopped)]);
            }
        }
    }
    if let Some(error) = failure {
        let held = threads.into_iter().filter_map(|t| t.stopped).map(Held::Stopped).collect();
        return Err((Box::new((*error).in_task(&name)), held));
    }
    threads.sort_by_key(|thread| (thread.host_tid != pid, thread.tid));
    let inside = status.ns_tgid.last().copied().unwrap_or(pid);
    Ok(FrozenTask { host_pid: pid, pid: inside, name, pidfd, zombie: process.zombie, threads })
}

/// `nested`: it is in a pid namespace other than ours, where it has another id.
fn frozen_thread(
    pid: Pid,
    tid: Pid,
    stopped: &Stopped,
    nested: bool,
) -> Result<(u32, stillpoint_sys::arch::Registers, u64)> {
    let inside =
        if nested { status::read_thread(pid, tid)?.ns_pid.last().copied().unwrap_or(tid) } else { tid };
    Ok((inside, stopped.registers()?, stopped.signal_mask()?))
}

/// What has become of a process's first thread.
enum First {
    Runs,
    EndedAlone,
    EndedWithAll,
}

fn first_thread(pid: Pid) -> First {
    // The threads of a process that is killed do not end at the same moment.
    for _ in 0..20 {
        let ended = |tid: Pid| {
            status::read_thread(pid, tid).map_or(true, |status| matches!(status.state, b'Z' | b'X'))
        };
        if !ended(pid) {
            return First::Runs;
        }
        if tasks::threads(pid).unwrap_or_default().into_iter().all(ended) {
            return First::EndedWithAll;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    First::EndedAlone
}

fn ended_alone(pid: Pid) -> Box<Error> {
    refusal(pid, Code::UnsupportedState)
        .cause("its first thread has ended while others run on")
        .remedy("end the process, or wait for a version that supports this")
        .into()
}

/// A tool that freezes itself or its parent would wait for ever.
fn refuse_own_tree(root: Pid) -> Result<()> {
    let mut pid = std::process::id();
    while pid > 1 {
        if pid == root {
            return Err(Error::new(Code::Usage, format!("freezing the tree of {root}"))
                .cause("stillpoint itself is in that tree")
                .remedy("run it from outside, for instance with setsid(1) from another shell")
                .into());
        }
        pid = stat::read(pid)?.ppid;
    }
    Ok(())
}

fn own_tid() -> Pid {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

fn vanished(error: &stillpoint_sys::Error) -> bool {
    matches!(error.errno(), Some(libc::ESRCH | libc::ENOENT))
}

fn refusal(pid: Pid, code: Code) -> Error {
    Error::new(code, "freezing the tree").task(pid, name_of(pid))
}

fn name_of(pid: Pid) -> String {
    status::read(pid).map(|status| status.name.escape_ascii().to_string()).unwrap_or_default()
}

fn no_such_task(pid: Pid) -> Error {
    Error::new(Code::NoSuchTask, "freezing the tree")
        .task(pid, "")
        .cause("there is no such process, or it has ended")
}

fn not_permitted(pid: Pid, error: &stillpoint_sys::Error) -> Box<Error> {
    let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let remedy = if yama.trim().is_empty() || yama.trim() == "0" {
        "run stillpoint as the task's own user, or as root".to_owned()
    } else {
        format!(
            "Yama's ptrace_scope is {}, which limits tracing to descendants: run as root, or set \
             kernel.yama.ptrace_scope=0",
            yama.trim()
        )
    };
    let out = refusal(pid, Code::NotPermitted).cause(error.cause()).remedy(remedy);
    Box::new(if vanished(error) { no_such_task(pid) } else { out })
}

fn would_not_stop(pid: Pid) -> Error {
    let state = stat::read(pid).map(|stat| char::from(stat.state).to_string()).unwrap_or_default();
    refusal(pid, Code::WouldNotFreeze)
        .cause(format!("it did not stop within {} seconds (state {state})", PATIENCE.as_secs()))
        .remedy("it waits for a device or a file server; try again when that has ended")
}

fn still_shares(child: vfork::Child) -> Error {
    refusal(child.parent, Code::WouldNotFreeze)
        .object(format!("vfork child {} ({})", child.pid, name_of(child.pid)))
        .cause(format!(
            "thread {} waits for it, and it has neither executed a program nor ended within {} seconds",
            child.thread,
            vfork::PATIENCE.as_secs()
        ))
        .remedy("try again when it has")
}
