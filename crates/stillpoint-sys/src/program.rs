//! Syscall programs: everything that must be done inside a task is a list of (number, six arguments, expected
//! result) records, computed by ordinary code from outside, and run by a loop of a few instructions that goes to
//! its end at the first record whose result is not as expected.
//!
//! A program lives in a *program area* of the task: one page with the loop, then one slot per thread, which
//! holds records followed by data that records point to. The last record sends the thread a *marker*, a signal
//! that is pending nowhere and that the tracer swallows; one that somebody else has sent at that moment is put back.
//! A *guarded* program ends with rt_sigreturn(2) on a frame that holds the thread's own state: should the tracer be
//! killed, the thread goes back to where it was by itself, the marker being one that the process ignores. A breakpoint would be simpler, but the kernel forces
//! its SIGTRAP: it resets the handler of a task that ignores SIGTRAP (kernel/signal.c, force_sig_info_to_task).

use std::borrow::Cow;

use crate::arch::{Registers, SignalFrame, program_loop};
use crate::pagemap::PageMap;
use crate::ptrace::{Event, Running, Stop, Stopped, Until};
use crate::{Error, Pid, RemoteAddr, Result, vm};

/// One system call of a program. The layout is known to the loop of each architecture.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    number: u64,
    arguments: [u64; 6],
    least: i64,
    most: i64,
    result: i64,
}

const RECORD: usize = 80;
const _: () = assert!(size_of::<Record>() == RECORD);

/// The page that holds the loop, at the start of a program area.
pub const CODE_SIZE: u64 = 4096;

/// What follows the loop, so that an area whose tracer was killed is recognised: random bytes, then its size.
const MAGIC: [u8; 32] = [
    0x9b, 0x1e, 0x53, 0xc4, 0x07, 0xda, 0x6f, 0xb2, 0x38, 0xe1, 0x84, 0x2d, 0x70, 0xf9, 0x4a, 0xc6, 0x15,
    0xab, 0x6c, 0x92, 0xd7, 0x3e, 0x08, 0x5f, 0xe4, 0x71, 0xbd, 0x26, 0x99, 0x40, 0xcf, 0x13,
];

/// Where an area is best mapped: an address that nothing else is likely to use, so that one of which nothing but its
/// mapping was done is recognised, too.
pub const AREA_HINT: RemoteAddr = RemoteAddr(0x1511_90b0_0000);

/// The room below a guard in a slot, for the handler of a signal that arrives before its tracer has blocked it, or
/// when the tracer is gone.
const HANDLER_ROOM: u64 = 32 << 10;

/// An argument of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// A plain number or an address of the task.
    Value(u64),
    /// The address of data of the program.
    Data(Data),
}

/// Data of a program: where it starts in the slot's data part, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data(usize);

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Arg::Value(value)
    }
}
impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Arg::Value(u64::from(value))
    }
}
impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Arg::Value(i64::from(value).cast_unsigned())
    }
}
impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Arg::Value(value.cast_unsigned())
    }
}
impl From<RemoteAddr> for Arg {
    fn from(value: RemoteAddr) -> Self {
        Arg::Value(value.0)
    }
}
impl From<Data> for Arg {
    fn from(value: Data) -> Self {
        Arg::Data(value)
    }
}

/// What a record's result must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Not an error.
    Success,
    /// Exactly this.
    Exactly(i64),
    /// Whatever.
    Anything,
}

#[derive(Debug, Clone)]
struct Step {
    number: i64,
    arguments: [Arg; 6],
    expect: Expect,
    what: Cow<'static, str>,
}

/// A list of system calls with the data that they point to.
#[derive(Debug, Clone, Default)]
pub struct Program {
    steps: Vec<Step>,
    data: Vec<u8>,
    /// Words of the data that hold the address of other data.
    pointers: Vec<(usize, Data)>,
}

/// Where a record stands in its program, to find its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index(usize);

impl Program {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Program::default()
    }

    /// Adds a call that must not fail. `what` names it in errors, as a gerund.
    pub fn call<const N: usize>(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        number: i64,
        args: [Arg; N],
    ) -> Index {
        self.call_expecting(what, number, args, Expect::Success)
    }

    /// Adds a call with what is expected of its result.
    pub fn call_expecting<const N: usize>(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        number: i64,
        args: [Arg; N],
        expect: Expect,
    ) -> Index {
        const { assert!(N <= 6) }
        let mut arguments = [Arg::Value(0); 6];
        for (slot, arg) in arguments.iter_mut().zip(args) {
            *slot = arg;
        }
        self.steps.push(Step { number, arguments, expect, what: what.into() });
        Index(self.steps.len() - 1)
    }

    /// Adds data, aligned to 16 bytes.
    pub fn data(&mut self, bytes: &[u8]) -> Data {
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        let at = Data(self.data.len());
        self.data.extend_from_slice(bytes);
        at
    }

    /// Adds data in which the word at `at` holds the address of other data of this program.
    ///
    /// # Panics
    ///
    /// Never: a word that does not lie within `bytes` is left alone.
    pub fn data_pointing(&mut self, bytes: &[u8], at: usize, target: Data) -> Data {
        let data = self.data(bytes);
        if at + 8 <= bytes.len() {
            self.pointers.push((data.0 + at, target));
        }
        data
    }

    /// Adds a string, terminated.
    pub fn string(&mut self, bytes: &[u8]) -> Data {
        let at = self.data(bytes);
        self.data.push(0);
        at
    }

    /// Adds room for a result, zeroed.
    pub fn room(&mut self, length: usize) -> Data {
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        let at = Data(self.data.len());
        self.data.resize(self.data.len() + length, 0);
        at
    }

    /// Whether it has no call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Number of calls.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// The size that the program needs in a slot: records, end record and data, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        ((self.steps.len() + 2) * RECORD + self.data.len() + 64) as u64
    }

    /// What it does, one line a call.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.steps.iter().map(|step| {
            let args: Vec<String> = step
                .arguments
                .iter()
                .map(|arg| match arg {
                    Arg::Value(value) => format!("{value:#x}"),
                    Arg::Data(data) => format!("data+{:#x}", data.0),
                })
                .collect();
            format!("{}: syscall {}({})", step.what, step.number, args.join(", "))
        })
    }

    fn encode(&self, slot: RemoteAddr, end: &Step, guarded: bool) -> Vec<u8> {
        let records = (self.steps.len() + 2) * RECORD;
        let data_start = records.next_multiple_of(16);
        let mut bytes = Vec::with_capacity(data_start + self.data.len());
        // Should the marker ever return to the loop, the tracer is gone. A thread without a guard waits for its end.
        let after = Step {
            number: if guarded { libc::SYS_rt_sigreturn } else { libc::SYS_pause },
            arguments: [Arg::Value(0); 6],
            expect: Expect::Exactly(0),
            what: Cow::Borrowed("waiting"),
        };
        for step in self.steps.iter().chain([end, &after]) {
            let (least, most) = match step.expect {
                Expect::Success => (0, i64::MAX),
                Expect::Exactly(value) => (value, value),
                Expect::Anything => (i64::MIN, i64::MAX),
            };
            bytes.extend_from_slice(&step.number.to_le_bytes());
            for arg in step.arguments {
                let value = match arg {
                    Arg::Value(value) => value,
                    Arg::Data(data) => slot.0 + (data_start + data.0) as u64,
                };
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            bytes.extend_from_slice(&least.to_le_bytes());
            bytes.extend_from_slice(&most.to_le_bytes());
            bytes.extend_from_slice(&0i64.to_le_bytes());
        }
        bytes.resize(data_start, 0);
        bytes.extend_from_slice(&self.data);
        for &(at, target) in &self.pointers {
            let address = (slot.0 + (data_start + target.0) as u64).to_le_bytes();
            if let Some(word) = bytes.get_mut(data_start + at..data_start + at + 8) {
                word.copy_from_slice(&address);
            }
        }
        bytes
    }
}

/// A program area of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramArea {
    /// Where it starts.
    pub start: RemoteAddr,
    /// Size of one slot, bytes.
    pub slot_size: u64,
    /// Number of slots.
    pub slots: u32,
}

impl ProgramArea {
    /// The whole size, code included.
    #[must_use]
    pub fn size(&self) -> u64 {
        CODE_SIZE + self.slot_size * u64::from(self.slots)
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> RemoteAddr {
        RemoteAddr(self.start.0 + self.size())
    }

    /// Where a slot starts.
    #[must_use]
    pub fn slot(&self, n: u32) -> RemoteAddr {
        RemoteAddr(self.start.0 + CODE_SIZE + self.slot_size * u64::from(n))
    }

    /// Writes the loop into a task's area, which must be writable.
    ///
    /// # Errors
    ///
    /// EFAULT when the area is not mapped there.
    pub fn install(&self, pid: Pid) -> Result<()> {
        vm::write(pid, self.start, &Self::code(self.size()))
    }

    fn code(size: u64) -> Vec<u8> {
        [program_loop(), &MAGIC, &size.to_le_bytes()].concat()
    }

    /// The size of the program area that a killed tracer has left at an address, if there is one in the range.
    ///
    /// # Errors
    ///
    /// EFAULT when nothing is readable there.
    pub fn left_at(pid: Pid, range: std::ops::Range<u64>) -> Result<Option<u64>> {
        let mut bytes = Self::code(0);
        vm::read(pid, RemoteAddr(range.start), &mut bytes)?;
        let size = bytes.last_chunk().map_or(0, |size| u64::from_le_bytes(*size));
        let whole = size.next_multiple_of(CODE_SIZE);
        let fits = whole != 0 && whole <= range.end - range.start;
        if fits && bytes == Self::code(size) {
            return Ok(Some(whole));
        }
        // Mapped and not yet written to, by anybody. Its page was just looked at, which leaves the page of zeroes there.
        let empty = range.start == AREA_HINT.0
            && bytes.iter().all(|&byte| byte == 0)
            && PageMap::open(pid)?.private_pages(range.clone())?.is_empty();
        Ok(empty.then_some(range.end - range.start))
    }

    /// Writes the loop into an area whose first page is executable and not writable.
    ///
    /// # Errors
    ///
    /// EIO when the area is not mapped there.
    pub fn install_read_only(&self, thread: &Stopped) -> Result<()> {
        thread.poke(self.start, &Self::code(self.size()))
    }
}

/// Whom a program's end is reported by: the ids that the thread itself sees, and a signal that is pending nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The process id that the thread sees.
    pub pid: u32,
    /// The thread id that it sees.
    pub tid: u32,
    /// The signal.
    pub signal: i32,
}

impl Marker {
    /// Chooses a signal that is not in `pending` (a mask of signals pending for the thread or its process), by
    /// preference one that does no harm should the tracer die: in `harmless`, a mask of signals that the process
    /// ignores, explicitly or by default.
    #[must_use]
    pub fn choose(pid: u32, tid: u32, pending: u64, harmless: u64) -> Option<Self> {
        /// Programs that handle these expect them at any time: the Go runtime preempts its threads with SIGURG.
        const HARMLESS: u64 = 1 << (libc::SIGURG - 1) | 1 << (libc::SIGWINCH - 1);
        // Signals that do not queue: one that is pending twice is pending once.
        const USABLE: u64 = 0x7fff_ffff
            & !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1) | 1 << (libc::SIGCONT - 1)
            // A pending stop signal would be discarded by a SIGCONT, a pending SIGCONT by a stop signal.
            | 1 << (libc::SIGTSTP - 1) | 1 << (libc::SIGTTIN - 1) | 1 << (libc::SIGTTOU - 1));
        let free = USABLE & !pending;
        let best =
            [harmless, HARMLESS].map(|set| free & set).into_iter().find(|&set| set != 0).unwrap_or(free);
        (best != 0).then(|| Marker { pid, tid, signal: best.trailing_zeros().cast_signed() + 1 })
    }

    /// The mask under which a program runs: everything blocked but the marker.
    #[must_use]
    pub fn mask(&self) -> u64 {
        !(1 << (self.signal - 1))
    }

    fn step(&self) -> Step {
        Step {
            number: libc::SYS_tgkill,
            arguments: [
                self.pid.into(),
                self.tid.into(),
                self.signal.into(),
                Arg::Value(0),
                Arg::Value(0),
                Arg::Value(0),
            ],
            expect: Expect::Anything,
            what: Cow::Borrowed("reporting the end"),
        }
    }
}

/// The state to which a thread returns by itself should its tracer be killed while a program runs in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Its own registers.
    pub registers: Registers,
    /// Its own signal mask.
    pub mask: u64,
}

impl Guard {
    /// The room that a guard needs in a slot beside the program, for a thread with extended state of that size.
    #[must_use]
    pub fn size(extended: usize) -> u64 {
        SignalFrame::size(extended) as u64 + HANDLER_ROOM
    }
}

/// A program that is running in a thread.
#[derive(Debug)]
#[must_use = "a started program must be waited for"]
pub struct Started<'p> {
    program: &'p Program,
    running: Running,
    slot: RemoteAddr,
    /// The record that sends the marker.
    last: u64,
    marker: Marker,
}

/// What a finished program left behind.
#[derive(Debug)]
pub struct Finished {
    bytes: Vec<u8>,
    data_start: usize,
}

/// Writes a program into a slot and starts the thread on it, with its signal mask set to the marker's. The
/// thread's own registers and mask must have been saved before.
///
/// # Errors
///
/// EFAULT when the slot is not there; [`Error::Unexpected`] when the program is larger than a slot.
pub fn start<'p>(
    program: &'p Program,
    thread: Stopped,
    area: &ProgramArea,
    slot: u32,
    marker: Marker,
    guard: Option<&Guard>,
) -> Result<Started<'p>> {
    let tid = thread.tid();
    let at = area.slot(slot);
    let frame = match guard {
        Some(guard) => {
            let extended = thread.extended()?;
            let start = at.0 + area.slot_size.saturating_sub(SignalFrame::size(extended.len()) as u64);
            Some(SignalFrame::build(start, &guard.registers, guard.mask, &extended, 0))
        }
        None => None,
    };
    let room = frame.as_ref().map_or(0, |frame| Guard::size(frame.extended));
    if program.size() + room > area.slot_size || slot >= area.slots {
        return Err(Error::Unexpected {
            doing: "starting a program".into(),
            pid: Some(tid),
            what: format!("{} bytes do not fit slot {slot} of {} bytes", program.size(), area.slot_size),
        });
    }
    vm::write(tid, at, &program.encode(at, &marker.step(), frame.is_some()))?;
    if let Some(frame) = &frame {
        vm::write(tid, RemoteAddr(frame.start), &frame.bytes)?;
    }
    let mut registers = thread.registers()?;
    let last = at.0 + (program.steps.len() * RECORD) as u64;
    registers.set_program(area.start.0, at.0, last);
    // Nothing but the frame uses the stack; but one that seems to be the alternate stack would forbid changing that.
    registers.set_stack(frame.as_ref().map_or(at.0, |frame| frame.stack));
    thread.set_registers(&registers)?;
    thread.set_signal_mask(marker.mask())?;
    let running = thread.resume(Until::Stop, 0)?;
    Ok(Started { program, running, slot: at, last, marker })
}

impl Started<'_> {
    /// The thread's id.
    #[must_use]
    pub fn tid(&self) -> Pid {
        self.running.tid()
    }

    /// Waits until it has ended. `on_new_task` is told the id of each task that the program makes; those are
    /// attached to and stop by themselves.
    ///
    /// # Errors
    ///
    /// [`Error::Errno`] with the failing call's name and what the kernel answered; [`Error::Unexpected`] when the
    /// thread does something else.
    pub fn finish(self, mut on_new_task: impl FnMut(Pid)) -> Result<(Stopped, Finished)> {
        let Started { program, mut running, slot, last, marker } = self;
        let tid = running.tid();
        let mut until = Until::Stop;
        let stopped = loop {
            let stopped = match running.wait()? {
                Event::Stopped(stopped) => stopped,
                Event::Gone(status) => return Err(gone(tid, status)),
            };
            match stopped.why() {
                Stop::Signal(signal) if signal == marker.signal => {
                    if stopped.signal_is_from(marker.pid)? {
                        break stopped;
                    }
                    // Somebody else has sent the same. Delivered while it is blocked, it goes back into the queue; the
                    // end is seen by the calls then, and the marker is not sent.
                    stopped.set_signal_mask(u64::MAX)?;
                    until = Until::Syscall;
                    running = stopped.resume(until, signal)?;
                }
                why if why.undeniable().is_some() => {
                    running = stopped.resume(until, why.undeniable().unwrap_or(0))?;
                }
                Stop::Syscall => {
                    let mut registers = stopped.registers()?;
                    if registers.record() >= last {
                        // It is about to send the marker, or has done so and goes on: neither call is made.
                        registers.set_interrupted_call(u64::MAX);
                        stopped.set_registers(&registers)?;
                        let what = "ending a program";
                        break leave_call(expect_syscall_stop(stopped.resume(until, 0)?, what)?, what)?;
                    }
                    running = stopped.resume(until, 0)?;
                }
                Stop::NewTask => {
                    on_new_task(stopped.new_task()?);
                    running = stopped.resume(until, 0)?;
                }
                other => {
                    return Err(Error::Unexpected {
                        doing: "running a program".into(),
                        pid: Some(tid),
                        what: format!("the thread stopped for {other:?} at {:#x}", stopped.registers()?.ip()),
                    });
                }
            }
        };
        let registers = stopped.registers()?;
        if let Some(failed) = registers.failed_record() {
            return Err(program.failure(tid, slot, failed)?);
        }
        let data_start = ((program.steps.len() + 2) * RECORD).next_multiple_of(16);
        let mut bytes = vec![0; data_start + program.data.len()];
        vm::read(tid, slot, &mut bytes)?;
        Ok((stopped, Finished { bytes, data_start }))
    }
}

impl Program {
    fn failure(&self, tid: Pid, slot: RemoteAddr, failed: u64) -> Result<Error> {
        let index = usize::try_from(failed.saturating_sub(slot.0)).unwrap_or(usize::MAX) / RECORD;
        let mut result = [0; 8];
        vm::read(tid, RemoteAddr(failed + 72), &mut result)?;
        let result = i64::from_le_bytes(result);
        let what = self.steps.get(index).map_or("a call", |step| step.what.as_ref()).to_owned();
        Ok(match i32::try_from(-result) {
            Ok(errno @ 1..=4095) => Error::Errno { doing: what, pid: Some(tid), errno },
            _ => Error::Unexpected {
                doing: what,
                pid: Some(tid),
                what: format!("the kernel answered {result:#x}"),
            },
        })
    }
}

impl Finished {
    /// What a call returned.
    #[must_use]
    pub fn result(&self, call: Index) -> i64 {
        let at = call.0 * RECORD + 72;
        self.bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, i64::from_le_bytes)
    }

    /// What a call wrote into room of the program; shorter than asked for only past the program's end.
    #[must_use]
    pub fn data(&self, room: Data, length: usize) -> &[u8] {
        let start = self.data_start + room.0;
        let end = (start + length).min(self.bytes.len());
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// A little-endian u64 within room of the program.
    #[must_use]
    pub fn word(&self, room: Data, offset: usize) -> u64 {
        let start = self.data_start + room.0 + offset;
        self.bytes.get(start..start + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
}

/// Where a thread makes a single call from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSite {
    /// An instruction of its memory that enters the kernel. With a way back, one that returns to its caller then.
    pub instruction: RemoteAddr,
    /// The way back, should the tracer be killed: the stack pointer at a signal frame, whose first word is the address
    /// of a restorer. The thread then goes on as if a handler had returned.
    pub back: Option<u64>,
}

/// Makes one system call in a stopped thread, through a `syscall` instruction of its own memory, before a program
/// area exists or after it is gone. Leaves the thread in a stop of the signal path, from which registers may be
/// set so that the kernel restarts an interrupted call; its registers are those of the call.
///
/// # Errors
///
/// What the kernel answered to the call, under the name `what`.
pub fn single(
    thread: Stopped,
    site: CallSite,
    what: &str,
    number: i64,
    arguments: [u64; 6],
) -> Result<(Stopped, i64)> {
    let tid = thread.tid();
    let mut registers: Registers = thread.registers()?;
    registers.set_call(site.instruction.0, number.cast_unsigned(), arguments);
    if let Some(stack) = site.back {
        registers.set_stack(stack);
    }
    thread.set_registers(&registers)?;
    thread.set_signal_mask(u64::MAX)?;
    let entry = expect_syscall_stop(thread.resume(Until::Syscall, 0)?, what)?;
    let exit = expect_syscall_stop(entry.resume(Until::Syscall, 0)?, what)?;
    let result = exit.registers()?.result();
    // A syscall stop is past the place where the kernel looks at restarts: take the thread to a stop before it.
    let stopped = leave_call(exit, what)?;
    match i32::try_from(-result) {
        Ok(errno @ 1..=4095) => Err(Error::Errno { doing: what.to_owned(), pid: Some(tid), errno }),
        _ => Ok((stopped, result)),
    }
}

/// Makes a blocking system call in a stopped thread and interrupts it before it can block, so that the kernel keeps
/// what it needs to restart it. Leaves the thread as [`single`] does.
///
/// # Errors
///
/// [`Error::Unexpected`] when the call was not interrupted with something to restart.
pub fn interrupted(
    thread: Stopped,
    instruction: RemoteAddr,
    what: &str,
    number: i64,
    arguments: [u64; 6],
) -> Result<Stopped> {
    const ERESTART_RESTARTBLOCK: i64 = 516;
    let tid = thread.tid();
    let mut registers: Registers = thread.registers()?;
    registers.set_call(instruction.0, number.cast_unsigned(), arguments);
    thread.set_registers(&registers)?;
    thread.set_signal_mask(u64::MAX)?;
    let entry = expect_syscall_stop(thread.resume(Until::Syscall, 0)?, what)?;
    // The request makes the call return at once, as any signal would.
    entry.interrupt_next()?;
    let exit = expect_syscall_stop(entry.resume(Until::Syscall, 0)?, what)?;
    let result = exit.registers()?.result();
    let stopped = leave_call(exit, what)?;
    // A time of zero is over at once.
    if result == -ERESTART_RESTARTBLOCK || result == 0 {
        return Ok(stopped);
    }
    Err(Error::Unexpected {
        doing: what.to_owned(),
        pid: Some(tid),
        what: format!("the kernel answered {result}"),
    })
}

/// Takes a thread from the exit of a call to a stop of the signal path.
fn leave_call(exit: Stopped, what: &str) -> Result<Stopped> {
    let tid = exit.tid();
    exit.interrupt_next()?;
    let mut running = exit.resume(Until::Stop, 0)?;
    loop {
        running = match running.wait()? {
            Event::Stopped(stopped) if stopped.why().is_rest() => return Ok(stopped),
            Event::Stopped(stopped) if stopped.why() == Stop::Signal(libc::SIGSTOP) => {
                stopped.interrupt_next()?;
                stopped.resume(Until::Stop, libc::SIGSTOP)?
            }
            Event::Stopped(other) => return Err(unexpected(tid, what, other.why())),
            Event::Gone(status) => return Err(gone(tid, status)),
        }
    }
}

fn expect_syscall_stop(running: Running, what: &str) -> Result<Stopped> {
    let tid = running.tid();
    match running.wait()? {
        Event::Stopped(stopped) if stopped.why() == Stop::Syscall => Ok(stopped),
        // An interrupt that was asked for earlier may come first, or somebody stops the process.
        Event::Stopped(stopped) if stopped.why().undeniable().is_some() => {
            let signal = stopped.why().undeniable().unwrap_or(0);
            expect_syscall_stop(stopped.resume(Until::Syscall, signal)?, what)
        }
        Event::Stopped(other) => Err(unexpected(tid, what, other.why())),
        Event::Gone(status) => Err(gone(tid, status)),
    }
}

fn unexpected(tid: Pid, what: &str, stop: Stop) -> Error {
    Error::Unexpected {
        doing: what.to_owned(),
        pid: Some(tid),
        what: format!("the thread stopped for {stop:?}"),
    }
}

/// The error of a thread that ended while it was worked on.
fn gone(tid: Pid, status: i32) -> Error {
    Error::Gone { doing: "working on a thread".into(), pid: Some(tid), status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_avoids_pending_signals_and_prefers_harmless_ones() {
        let urg = 1u64 << (libc::SIGURG - 1);
        assert_eq!(Marker::choose(1, 1, 0, urg).map(|m| m.signal), Some(libc::SIGURG));
        assert_eq!(Marker::choose(1, 1, urg, urg).map(|m| m.signal), Some(libc::SIGWINCH));
        // All that is left would not be told apart from one that is pending already.
        assert_eq!(Marker::choose(1, 1, 0x7fff_ffff, 0), None);
        assert_eq!(Marker::choose(1, 1, u64::MAX, urg), None);
    }

    #[test]
    fn data_is_addressed_behind_the_records() {
        let mut program = Program::new();
        let room = program.room(8);
        program.call("asking", libc::SYS_getpid, [room.into()]);
        let marker = Marker { pid: 1, tid: 1, signal: libc::SIGURG };
        let bytes = program.encode(RemoteAddr(0x1000), &marker.step(), false);
        let first_argument = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        assert_eq!(first_argument, 0x1000 + 240);
        assert!(bytes.len() as u64 <= program.size());
    }
}
