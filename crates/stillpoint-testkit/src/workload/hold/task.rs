//! States of tasks that are not built yet.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Setup;
use crate::support::{Check, Ctx, Map, pause_ms, until};

type Held = Check<Box<dyn FnMut() -> Check>>;

pub(super) const ALL: &[(&str, Setup)] = &[
    ("thread-timer", thread_timer),
    ("seccomp", seccomp),
    ("traced-child", traced_child),
    ("vfork", vfork),
    ("shared-vm", |_| cloned(libc::CLONE_VM)),
    ("shared-handlers", |_| cloned(libc::CLONE_VM | libc::CLONE_SIGHAND)),
    ("thread-fs", |_| thread(|| sys!(libc::unshare(libc::CLONE_FS)))),
    ("thread-files", |_| thread(|| sys!(libc::unshare(libc::CLONE_FILES)))),
    ("ldt", ldt),
    ("mempolicy", mempolicy),
    ("syscall-caught", syscall_caught),
    ("keyring", keyring),
    ("uts-namespace", |_| namespace(libc::CLONE_NEWUTS)),
    ("net-namespace", |_| namespace(libc::CLONE_NEWNET)),
    ("mount-namespace", |_| namespace(libc::CLONE_NEWNS)),
];

/// Things that were refused once and are saved now: each is a state.
pub(crate) const SAVED: &[(&str, Setup)] = &[
    ("subreaper", subreaper),
    ("thread-uid", thread_uid),
    ("chroot", chroot),
    ("syscall-dispatch", syscall_dispatch),
    ("no-tsc", no_tsc),
];

/// A thread with ids of its own, where the process may have such.
fn thread_uid(_: &Ctx) -> Held {
    let own = sys!(libc::getuid())?;
    let other = if own == 0 { 1234 } else { own };
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let set = sys!(libc::syscall(libc::SYS_setresuid, other, other, other));
        let _ = send.send(set.map(|_| ()));
        loop {
            let _ = sys!(libc::pause());
        }
    });
    receive.recv().map_err(|_| "the thread ended".to_owned())??;
    fine()
}

fn fine() -> Held {
    Ok(Box::new(|| Ok(())))
}

/// A timer of which the kernel does not tell whose time it counts.
fn thread_timer(_: &Ctx) -> Held {
    std::thread::spawn(|| sys!(libc::pause()));
    let mut timer = std::ptr::null_mut();
    sys!(libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, std::ptr::null_mut(), &raw mut timer))?;
    let id = timer as usize;
    Ok(Box::new(move || {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let mut value = libc::itimerspec { it_interval: zero, it_value: zero };
        sys!(libc::timer_gettime(id as libc::timer_t, &raw mut value)).map(|_| ())
    }))
}

fn seccomp(_: &Ctx) -> Held {
    sys!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64))?;
    // Allow; ask a listener about a call that there is not.
    let code = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut filter = [
        code(0x20, 0, 0),
        code(0x15, 1, 0xffff_fffe),
        code(0x06, 0, 0x7fff_0000),
        code(0x06, 0, 0x7fc0_0000),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    sys!(libc::prctl(libc::PR_SET_SECCOMP, 2_u64, &raw const program, 0_u64, 0_u64))?;
    Ok(Box::new(|| {
        same!("seccomp mode", sys!(libc::prctl(libc::PR_GET_SECCOMP))?, 2);
        Ok(())
    }))
}

/// A word that a child counts up in, in memory shared with it.
fn counter() -> Check<&'static AtomicU64> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let map = Map::new(4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
    // SAFETY: aligned zeroed memory that stays mapped.
    Ok(unsafe { &*map.start.cast::<AtomicU64>() })
}

/// Verifies that a child goes on counting.
fn counts(counter: &'static AtomicU64) -> Held {
    Ok(Box::new(move || {
        let before = counter.load(Ordering::SeqCst);
        until("the child goes on", || counter.load(Ordering::SeqCst) > before)
    }))
}

fn traced_child(_: &Ctx) -> Held {
    let counter = counter()?;
    let pid = sys!(libc::fork())?;
    if pid == 0 {
        loop {
            pause_ms(2);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }
    sys!(libc::ptrace(libc::PTRACE_SEIZE, pid, 0, libc::PTRACE_O_EXITKILL))?;
    counts(counter)
}

extern "C" fn count_up(counter: *mut libc::c_void) -> i32 {
    // SAFETY: the word of `counter`, shared or in the parent's memory, and never unmapped.
    let counter = unsafe { &*counter.cast::<AtomicU64>() };
    loop {
        pause_ms(2);
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// A thread that waits for a child that neither executes a program nor ends.
fn vfork(_: &Ctx) -> Held {
    let counter = counter()?;
    std::thread::spawn(move || {
        let Ok(stack) = Map::anonymous(256 * 1024) else { return };
        let top = stack.start.wrapping_add(stack.len).cast();
        let argument = std::ptr::from_ref(counter).cast_mut().cast();
        let _ =
            sys!(libc::clone(count_up, top, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, argument));
    });
    until("the child runs", || counter.load(Ordering::SeqCst) > 0)?;
    counts(counter)
}

/// A child process that shares something with its parent without being a thread.
fn cloned(flag: i32) -> Held {
    let counter = counter()?;
    let stack = Map::anonymous(256 * 1024)?;
    let top = stack.start.wrapping_add(stack.len).cast();
    let argument = std::ptr::from_ref(counter).cast_mut().cast();
    sys!(libc::clone(count_up, top, flag | libc::SIGCHLD, argument))?;
    counts(counter)
}

/// A thread that differs from the others of its process.
fn thread(body: impl FnOnce() -> Check<i32> + Send + 'static) -> Held {
    let counter = counter()?;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let result = body();
        let failed = result.is_err();
        let _ = send.send(result);
        if failed {
            return;
        }
        loop {
            pause_ms(2);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    receive.recv().map_err(|e| e.to_string())??;
    counts(counter)
}

fn ldt(_: &Ctx) -> Held {
    // `struct user_desc`: entry 0, a 32-bit data segment of one page at 0.
    let entry: [u32; 4] = [0, 0, 0xfff, 1];
    sys!(libc::syscall(libc::SYS_modify_ldt, 1, entry.as_ptr(), 16_usize))?;
    Ok(Box::new(|| {
        let mut bytes = [0_u8; 64];
        let got = sys!(libc::syscall(libc::SYS_modify_ldt, 0, bytes.as_mut_ptr(), 64_usize))?;
        ensure!(got > 0 && bytes[..8] != [0; 8], "the LDT entry is lost");
        Ok(())
    }))
}

fn subreaper(_: &Ctx) -> Held {
    sys!(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_u64))?;
    Ok(Box::new(|| {
        let mut value = 0;
        sys!(libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut value))?;
        same!("subreaper", value, 1);
        Ok(())
    }))
}

fn mempolicy(_: &Ctx) -> Held {
    const MPOL_BIND: i32 = 2;
    let nodes = 1_u64;
    sys!(libc::syscall(libc::SYS_set_mempolicy, MPOL_BIND, &raw const nodes, 64_usize))?;
    Ok(Box::new(|| {
        let mut mode = 0_i32;
        sys!(libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, 0_usize, 0_usize, 0_usize, 0))?;
        same!("memory policy", mode, MPOL_BIND);
        Ok(())
    }))
}

/// A byte that allows every call.
static SELECTOR: AtomicU64 = AtomicU64::new(0);

const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;

/// Switches syscall user dispatch on, or off; with nothing set aside that is never caught.
fn dispatch(on: u64) -> Check<i32> {
    let selector = if on == 0 { std::ptr::null_mut() } else { SELECTOR.as_ptr() };
    sys!(libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, on, 0_u64, 0_u64, selector))
}

extern "C" fn caught(_: i32) {
    SELECTOR.store(0x100, Ordering::SeqCst);
}

fn syscall_dispatch(_: &Ctx) -> Held {
    // SAFETY: the handler stores to an atomic.
    sys!(libc::signal(libc::SIGSYS, caught as *const () as usize))?;
    dispatch(1)?;
    Ok(Box::new(|| {
        // Catches one call of this thread; its signal ends that.
        SELECTOR.store(1, Ordering::SeqCst);
        // SAFETY: takes nothing.
        unsafe { libc::getppid() };
        same!("a call is caught", SELECTOR.swap(0, Ordering::SeqCst), 0x100);
        Ok(())
    }))
}

fn syscall_caught(_: &Ctx) -> Held {
    let child = sys!(libc::fork())?;
    if child == 0 {
        if dispatch(1).is_err() {
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(1) }
        }
        SELECTOR.store(1, Ordering::SeqCst);
        loop {
            std::hint::spin_loop();
        }
    }
    pause_ms(50);
    Ok(Box::new(move || sys!(libc::kill(child, 0)).map(|_| ())))
}

fn keyring(_: &Ctx) -> Held {
    // KEYCTL_GET_KEYRING_ID of the thread's keyring, made if it is not there.
    sys!(libc::syscall(libc::SYS_keyctl, 0, -1, 1))?;
    fine()
}

fn no_tsc(_: &Ctx) -> Held {
    // The C library of this process may want the time stamp counter, so it is a child's.
    let mut pipes = [[0; 2]; 2];
    for pipe in &mut pipes {
        sys!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC))?;
    }
    let [ask, answer] = pipes;
    if sys!(libc::fork())? == 0 {
        // SAFETY: plain calls on this process's own descriptors; it ends at once.
        unsafe {
            libc::close(ask[1]);
            libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV as u64);
            let mut byte = 0_u8;
            while libc::read(ask[0], (&raw mut byte).cast(), 1) == 1 {
                let mut mode = 0_i32;
                libc::prctl(libc::PR_GET_TSC, &raw mut mode);
                byte = mode as u8;
                libc::write(answer[1], (&raw const byte).cast(), 1);
            }
            libc::_exit(0);
        }
    }
    Ok(Box::new(move || {
        let mut mode = 0_u8;
        sys!(libc::write(ask[1], (&raw const mode).cast(), 1))?;
        sys!(libc::read(answer[0], (&raw mut mode).cast(), 1))?;
        same!("mode of the time stamp counter", i32::from(mode), libc::PR_TSC_SIGSEGV);
        Ok(())
    }))
}

fn namespace(flag: i32) -> Held {
    sys!(libc::unshare(flag))?;
    fine()
}

fn chroot(ctx: &Ctx) -> Held {
    if sys!(libc::getuid())? != 0 {
        // Nobody else may; the state is then that of any process.
        return fine();
    }
    let child = sys!(libc::fork())?;
    if child == 0 {
        let path = ctx.cpath("");
        if sys!(libc::chroot(path.as_ptr())).and(sys!(libc::chdir(c"/".as_ptr()))).is_err() {
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(1) }
        }
        loop {
            let _ = sys!(libc::pause());
        }
    }
    pause_ms(50);
    Ok(Box::new(move || sys!(libc::kill(child, 0)).map(|_| ())))
}
