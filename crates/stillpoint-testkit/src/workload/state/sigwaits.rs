//! Threads inside sigsuspend, pause, ppoll and pselect with a mask for the time of the wait; one on its alternate stack.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::support::{Check, Ctx, Map, gettid, pause_ms, until};

/// What a handler saw: the mask during the wait that it interrupted cannot be asked for later.
static HANDLED: AtomicI32 = AtomicI32::new(0);
static ON_STACK: AtomicU64 = AtomicU64::new(0);
static RELEASE: AtomicI32 = AtomicI32::new(0);

extern "C" fn wake(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Stays on the alternate stack until released.
extern "C" fn stay(_: i32) {
    let local = 0_u8;
    ON_STACK.store(&raw const local as u64, Ordering::SeqCst);
    while RELEASE.load(Ordering::SeqCst) == 0 {
        pause_ms(20);
    }
    ON_STACK.store(0, Ordering::SeqCst);
}

fn handle(signal: i32, handler: extern "C" fn(i32), flags: i32) -> Check {
    // SAFETY: all zeroes is a valid sigaction; the handlers touch atomics and sleep.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags;
    sys!(libc::sigaction(signal, &raw const action, std::ptr::null_mut())).map(|_| ())
}

const OUTER: u64 = 1 << 9 | 1 << 11 | 1 << 40;

fn mask() -> Check<u64> {
    let mut now = 0_u64;
    sys!(libc::syscall(libc::SYS_rt_sigprocmask, 0, 0_usize, &raw mut now, 8_usize))?;
    Ok(now)
}

/// One wait by number: every signal but SIGUSR2 is blocked meanwhile, where the call takes a mask.
fn wait(kind: usize) -> Check {
    let inner = !(1_u64 << 11);
    let argument = [&raw const inner as usize, 8];
    let result = match kind {
        0 => sys!(libc::syscall(libc::SYS_rt_sigsuspend, &raw const inner, 8_usize)),
        1 => sys!(libc::syscall(libc::SYS_ppoll, 0_usize, 0_usize, 0_usize, &raw const inner, 8_usize)),
        2 => {
            sys!(libc::syscall(libc::SYS_pselect6, 0, 0_usize, 0_usize, 0_usize, 0_usize, argument.as_ptr()))
        }
        _ => sys!(libc::syscall(libc::SYS_pause)),
    };
    let error = std::io::Error::last_os_error().raw_os_error();
    ensure!(result.is_err() && error == Some(libc::EINTR), "wait {kind} ended with {result:?}");
    Ok(())
}

struct Waiter {
    tid: AtomicI32,
    returned: AtomicI32,
    result: std::sync::Mutex<Check>,
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    handle(libc::SIGUSR2, wake, 0)?;
    handle(libc::SIGUSR1, stay, libc::SA_ONSTACK)?;
    let mut waiters = Vec::new();
    for kind in 0..4 {
        let waiter = Arc::new(Waiter {
            tid: AtomicI32::new(0),
            returned: AtomicI32::new(0),
            result: std::sync::Mutex::new(Ok(())),
        });
        waiters.push(Arc::clone(&waiter));
        std::thread::spawn(move || {
            // pause takes no mask: SIGUSR2 must be open there.
            let outer = if kind == 3 { OUTER & !(1 << 11) } else { OUTER };
            let body = || {
                sys!(libc::syscall(
                    libc::SYS_rt_sigprocmask,
                    libc::SIG_SETMASK,
                    &raw const outer,
                    0_usize,
                    8_usize
                ))?;
                waiter.tid.store(gettid(), Ordering::SeqCst);
                wait(kind)?;
                same!("mask after the wait", mask()?, outer);
                Ok(())
            };
            let result = body();
            if let Ok(mut slot) = waiter.result.lock() {
                *slot = result;
            }
            waiter.returned.store(1, Ordering::SeqCst);
        });
    }
    let stack = Map::anonymous(128 * 1024)?;
    let on_stack = std::thread::spawn(move || -> Check {
        let stack = { stack };
        let new = libc::stack_t { ss_sp: stack.start.cast(), ss_flags: 0, ss_size: stack.len };
        sys!(libc::sigaltstack(&raw const new, std::ptr::null_mut()))?;
        sys!(libc::raise(libc::SIGUSR1)).map(|_| ())
    });
    until("threads wait", || {
        waiters.iter().all(|w| w.tid.load(Ordering::SeqCst) != 0) && ON_STACK.load(Ordering::SeqCst) != 0
    })?;
    let range = stack.start as u64..stack.start as u64 + stack.len as u64;
    ctx.verify(|_| {
        ensure!(range.contains(&ON_STACK.load(Ordering::SeqCst)), "the handler is not on its stack");
        for (kind, waiter) in waiters.iter().enumerate() {
            ensure!(waiter.returned.load(Ordering::SeqCst) == 0, "wait {kind} returned too early");
        }
        same!("handlers run", HANDLED.load(Ordering::SeqCst), 0);
        Ok(())
    })?;
    let pid = sys!(libc::getpid())?;
    for waiter in &waiters {
        sys!(libc::syscall(libc::SYS_tgkill, pid, waiter.tid.load(Ordering::SeqCst), libc::SIGUSR2))?;
        until("a wait returns", || waiter.returned.load(Ordering::SeqCst) == 1)?;
        waiter.result.lock().map_err(|e| e.to_string())?.clone()?;
    }
    same!("handlers run", HANDLED.load(Ordering::SeqCst), 4);
    RELEASE.store(1, Ordering::SeqCst);
    on_stack.join().map_err(|_| "the thread on its stack panicked".to_owned())?
}
