//! Waits with a time, over and over, each in a thread: none may end early, with EINTR, or with another result.

use std::sync::Arc;

use crate::support::{Check, Crew, Ctx};

fn now() -> Check<i128> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    sys!(libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time))?;
    Ok(nanoseconds(time))
}

fn nanoseconds(time: libc::timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

fn after(ms: i64) -> libc::timespec {
    libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 }
}

/// Waits for so many milliseconds in one of several ways.
fn wait(kind: usize, ms: i64, pipe: i32) -> Check {
    let mut time = after(ms);
    let mut left = after(0);
    // Each of these returns 0 when its time is over. The raw calls: the C library would hide some restarts.
    match kind {
        0 => sys!(libc::syscall(libc::SYS_nanosleep, &raw const time, &raw mut left)),
        1 => sys!(libc::syscall(
            libc::SYS_clock_nanosleep,
            libc::CLOCK_MONOTONIC,
            0,
            &raw const time,
            &raw mut left
        )),
        2 => {
            let mut until = now()?;
            until += i128::from(ms) * 1_000_000;
            time.tv_sec = (until / 1_000_000_000) as i64;
            time.tv_nsec = (until % 1_000_000_000) as i64;
            let abs = libc::TIMER_ABSTIME;
            sys!(libc::syscall(
                libc::SYS_clock_nanosleep,
                libc::CLOCK_MONOTONIC,
                abs,
                &raw const time,
                0_usize
            ))
        }
        3 => {
            let mut poll = libc::pollfd { fd: pipe, events: libc::POLLIN, revents: 0 };
            sys!(libc::syscall(libc::SYS_poll, &raw mut poll, 1_usize, ms))
        }
        4 => {
            let mut time = libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
            sys!(libc::syscall(libc::SYS_select, 0, 0_usize, 0_usize, 0_usize, &raw mut time))
        }
        5 => {
            let mut poll = libc::pollfd { fd: pipe, events: libc::POLLIN, revents: 0 };
            sys!(libc::syscall(libc::SYS_ppoll, &raw mut poll, 1_usize, &raw mut time, 0_usize, 8_usize))
        }
        _ => {
            let word = 0_u32;
            let result =
                sys!(libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAIT, 0, &raw const time));
            let error = std::io::Error::last_os_error().raw_os_error();
            ensure!(result.is_err() && error == Some(libc::ETIMEDOUT), "futex: {result:?}");
            Ok(0)
        }
    }
    .and_then(|result| {
        same!("result of a wait", result, 0);
        Ok(())
    })
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let (mut pipe, mut silent) = ([0; 2], [0; 2]);
    sys!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC))?;
    sys!(libc::pipe2(silent.as_mut_ptr(), libc::O_CLOEXEC))?;
    let crew = Crew::new();
    for kind in 0..7 {
        let ms = 300 + 70 * kind as i64;
        crew.spawn(move || {
            Ok(move |_| {
                let start = now()?;
                wait(kind, ms, silent[0]).map_err(|e| format!("wait {kind}: {e}"))?;
                let took = now()? - start;
                ensure!(took >= i128::from(ms) * 1_000_000, "wait {kind} took {took} ns instead of {ms} ms");
                Ok(())
            })
        })?;
    }
    // And one that waits for data, which comes at the very end.
    let reader = Arc::clone(&crew);
    let thread = std::thread::spawn(move || {
        let mut byte = 0_u8;
        match sys!(libc::read(pipe[0], (&raw mut byte).cast(), 1)) {
            Ok(1) if byte == b'x' => {}
            other => reader.fail(format!("read of an empty pipe ended with {other:?} and {byte}")),
        }
    });
    ctx.verify(|_| crew.failure())?;
    crew.round()?;
    sys!(libc::write(pipe[1], c"x".as_ptr().cast(), 1))?;
    thread.join().map_err(|_| "the reader panicked".to_owned())?;
    crew.failure()
}
