//! ptrace(2) with its protocol in the types: only a [`Stopped`] task can be asked or changed, and resuming it
//! consumes it.
//!
//! The manual gives three causes for ESRCH: the tracee is dead, it is not stopped, or it is not traced by us.
//! The types exclude the last two, so ESRCH on a [`Stopped`] means that somebody sent SIGKILL meanwhile.
//!
//! All of it is bound to the calling OS thread: the kernel lets only the thread that attached be the tracer.
//! Tasks are always attached with PTRACE_SEIZE, so an attached task runs on unharmed when its tracer dies.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr::null_mut;

use crate::arch::Registers;
use crate::{Error, Pid, RemoteAddr, Result};

const EVENT_STOP: i32 = 128;

/// Options of PTRACE_SEIZE, as bits.
pub mod options {
    /// Mark syscall stops so that they cannot be taken for a SIGTRAP.
    pub const SYSCALL_GOOD: u64 = libc::PTRACE_O_TRACESYSGOOD as u64;
    /// Attach to everything that the task creates.
    pub const NEW_TASKS: u64 =
        (libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE) as u64;
    /// Report exec as an event and not as a SIGTRAP.
    pub const EXEC: u64 = libc::PTRACE_O_TRACEEXEC as u64;
    /// Kill the task when the tracer ends.
    pub const EXIT_KILL: u64 = libc::PTRACE_O_EXITKILL as u64;
    /// Suspend its seccomp filters as long as it is traced. Needs CAP_SYS_ADMIN, and a tracer without seccomp.
    pub const SUSPEND_SECCOMP: u64 = 1 << 21;
}

/// Why a task is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// By PTRACE_INTERRUPT, or because it was attached to at birth.
    Interrupt,
    /// The thread group is stopped by job control, with this signal.
    Group(i32),
    /// A signal is about to be delivered.
    Signal(i32),
    /// At the entry to or exit from a system call.
    Syscall,
    /// It made a task: fork, vfork or clone.
    NewTask,
    /// It executed another program.
    Exec,
}

impl Stop {
    /// Whether it is at rest in the signal path, as PTRACE_INTERRUPT leaves it. In a process that job control has
    /// stopped, that is reported as a stop of the group (kernel/signal.c, do_jobctl_trap); a thread of it runs on all the
    /// same when it is resumed, and the kernel stops it again when it is detached (kernel/ptrace.c, __ptrace_unlink).
    #[must_use]
    pub fn is_rest(self) -> bool {
        matches!(self, Stop::Interrupt | Stop::Group(_))
    }

    /// What the thread is to be resumed with: nothing can block a SIGSTOP, so it is delivered while a program runs too,
    /// and then stops the process as it does any other.
    #[must_use]
    pub fn undeniable(self) -> Option<i32> {
        match self {
            Stop::Signal(libc::SIGSTOP) => Some(libc::SIGSTOP),
            Stop::Interrupt | Stop::Group(_) => Some(0),
            _ => None,
        }
    }
}

/// What became of a running tracee.
#[derive(Debug)]
pub enum Event {
    /// It stopped.
    Stopped(Stopped),
    /// It is gone; the raw wait status says how.
    Gone(i32),
}

/// A tracee that runs.
#[derive(Debug)]
#[must_use = "a running tracee must be waited for"]
pub struct Running {
    tid: Pid,
}

/// A tracee that is stopped. Dropping it leaves it stopped until this process ends.
#[derive(Debug)]
pub struct Stopped {
    tid: Pid,
    why: Stop,
}

/// How a stopped task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until something stops it.
    Stop,
    /// Until the next system call's entry or exit.
    Syscall,
}

/// Attaches to a thread without stopping it: PTRACE_SEIZE.
///
/// # Errors
///
/// EPERM when it is traced already or not ours to trace; ESRCH when it is gone.
pub fn seize(tid: Pid, options: u64) -> Result<Running> {
    raw(libc::PTRACE_SEIZE, tid, 0, options, "attaching")?;
    Ok(Running { tid })
}

/// Takes a tracee of ours whose state an earlier failure lost, and brings it to a stop; none when it is gone.
///
/// # Errors
///
/// What waiting says.
pub fn regain(tid: Pid) -> Result<Option<Stopped>> {
    let stopped = Stopped { tid, why: Stop::Interrupt };
    match stopped.registers() {
        Ok(_) => return Ok(Some(stopped)),
        Err(error) if error.errno() == Some(libc::ESRCH) => {}
        Err(error) => return Err(error),
    }
    let running = Running { tid };
    match running.interrupt() {
        Ok(()) => {}
        Err(error) if error.errno() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    }
    match running.wait() {
        Ok(Event::Stopped(stopped)) => Ok(Some(stopped)),
        Ok(Event::Gone(_)) => Ok(None),
        Err(error) if error.errno() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Running {
    /// Its thread id.
    #[must_use]
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// A tracee that was attached to at birth, when its creator's event named it.
    pub fn born(tid: Pid) -> Self {
        Running { tid }
    }

    /// Asks it to stop: PTRACE_INTERRUPT.
    ///
    /// # Errors
    ///
    /// ESRCH when it is gone.
    pub fn interrupt(&self) -> Result<()> {
        raw(libc::PTRACE_INTERRUPT, self.tid, 0, 0, "stopping").map(drop)
    }

    /// Waits until it stops or is gone.
    ///
    /// # Errors
    ///
    /// ECHILD when it is not our tracee any more.
    pub fn wait(self) -> Result<Event> {
        loop {
            if let Some(event) = wait(self.tid, libc::WNOHANG)? {
                return Ok(event);
            }
            // The end of a process's first thread is reported when the others are reaped, and that may be left to us:
            // to block on it alone would be for ever when all are killed.
            if something_happens(self.tid)? != self.tid {
                if has_ended(self.tid) {
                    return Ok(Event::Gone(libc::SIGKILL));
                }
                std::thread::yield_now();
            }
        }
    }

    /// Looks whether it has stopped or is gone; gives it back when it still runs.
    ///
    /// # Errors
    ///
    /// ECHILD when it is not our tracee any more.
    pub fn poll(self) -> Result<std::result::Result<Event, Running>> {
        Ok(wait(self.tid, libc::WNOHANG)?.ok_or(self))
    }
}

/// Blocks until there is something to report of any child or tracee, and leaves it to be reported; returns of which.
fn something_happens(waiting_for: Pid) -> Result<Pid> {
    let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
    loop {
        // SAFETY: all zeroes is a valid siginfo, and it outlives the call.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the other arguments are numbers.
        if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } == 0 {
            // SAFETY: waitid fills in the fields of SIGCHLD.
            return Ok(unsafe { info.si_pid() }.unsigned_abs());
        }
        let error = Error::last("waiting for a traced thread", Some(waiting_for));
        if error.errno() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Whether a thread runs no more, reaped or not.
fn has_ended(tid: Pid) -> bool {
    crate::proc::stat::read(tid).map_or(true, |stat| matches!(stat.state, b'Z' | b'X'))
}

fn wait(tid: Pid, flags: i32) -> Result<Option<Event>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let got = unsafe { libc::waitpid(signed(tid), &raw mut status, libc::__WALL | flags) };
        if got == 0 {
            return Ok(None);
        }
        if got > 0 {
            break;
        }
        let error = Error::last("waiting for a traced thread", Some(tid));
        if error.errno() != Some(libc::EINTR) {
            return Err(error);
        }
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some(Event::Gone(status)));
    }
    let signal = libc::WSTOPSIG(status);
    let why = match status >> 16 {
        EVENT_STOP if signal == libc::SIGTRAP => Stop::Interrupt,
        EVENT_STOP => Stop::Group(signal),
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => Stop::NewTask,
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        other => {
            return Err(Error::Unexpected {
                doing: "waiting for a traced thread".into(),
                pid: Some(tid),
                what: format!("ptrace event {other}, which was not asked for"),
            });
        }
    };
    Ok(Some(Event::Stopped(Stopped { tid, why })))
}

impl Stopped {
    /// Its thread id.
    #[must_use]
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Why it is stopped.
    #[must_use]
    pub fn why(&self) -> Stop {
        self.why
    }

    /// Whether the signal that it is about to be delivered was sent with tgkill(2) by a process of this id, as the
    /// task itself sees it.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn signal_is_from(&self, pid: u32) -> Result<bool> {
        const SI_TKILL: i32 = -6;
        // si_signo, si_errno, si_code, padding, si_pid.
        let mut info = [0i32; 32];
        raw(libc::PTRACE_GETSIGINFO, self.tid, 0, (&raw mut info) as u64, "reading the signal of")?;
        Ok(info[2] == SI_TKILL && info[4].cast_unsigned() == pid)
    }

    /// Lets it go on, delivering `signal` (0: none) when it is in a signal stop.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn resume(self, until: Until, signal: i32) -> Result<Running> {
        let request = match until {
            Until::Stop => libc::PTRACE_CONT,
            Until::Syscall => libc::PTRACE_SYSCALL,
        };
        raw(request, self.tid, 0, u64::from(signal.unsigned_abs()), "resuming")?;
        Ok(Running { tid: self.tid })
    }

    /// Asks for a stop to come as soon as it is resumed.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn interrupt_next(&self) -> Result<()> {
        raw(libc::PTRACE_INTERRUPT, self.tid, 0, 0, "stopping").map(drop)
    }

    /// It was sent SIGKILL, which ends every stop: it runs to its end.
    pub fn killed(self) -> Running {
        Running { tid: self.tid }
    }

    /// Stops tracing it, delivering `signal` (0: none), and lets it run.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn detach(self, signal: i32) -> Result<()> {
        raw(libc::PTRACE_DETACH, self.tid, 0, u64::from(signal.unsigned_abs()), "detaching").map(drop)
    }

    /// Replaces the options that it was seized with.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn set_options(&self, options: u64) -> Result<()> {
        raw(libc::PTRACE_SETOPTIONS, self.tid, 0, options, "setting trace options of").map(drop)
    }

    /// The id of the task that it has just made, in a [`Stop::NewTask`].
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn new_task(&self) -> Result<Pid> {
        let mut message = 0u64;
        raw(libc::PTRACE_GETEVENTMSG, self.tid, 0, (&raw mut message) as u64, "reading the event of")?;
        Pid::try_from(message)
            .map_err(|_| Error::parse("reading a trace event", "a pid beyond 32 bits").of(self.tid))
    }

    /// General purpose registers.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn registers(&self) -> Result<Registers> {
        let mut registers = Registers::default();
        let got = self.get_set(libc::NT_PRSTATUS, registers.as_bytes_mut(), "reading registers of")?;
        if got != size_of::<Registers>() {
            // A 32-bit task has a shorter set.
            return Err(Error::Unexpected {
                doing: "reading registers".into(),
                pid: Some(self.tid),
                what: format!("a register set of {got} bytes; it is not a 64-bit task"),
            });
        }
        Ok(registers)
    }

    /// Sets the general purpose registers.
    ///
    /// # Errors
    ///
    /// EIO when a segment or flag is not allowed.
    pub fn set_registers(&self, registers: &Registers) -> Result<()> {
        let mut copy = *registers;
        self.set_set(libc::NT_PRSTATUS, copy.as_bytes_mut(), "setting registers of")
    }

    /// The extended state (NT_X86_XSTATE, or its counterpart).
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn extended(&self) -> Result<Vec<u8>> {
        thread_local! {
            /// Room for it, kept from one thread to the next.
            static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut room = ROOM.take();
        // AMX tiles are 8 KiB; 64 KiB leaves room for components to come.
        room.resize(64 << 10, 0);
        let got = self.get_set(crate::arch::EXTENDED_STATE_NOTE, &mut room, "reading extended registers of");
        let state = got.map(|got| room.get(..got).unwrap_or_default().to_vec());
        ROOM.set(room);
        state
    }

    /// Sets the extended state.
    ///
    /// # Errors
    ///
    /// EINVAL when it holds components that this CPU lacks.
    pub fn set_extended(&self, state: &[u8]) -> Result<()> {
        let mut copy = state.to_vec();
        self.set_set(crate::arch::EXTENDED_STATE_NOTE, &mut copy, "setting extended registers of")
    }

    /// The signal mask. Inside sigsuspend(2), ppoll(2) and the like it is the one to return to.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn signal_mask(&self) -> Result<u64> {
        let mut mask = 0u64;
        raw(libc::PTRACE_GETSIGMASK, self.tid, 8, (&raw mut mask) as u64, "reading the signal mask of")?;
        Ok(mask)
    }

    /// Sets the signal mask.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn set_signal_mask(&self, mask: u64) -> Result<()> {
        raw(libc::PTRACE_SETSIGMASK, self.tid, 8, (&raw const mask) as u64, "setting the signal mask of")
            .map(drop)
    }

    /// Pending signals with their siginfo, those of the thread or those of the whole group, in order.
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn pending(&self, shared: bool) -> Result<Vec<[u8; 128]>> {
        let mut all = Vec::new();
        loop {
            let mut batch = [[0u8; 128]; 32];
            let args = PeekSigInfo { off: all.len() as u64, flags: u32::from(shared), nr: 32 };
            let got = raw(
                libc::PTRACE_PEEKSIGINFO,
                self.tid,
                (&raw const args) as u64,
                (&raw mut batch) as u64,
                "reading pending signals of",
            )?;
            let got = usize::try_from(got).unwrap_or(0).min(batch.len());
            all.extend_from_slice(batch.get(..got).unwrap_or_default());
            if got < batch.len() {
                return Ok(all);
            }
        }
    }

    /// The registered restartable-sequence area: pointer, length, signature, flags; none when not registered.
    /// PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13.
    ///
    /// # Errors
    ///
    /// EIO on older kernels.
    pub fn rseq(&self) -> Result<Option<Rseq>> {
        let mut config = Rseq::default();
        raw(
            0x420f,
            self.tid,
            size_of::<Rseq>() as u64,
            (&raw mut config) as u64,
            "reading the rseq area of",
        )?;
        Ok((config.pointer != 0).then_some(config))
    }

    /// Syscall user dispatch (`struct ptrace_sud_config`: mode, selector, offset, length), none when it is off:
    /// PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4.
    ///
    /// # Errors
    ///
    /// EIO on older kernels.
    pub fn syscall_user_dispatch(&self) -> Result<Option<[u64; 4]>> {
        let mut config = [0u64; 4];
        raw(0x4211, self.tid, 32, (&raw mut config) as u64, "reading syscall user dispatch of")?;
        Ok((config[0] != 0).then_some(config))
    }

    /// Sets it: PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG.
    ///
    /// # Errors
    ///
    /// EIO before Linux 6.4, EINVAL for what the task could not set itself.
    pub fn set_syscall_user_dispatch(&self, config: [u64; 4]) -> Result<()> {
        raw(0x4210, self.tid, 32, (&raw const config) as u64, "setting syscall user dispatch of").map(drop)
    }

    /// The instructions of a seccomp filter, by its place in the chain, the oldest first: PTRACE_SECCOMP_GET_FILTER.
    ///
    /// # Errors
    ///
    /// ENOENT past the last one; EACCES without CAP_SYS_ADMIN, and under a seccomp filter of our own.
    pub fn seccomp_filter(&self, at: u64) -> Result<Vec<u8>> {
        /// BPF_MAXINSNS, which no filter exceeds (kernel/seccomp.c, seccomp_prepare_filter), and their size.
        const MOST: usize = 4096;
        const INSTRUCTION: usize = 8;
        let mut bytes = vec![0u8; MOST * INSTRUCTION];
        let got = raw(0x420c, self.tid, at, bytes.as_mut_ptr() as u64, "reading a seccomp filter of")?;
        bytes.truncate(usize::try_from(got).unwrap_or(0) * INSTRUCTION);
        bytes.shrink_to_fit();
        Ok(bytes)
    }

    /// The flags that a seccomp filter was made with, as far as the kernel keeps them: PTRACE_SECCOMP_GET_METADATA.
    ///
    /// # Errors
    ///
    /// As for [`Stopped::seccomp_filter`].
    pub fn seccomp_flags(&self, at: u64) -> Result<u64> {
        // struct seccomp_metadata: which filter, its flags.
        let mut metadata = [at, 0];
        raw(0x420d, self.tid, 16, (&raw mut metadata) as u64, "reading the flags of a seccomp filter of")?;
        Ok(metadata[1])
    }

    /// Writes whole words into memory that it may not write itself, as a debugger does: PTRACE_POKEDATA. The last one is
    /// filled up with zeroes.
    ///
    /// # Errors
    ///
    /// EIO where nothing is mapped.
    pub fn poke(&self, at: RemoteAddr, bytes: &[u8]) -> Result<()> {
        for (chunk, address) in bytes.chunks(8).zip((at.0..).step_by(8)) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            raw(
                libc::PTRACE_POKEDATA,
                self.tid,
                address,
                u64::from_le_bytes(word),
                "writing into the memory of",
            )?;
        }
        Ok(())
    }

    /// Whether the thread has an I/O permission bitmap of ioperm(2).
    ///
    /// # Errors
    ///
    /// ESRCH when it was killed meanwhile.
    pub fn io_bitmap(&self) -> Result<bool> {
        const NT_386_IOPERM: i32 = 0x201;
        let mut bitmap = vec![0; 8192];
        match self.get_set(NT_386_IOPERM, &mut bitmap, "reading I/O permissions of") {
            Ok(got) => Ok(got != 0),
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::ENXIO | libc::ENODEV | libc::EINVAL | libc::ENODATA)
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn get_set(&self, note: i32, buffer: &mut [u8], doing: &str) -> Result<usize> {
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        raw(libc::PTRACE_GETREGSET, self.tid, note_number(note), (&raw mut iov) as u64, doing)?;
        Ok(iov.iov_len)
    }

    fn set_set(&self, note: i32, buffer: &mut [u8], doing: &str) -> Result<()> {
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        raw(libc::PTRACE_SETREGSET, self.tid, note_number(note), (&raw mut iov) as u64, doing)?;
        Ok(())
    }
}

/// `struct ptrace_peeksiginfo_args`.
#[repr(C)]
struct PeekSigInfo {
    off: u64,
    flags: u32,
    nr: i32,
}

/// `struct ptrace_rseq_configuration`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rseq {
    /// Address of the area.
    pub pointer: u64,
    /// Its registered length.
    pub size: u32,
    /// The signature that precedes abort handlers.
    pub signature: u32,
    /// Flags of the registration.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<Rseq>() == 24 && size_of::<PeekSigInfo>() == 16);

impl Rseq {
    /// The address of the area.
    #[must_use]
    pub fn address(&self) -> RemoteAddr {
        RemoteAddr(self.pointer)
    }
}

fn raw(request: libc::c_uint, tid: Pid, addr: u64, data: u64, doing: &str) -> Result<i64> {
    // SAFETY: callers pass either plain numbers or the address of a local of the size that the request writes,
    // which outlives the call.
    let got = unsafe {
        libc::ptrace(
            request,
            signed(tid),
            null_mut::<u8>().wrapping_add(usize::try_from(addr).unwrap_or(0)),
            null_mut::<u8>().wrapping_add(usize::try_from(data).unwrap_or(0)),
        )
    };
    if got == -1 { Err(Error::last(format!("{doing} thread {tid}"), Some(tid))) } else { Ok(got) }
}

fn signed(tid: Pid) -> i32 {
    i32::try_from(tid).unwrap_or(-1)
}

fn note_number(note: i32) -> u64 {
    u64::from(note.unsigned_abs())
}
