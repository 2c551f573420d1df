//! What the kernel does with futexes when a thread ends: its robust list and its clear-tid address.

use stillpoint_image::records::RobustList;
use stillpoint_sys::program::{Expect, Program};
use stillpoint_sys::{Pid, task};

use crate::Result;

/// A thread's robust list, if it has one.
///
/// # Errors
///
/// EPERM without ptrace access.
pub fn capture(tid: Pid) -> Result<Option<RobustList>> {
    let (head, length) = task::robust_list(tid)?;
    Ok((head.0 != 0).then_some(RobustList { head: head.0, length }))
}

/// Sets the calling thread's robust list and clear-tid address.
pub fn set(program: &mut Program, tid: u32, list: Option<&RobustList>, clear_child_tid: u64) {
    if let Some(list) = list {
        program.call(
            "setting the robust futex list",
            libc::SYS_set_robust_list,
            [list.head.into(), list.length.into()],
        );
    }
    // It answers with the caller's thread id, as the caller sees it: a check that the id is the right one.
    program.call_expecting(
        "setting the clear-tid address",
        libc::SYS_set_tid_address,
        [clear_child_tid.into()],
        Expect::Exactly(i64::from(tid)),
    );
}
