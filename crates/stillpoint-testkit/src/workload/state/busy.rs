//! A tree that is never at rest: threads that compute in every kind of register, sleep, wait and wake each other, and a
//! child at the other end of two pipes. It notices a wait that ends early, a signal, and a number that is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::support::{Check, Crew, Ctx, Hold, HoldKind, Map, child, fill, holds};

/// Signals that nobody sends.
const NEVER: [i32; 5] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGHUP, libc::SIGIO];
static SEEN: AtomicI32 = AtomicI32::new(0);

extern "C" fn seen(signal: i32) {
    SEEN.store(signal, Ordering::SeqCst);
}

fn no_signal() -> Check {
    same!("a signal that nobody sent", SEEN.load(Ordering::SeqCst), 0);
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    for signal in NEVER {
        // SAFETY: all zeroes is a valid value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = seen as *const () as usize;
        sys!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))?;
    }
    let (mut there, mut back) = ([0; 2], [0; 2]);
    sys!(libc::pipe2(there.as_mut_ptr(), 0))?;
    sys!(libc::pipe2(back.as_mut_ptr(), 0))?;
    let echo = child(ctx.party("echo"), |party| {
        let mut next = 0;
        party.run(|_| {
            for _ in 0..50 {
                let Some(number) = receive(there[0])? else { break };
                same!("the number that the child reads", number, next);
                next += 1;
                send(back[1], number)?;
            }
            no_signal()
        })
    })?;
    let crew = Crew::new();
    // One thread spins, with the widest registers; more would only take the time of the others.
    let kinds = HoldKind::available();
    for (i, (kind, sleep)) in
        kinds.iter().map(|&kind| (kind, true)).chain(kinds.last().map(|&kind| (kind, false))).enumerate()
    {
        let shared = Arc::clone(&crew);
        crew.spawn(move || {
            let mut hold = Hold::new(kind, 7000 + i as u64, sleep);
            Ok(move |tick| hold.until_changed(&shared.tick, tick))
        })?;
    }
    for kind in 0..3 {
        let shared = Arc::clone(&crew);
        crew.spawn(move || {
            Ok(move |tick| {
                wait(kind)?;
                shared.wait_for_tick(tick);
                Ok(())
            })
        })?;
    }
    ball_game(&crew)?;
    numbers(&crew, there[1], back[0])?;
    writer(&crew)?;
    ctx.ready(&["main", "echo"])?;
    ctx.party("main").run(|_| {
        no_signal()?;
        crew.round()
    })?;
    crew.stop.store(true, Ordering::SeqCst);
    crate::support::reap(echo, 0)
}

/// Waits for two milliseconds, which must pass.
fn wait(kind: usize) -> Check {
    let start = std::time::Instant::now();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    let mut left = time;
    let word = 0_u32;
    match kind {
        0 => sys!(libc::syscall(libc::SYS_nanosleep, &raw mut time, &raw mut left)).map(drop)?,
        1 => sys!(libc::syscall(libc::SYS_poll, 0_usize, 0_usize, 2)).map(drop)?,
        _ => {
            let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
            let result = sys!(libc::syscall(libc::SYS_futex, &raw const word, wait, 0, &raw const time));
            let error = std::io::Error::last_os_error().raw_os_error();
            ensure!(result.is_err() && error == Some(libc::ETIMEDOUT), "futex: {result:?}");
        }
    }
    ensure!(start.elapsed().as_millis() >= 2, "wait {kind} ended early");
    Ok(())
}

/// Two threads that throw a number to each other and wait for it, without a time.
fn ball_game(crew: &Arc<Crew>) -> Check {
    let ball = Arc::new(AtomicU32::new(0));
    for side in 0..2 {
        let (shared, ball) = (Arc::clone(crew), Arc::clone(&ball));
        crew.spawn(move || {
            Ok(move |tick| {
                for _ in 0..20 {
                    let now = ball.load(Ordering::SeqCst);
                    if now % 2 == side {
                        ball.store(now.wrapping_add(1), Ordering::SeqCst);
                        sys!(libc::syscall(libc::SYS_futex, ball.as_ptr(), libc::FUTEX_WAKE, 1))?;
                        continue;
                    }
                    let result =
                        sys!(libc::syscall(libc::SYS_futex, ball.as_ptr(), libc::FUTEX_WAIT, now, 0_usize));
                    let error = std::io::Error::last_os_error().raw_os_error();
                    ensure!(
                        result.is_ok() || error == Some(libc::EAGAIN),
                        "futex without a time: {result:?}"
                    );
                }
                if side == 0 {
                    shared.wait_for_tick(tick);
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Sends numbers to the child and expects them back, in order.
fn numbers(crew: &Arc<Crew>, there: i32, back: i32) -> Check {
    let shared = Arc::clone(crew);
    crew.spawn(move || {
        let mut next = 0_u64;
        let mut under_way = VecDeque::new();
        Ok(move |tick| {
            for _ in 0..20 {
                if under_way.len() < 8 {
                    send(there, next)?;
                    under_way.push_back(next);
                    next += 1;
                }
                if let Some(number) = receive(back)? {
                    same!("the number that comes back", Some(number), under_way.pop_front());
                }
            }
            shared.wait_for_tick(tick);
            Ok(())
        })
    })
}

/// Fills memory again and again, and finds it as it was.
fn writer(crew: &Arc<Crew>) -> Check {
    let shared = Arc::clone(crew);
    let memory = Map::anonymous(64 * 4096)?;
    fill(memory.bytes(), 0);
    crew.spawn(move || {
        let mut seed = 0;
        Ok(move |tick| {
            holds("memory that is written all the time", memory.bytes(), seed)?;
            seed += 1;
            fill(memory.bytes(), seed);
            shared.wait_for_tick(tick);
            Ok(())
        })
    })
}

fn send(fd: i32, number: u64) -> Check {
    let sent = sys!(libc::write(fd, (&raw const number).cast(), 8))?;
    same!("bytes written", sent, 8);
    Ok(())
}

/// A number, if there is one within a while.
fn receive(fd: i32) -> Check<Option<u64>> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    if sys!(libc::poll(&raw mut poll, 1, 3))? == 0 {
        return Ok(None);
    }
    let mut number = 0_u64;
    let got = sys!(libc::read(fd, (&raw mut number).cast(), 8))?;
    same!("bytes read", got, 8);
    Ok(Some(number))
}
