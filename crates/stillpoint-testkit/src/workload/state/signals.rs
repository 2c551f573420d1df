//! Signal actions with every flag, masks, and signals pending: for the process and for a thread, queued with values.

use crate::support::{Check, Ctx, gettid};

extern "C" fn handler(_: i32) {}
extern "C" fn other_handler(_: i32) {}

/// The kernel's `struct sigaction`, restorer included.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

fn action(signal: i32) -> Check<Action> {
    let mut out = Action { handler: 0, flags: 0, restorer: 0, mask: 0 };
    sys!(libc::syscall(libc::SYS_rt_sigaction, signal, 0_usize, &raw mut out, 8_usize))?;
    Ok(out)
}

fn set(signal: i32, handler: usize, flags: i32, mask: &[i32]) -> Check {
    // SAFETY: all zeroes is a valid sigaction; the handlers do nothing.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    for &signal in mask {
        sys!(libc::sigaddset(&raw mut action.sa_mask, signal))?;
    }
    sys!(libc::sigaction(signal, &raw const action, std::ptr::null_mut())).map(|_| ())
}

/// `union sigval`, as the kernel's siginfo holds it, with a code of our own choosing.
#[repr(C)]
struct QueueInfo {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}

fn info(signal: i32, value: u64) -> QueueInfo {
    QueueInfo {
        signo: signal,
        errno: 5,
        code: libc::SI_QUEUE,
        pad: 0,
        pid: 77,
        uid: 88,
        value,
        rest: [0; 12],
    }
}

/// Signals from 34 up are the program's.
const FIRST: i32 = 36;

fn pending() -> Check<u64> {
    let mut set = 0_u64;
    sys!(libc::syscall(libc::SYS_rt_sigpending, &raw mut set, 8_usize))?;
    Ok(set)
}

/// Takes one pending signal out of the queue.
fn take(signal: i32) -> Check<Option<QueueInfo>> {
    let set = 1_u64 << (signal - 1);
    let mut got = info(0, 0);
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    match sys!(libc::syscall(
        libc::SYS_rt_sigtimedwait,
        &raw const set,
        &raw mut got,
        &raw const none,
        8_usize
    )) {
        Ok(_) => Ok(Some(got)),
        Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let flags = [
        libc::SA_RESTART,
        libc::SA_SIGINFO | libc::SA_NODEFER,
        libc::SA_ONSTACK | libc::SA_RESETHAND,
        libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT,
        0,
    ];
    let handlers =
        [handler as *const () as usize, other_handler as *const () as usize, libc::SIG_IGN, libc::SIG_DFL];
    let signals = [1, 2, 3, 10, 12, 13, 15, 16, 17, 20, 21, 22, 23, 25, 28, 29, 40, 41, 50, 63, 64];
    for (i, signal) in signals.into_iter().enumerate() {
        set(signal, handlers[i % 4], flags[i % 5], &signals[..i % 6])?;
    }
    let actions = (1..=64).map(action).collect::<Check<Vec<_>>>()?;

    let (pid, tid) = (sys!(libc::getpid())?, gettid());
    let mask: u64 = (1 << 9) | (1 << 11) | (0xf << (FIRST - 1));
    sys!(libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, 0_usize, 8_usize))?;
    sys!(libc::kill(pid, libc::SIGUSR1))?;
    sys!(libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGUSR2))?;
    for value in 0..5 {
        let shared = info(FIRST + 1, 0x1_0000_0000 + value);
        sys!(libc::syscall(libc::SYS_rt_sigqueueinfo, pid, FIRST + 1, &raw const shared))?;
        let private = info(FIRST + 2, 0x2_0000_0000 + value);
        sys!(libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, FIRST + 2, &raw const private))?;
    }
    let expected = (1 << 9) | (1 << 11) | (3 << FIRST);
    ctx.verify(|_| {
        for (signal, expected) in (1..=64).zip(&actions) {
            same!(format!("action of signal {signal}"), action(signal)?, *expected);
        }
        let mut now = 0_u64;
        sys!(libc::syscall(libc::SYS_rt_sigprocmask, 0, 0_usize, &raw mut now, 8_usize))?;
        same!("signal mask", now, mask);
        same!("pending signals", pending()?, expected);
        Ok(())
    })?;
    // Now take them out: in order, with their values and senders.
    for (signal, high) in [(FIRST + 1, 1), (FIRST + 2, 2)] {
        for value in 0..5 {
            let got = take(signal)?.ok_or("a queued signal is lost")?;
            same!("queued signal", (got.signo, got.code, got.pid, got.uid), (signal, libc::SI_QUEUE, 77, 88));
            same!("value of a queued signal", got.value, (high << 32) + value);
        }
        ensure!(take(signal)?.is_none(), "signal {signal} is pending once too often");
    }
    for (signal, code) in [(libc::SIGUSR1, libc::SI_USER), (libc::SIGUSR2, libc::SI_TKILL)] {
        let got = take(signal)?.ok_or("a pending signal is lost")?;
        same!("pending signal", (got.signo, got.code, got.pid), (signal, code, pid));
        ensure!(take(signal)?.is_none(), "signal {signal} is pending once too often");
    }
    Ok(())
}
