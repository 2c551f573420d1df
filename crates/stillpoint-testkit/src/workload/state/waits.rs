//! Waits that nothing ends: each thread is inside one system call when the checkpoint comes, and still is afterwards.
//!
//! Not here: the calls that signal(7) lists as failing with EINTR after any stop.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::support::{Check, Crew, Ctx, child};

static HOUR: libc::timespec = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
static WORD: AtomicU32 = AtomicU32::new(5);

/// Never returns; what it returns with is the failure.
fn wait(kind: usize, pipe: [i32; 2], child: i32, deadline: libc::timespec) -> Check<i64> {
    let mut poll = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
    let mut status = 0;
    let mut byte = 0_u8;
    let monotonic = libc::CLOCK_MONOTONIC;
    let abs = libc::TIMER_ABSTIME;
    match kind {
        0 => sys!(libc::syscall(libc::SYS_read, pipe[0], &raw mut byte, 1_usize)),
        1 => sys!(libc::syscall(libc::SYS_poll, &raw mut poll, 1_usize, -1)),
        2 => sys!(libc::syscall(libc::SYS_poll, &raw mut poll, 1_usize, 3_600_000)),
        3 => sys!(libc::syscall(libc::SYS_nanosleep, &raw const HOUR, 0_usize)),
        4 => sys!(libc::syscall(libc::SYS_clock_nanosleep, monotonic, 0, &raw const HOUR, 0_usize)),
        5 => sys!(libc::syscall(libc::SYS_clock_nanosleep, monotonic, abs, &raw const deadline, 0_usize)),
        6 => sys!(libc::syscall(libc::SYS_futex, WORD.as_ptr(), libc::FUTEX_WAIT, 5, 0_usize)),
        7 => sys!(libc::syscall(libc::SYS_futex, WORD.as_ptr(), libc::FUTEX_WAIT, 5, &raw const HOUR)),
        8 => sys!(libc::syscall(libc::SYS_wait4, child, &raw mut status, 0, 0_usize)),
        9 => sys!(libc::syscall(libc::SYS_select, 0, 0_usize, 0_usize, 0_usize, 0_usize)),
        10 => {
            let bitset = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
            let until = &raw const deadline;
            sys!(libc::syscall(libc::SYS_futex, WORD.as_ptr(), bitset, 5, until, 0_usize, -1))
        }
        _ => sys!(libc::syscall(libc::SYS_pause)),
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let mut pipe = [0; 2];
    sys!(libc::pipe2(pipe.as_mut_ptr(), 0))?;
    let sleeper = child(ctx.party("sleeper"), |_| {
        loop {
            let _ = sys!(libc::pause());
        }
    })?;
    let mut deadline = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    sys!(libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut deadline))?;
    deadline.tv_sec += 3600;
    let crew = Crew::new();
    for kind in 0..12 {
        let crew = Arc::clone(&crew);
        std::thread::spawn(move || {
            let result = wait(kind, pipe, sleeper, deadline);
            crew.fail(format!("wait {kind} returned {result:?}"));
        });
    }
    ctx.verify(|_| crew.failure())?;
    sys!(libc::kill(sleeper, libc::SIGKILL)).map(|_| ())
}
