//! Seccomp filters: shared by all threads, of one thread, inherited by a child; and strict mode in a child. As root: the
//! kernel shows filters to nobody else. Anybody else holds nothing.

use std::sync::Arc;

use crate::support::{Check, Crew, Ctx};

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;
const TSYNC: u64 = 1;
const LOG: u64 = 2;

/// Installs a filter that does something with one system call, and allows all others.
fn filter(call: i64, action: u32, flags: u64) -> Check {
    let code = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Load the number; is it this one; then that; else allow.
    let mut program = [
        code(0x20, 0, 0, 0),
        code(0x15, 0, 1, call as u32),
        code(0x06, 0, 0, action),
        code(0x06, 0, 0, ALLOW),
    ];
    let header = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    sys!(libc::syscall(libc::SYS_seccomp, 1, flags, &raw const header)).map(|_| ())
}

/// What a call that filters make fail says.
fn errno(call: i64) -> i32 {
    // SAFETY: calls without arguments, or with zeroes, that do nothing.
    let result = unsafe { libc::syscall(call, 0, 0) };
    if result == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

fn filters() -> Check<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").map_err(|e| e.to_string())?;
    let lines = status.lines().filter(|line| line.starts_with("Seccomp") || line.starts_with("NoNewPrivs"));
    Ok(lines.collect::<Vec<_>>().join(" "))
}

/// A child that answers each byte with the next, and may do nothing else.
fn strict(ask: [i32; 2], answer: [i32; 2]) -> Check {
    if sys!(libc::fork())? != 0 {
        return Ok(());
    }
    // SAFETY: in strict mode only these calls are allowed, so nothing of the library is used.
    unsafe {
        libc::close(ask[1]);
        libc::prctl(libc::PR_SET_SECCOMP, 1);
        let mut byte = 0_u8;
        while libc::syscall(libc::SYS_read, ask[0], &raw mut byte, 1) == 1 {
            byte = byte.wrapping_add(1);
            libc::syscall(libc::SYS_write, answer[1], &raw const byte, 1);
        }
        libc::syscall(libc::SYS_exit, 0);
    }
    Ok(())
}

/// The same under the filters of its parent, and telling what they do.
fn inherits(ask: [i32; 2], answer: [i32; 2], other: i32) -> Check {
    if sys!(libc::fork())? != 0 {
        return Ok(());
    }
    // SAFETY: plain calls on this process's own descriptors; it ends at once.
    unsafe {
        libc::close(ask[1]);
        libc::close(other);
        let mut byte = 0_u8;
        while libc::read(ask[0], (&raw mut byte).cast(), 1) == 1 {
            byte = errno(libc::SYS_getpgrp) as u8;
            libc::write(answer[1], (&raw const byte).cast(), 1);
        }
        libc::_exit(0);
    }
}

fn asked(ask: i32, answer: i32, byte: u8) -> Check<u8> {
    let mut got = 0_u8;
    sys!(libc::write(ask, (&raw const byte).cast(), 1))?;
    same!("bytes answered", sys!(libc::read(answer, (&raw mut got).cast(), 1))?, 1);
    Ok(got)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return ctx.verify(|_| {
            same!("seccomp mode", sys!(libc::prctl(libc::PR_GET_SECCOMP))?, 0);
            Ok(())
        });
    }
    let mut pipes = [[0; 2]; 4];
    for pipe in &mut pipes {
        sys!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC))?;
    }
    let crew = Crew::new();
    let shared = Arc::clone(&crew);
    let (send, receive) = std::sync::mpsc::channel();
    crew.spawn(move || {
        receive.recv().map_err(|e| e.to_string())?;
        // On top of what it was given.
        filter(libc::SYS_getppid, ERRNO | 77, 0)?;
        let before = filters()?;
        Ok(move |tick| {
            shared.wait_for_tick(tick);
            same!("of all", errno(libc::SYS_getpgrp), 33);
            same!("of this thread", errno(libc::SYS_getppid), 77);
            same!("filters of a thread", filters()?, before);
            Ok(())
        })
    })?;
    strict(pipes[0], pipes[1])?;
    filter(libc::SYS_getpgrp, ERRNO | 33, TSYNC | LOG)?;
    // Calls that a checkpoint makes in a task, and a restore.
    for call in [libc::SYS_getitimer, libc::SYS_modify_ldt, libc::SYS_set_tid_address, libc::SYS_arch_prctl] {
        filter(call, KILL, TSYNC)?;
    }
    inherits(pipes[2], pipes[3], pipes[0][1])?;
    send.send(()).map_err(|e| e.to_string())?;
    let before = filters()?;
    ctx.verify(|round| {
        same!("of all", errno(libc::SYS_getpgrp), 33);
        same!("of another thread", errno(libc::SYS_getppid), 0);
        same!("filters", filters()?, before);
        let byte = round as u8;
        same!("strict mode's answer", asked(pipes[0][1], pipes[1][0], byte)?, byte.wrapping_add(1));
        same!("a child's answer", asked(pipes[2][1], pipes[3][0], byte)?, 33);
        crew.round()
    })?;
    // The children end when nobody asks any more.
    for pipe in [pipes[0], pipes[2]] {
        sys!(libc::close(pipe[1]))?;
    }
    sys!(libc::wait(std::ptr::null_mut()))?;
    sys!(libc::wait(std::ptr::null_mut())).map(|_| ())
}
