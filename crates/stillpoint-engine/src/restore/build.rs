//! Building: processes are made, told what to do, filled and, at the commit, let go of.
//!
//! Until the commit every task dies with the restoring process (PTRACE_O_EXITKILL), and dropping the builder kills
//! them all: a restore either resumes every task or leaves nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use stillpoint_image::records::{Backing, Credentials, Thread};
use stillpoint_image::{DataFrame, VerifiedImage};
use stillpoint_sys::arch::{self, Registers};
use stillpoint_sys::program::{self, CallSite, Marker, Program, ProgramArea};
use stillpoint_sys::ptrace::{self, Event, Running, Stopped, Until, options};
use stillpoint_sys::{Pid, RemoteAddr, clone, signal, task, vm};

use super::fill;
use super::inherit;
use super::parts::{self, Tools};
use super::sequence::{SLOT, Sequence};
use super::transfer::{self, Numbers};
use crate::kind::locks::{self, Locks};
use crate::kind::{Inode, Place, identity};
use crate::memory::PAGE;
use crate::memory::rebuild::{Filled, Staged, kernel_areas_start};
use crate::plan::holes::Occupied;
use crate::plan::model::Process;
use crate::plan::{Lineage, Model};
use crate::task::{dispatch, seccomp};
use crate::task::{restart, rseq, signals};
use crate::{Code, Error, Observer, Result, TaskName};

const OPTIONS: u64 = options::SYSCALL_GOOD | options::NEW_TASKS | options::EXIT_KILL;

/// A tree while it is built.
pub(super) struct Builder<'a> {
    pub(super) model: &'a Model,
    pub(super) lineage: &'a Lineage,
    pub(super) image: &'a VerifiedImage<File>,
    place: &'a Place,
    pub(super) area: ProgramArea,
    pub(super) staged: Staged,
    fills: HashMap<u64, Filled>,
    files: HashMap<u64, OwnedFd>,
    inodes: HashMap<u64, Inode>,
    /// The processes of the image, then leaders that have departed.
    pub(super) made: Vec<Made>,
    /// Bytes that processes were given before their children were born.
    pub(super) bequeathed: u64,
    /// Processes that do not inherit what they have in common with their parents, because brothers make them.
    pub(super) copied: BTreeSet<usize>,
}

/// A process that was made.
#[derive(Default)]
pub(super) struct Made {
    pub(super) host_pid: Pid,
    /// Threads, the leader first; a thread that runs a program is taken out.
    pub(super) threads: Vec<(Pid, Option<Stopped>)>,
}

impl<'a> Builder<'a> {
    /// Prepares: files are opened, room is found. Nothing is made yet.
    pub(super) fn new(
        model: &'a Model,
        lineage: &'a Lineage,
        image: &'a VerifiedImage<File>,
        place: &'a Place,
        files: HashMap<u64, OwnedFd>,
        inodes: HashMap<u64, Inode>,
    ) -> Result<Self> {
        let mut occupied = Occupied::default();
        for area in model.areas() {
            occupied.add(area.start, area.end);
        }
        for area in stillpoint_sys::proc::maps::read(std::process::id())? {
            occupied.add(area.start, area.end);
        }
        let slots = model.processes.iter().map(|process| process.threads.len()).max().unwrap_or(1);
        let mut area = ProgramArea {
            start: RemoteAddr(0),
            slot_size: SLOT,
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
        };
        area.start = occupied.place(area.size().next_multiple_of(PAGE)).ok_or_else(no_room)?;
        let mut staged = Staged::new();
        for (&object, &size) in &model.shared {
            staged.insert(object, occupied.place(size).ok_or_else(no_room)?);
        }
        let mut fills = parts::fills(image, model);
        let copied = inherit::made_by_brothers(model, lineage);
        inherit::add_copies(model, &copied, &mut fills);
        Ok(Builder {
            model,
            lineage,
            image,
            place,
            area,
            staged,
            fills,
            files,
            inodes,
            made: Vec::new(),
            bequeathed: 0,
            copied,
        })
    }

    /// Builds the whole tree, stopped. Returns the root's pid in the caller's pid namespace.
    pub(super) fn build(&mut self, observer: &mut dyn Observer) -> Result<Pid> {
        let mut numbers = Numbers::beside(self.model);
        let files = std::mem::take(&mut self.files);
        for (object, fd) in files {
            let fd = numbers.place(fd)?;
            self.files.insert(object, fd);
        }
        let tools = self.open_tools(&mut numbers)?;
        let locks = Locks::plan(self.model, self.place)?;
        locks.look_for_holders(&self.files)?;
        self.make_processes(&tools, observer)?;
        self.join_groups()?;
        for (n, _, body) in self.model.living() {
            interrupted(observer)?;
            let mut sequence = Sequence::new();
            let tools = tools_of(&tools, n)?.numbers();
            if !self.model.inheritance.is_parent(n) {
                self.memory(&mut sequence, n, body, &tools)?;
            }
            if self.model.is_first(n, |task| task.fs) {
                parts::fs_context(&mut sequence, body, &tools);
            }
            self.run_leader(n, sequence)?;
        }
        // Not before: what one moves is moved for all that share its table.
        for (n, _, body) in self.model.living() {
            let mut sequence = Sequence::new();
            if self.model.is_first(n, |task| task.descriptors) {
                transfer::move_descriptors(&mut sequence, &body.table, |id| {
                    self.files.get(&id).map(transfer::number)
                })?;
                // Not before: closing a descriptor of a file gives up the process's locks on it.
                locks.set(&mut sequence, n, &self.files);
            }
            self.run_leader(n, sequence)?;
            self.make_threads(n)?;
        }
        drop(tools);
        self.files.clear();
        self.inodes.values().try_for_each(Inode::seal)?;
        self.inodes.clear();
        self.set_outside_state()?;
        self.pid(0)
    }

    /// Writes memory from the image. Returns how many bytes, those included that children have inherited.
    pub(super) fn fill(&self, observer: &mut dyn Observer) -> Result<u64> {
        let mut owners: HashMap<u64, Pid> = HashMap::new();
        for (n, process, _) in self.model.living().filter(|(n, ..)| !self.model.inheritance.is_parent(*n)) {
            owners.insert(process.task.mm, self.pid(n)?);
        }
        let root = self.pid(0)?;
        let place = |frame: &'a DataFrame| match (owners.get(&frame.object), self.staged.get(&frame.object)) {
            (Some(&pid), _) => Some((frame, pid, 0)),
            (None, Some(at)) => Some((frame, root, at.0)),
            // Contents of pipes and deleted files went where they belong already.
            (None, None) => None,
        };
        let rest = fill::fill(self.image, &self.image.data().iter().filter_map(place).collect(), observer)?;
        Ok(self.bequeathed + rest + self.copy_common()?)
    }

    /// Everything after memory: protections, the state of threads and processes, zombies, credentials.
    pub(super) fn finish(&mut self, have: &Credentials) -> Result<()> {
        for (n, _, body) in self.model.living() {
            let mut sequence = Sequence::new();
            parts::protect(&mut sequence, body, self.filled(n), &self.staged, self.model);
            self.run_leader(n, sequence)?;
        }
        self.end_zombies(have)?;
        // Before the actions are set, which drops the SIGCHLDs of both.
        self.stop_processes()?;
        for (n, process, body) in self.model.living() {
            let mut leader = Sequence::new();
            parts::process_state(&mut leader, process, body)?;
            self.run_leader(n, leader)?;
            let sequences = process.threads.iter().enumerate().map(|(slot, thread)| {
                let mut sequence = Sequence::new();
                parts::thread_state(&mut sequence, thread, process)?;
                parts::identity(&mut sequence, thread, have, (slot == 0).then_some(body.mm.dumpable));
                Ok(sequence.into_programs())
            });
            let sequences: Result<Vec<_>> = sequences.collect();
            self.run_threads(n, &sequences?)?;
        }
        for (n, process, _) in self.model.living() {
            self.rebuild_restarts(n, &process.threads)?;
            self.remove_area(n)?;
            self.set_registers(n, &process.threads)?;
        }
        Ok(())
    }

    /// A group of the image, as the caller sees it: that of a member, for its leader may have ended.
    pub(super) fn group(&self, group: u32) -> Option<Pid> {
        let member = |process: &Process| group != 0 && process.task.process_group == group;
        let at = self.model.processes.iter().position(member)?;
        let pid = rustix::process::Pid::from_raw(self.made.get(at)?.host_pid.cast_signed());
        let group = rustix::process::getpgid(pid).ok()?;
        Some(group.as_raw_nonzero().get().unsigned_abs())
    }

    /// Sends a signal to each living process of a group of the image; it acts when they run.
    pub(super) fn signal_group(&self, group: u32, number: i32) {
        for (n, process, _) in self.model.living() {
            if process.task.process_group == group
                && let Ok(fd) = self.pid(n).and_then(|pid| Ok(task::pidfd(pid)?))
            {
                // One that was killed meanwhile needs no signal.
                drop(task::signal(fd.as_fd(), number));
            }
        }
    }

    pub(super) fn make_root(&self) -> Result<Stopped> {
        let id = self.model.processes.first().map_or(0, |root| root.task.pid);
        let size = self.area.size().next_multiple_of(PAGE);
        clone::map_here(self.area.start, size)?;
        // A key on the terminal reaches this process's whole group; the child must not stop for its signal before the
        // first program, which blocks them all as well.
        let mask = signal::set_mask(u64::MAX)?;
        let made = clone::paused_child(id);
        signal::set_mask(mask)?;
        clone::unmap_here(self.area.start, size);
        let pid = made.map_err(|error| id_error(error, id))?;
        let filters = self.model.living().any(|(_, process, _)| seccomp::is_used(process.threads.iter()));
        // Filters must not look at what is done in tasks, until they are let go of.
        let suspended = if filters { options::SUSPEND_SECCOMP } else { 0 };
        let running = ptrace::seize(pid, OPTIONS | suspended)?;
        running.interrupt()?;
        await_stop(running)
    }

    pub(super) fn clean_root(&mut self) -> Result<()> {
        let pid = self.pid(0)?;
        self.area.install(pid)?;
        let inherited = match self.made.first().and_then(|made| made.threads.first()) {
            Some((_, Some(stopped))) => stopped.rseq()?,
            _ => None,
        };
        let mut sequence = Sequence::new();
        parts::clean(&mut sequence, &self.area, inherited.as_ref().map(rseq::record).as_ref());
        self.run_leader(0, sequence).map(drop)
    }

    pub(super) fn adopt(&mut self, n: usize, stopped: Stopped) -> Result<()> {
        let made = self.made.get_mut(n).ok_or_else(|| lost(n))?;
        made.host_pid = stopped.tid();
        made.threads = vec![(stopped.tid(), Some(stopped))];
        Ok(())
    }

    fn make_threads(&mut self, n: usize) -> Result<()> {
        let mut sequence = Sequence::new();
        let threads = &self.process(n)?.threads;
        parts::threads(&mut sequence, threads);
        let born = self.run_leader(n, sequence)?;
        if born.len() + 1 != threads.len() {
            return Err(lost(n));
        }
        for tid in born {
            let stopped = await_birth(tid)?;
            self.made.get_mut(n).ok_or_else(|| lost(n))?.threads.push((tid, Some(stopped)));
        }
        Ok(())
    }

    /// Files below `/proc` that only the restoring process may write.
    fn set_outside_state(&self) -> Result<()> {
        let write = |pid: Pid, file: &str, text: String| -> Result<()> {
            let path = format!("/proc/{pid}/{file}");
            let same = std::fs::read_to_string(&path).is_ok_and(|have| have.trim() == text);
            if same {
                return Ok(());
            }
            std::fs::write(&path, &text).map_err(|error| {
                Error::new(Code::Failed, format!("setting {file} to {text}"))
                    .task(pid, "")
                    .cause(error)
                    .into()
            })
        };
        for (n, process, body) in self.model.living() {
            let pid = self.pid(n)?;
            write(pid, "oom_score_adj", process.task.oom_score_adj.to_string())?;
            write(pid, "coredump_filter", format!("{:08x}", body.mm.coredump_filter))?;
        }
        Ok(())
    }

    fn end_zombies(&mut self, have: &Credentials) -> Result<()> {
        for (n, process) in self.model.processes.iter().enumerate().filter(|(_, process)| process.task.zombie)
        {
            let program = parts::zombie(&process.task, have);
            self.end_by(n, &program, (process.task.exit_code & 0x7f).cast_signed())?;
        }
        Ok(())
    }

    /// Runs a program that ends a process, or after which a signal does.
    pub(super) fn end_by(&mut self, n: usize, program: &Program, signal: i32) -> Result<()> {
        let marker = self.marker(n, 0)?;
        let started = program::start(program, self.take(n, 0)?, &self.area, 0, marker, None)?;
        let ended = match started.finish(|_| {}) {
            // One that exits ends in the middle of its program.
            Err(stillpoint_sys::Error::Gone { .. }) if signal == 0 => true,
            Err(error) => return Err(self.in_task(n, error)),
            // A signal is delivered from a signal stop only: the marker has made one.
            Ok((stopped, _)) if signal != 0 => {
                stopped.set_signal_mask(0)?;
                matches!(stopped.resume(Until::Stop, signal)?.wait()?, Event::Gone(_))
            }
            Ok(_) => false,
        };
        if ended { Ok(()) } else { Err(lost(n)) }
    }

    /// Rebuilds what the kernel keeps of interrupted sleeps: the sleep is begun anew with the time that is left, and
    /// interrupted at once, which leaves the same restart block as before.
    fn rebuild_restarts(&mut self, n: usize, threads: &[Thread]) -> Result<()> {
        for (slot, thread) in threads.iter().enumerate() {
            let Some(rest) = thread.restart.filter(|restart| restart.sleep) else { continue };
            let Some(registers) = Registers::from_bytes(&thread.registers) else { continue };
            let slot_at = self.area.slot(u32::try_from(slot).unwrap_or(0));
            let time = [rest.remaining_ns / 1_000_000_000, rest.remaining_ns % 1_000_000_000];
            let bytes: Vec<u8> = time.iter().flat_map(|word| word.to_le_bytes()).collect();
            let pid = self.pid(n)?;
            vm::write(pid, slot_at, &bytes)?;
            let Some((number, arguments)) = restart::sleep_again(&registers, slot_at.0) else { continue };
            let instruction = self.instruction(n)?;
            let stopped = self.take(n, slot)?;
            let stopped =
                program::interrupted(stopped, instruction, "beginning a sleep anew", number, arguments)?;
            self.put(n, slot, stopped)?;
        }
        Ok(())
    }

    fn remove_area(&mut self, n: usize) -> Result<()> {
        let instruction = self.instruction(n)?;
        let size = self.area.size().next_multiple_of(PAGE);
        let stopped = self.take(n, 0)?;
        let arguments = [self.area.start.0, size, 0, 0, 0, 0];
        let site = CallSite { instruction, back: None };
        let (stopped, _) =
            program::single(stopped, site, "removing the program", libc::SYS_munmap, arguments)?;
        self.put(n, 0, stopped)
    }

    /// An instruction of the process's vDSO that enters the kernel.
    fn instruction(&self, n: usize) -> Result<RemoteAddr> {
        let body = self.process(n)?.body.as_ref().ok_or_else(|| lost(n))?;
        let start =
            body.mm.areas.iter().filter(|area| area.backing() == Backing::Vdso).map(|area| area.start).min();
        let vdso = &self.model.header.vdso;
        let at = vdso
            .windows(arch::SYSCALL_INSTRUCTION.len())
            .position(|bytes| bytes == arch::SYSCALL_INSTRUCTION);
        match (start.or(kernel_areas_start(&body.mm)), at) {
            (Some(start), Some(at)) => Ok(RemoteAddr(start + at as u64)),
            _ => Err(lost(n)),
        }
    }

    fn set_registers(&self, n: usize, threads: &[Thread]) -> Result<()> {
        let made = self.made.get(n).ok_or_else(|| lost(n))?;
        for (thread, (_, stopped)) in threads.iter().zip(&made.threads) {
            let stopped = stopped.as_ref().ok_or_else(|| lost(n))?;
            let registers = Registers::from_bytes(&thread.registers).ok_or_else(|| lost(n))?;
            let sleeps = thread.restart.is_some_and(|restart| restart.sleep);
            let registers = if sleeps { registers } else { restart::from_the_start(registers) };
            stopped.set_extended(&thread.extended)?;
            stopped.set_registers(&registers)?;
            stopped.set_signal_mask(thread.signal_mask)?;
            if let Some(record) = &thread.syscall_dispatch {
                stopped.set_syscall_user_dispatch(dispatch::config(record))?;
            }
        }
        Ok(())
    }

    /// Runs a sequence in a process's leader; returns the ids of tasks that it made, in order.
    pub(super) fn run_leader(&mut self, n: usize, sequence: Sequence) -> Result<Vec<Pid>> {
        let mut born = Vec::new();
        for program in sequence.into_programs() {
            let marker = self.marker(n, 0)?;
            let stopped = self.take(n, 0)?;
            let done = program::start(&program, stopped, &self.area, 0, marker, None)
                .and_then(|started| started.finish(|pid| born.push(pid)));
            let (stopped, _) = done.map_err(|error| self.in_task(n, error))?;
            self.put(n, 0, stopped)?;
        }
        Ok(born)
    }

    /// Runs one sequence per thread of a process, all threads at once.
    fn run_threads(&mut self, n: usize, sequences: &[Vec<Program>]) -> Result<()> {
        let rounds = sequences.iter().map(Vec::len).max().unwrap_or(0);
        for round in 0..rounds {
            let mut started = Vec::with_capacity(sequences.len());
            for (slot, programs) in sequences.iter().enumerate() {
                let Some(program) = programs.get(round) else { continue };
                let marker = self.marker(n, slot)?;
                let at = u32::try_from(slot).unwrap_or(u32::MAX);
                let running = program::start(program, self.take(n, slot)?, &self.area, at, marker, None)
                    .map_err(|error| self.in_task(n, error))?;
                started.push((slot, running));
            }
            for (slot, running) in started {
                let (stopped, _) = running.finish(|_| {}).map_err(|error| self.in_task(n, error))?;
                self.put(n, slot, stopped)?;
            }
        }
        Ok(())
    }

    /// What a program's end is reported by: a signal that the image has pending nowhere in the process.
    pub(super) fn marker(&self, n: usize, slot: usize) -> Result<Marker> {
        if let Some(departed) = self.departed(n) {
            let marker = Marker::choose(departed.id, departed.id, 0, 1 << (libc::SIGURG - 1));
            return marker.ok_or_else(|| lost(n));
        }
        let process = self.process(n)?;
        let pending = process
            .threads
            .iter()
            .map(|thread| signals::pending_mask(&thread.pending))
            .fold(signals::pending_mask(&process.task.pending), |all, mask| all | mask);
        // What the process itself does with signals is set in the middle of all this.
        let bit = |signal: u32| 1u64.checked_shl(signal.wrapping_sub(1)).unwrap_or(0);
        let actions = process.body.iter().flat_map(|body| &body.handlers.actions);
        let handled = actions.filter(|action| action.handler > 1).fold(0, |all, act| all | bit(act.signal));
        let ignored = bit(libc::SIGURG.cast_unsigned()) | bit(libc::SIGWINCH.cast_unsigned());
        let harmless = ignored & !handled;
        let tid = process.threads.get(slot).map_or(process.task.pid, |thread| thread.tid);
        Marker::choose(process.task.pid, tid, pending, harmless).ok_or_else(|| {
            Error::new(Code::UnsupportedState, "rebuilding a thread")
                .cause("every signal is pending for it")
                .into()
        })
    }

    pub(super) fn process(&self, n: usize) -> Result<&'a Process> {
        self.model.processes.get(n).ok_or_else(|| lost(n))
    }

    pub(super) fn pid(&self, n: usize) -> Result<Pid> {
        self.made.get(n).map(|made| made.host_pid).ok_or_else(|| lost(n))
    }

    pub(super) fn filled(&self, n: usize) -> &Filled {
        static NONE: std::sync::LazyLock<Filled> = std::sync::LazyLock::new(Filled::default);
        let mm = self.model.processes.get(n).map_or(0, |process| process.task.mm);
        self.fills.get(&mm).unwrap_or(&NONE)
    }

    pub(super) fn take(&mut self, n: usize, slot: usize) -> Result<Stopped> {
        let thread = self.made.get_mut(n).and_then(|made| made.threads.get_mut(slot));
        thread.and_then(|(_, stopped)| stopped.take()).ok_or_else(|| lost(n))
    }

    pub(super) fn put(&mut self, n: usize, slot: usize, stopped: Stopped) -> Result<()> {
        match self.made.get_mut(n).and_then(|made| made.threads.get_mut(slot)) {
            Some((_, place)) => {
                *place = Some(stopped);
                Ok(())
            }
            None => Err(lost(n)),
        }
    }

    /// An error of a task that is being built, under the name that the image has for it.
    fn in_task(&self, n: usize, error: stillpoint_sys::Error) -> Box<Error> {
        let taken = error.errno() == Some(libc::EEXIST) && error.doing().starts_with("making ");
        let name = match self.model.processes.get(n) {
            Some(process) => TaskName {
                pid: process.task.pid,
                tid: None,
                name: process.task.name.escape_ascii().to_string(),
            },
            None => {
                let pid = self.departed(n).map_or(0, |departed| departed.id);
                TaskName { pid, tid: None, name: String::new() }
            }
        };
        if taken {
            return Box::new(Error {
                doing: error.doing().to_owned(),
                ..crate::plan::place::pid_taken(name.pid, &name.name)
            });
        }
        if let Some(error) = locks::refused(&error) {
            return Box::new(error.in_task(&name));
        }
        let mut error = Box::<Error>::from(error);
        error.task = Some(name);
        if error.code == Code::NotPermitted {
            error.code = Code::KernelLacks;
        }
        error
    }

    fn open_tools(&self, numbers: &mut Numbers) -> Result<Vec<(usize, OwnedTools)>> {
        let mut opened: HashMap<(u64, bool), std::rc::Rc<OwnedFd>> = HashMap::new();
        let mut all = Vec::new();
        for (n, _, body) in self.model.living() {
            let mut open =
                |object: u64, writable: bool, numbers: &mut Numbers| -> Result<std::rc::Rc<OwnedFd>> {
                    if let Some(fd) = opened.get(&(object, writable)) {
                        return Ok(fd.clone());
                    }
                    if let Some(inode) = self.inodes.get(&object) {
                        let fd = rustix::io::fcntl_dupfd_cloexec(inode.descriptor(writable), 3).map_err(
                            |errno| {
                                Box::new(Error::new(Code::Failed, "duplicating a descriptor").cause(errno))
                            },
                        )?;
                        let fd = std::rc::Rc::new(numbers.place(fd)?);
                        opened.insert((object, writable), fd.clone());
                        return Ok(fd);
                    }
                    let want = self
                        .model
                        .files
                        .get(&object)
                        .and_then(|name| name.file.as_ref())
                        .ok_or_else(|| lost(n))?;
                    let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
                    let fd = numbers.place(identity::open_matching(self.place, want, flags)?)?;
                    let fd = std::rc::Rc::new(fd);
                    opened.insert((object, writable), fd.clone());
                    Ok(fd)
                };
            let executable = open(body.mm.executable, false, numbers)?;
            let mut mapped = HashMap::new();
            for area in &body.mm.areas {
                let writable = match area.backing() {
                    Backing::PrivateFile => false,
                    Backing::SharedFile => area.opened_writable,
                    _ => continue,
                };
                mapped.insert((area.object, writable), open(area.object, writable, numbers)?);
            }
            let directory = |want: &Option<stillpoint_image::records::FileIdentity>,
                             numbers: &mut Numbers| {
                let want = want.as_ref().ok_or_else(|| lost(n))?;
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                numbers.place(identity::open_matching(self.place, want, flags)?)
            };
            let confined =
                self.place.root.is_some() || body.fs.root.as_ref().is_some_and(|root| root.path != b"/");
            let root = if confined { Some(directory(&body.fs.root, numbers)?) } else { None };
            let cwd = directory(&body.fs.cwd, numbers)?;
            all.push((n, OwnedTools { executable, mapped, cwd, root }));
        }
        Ok(all)
    }
}

/// Descriptors that processes inherit for their own rebuilding, open here until then.
pub(super) struct OwnedTools {
    executable: std::rc::Rc<OwnedFd>,
    mapped: HashMap<(u64, bool), std::rc::Rc<OwnedFd>>,
    cwd: OwnedFd,
    root: Option<OwnedFd>,
}

impl OwnedTools {
    pub(super) fn numbers(&self) -> Tools {
        Tools {
            executable: transfer::number(&self.executable),
            cwd: transfer::number(&self.cwd),
            root: self.root.as_ref().map(transfer::number),
            mapped: self.mapped.iter().map(|(key, fd)| (*key, transfer::number(fd))).collect(),
        }
    }
}

impl Drop for Builder<'_> {
    /// Undoes everything: kills what was made and is not let go of.
    fn drop(&mut self) {
        for made in std::mem::take(&mut self.made).into_iter().filter(|made| made.host_pid != 0) {
            super::undo::kill(made.host_pid, made.threads.into_iter().map(|(tid, _)| tid));
        }
    }
}

pub(super) fn tools_of(all: &[(usize, OwnedTools)], n: usize) -> Result<&OwnedTools> {
    all.iter().find(|(index, _)| *index == n).map(|(_, tools)| tools).ok_or_else(|| lost(n))
}

/// Waits for a task that was attached to at birth.
pub(super) fn await_birth(tid: Pid) -> Result<Stopped> {
    await_stop(Running::born(tid))
}

fn await_stop(running: Running) -> Result<Stopped> {
    let tid = running.tid();
    match running.wait()? {
        Event::Stopped(stopped) if stopped.why().is_rest() => Ok(stopped),
        Event::Stopped(stopped) => Err(Error::new(Code::Failed, "making a task")
            .task(tid, "")
            .cause(format!("it stopped for {:?}", stopped.why()))
            .into()),
        Event::Gone(_) => {
            Err(Error::new(Code::Failed, "making a task").task(tid, "").cause("it was killed").into())
        }
    }
}

fn id_error(error: stillpoint_sys::Error, id: u32) -> Box<Error> {
    match error.errno() {
        Some(libc::EEXIST) => Box::new(crate::plan::place::pid_taken(id, "")),
        Some(libc::EPERM) => Box::new(
            Error::new(Code::KernelLacks, "making the root process")
                .task(id, "")
                .cause(error.cause())
                .remedy("choosing process ids needs CAP_CHECKPOINT_RESTORE; restore with --pidns"),
        ),
        _ => error.into(),
    }
}

fn no_room() -> Box<Error> {
    Box::new(Error::new(Code::KernelLacks, "finding room in memory").cause("the tree's areas leave none"))
}

pub(super) fn lost(n: usize) -> Box<Error> {
    Box::new(
        Error::new(Code::Failed, "building the tree")
            .cause(format!("process number {n} of the image was lost track of")),
    )
}

pub(super) fn interrupted(observer: &dyn Observer) -> Result<()> {
    if observer.interrupted() {
        return Err(Error::new(Code::Interrupted, "building the tree")
            .cause("interrupted by a signal; nothing is left")
            .into());
    }
    Ok(())
}
