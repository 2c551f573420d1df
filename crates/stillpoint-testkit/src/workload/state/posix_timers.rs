//! Timers of timer_create: ids with gaps, all clocks, signals that are pending and start their timers again when taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::support::{Check, Crew, Ctx, gettid, until};

/// Signals from 34 up are the program's.
const PERIODIC: i32 = 40;
const TO_THREAD: i32 = 41;
const ONCE: i32 = 42;
const OVERRUN: i32 = 43;
const FAR: i64 = 5000;
const SI_TIMER: i32 = -2;

/// `struct sigevent` as the kernel takes it.
#[repr(C)]
struct Event {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    rest: [i32; 11],
}

fn create(clock: i32, signal: i32, notify: i32, thread: i32) -> Check<i32> {
    let value = 0xabcd_0000_0000 + signal as u64;
    let event = Event { value, signal, notify, thread, rest: [0; 11] };
    let mut id = -1;
    sys!(libc::syscall(libc::SYS_timer_create, clock, &raw const event, &raw mut id))?;
    Ok(id)
}

fn set(id: i32, flags: i32, value: i128, interval: i128) -> Check {
    let spec = |ns: i128| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    };
    let value = libc::itimerspec { it_interval: spec(interval), it_value: spec(value) };
    sys!(libc::syscall(libc::SYS_timer_settime, id, flags, &raw const value, 0_usize)).map(|_| ())
}

/// Interval and remaining time.
fn get(id: i32) -> Check<(i128, i128)> {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut value = libc::itimerspec { it_interval: zero, it_value: zero };
    sys!(libc::syscall(libc::SYS_timer_gettime, id, &raw mut value))?;
    let ns = |time: libc::timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    Ok((ns(value.it_interval), ns(value.it_value)))
}

fn now(clock: i32) -> Check<i128> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    sys!(libc::clock_gettime(clock, &raw mut time))?;
    Ok(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
}

/// Waits for a timer's signal and takes it; returns the overruns.
fn take(signal: i32, id: i32) -> Check<i32> {
    let set = 1_u64 << (signal - 1);
    let mut info = [0_i32; 32];
    let patience = libc::timespec { tv_sec: 20, tv_nsec: 0 };
    loop {
        let taken = sys!(libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            info.as_mut_ptr(),
            &raw const patience,
            8_usize
        ));
        match taken {
            Ok(_) => break,
            // Any stop ends this call: signal(7).
            Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(format!("signal {signal} of timer {id}: {error}")),
        }
    }
    same!(format!("siginfo of timer {id}"), [info[0], info[2], info[4]], [signal, SI_TIMER, id]);
    same!(format!("value of timer {id}"), [info[6], info[7]], [signal, 0xabcd]);
    Ok(info[5])
}

fn far(id: i32, what: &str) -> Check {
    let (interval, left) = get(id)?;
    same!(format!("interval of the timer on {what}"), interval, 0);
    let full = i128::from(FAR) * 1_000_000_000;
    ensure!(left <= full && left > full - 900_000_000_000, "the timer on {what} has {left} ns left");
    Ok(())
}

fn is_pending(signal: i32) -> Check<bool> {
    let mut set = 0_u64;
    sys!(libc::syscall(libc::SYS_rt_sigpending, &raw mut set, 8_usize))?;
    Ok(set >> (signal - 1) & 1 != 0)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let blocked: u64 = [PERIODIC, TO_THREAD, ONCE, OVERRUN].iter().map(|signal| 1 << (signal - 1)).sum();
    sys!(libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const blocked, 0_usize, 8_usize))?;
    // Every other id is free again.
    let mut timers = Vec::new();
    let mut make = |clock, signal, notify, thread| -> Check<i32> {
        let gap = create(libc::CLOCK_MONOTONIC, ONCE, libc::SIGEV_NONE, 0)?;
        let id = create(clock, signal, notify, thread)?;
        sys!(libc::syscall(libc::SYS_timer_delete, gap))?;
        timers.push(id);
        Ok(id)
    };
    let second = 1_000_000_000;
    let distant = i128::from(FAR) * second;
    let silent = make(libc::CLOCK_MONOTONIC, 0, libc::SIGEV_NONE, 0)?;
    set(silent, 0, distant, 0)?;
    let periodic = make(libc::CLOCK_MONOTONIC, PERIODIC, libc::SIGEV_SIGNAL, 0)?;
    set(periodic, 0, 3_000_000, 3_000_000)?;
    let wall = make(libc::CLOCK_REALTIME, ONCE, libc::SIGEV_SIGNAL, 0)?;
    let at = now(libc::CLOCK_REALTIME)? + distant;
    set(wall, libc::TIMER_ABSTIME, at, 0)?;
    let relative = make(libc::CLOCK_REALTIME, ONCE, libc::SIGEV_SIGNAL, 0)?;
    set(relative, 0, distant, 0)?;
    let cpu = make(libc::CLOCK_PROCESS_CPUTIME_ID, ONCE, libc::SIGEV_SIGNAL, 0)?;
    set(cpu, 0, distant, 0)?;
    let once = make(libc::CLOCK_BOOTTIME, ONCE, libc::SIGEV_SIGNAL, 0)?;
    set(once, 0, 1, 0)?;
    let idle = make(libc::CLOCK_TAI, ONCE, libc::SIGEV_SIGNAL, 0)?;
    // Overruns that it has had stay its answer until it is set or its signal is taken again.
    let overrun = make(libc::CLOCK_MONOTONIC, OVERRUN, libc::SIGEV_SIGNAL, 0)?;
    let uptime = now(libc::CLOCK_MONOTONIC)?;
    set(overrun, libc::TIMER_ABSTIME, uptime - uptime / 10 * 7, uptime / 5)?;
    same!("overruns at first", take(OVERRUN, overrun)?, 3);

    let crew = Crew::new();
    let (thread_timer, thread_id) = (Arc::new(AtomicI32::new(-1)), Arc::new(AtomicI32::new(0)));
    let (shared, own, told) = (Arc::clone(&crew), Arc::clone(&thread_timer), Arc::clone(&thread_id));
    crew.spawn(move || {
        let mut clock = 0;
        // SAFETY: this thread is alive, and the clock id is a local.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        let id = create(clock, ONCE, libc::SIGEV_SIGNAL, 0)?;
        set(id, 0, distant, 0)?;
        told.store(gettid(), Ordering::SeqCst);
        Ok(move |tick| {
            shared.wait_for_tick(tick);
            far(id, "the CPU time of a thread")?;
            let timer = own.load(Ordering::SeqCst);
            if timer >= 0 {
                take(TO_THREAD, timer)?;
                take(TO_THREAD, timer)?;
            }
            Ok(())
        })
    })?;
    until("the thread is there", || thread_id.load(Ordering::SeqCst) != 0)?;
    let notify = libc::SIGEV_THREAD_ID;
    let to_thread = make(libc::CLOCK_MONOTONIC, TO_THREAD, notify, thread_id.load(Ordering::SeqCst))?;
    set(to_thread, 0, 4_000_000, 4_000_000)?;
    thread_timer.store(to_thread, Ordering::SeqCst);

    // SAFETY: takes nothing.
    let privileged = unsafe { libc::geteuid() } == 0;
    ctx.ready(&["main"])?;
    ctx.party("main").run(|_| {
        far(silent, "CLOCK_MONOTONIC")?;
        far(relative, "CLOCK_REALTIME")?;
        far(cpu, "the CPU time of the process")?;
        same!("a timer that never ran", get(idle)?, (0, 0));
        let (_, left) = get(wall)?;
        let off = (now(libc::CLOCK_REALTIME)? + left - at).abs();
        ensure!(!privileged || off < 10_000_000, "a timer for a time of day is off by {off} ns");
        same!("overruns", sys!(libc::syscall(libc::SYS_timer_getoverrun, overrun))?, 3);
        let (interval, left) = get(overrun)?;
        ensure!(interval == uptime / 5 && left < uptime / 10, "{left} of {interval} ns left after overruns");
        // Taken twice: taking the first starts the timer again.
        take(PERIODIC, periodic)?;
        take(PERIODIC, periodic)?;
        same!("interval of a timer", get(periodic)?.0, 3_000_000);
        take(ONCE, once)?;
        ensure!(!is_pending(ONCE)?, "a timer without an interval expired twice");
        set(once, 0, 1, 0)?;
        until("a timer expires", || is_pending(ONCE).unwrap_or(false))?;
        until("a timer expires again", || is_pending(PERIODIC).unwrap_or(false))?;
        crew.round()
    })
}
