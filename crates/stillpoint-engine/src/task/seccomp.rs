//! Seccomp: strict mode and filters.
//!
//! The kernel shows filters only to whoever has CAP_SYS_ADMIN and is under no filter itself (kernel/seccomp.c,
//! seccomp_get_filter), and only they may suspend them (PTRACE_O_SUSPEND_SECCOMP), without which a filter would look at the
//! calls that stillpoint makes in a task, and might kill it for them. They work again as soon as the tracer lets go or is
//! gone. So a task under a filter is in danger in one case: when this process is killed while a program runs in it, what
//! is left of the program is made under the filter.
//!
//! Filters are inherited and shared; a thread may give its own to all others of its process only when theirs are a part
//! of it. So what all threads of a process have in common is made once, for all of them.

use stillpoint_image::records::{SeccompFilter, Task, Thread};
use stillpoint_sys::proc::status::Status;
use stillpoint_sys::program::{Arg, Expect};
use stillpoint_sys::ptrace::{Stopped, options};

use crate::freeze::{self, FrozenTask};
use crate::restore::sequence::Sequence;
use crate::{Code, Error, Result};

/// Modes of prctl(2), PR_SET_SECCOMP.
pub const STRICT: u32 = 1;
const FILTER: u32 = 2;
/// The call's operation, and its flags: include/uapi/linux/seccomp.h.
const SET_MODE_FILTER: u64 = 1;
const FLAG_TSYNC: u64 = 1;
const FLAG_LOG: u64 = 2;
/// The mitigations of the CPU that a filter may switch on are a state of their own, which is set beside it.
const FLAG_SPEC_ALLOW: u64 = 4;
/// Size of an instruction, and how many a filter may have.
const INSTRUCTION: usize = 8;
const MOST: usize = 4096;

/// What seccomp does to the threads of a process.
#[derive(Debug, Default)]
pub struct Captured {
    /// The filters of the process, each once.
    pub filters: Vec<SeccompFilter>,
    /// Of each thread: the mode, and which filters, the oldest first.
    pub threads: Vec<(u32, Vec<u32>)>,
}

/// Suspends the filters of a process's threads until they are let go of.
///
/// # Errors
///
/// A refusal without the privilege for it.
pub fn suspend(task: &FrozenTask, statuses: &[Status]) -> Result<()> {
    for (thread, status) in task.threads.iter().zip(statuses).filter(|(_, status)| status.seccomp != 0) {
        let done = thread.stopped()?.set_options(freeze::OPTIONS | options::SUSPEND_SECCOMP);
        done.map_err(|error| match error.errno() {
            Some(libc::EPERM | libc::EINVAL) => Box::new(lacking(status.seccomp)),
            _ => Box::<Error>::from(error),
        })?;
    }
    Ok(())
}

fn lacking(mode: u32) -> Error {
    Error::new(Code::UnsupportedState, "looking at seccomp")
        .object(if mode == STRICT { "seccomp's strict mode" } else { "seccomp filters" })
        .cause("the kernel shows and suspends them only for a process that has CAP_SYS_ADMIN and is under no seccomp itself")
        .remedy("run stillpoint as root, outside of a container that filters its calls")
}

/// Reads mode and filters of every thread.
///
/// # Errors
///
/// A refusal: without privilege, or of a filter that reports to a listener.
pub fn capture(task: &FrozenTask, statuses: &[Status]) -> Result<Captured> {
    let mut captured = Captured::default();
    for (thread, status) in task.threads.iter().zip(statuses) {
        let mut chain = Vec::new();
        if status.seccomp == FILTER {
            let stopped = thread.stopped()?;
            while let Some(filter) = read(stopped, chain.len())? {
                check(&filter)?;
                let known = captured.filters.iter().position(|other| *other == filter);
                let at = known.unwrap_or(captured.filters.len());
                if known.is_none() {
                    captured.filters.push(filter);
                }
                chain.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
            let count = status.seccomp_filters.map_or(chain.len(), |count| count as usize);
            if chain.is_empty() || chain.len() != count {
                return Err(Error::new(Code::Unknown, "reading seccomp filters")
                    .object(format!("thread {}", thread.tid))
                    .cause(format!("it has {count} of them, and {} could be read", chain.len()))
                    .into());
            }
        }
        captured.threads.push((status.seccomp, chain));
    }
    Ok(captured)
}

/// A thread's filter by its place in the chain.
fn read(stopped: &Stopped, at: usize) -> Result<Option<SeccompFilter>> {
    let at = at as u64;
    let program = match stopped.seccomp_filter(at) {
        Ok(program) => program,
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
        Err(error) if error.errno() == Some(libc::EACCES) => return Err(lacking(FILTER).into()),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(SeccompFilter { program, log: stopped.seccomp_flags(at)? & FLAG_LOG != 0 }))
}

/// Refuses a filter that hands calls to a listener: whoever listens would not be there.
fn check(filter: &SeccompFilter) -> Result<()> {
    /// BPF_RET with a constant, and with the accumulator.
    const RETURN: u16 = 0x06;
    const RETURN_ACCUMULATOR: u16 = 0x16;
    const ACTION: u32 = 0xffff_0000;
    const USER_NOTIFICATION: u32 = 0x7fc0_0000;
    for instruction in filter.program.chunks_exact(INSTRUCTION) {
        let (Some(code), Some(constant)) = (
            instruction.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes)),
            instruction.last_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)),
        ) else {
            continue;
        };
        let cause = match code {
            RETURN if constant & ACTION == USER_NOTIFICATION => {
                "it hands calls to a listener (SECCOMP_RET_USER_NOTIF)"
            }
            RETURN_ACCUMULATOR => "it computes what it answers, so it may hand calls to a listener",
            _ => continue,
        };
        return Err(Error::new(Code::UnsupportedState, "saving seccomp filters")
            .object("a seccomp filter")
            .cause(cause)
            .remedy("end what listens, and what it listens to")
            .into());
    }
    Ok(())
}

/// Whether any thread of an image is under seccomp.
pub fn is_used<'a>(mut threads: impl Iterator<Item = &'a Thread>) -> bool {
    threads.any(|thread| thread.seccomp != 0)
}

/// How many filters all threads of a process begin with.
fn common(threads: &[Thread]) -> usize {
    let Some((first, rest)) = threads.split_first() else { return 0 };
    let shared = |other: &Thread| {
        first.seccomp_filters.iter().zip(&other.seccomp_filters).take_while(|(a, b)| a == b).count()
    };
    rest.iter().map(shared).min().unwrap_or(first.seccomp_filters.len())
}

/// Makes the filters that all threads of a process share. They must be suspended.
pub fn install_shared(sequence: &mut Sequence, task: &Task, threads: &[Thread]) {
    let chain = threads.first().map_or(&[][..], |leader| &leader.seccomp_filters);
    let together = if threads.len() > 1 { FLAG_TSYNC } else { 0 };
    install(sequence, task, chain.iter().take(common(threads)), together);
}

/// Makes a thread's own filters, and puts it into strict mode if it was. Both must be suspended.
pub fn install_own(sequence: &mut Sequence, task: &Task, threads: &[Thread], thread: &Thread) {
    install(sequence, task, thread.seccomp_filters.iter().skip(common(threads)), 0);
    if thread.seccomp == STRICT {
        let strict = [libc::PR_SET_SECCOMP.into(), STRICT.into()];
        sequence.call("entering seccomp's strict mode", libc::SYS_prctl, strict);
    }
}

fn install<'a>(sequence: &mut Sequence, task: &Task, chain: impl Iterator<Item = &'a u32>, flags: u64) {
    for filter in chain.filter_map(|&at| task.seccomp_filters.get(at as usize)) {
        // A filter may take half a slot.
        sequence.begin();
        let program = sequence.current();
        let instructions = program.data(&filter.program);
        // struct sock_fprog: length, address.
        let length = (filter.program.len() / INSTRUCTION) as u64;
        let header = program.data_pointing(&[length.to_le_bytes(), [0; 8]].concat(), 8, instructions);
        let log = if filter.log { FLAG_LOG } else { 0 };
        sequence.call_expecting(
            "installing a seccomp filter",
            libc::SYS_seccomp,
            [Arg::Value(SET_MODE_FILTER), Arg::Value(flags | log | FLAG_SPEC_ALLOW), header.into()],
            // With TSYNC a positive answer is the id of a thread that could not follow.
            Expect::Exactly(0),
        );
    }
}

/// Checks what an image says of a process's filters; says what is wrong.
#[must_use]
pub fn check_records(task: &Task, threads: &[Thread]) -> Option<&'static str> {
    let fits = |filter: &SeccompFilter| {
        !filter.program.is_empty()
            && filter.program.len().is_multiple_of(INSTRUCTION)
            && filter.program.len() <= MOST * INSTRUCTION
    };
    if !task.seccomp_filters.iter().all(fits) {
        return Some("a seccomp filter is not one that the kernel has");
    }
    let known = |at: &u32| (*at as usize) < task.seccomp_filters.len();
    let wrong = threads.iter().any(|thread| {
        let mode_fits =
            thread.seccomp <= FILTER && (thread.seccomp == FILTER) != thread.seccomp_filters.is_empty();
        !mode_fits || !thread.seccomp_filters.iter().all(known)
    });
    wrong.then_some("a thread's seccomp mode does not fit its filters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(filters: &[u32]) -> Thread {
        let seccomp = if filters.is_empty() { 0 } else { FILTER };
        Thread { seccomp, seccomp_filters: filters.to_vec(), ..Thread::default() }
    }

    fn returns(code: u8, constant: u32) -> SeccompFilter {
        let mut program = vec![code, 0, 0, 0];
        program.extend_from_slice(&constant.to_le_bytes());
        SeccompFilter { program, log: false }
    }

    #[test]
    fn what_all_threads_begin_with_is_made_once() {
        assert_eq!(common(&[thread(&[0, 1])]), 2);
        assert_eq!(common(&[thread(&[0, 1]), thread(&[0, 2]), thread(&[0, 1])]), 1);
        assert_eq!(common(&[thread(&[0]), thread(&[])]), 0);
    }

    #[test]
    fn a_filter_with_a_listener_is_refused() {
        assert!(check(&returns(0x06, 0x7fff_0000)).is_ok());
        assert!(check(&returns(0x06, 0x7fc0_0001)).is_err());
        assert!(check(&returns(0x16, 0)).is_err());
    }

    #[test]
    fn records_that_no_kernel_has_are_refused() {
        let task = Task { seccomp_filters: vec![returns(0x06, 0)], ..Task::default() };
        assert_eq!(check_records(&task, &[thread(&[0]), thread(&[])]), None);
        assert!(check_records(&task, &[thread(&[1])]).is_some());
        let strict = Thread { seccomp: STRICT, ..thread(&[0]) };
        assert!(check_records(&task, &[strict]).is_some());
        let task = Task { seccomp_filters: vec![SeccompFilter::default()], ..task };
        assert!(check_records(&task, &[]).is_some());
    }
}
