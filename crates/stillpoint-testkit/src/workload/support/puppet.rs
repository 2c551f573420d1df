//! `sp-work puppet`: changes one thing of itself for each byte that it reads, for the checker's tests.
//!
//! Before it waits for the next byte it wipes what the change left below its stack frame, so that two records differ in
//! what was changed and nothing else.

use std::ffi::CStr;

use super::{Check, Hold, HoldKind, Map, fill};

/// What the changes work on.
struct Puppet {
    memory: Map,
    other: Map,
    guard: Map,
    pipe: [i32; 2],
    brk: usize,
}

/// Descriptors that the changes use.
const FILE: i32 = 10;
const DUP: i32 = 11;
const DELETED: i32 = 12;
const EVENTS: i32 = 13;
const MEMFD: i32 = 14;

pub(crate) fn run() -> Check {
    let path = std::env::temp_dir().join(format!("sp-puppet-{}", std::process::id()));
    let path = std::ffi::CString::new(path.to_string_lossy().into_owned()).map_err(|e| e.to_string())?;
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600))?;
    sys!(libc::dup2(fd, DELETED))?;
    sys!(libc::close(fd))?;
    sys!(libc::unlink(path.as_ptr()))?;
    open_file(FILE)?;
    sys!(libc::dup2(FILE, DUP))?;
    let memfd = sys!(libc::memfd_create(c"puppet".as_ptr(), libc::MFD_ALLOW_SEALING))?;
    sys!(libc::dup2(memfd, MEMFD))?;
    sys!(libc::close(memfd))?;
    let events = sys!(libc::eventfd(7, 0))?;
    sys!(libc::dup2(events, EVENTS))?;
    sys!(libc::close(events))?;
    let mut pipe = [0; 2];
    sys!(libc::pipe2(pipe.as_mut_ptr(), 0))?;
    let memory = Map::anonymous(16 * 4096)?;
    fill(memory.bytes(), 1);
    // Areas of different permissions lie between, so that none of them merge.
    let other = Map::anonymous(4 * 4096)?;
    fill(other.bytes(), 2);
    other.protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)?;
    let guard = Map::anonymous(4 * 4096)?;
    fill(guard.bytes(), 3);
    let brk = sys!(libc::syscall(libc::SYS_brk, 0_usize))? as usize;
    let puppet = Puppet { memory, other, guard, pipe, brk };
    loop {
        let mut command = 0_u8;
        if sys!(libc::read(0, (&raw mut command).cast(), 1))? != 1 {
            return Ok(());
        }
        let answer = if change(command, &puppet).is_ok() { c"+" } else { c"-" };
        wipe();
        sys!(libc::write(1, answer.as_ptr().cast(), 1))?;
        // SAFETY: a live local; volatile, so that it is really wiped.
        unsafe { (&raw mut command).write_volatile(0) };
    }
}

/// `sp-work registers KIND SEED`: holds a pattern in registers for ever; without such registers, in those that there are.
pub(crate) fn hold_registers(kind: &str, seed: &str) -> Check {
    let available = HoldKind::available();
    let kind = match kind {
        "x87" => available[0],
        "sse" => available[1],
        "avx" => available[available.len().min(3) - 1],
        _ => available[available.len() - 1],
    };
    let mut hold = Hold::new(kind, seed.parse().map_err(|_| "a seed is a number")?, false);
    sys!(libc::write(1, c"+".as_ptr().cast(), 1))?;
    hold.until_changed(&std::sync::atomic::AtomicU64::new(0), 0)
}

fn open_file(at: i32) -> Check {
    let fd = sys!(libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY))?;
    if fd != at {
        sys!(libc::dup2(fd, at))?;
        sys!(libc::close(fd))?;
    }
    Ok(())
}

/// Overwrites the dead part of the stack.
#[inline(never)]
fn wipe() {
    let mut frame = [0_u8; 32 * 1024];
    for byte in &mut frame {
        // SAFETY: a live local; volatile, so that it is really written.
        unsafe { std::ptr::from_mut(byte).write_volatile(0) };
    }
}

fn forked(body: impl FnOnce()) -> Check {
    if sys!(libc::fork())? == 0 {
        body();
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(3) }
    }
    Ok(())
}

#[inline(never)]
fn change(command: u8, puppet: &Puppet) -> Check {
    let Puppet { memory, other, guard, pipe, brk } = puppet;
    let set = 1_u64 << 9;
    match command {
        b'.' => Ok(0),
        b'p' => {
            memory.bytes()[5 * 4096 + 17] ^= 1;
            Ok(0)
        }
        b'0' => {
            memory.part(4096, 4096).bytes().fill(0);
            Ok(0)
        }
        b'P' => other.protect(libc::PROT_READ).map(|()| 0),
        b'h' => memory.part(0, 8 * 4096).protect(libc::PROT_READ).map(|()| 0),
        b'a' => other.advise(libc::MADV_DONTFORK).map(|()| 0),
        // MADV_GUARD_INSTALL
        b'G' => guard.part(4096, 4096).advise(102).map(|()| 0),
        b'L' => sys!(libc::mlock(other.start.cast(), other.len)),
        b'K' => {
            let lock = libc::flock {
                l_type: libc::F_RDLCK as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: 5,
                l_len: 5,
                l_pid: 0,
            };
            sys!(libc::fcntl(10, libc::F_SETLK, &raw const lock))
        }
        b'j' => sys!(libc::flock(10, libc::LOCK_SH)),
        b'x' => sys!(libc::munmap(guard.start.cast(), guard.len)),
        b'b' => sys!(libc::syscall(libc::SYS_brk, brk + 8192)).map(|_| 0),
        b'o' => sys!(libc::lseek(FILE, 1, libc::SEEK_CUR)).map(|_| 0),
        b'f' => sys!(libc::fcntl(FILE, libc::F_SETFL, libc::O_NONBLOCK)),
        b'c' => sys!(libc::fcntl(FILE, libc::F_SETFD, libc::FD_CLOEXEC)),
        b'd' => sys!(libc::dup2(FILE, 20)),
        b'D' => {
            sys!(libc::close(DUP))?;
            open_file(DUP).map(|()| 0)
        }
        b'C' => sys!(libc::close(DUP)),
        b'w' => sys!(libc::pwrite(DELETED, c"x".as_ptr().cast(), 1, 100)).map(|_| 0),
        b'q' => sys!(libc::write(pipe[1], c"abc".as_ptr().cast(), 3)).map(|_| 0),
        b'z' => sys!(libc::fcntl(pipe[1], libc::F_SETPIPE_SZ, 8192)),
        b'M' => {
            let nodes = 1_u64;
            let bind = 2;
            sys!(libc::syscall(libc::SYS_mbind, other.start, other.len, bind, &raw const nodes, 64_usize, 0))
                .map(|_| 0)
        }
        b'i' => sys!(libc::fcntl(MEMFD, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK)),
        b'I' => sys!(libc::pwrite(MEMFD, c"x".as_ptr().cast(), 1, 100)).map(|_| 0),
        b'E' => sys!(libc::write(EVENTS, (&raw const set).cast(), 8)).map(|_| 0),
        b'u' => sys!(libc::umask(0o077)).map(|_| 0),
        b'n' => sys!(libc::setpriority(libc::PRIO_PROCESS, 0, 5)),
        b'N' => sys!(libc::prctl(libc::PR_SET_NAME, c"renamed".as_ptr())),
        b'W' => sys!(libc::chdir(c"/dev".as_ptr())),
        b'm' => sys!(libc::syscall(libc::SYS_rt_sigprocmask, 0, &raw const set, 0_usize, 8_usize)).map(|_| 0),
        b'k' => sys!(libc::raise(libc::SIGUSR1)),
        b's' => sys!(libc::signal(libc::SIGUSR2, libc::SIG_IGN)).map(|_| 0),
        b'l' => {
            let limit = libc::rlimit { rlim_cur: 77, rlim_max: 88 };
            sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))
        }
        b'v' => sys!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64)),
        b'S' => sys!(libc::prctl(libc::PR_SET_TIMERSLACK, 99_999_u64)),
        b'A' => {
            let one = 1_u64;
            sys!(libc::syscall(libc::SYS_sched_setaffinity, 0, 8_usize, &raw const one)).map(|_| 0)
        }
        b'B' => {
            let none = libc::sched_param { sched_priority: 0 };
            sys!(libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none))
        }
        b'y' => sys!(libc::personality(0x0004_0000)),
        b'g' => sys!(libc::setpgid(0, 0)),
        b'Z' => forked(|| ()).map(|()| 0),
        b'F' => forked(|| {
            let _ = sys!(libc::pause());
        })
        .map(|()| 0),
        b't' => {
            std::thread::spawn(|| sys!(libc::pause()));
            Ok(0)
        }
        b'T' => {
            let mut timer = std::ptr::null_mut();
            sys!(libc::timer_create(libc::CLOCK_REALTIME, std::ptr::null_mut(), &raw mut timer))
        }
        b'r' => sys!(libc::syscall(libc::SYS_set_robust_list, memory.start, 24_usize)).map(|_| 0),
        b'e' => environment(),
        _ => Err("no such change".to_owned()),
    }
    .map(|_| ())
}

unsafe extern "C" {
    static environ: *const *mut libc::c_char;
}

/// Changes one byte of the environment in place, where `/proc/PID/environ` shows it.
fn environment() -> Check<i32> {
    // SAFETY: one thread; the C library keeps a null-terminated list of writable strings.
    unsafe {
        let mut at = environ;
        while !(*at).is_null() {
            if CStr::from_ptr(*at).to_bytes().starts_with(b"PUPPET=") {
                (*at).add(7).write(b'#'.cast_signed());
                return Ok(0);
            }
            at = at.add(1);
        }
    }
    Err("no variable PUPPET".to_owned())
}
