//! `/proc/PID/syscall`: the system call in which a task waits.
//!
//! See proc_pid_syscall(5) and `proc_pid_syscall` in the kernel's `fs/proc/base.c`. The file needs
//! CONFIG_HAVE_ARCH_TRACEHOOK, which x86 and arm64 have. For a task in a trace stop PTRACE_GET_SYSCALL_INFO says
//! more.

use super::source;
use super::text::{Text, exactly, words};
use crate::{Pid, RemoteAddr, Result};

const TEXT: Text = Text("reading a task's system call");

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syscall {
    /// It runs or could run.
    Running,
    /// It waits in the kernel, but not in a system call (a page fault, a signal stop).
    Blocked {
        /// Stack pointer.
        stack: RemoteAddr,
        /// Instruction pointer.
        instruction: RemoteAddr,
    },
    /// It waits in a system call.
    In {
        /// Number of the call, for the architecture of the task.
        number: u32,
        /// Arguments, in order.
        arguments: [u64; 6],
        /// Stack pointer.
        stack: RemoteAddr,
        /// Instruction pointer.
        instruction: RemoteAddr,
    },
}

/// Reads `/proc/PID/task/TID/syscall`.
///
/// # Errors
///
/// EPERM or EACCES without PTRACE_MODE_ATTACH access, ENOENT or ESRCH when the thread is gone, ENOENT where the
/// kernel has no such file, and a text that is not understood.
pub fn read(pid: Pid, tid: Pid) -> Result<Syscall> {
    source::parse_single(TEXT.0, tid, &format!("/proc/{pid}/task/{tid}/syscall"), parse)
}

/// Parses the text of `/proc/PID/syscall`.
///
/// # Errors
///
/// Anything but the three forms that the kernel prints.
pub fn parse(bytes: &[u8]) -> Result<Syscall> {
    let line = TEXT.one_line(bytes)?;
    let address = |field| TEXT.hex_0x("an address", field).map(RemoteAddr);
    if line == b"running" {
        Ok(Syscall::Running)
    } else if let Some([number, stack, instruction]) = exactly(line) {
        // A negative number that is not -1 is what a debugger or a seccomp filter made of the call.
        let number: i32 = TEXT.signed("a system call number", number)?;
        if number >= 0 {
            return Err(TEXT.bad("a system call without arguments", line));
        }
        Ok(Syscall::Blocked { stack: address(stack)?, instruction: address(instruction)? })
    } else {
        let bad = || TEXT.bad("a system call", line);
        let [number, _, _, _, _, _, _, stack, instruction] = exactly(line).ok_or_else(bad)?;
        let mut arguments = [0; 6];
        for (argument, field) in arguments.iter_mut().zip(words(line).skip(1)) {
            *argument = TEXT.hex_0x("an argument", field)?;
        }
        Ok(Syscall::In {
            number: TEXT.decimal("a system call number", number)?,
            arguments,
            stack: address(stack)?,
            instruction: address(instruction)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        assert_eq!(parse(b"running\n").unwrap(), Syscall::Running);
        assert_eq!(
            parse(b"-1 0x7ffc8d9d87a8 0x7f8608eb52ad\n").unwrap(),
            Syscall::Blocked {
                stack: RemoteAddr(0x7ffc_8d9d_87a8),
                instruction: RemoteAddr(0x7f86_08eb_52ad)
            }
        );
        assert_eq!(
            parse(
                b"0 0x3 0x7f8608d39000 0x20000 0x22 0xffffffffffffffff 0x0 0x7ffc8d9d87a8 0x7f8608eb52ad\n"
            )
            .unwrap(),
            Syscall::In {
                number: 0,
                arguments: [3, 0x7f86_08d3_9000, 0x20000, 0x22, u64::MAX, 0],
                stack: RemoteAddr(0x7ffc_8d9d_87a8),
                instruction: RemoteAddr(0x7f86_08eb_52ad),
            }
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b""[..],
            b"running",
            b"running 1\n",
            b"5 0x1 0x2\n",
            b"5 0x1 0x2 0x3 0x4 0x5 0x6 0x7\n",
            b"5 1 2 3 4 5 6 7 8\n",
            b"-1 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8\n",
            b"running\nrunning\n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn this_thread_reads() {
        let pid = std::process::id();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        // A thread that reads its own file is in read(2), or in pread(2).
        assert!(matches!(read(pid, tid).unwrap(), Syscall::In { .. } | Syscall::Running));
    }
}
