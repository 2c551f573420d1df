//! Event counters: values up to the largest, semaphores, shared with a child, one with a thread that waits in it.

use crate::support::{Check, Ctx, child, reap};

const LARGEST: u64 = u64::MAX - 1;

fn take(fd: i32) -> Check<u64> {
    let mut value = 0_u64;
    same!("bytes of a value", sys!(libc::read(fd, (&raw mut value).cast(), 8))?, 8);
    Ok(value)
}

fn give(fd: i32, value: u64) -> Check {
    sys!(libc::write(fd, (&raw const value).cast(), 8)).map(|_| ())
}

fn empty(fd: i32) -> Check {
    let mut value = 0_u64;
    let got = sys!(libc::read(fd, (&raw mut value).cast(), 8));
    ensure!(got.is_err_and(|e| e.contains("os error 11")), "an empty counter has the value {value}");
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let plain = sys!(libc::eventfd(5, 0))?;
    let largest = sys!(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?;
    give(largest, LARGEST)?;
    let none = sys!(libc::eventfd(0, libc::EFD_NONBLOCK))?;
    let semaphore = sys!(libc::eventfd(3, libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK))?;
    let double = sys!(libc::dup(semaphore))?;
    let (there, back) = (sys!(libc::eventfd(0, 0))?, sys!(libc::eventfd(0, 0))?);
    // It waits for most of its life, also while it is saved.
    let waiter = child(ctx.party("child"), |_| {
        loop {
            let value = take(there)?;
            give(back, value)?;
        }
    })?;
    ctx.ready(&["main"])?;
    let mut rounds = 7;
    ctx.party("main").run(|_| {
        same!("a plain counter", take(plain)?, 5);
        give(plain, 5)?;
        same!("the largest value", take(largest)?, LARGEST);
        empty(largest)?;
        give(largest, LARGEST)?;
        ensure!(give(largest, 1).is_err(), "a full counter takes more");
        empty(none)?;
        for _ in 0..3 {
            same!("a semaphore", take(double)?, 1);
        }
        empty(semaphore)?;
        give(semaphore, 3)?;
        rounds += 1;
        give(there, rounds)?;
        same!("the child's answer", take(back)?, rounds);
        Ok(())
    })?;
    sys!(libc::kill(waiter, libc::SIGKILL))?;
    reap(waiter, libc::SIGKILL)
}
