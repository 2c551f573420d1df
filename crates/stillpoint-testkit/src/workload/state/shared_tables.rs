//! `shared-tables`: processes that share their descriptor table, their working directory and umask, or both, without being
//! threads: what one of them changes, the other sees.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Check, Ctx, Map, pause_ms, reap, until};

/// A descriptor that comes and goes.
const NUMBER: i32 = 77;
const UMASK: u32 = 0o022;

/// What a child is told, and what it answers; in memory shared with it.
struct Words {
    request: AtomicU64,
    answer: AtomicU64,
    flags: AtomicU64,
}

const OPEN: u64 = 1;
const CLOSE: u64 = 2;
const NARROW: u64 = 3;
const WIDEN: u64 = 4;
const END: u64 = 5;

struct Child {
    pid: i32,
    words: &'static Words,
}

fn act(what: u64) -> Check {
    match what {
        OPEN => sys!(libc::dup2(0, NUMBER)).map(drop),
        CLOSE => sys!(libc::close(NUMBER)).map(drop),
        NARROW => sys!(libc::umask(0o077)).map(drop),
        WIDEN => sys!(libc::umask(UMASK)).map(drop),
        _ => Ok(()),
    }
}

extern "C" fn serve(words: *mut libc::c_void) -> i32 {
    // SAFETY: the words of `child`, in memory that stays mapped.
    let words = unsafe { &*words.cast::<Words>() };
    let mut served = 0;
    loop {
        let request = words.request.load(Ordering::SeqCst);
        if request == served {
            pause_ms(1);
            continue;
        }
        served = request;
        let fine = act(request & 0xff).is_ok();
        words.answer.store(if fine { request } else { u64::MAX }, Ordering::SeqCst);
        if request & 0xff == END {
            return 0;
        }
    }
}

fn child(flags: i32) -> Check<Child> {
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let map = Map::new(4096, libc::PROT_READ | libc::PROT_WRITE, shared, -1, 0)?;
    // SAFETY: aligned zeroed memory that stays mapped.
    let words = unsafe { &*map.start.cast::<Words>() };
    words.flags.store(u64::from(flags.unsigned_abs()), Ordering::SeqCst);
    let stack = Map::anonymous(256 * 1024)?;
    let top = stack.start.wrapping_add(stack.len).cast();
    let pid = sys!(libc::clone(serve, top, flags | libc::SIGCHLD, map.start.cast()))?;
    Ok(Child { pid, words })
}

impl Child {
    fn tell(&self, what: u64, round: u64) -> Check {
        let request = (round + 1) << 8 | what;
        self.words.request.store(request, Ordering::SeqCst);
        until("a child answers", || {
            let answer = self.words.answer.load(Ordering::SeqCst);
            answer == request || answer == u64::MAX
        })?;
        same!("what a child was told", self.words.answer.load(Ordering::SeqCst), request);
        Ok(())
    }

    fn verify(&self, round: u64) -> Check {
        let flags = self.words.flags.load(Ordering::SeqCst);
        let open = || sys!(libc::fcntl(NUMBER, libc::F_GETFD)).is_ok();
        let shares = |flag: i32| flags & u64::from(flag.unsigned_abs()) != 0;
        self.tell(OPEN, round)?;
        same!("a descriptor that a child has opened", open(), shares(libc::CLONE_FILES));
        self.tell(CLOSE, round)?;
        ensure!(!open(), "a descriptor that a child has closed is open");
        self.tell(NARROW, round)?;
        let seen = sys!(libc::umask(UMASK))?;
        same!("the umask that a child has set", seen, if shares(libc::CLONE_FS) { 0o077 } else { UMASK });
        self.tell(WIDEN, round)
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    sys!(libc::umask(UMASK))?;
    let children = [
        child(libc::CLONE_FILES)?,
        child(libc::CLONE_FS)?,
        child(libc::CLONE_FILES | libc::CLONE_FS)?,
        child(0)?,
    ];
    ctx.verify(|round| children.iter().try_for_each(|child| child.verify(round)))?;
    for child in &children {
        child.tell(END, u64::MAX >> 9)?;
        reap(child.pid, 0)?;
    }
    Ok(())
}
