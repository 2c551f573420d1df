//! Processes and threads.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Check, Party};

/// Sleeps without the C library's clock calls.
pub(crate) fn pause_ms(ms: i64) {
    let time = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    let _ = sys!(libc::nanosleep(&raw const time, std::ptr::null_mut()));
}

/// This thread's id, asked of the kernel.
pub(crate) fn gettid() -> i32 {
    // The C library keeps no copy of a tid that it would answer from.
    sys!(libc::syscall(libc::SYS_gettid)).map_or(-1, |tid| tid as i32)
}

/// Forks a child that runs `body` as the party `tag` and exits with 0, or reports what went wrong.
pub(crate) fn child(party: Party, body: impl FnOnce(&Party) -> Check) -> Check<i32> {
    match sys!(libc::fork())? {
        0 => match body(&party) {
            Ok(()) => {
                // SAFETY: ends the process without running the parent's exit handlers.
                unsafe { libc::_exit(0) }
            }
            Err(error) => party.fail(&error),
        },
        pid => Ok(pid),
    }
}

/// Waits for a child and expects this wait status.
pub(crate) fn reap(pid: i32, expected: i32) -> Check {
    let mut status = 0;
    loop {
        match sys!(libc::waitpid(pid, &raw mut status, 0)) {
            Ok(got) => {
                same!("reaped pid", got, pid);
                same!(format!("wait status of {pid}"), status, expected);
                return Ok(());
            }
            Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until something holds; the limit only keeps a failure from hanging.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> Check {
    for _ in 0..60_000 {
        if condition() {
            return Ok(());
        }
        pause_ms(1);
    }
    Err(format!("{what}: did not happen within a minute"))
}

/// Threads that verify in step with one party: each of them verifies once between two ticks.
pub(crate) struct Crew {
    /// Counts the party's rounds. Threads may wait for it to change.
    pub(crate) tick: AtomicU64,
    /// Set when the threads are to return.
    pub(crate) stop: AtomicBool,
    rounds: Mutex<Vec<Arc<AtomicU64>>>,
    failure: Mutex<Option<String>>,
    failed: AtomicBool,
}

impl Crew {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            tick: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            rounds: Mutex::default(),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
        })
    }

    /// Starts a thread that calls what `setup` returns, again and again. `step` gets the tick that it is to see change.
    pub(crate) fn spawn<S>(self: &Arc<Self>, setup: impl FnOnce() -> Check<S> + Send + 'static) -> Check
    where
        S: FnMut(u64) -> Check,
    {
        let (crew, count) = (Arc::clone(self), Arc::new(AtomicU64::new(0)));
        if let Ok(mut rounds) = self.rounds.lock() {
            rounds.push(Arc::clone(&count));
        }
        let body = move || {
            let result = setup().and_then(|mut step| {
                while !crew.stop.load(Ordering::SeqCst) {
                    step(crew.tick.load(Ordering::SeqCst))?;
                    count.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            });
            if let Err(error) = result {
                crew.fail(error);
            }
        };
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(body)
            .map(|_| ())
            .map_err(|e| format!("starting a thread: {e}"))
    }

    /// Waits for a tick, changing nothing meanwhile.
    pub(crate) fn wait_for_tick(&self, tick: u64) {
        while self.tick.load(Ordering::SeqCst) == tick && !self.stop.load(Ordering::SeqCst) {
            pause_ms(5);
        }
    }

    /// Notes a failure for the party to report.
    pub(crate) fn fail(&self, error: String) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(error);
        }
        self.failed.store(true, Ordering::SeqCst);
    }

    /// The failure of a thread, if there was one.
    pub(crate) fn failure(&self) -> Check {
        if self.failed.load(Ordering::SeqCst) {
            let failure = self.failure.lock().map_or_else(|_| None, |f| f.clone());
            return Err(failure.unwrap_or_else(|| "a thread failed".to_owned()));
        }
        Ok(())
    }

    /// Lets every thread verify once, and waits until each has.
    pub(crate) fn round(&self) -> Check {
        let rounds = self.rounds.lock().map_err(|e| e.to_string())?;
        let before = rounds.iter().map(|r| r.load(Ordering::SeqCst)).collect::<Vec<_>>();
        let mut looks = 0;
        until("every thread goes on", || {
            // More than once: a thread that looked at the word just after a tick waits for the next one.
            if looks % 16 == 0 {
                self.tick.fetch_add(1, Ordering::SeqCst);
            }
            looks += 1;
            self.failed.load(Ordering::SeqCst)
                || rounds.iter().zip(&before).all(|(now, before)| now.load(Ordering::SeqCst) > *before)
        })?;
        self.failure()
    }
}
