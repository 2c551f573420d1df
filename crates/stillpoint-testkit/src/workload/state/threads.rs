//! Many threads: each with its own tid, TLS, name, signal mask, alternate stack and patterns in registers.

use std::cell::Cell;
use std::sync::Arc;

use crate::support::{Check, Crew, Ctx, Hold, HoldKind, Map, gettid};

const THREADS: u64 = 24;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let crew = Crew::new();
    for i in 0..THREADS {
        let shared = Arc::clone(&crew);
        crew.spawn(move || member(i, shared))?;
    }
    crew.round()?;
    let pid = std::process::id();
    ctx.verify(|_| {
        same!("pid", std::process::id(), pid);
        same!("tid of the leader", gettid(), pid.cast_signed());
        crew.round()
    })
}

fn member(i: u64, crew: Arc<Crew>) -> Check<impl FnMut(u64) -> Check> {
    let name = format!("member {i}\0");
    sys!(libc::prctl(libc::PR_SET_NAME, name.as_ptr()))?;
    let mask = 1_u64 << (33 + i % 30);
    sys!(libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, 0_usize, 8_usize))?;
    let memory = Map::anonymous(64 * 1024)?;
    let stack = libc::stack_t { ss_sp: memory.start.cast(), ss_flags: 0, ss_size: memory.len };
    sys!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()))?;
    OWN.set(i ^ 0xabcd);
    let tid = gettid();
    let self_pointer = sys!(libc::pthread_self())?;
    let kind = HoldKind::available()[i as usize % HoldKind::available().len()];
    // A few spin, the others look now and then.
    let mut hold = Hold::new(kind, i, i > 3);
    Ok(move |tick| {
        hold.until_changed(&crew.tick, tick)?;
        same!("tid", gettid(), tid);
        same!("pthread_self", sys!(libc::pthread_self())?, self_pointer);
        same!("thread-local value", OWN.get(), i ^ 0xabcd);
        let mut now = 0_u64;
        sys!(libc::syscall(libc::SYS_rt_sigprocmask, 0, 0_usize, &raw mut now, 8_usize))?;
        same!("signal mask", now, mask);
        let mut stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
        sys!(libc::sigaltstack(std::ptr::null(), &raw mut stack))?;
        same!("alternate stack", (stack.ss_sp.cast(), stack.ss_size), (memory.start, memory.len));
        let mut read = [0_u8; 16];
        sys!(libc::prctl(libc::PR_GET_NAME, read.as_mut_ptr()))?;
        ensure!(read.starts_with(name.as_bytes()), "thread name: is {read:?}, was {name:?}");
        Ok(())
    })
}
