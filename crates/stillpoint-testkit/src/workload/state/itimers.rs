//! The three interval timers, which keep firing at their intervals.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Check, Ctx, until};

static TICKS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
const TIMERS: [(i32, i32); 3] = [
    (libc::SIGALRM, libc::ITIMER_REAL),
    (libc::SIGVTALRM, libc::ITIMER_VIRTUAL),
    (libc::SIGPROF, libc::ITIMER_PROF),
];

extern "C" fn tick(signal: i32) {
    for (i, (own, _)) in TIMERS.iter().enumerate() {
        if *own == signal {
            TICKS[i].fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Blocks the timers' signals, so that nothing changes while the workload is quiet.
fn hush(quiet: bool) -> Check {
    let set: u64 = TIMERS.iter().map(|(signal, _)| 1 << (signal - 1)).sum();
    let how = if quiet { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    sys!(libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const set, 0_usize, 8_usize)).map(|_| ())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let intervals = [10_000, 7_000, 11_000];
    for ((signal, timer), interval) in TIMERS.into_iter().zip(intervals) {
        // SAFETY: all zeroes is a valid sigaction; the handler adds to an atomic.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = tick as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        sys!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))?;
        let time = libc::timeval { tv_sec: 0, tv_usec: interval };
        let value = libc::itimerval { it_interval: time, it_value: time };
        sys!(libc::setitimer(timer, &raw const value, std::ptr::null_mut()))?;
    }
    ctx.ready(&["main"])?;
    ctx.party("main").run_with(
        |_| {
            for ((_, timer), interval) in TIMERS.into_iter().zip(intervals) {
                let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
                let mut value = libc::itimerval { it_interval: zero, it_value: zero };
                sys!(libc::getitimer(timer, &raw mut value))?;
                // The two that count CPU time are kept in scheduler ticks on some kernels, rounded up.
                let now = value.it_interval.tv_sec * 1_000_000 + value.it_interval.tv_usec;
                same!(format!("interval of timer {timer}"), now, interval);
                ensure!(
                    value.it_value.tv_sec == 0 && value.it_value.tv_usec > 0,
                    "timer {timer} is not armed"
                );
                ensure!(
                    value.it_value.tv_usec <= interval + 10_000,
                    "timer {timer} has more left than its interval"
                );
            }
            let before = TICKS.each_ref().map(|t| t.load(Ordering::SeqCst));
            until("every timer fires", || {
                let mut x = 1_u64;
                (0..200_000).for_each(|i| x = std::hint::black_box(x.wrapping_mul(3) + i));
                TICKS.iter().zip(before).all(|(now, before)| now.load(Ordering::SeqCst) > before + 1)
            })
        },
        hush,
    )
}
