//! Children of vfork(2): a thread waits for one of them in the kernel, where it cannot be stopped, at almost any moment.

use std::process::Command;

use crate::support::{Check, Ctx, Map, pause_ms, reap};

/// The end of a child, as its parent sees it: the argument is the exit code.
extern "C" fn wait_and_end(code: *mut libc::c_void) -> i32 {
    pause_ms(3);
    code as usize as i32
}

extern "C" fn wait_and_execute(code: *mut libc::c_void) -> i32 {
    pause_ms(3);
    let program = if code.is_null() { c"/bin/true" } else { c"/bin/false" };
    let arguments = [program.as_ptr(), std::ptr::null()];
    // SAFETY: terminated strings and a terminated list of them.
    unsafe {
        libc::execv(program.as_ptr(), arguments.as_ptr());
        libc::_exit(255)
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let stack = Map::anonymous(256 * 1024)?;
    let top: *mut libc::c_void = stack.start.wrapping_add(stack.len).cast();
    ctx.verify(|round| {
        let code = (round % 200) as i32;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // The parent's thread sleeps until the child has left its memory.
        let pid = sys!(libc::clone(wait_and_end, top, flags, code as usize as *mut libc::c_void))?;
        reap(pid, code << 8)?;
        let which = (round % 2) as usize;
        let pid = sys!(libc::clone(wait_and_execute, top, flags, which as *mut libc::c_void))?;
        reap(pid, i32::from(which == 1) << 8)?;
        // posix_spawn(3), which is made of the same.
        let status = Command::new("/bin/sh").args(["-c", &format!("exit {code}")]).status();
        same!("a shell's status", status.map_err(|error| error.to_string())?.code(), Some(code));
        Ok(())
    })
}
