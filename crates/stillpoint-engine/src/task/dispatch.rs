//! Syscall user dispatch: prctl(2), PR_SET_SYSCALL_USER_DISPATCH, by which a program catches its own system calls.
//!
//! It would catch those that stillpoint makes in the thread. A byte of the program, the selector, says whether calls are
//! caught at the moment; only a thread whose calls are not is saved. Switching it off meanwhile would lose it if this
//! process were killed.

use stillpoint_image::records::SyscallDispatch;
use stillpoint_sys::{RemoteAddr, vm};

use crate::freeze::FrozenThread;
use crate::{Code, Error, Result, TaskName};

/// SYSCALL_DISPATCH_FILTER_ALLOW.
const ALLOW: u8 = 0;

fn read(thread: &FrozenThread) -> Result<Option<[u64; 4]>> {
    match thread.stopped()?.syscall_user_dispatch() {
        // Before Linux 6.4 nobody tells.
        Err(error) if error.errno() == Some(libc::EIO) => Ok(None),
        other => Ok(other?),
    }
}

/// Refuses a thread whose calls are caught.
///
/// # Errors
///
/// The refusal.
pub fn refuse_caught(name: &TaskName, thread: &FrozenThread) -> Result<()> {
    let Some([_, selector, ..]) = read(thread)? else { return Ok(()) };
    let mut byte = [!ALLOW];
    if selector != 0 {
        vm::read(thread.host_tid, RemoteAddr(selector), &mut byte)?;
    }
    if byte == [ALLOW] {
        return Ok(());
    }
    let name = TaskName { tid: Some(thread.host_tid), ..name.clone() };
    Err(Error::new(Code::UnsupportedState, "saving a thread")
        .in_task(&name)
        .object("syscall user dispatch")
        .cause("the program catches its own system calls at the moment, and would catch those that stillpoint makes in it")
        .remedy("try again")
        .into())
}

/// As the image stores it.
///
/// # Errors
///
/// When the thread was killed.
pub fn capture(thread: &FrozenThread) -> Result<Option<SyscallDispatch>> {
    let config = read(thread)?;
    Ok(config.map(|[mode, selector, offset, length]| SyscallDispatch { mode, selector, offset, length }))
}

/// As the kernel takes it.
#[must_use]
pub fn config(record: &SyscallDispatch) -> [u64; 4] {
    [record.mode, record.selector, record.offset, record.length]
}
