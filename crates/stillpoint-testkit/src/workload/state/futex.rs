//! Mutexes and condition variables that threads wait for, and a robust mutex whose holder will die.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Check, Ctx, Map, child, pause_ms, reap, until};

/// What lies in memory shared with a child: pthread objects that work across processes.
#[repr(C)]
struct Shared {
    robust: libc::pthread_mutex_t,
    held: AtomicU32,
    may_die: AtomicU32,
}

/// Objects that the threads of this process use.
struct Local {
    mutex: libc::pthread_mutex_t,
    condition: libc::pthread_cond_t,
    condition_mutex: libc::pthread_mutex_t,
    waiting: AtomicU32,
    go: AtomicU32,
    /// Threads that got the mutex; threads that came out of the condition.
    through: [AtomicU32; 2],
}

/// pthread calls return the error rather than set errno.
fn pthread(what: &str, result: i32) -> Check {
    ensure!(result == 0, "{what}: error {result}");
    Ok(())
}

struct At<T>(*mut T);
// SAFETY: what it points to is never freed, and is meant for use by several threads.
unsafe impl<T> Send for At<T> {}

impl<T> Clone for At<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for At<T> {}

impl<T> At<T> {
    fn get(self) -> *mut T {
        self.0
    }
}

/// Waits for the mutex.
fn take(local: At<Local>) -> Check {
    // SAFETY: the box is never freed.
    unsafe {
        pthread("lock", libc::pthread_mutex_lock(&raw mut (*local.get()).mutex))?;
        pthread("unlock", libc::pthread_mutex_unlock(&raw mut (*local.get()).mutex))?;
        (*local.get()).through[0].fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Waits for the condition.
fn wait(local: At<Local>) -> Check {
    // SAFETY: the box is never freed.
    unsafe {
        let (condition, mutex) = (&raw mut (*local.get()).condition, &raw mut (*local.get()).condition_mutex);
        pthread("lock", libc::pthread_mutex_lock(mutex))?;
        (*local.get()).waiting.fetch_add(1, Ordering::SeqCst);
        while (*local.get()).go.load(Ordering::SeqCst) == 0 {
            pthread("condition", libc::pthread_cond_wait(condition, mutex))?;
        }
        (*local.get()).through[1].fetch_add(1, Ordering::SeqCst);
        pthread("unlock", libc::pthread_mutex_unlock(mutex))
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let map = Map::new(4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
    let shared: *mut Shared = map.start.cast();
    // SAFETY: zeroed shared memory of at least that size; initialised before anybody else sees it.
    unsafe {
        let mut attributes: libc::pthread_mutexattr_t = std::mem::zeroed();
        pthread("attributes", libc::pthread_mutexattr_init(&raw mut attributes))?;
        pthread(
            "shared",
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED),
        )?;
        pthread(
            "robust",
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST),
        )?;
        pthread("mutex", libc::pthread_mutex_init(&raw mut (*shared).robust, &raw const attributes))?;
    }
    // SAFETY: lives in the mapping, which stays.
    let (held, may_die) = unsafe { (&(*shared).held, &(*shared).may_die) };
    // The child takes the robust mutex and will die with it.
    let holder = child(ctx.party("holder"), |party| {
        // SAFETY: initialised above.
        pthread("robust lock", unsafe { libc::pthread_mutex_lock(&raw mut (*shared).robust) })?;
        held.store(1, Ordering::SeqCst);
        party.run(|_| {
            // SAFETY: as above.
            let again = unsafe { libc::pthread_mutex_trylock(&raw mut (*shared).robust) };
            same!("robust mutex, for its holder", again, libc::EBUSY);
            Ok(())
        })?;
        until("the parent lets the holder die", || may_die.load(Ordering::SeqCst) == 1)
    })?;
    until("the child holds the mutex", || held.load(Ordering::SeqCst) == 1)?;

    // SAFETY: all zeroes is a valid initial value of each.
    let local = At(Box::into_raw(Box::new(unsafe { std::mem::zeroed::<Local>() })));
    // SAFETY: the box is never freed.
    pthread("lock", unsafe { libc::pthread_mutex_lock(&raw mut (*local.get()).mutex) })?;
    let mut threads = Vec::new();
    for kind in [0, 0, 0, 1, 1, 1] {
        threads.push(std::thread::spawn(move || if kind == 0 { take(local) } else { wait(local) }));
    }
    let robust = At(shared);
    let died = Arc::new(AtomicU32::new(0));
    let noticed = Arc::clone(&died);
    let heir = std::thread::spawn(move || -> Check {
        // SAFETY: the mapping stays.
        let result = unsafe { libc::pthread_mutex_lock(&raw mut (*robust.get()).robust) };
        noticed.store(1, Ordering::SeqCst);
        same!("a robust mutex whose holder died", result, libc::EOWNERDEAD);
        Ok(())
    });
    // SAFETY: the box is never freed; shared access only.
    let l = unsafe { &*local.get() };
    until("threads wait for the condition", || l.waiting.load(Ordering::SeqCst) == 3)?;
    pause_ms(50);
    ctx.ready(&["main", "holder"])?;
    ctx.party("main").run(|_| {
        same!("threads through", l.through.each_ref().map(|t| t.load(Ordering::SeqCst)), [0, 0]);
        same!("heirs", died.load(Ordering::SeqCst), 0);
        Ok(())
    })?;
    // SAFETY: held by this thread since the start.
    pthread("unlock", unsafe { libc::pthread_mutex_unlock(&raw mut (*local.get()).mutex) })?;
    // SAFETY: the box is never freed.
    unsafe {
        let mutex = &raw mut (*local.get()).condition_mutex;
        pthread("lock", libc::pthread_mutex_lock(mutex))?;
        l.go.store(1, Ordering::SeqCst);
        pthread("broadcast", libc::pthread_cond_broadcast(&raw mut (*local.get()).condition))?;
        pthread("unlock", libc::pthread_mutex_unlock(mutex))?;
    }
    until("everybody is through", || l.through.iter().all(|t| t.load(Ordering::SeqCst) == 3))?;
    may_die.store(1, Ordering::SeqCst);
    reap(holder, 0)?;
    for thread in threads.into_iter().chain([heir]) {
        thread.join().map_err(|_| "a thread panicked".to_owned())??;
    }
    Ok(())
}
