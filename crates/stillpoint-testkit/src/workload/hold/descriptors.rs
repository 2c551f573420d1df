//! Descriptors of kinds that are not built yet, and states of files.

use super::{Setup, open};
use crate::support::{Check, Ctx, Map, fill, holds};

type Held = Check<Box<dyn FnMut() -> Check>>;

pub(super) const ALL: &[(&str, Setup)] = &[
    ("socket-pair", socket_pair),
    ("socket-tcp", socket_tcp),
    ("epoll", epoll),
    ("eventfd-outside", eventfd_outside),
    ("inotify", inotify),
    ("timerfd", timerfd),
    ("signalfd", signalfd),
    ("memfd-outside", memfd_outside),
    ("shared-outside", shared_outside),
    ("io-uring", io_uring),
    ("userfaultfd", userfaultfd),
    ("pidfd", pidfd),
    ("namespace-file", |_| path(c"/proc/self/ns/net")),
    ("proc-file", |_| path(c"/proc/self/status")),
    ("sys-file", |_| path(c"/sys/kernel/mm/transparent_hugepage/enabled")),
    ("pty-master", pty_master),
    ("pipe-outside", pipe_outside),
    ("lease", lease),
    ("fd-owner", fd_owner),
];

fn path(path: &std::ffi::CStr) -> Held {
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDONLY))?;
    let mut byte = 0_u8;
    // Only the first kind can be read; each is a file of a pseudo file system.
    let _ = sys!(libc::read(fd, (&raw mut byte).cast(), 1));
    open(fd)
}

fn file(ctx: &Ctx) -> Check<i32> {
    let path = ctx.cpath("held file");
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600))?;
    sys!(libc::write(fd, c"contents".as_ptr().cast(), 8))?;
    Ok(fd)
}

fn socket_pair(_: &Ctx) -> Held {
    let mut ends = [0; 2];
    sys!(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()))?;
    sys!(libc::write(ends[0], c"abc".as_ptr().cast(), 3))?;
    Ok(Box::new(move || {
        let mut count = 0;
        sys!(libc::ioctl(ends[1], libc::FIONREAD, &raw mut count))?;
        same!("bytes in the socket", count, 3);
        Ok(())
    }))
}

fn socket_tcp(_: &Ctx) -> Held {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    Ok(Box::new(move || {
        same!("address", listener.local_addr().ok(), Some(address));
        Ok(())
    }))
}

fn epoll(_: &Ctx) -> Held {
    let fd = sys!(libc::epoll_create1(0))?;
    let mut ends = [0; 2];
    sys!(libc::pipe2(ends.as_mut_ptr(), 0))?;
    let mut event = libc::epoll_event { events: libc::EPOLLOUT as u32, u64: 42 };
    sys!(libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, ends[1], &raw mut event))?;
    Ok(Box::new(move || {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        same!("events", sys!(libc::epoll_wait(fd, &raw mut event, 1, 0))?, 1);
        same!("data of the event", { event.u64 }, 42);
        Ok(())
    }))
}

fn inotify(ctx: &Ctx) -> Held {
    let fd = sys!(libc::inotify_init1(libc::IN_NONBLOCK))?;
    let path = ctx.cpath("");
    sys!(libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_DELETE_SELF))?;
    open(fd)
}

fn timerfd(_: &Ctx) -> Held {
    let fd = sys!(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0))?;
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let hour = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
    let value = libc::itimerspec { it_interval: zero, it_value: hour };
    sys!(libc::timerfd_settime(fd, 0, &raw const value, std::ptr::null_mut()))?;
    Ok(Box::new(move || {
        let mut value = libc::itimerspec { it_interval: zero, it_value: zero };
        sys!(libc::timerfd_gettime(fd, &raw mut value))?;
        ensure!(value.it_value.tv_sec > 0, "the timer is not armed");
        Ok(())
    }))
}

fn signalfd(_: &Ctx) -> Held {
    // SAFETY: all zeroes is a valid set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    sys!(libc::sigaddset(&raw mut set, libc::SIGUSR1))?;
    open(sys!(libc::signalfd(-1, &raw const set, 0))?)
}

/// An orphan maps it, which ends when this process does.
fn memfd_outside(_: &Ctx) -> Held {
    let fd = sys!(libc::memfd_create(c"held".as_ptr(), 0))?;
    sys!(libc::write(fd, c"contents".as_ptr().cast(), 8))?;
    let map = Map::new(4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0)?;
    orphan(|| drop(sys!(libc::close(fd))))?;
    Ok(Box::new(move || {
        same!("contents", &map.bytes()[..8], b"contents");
        Ok(())
    }))
}

fn shared_outside(_: &Ctx) -> Held {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let map = Map::new(4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
    fill(map.bytes(), 1);
    orphan(|| ())?;
    Ok(Box::new(move || holds("shared memory", map.bytes(), 1)))
}

/// A process that has left the tree, and lives as long as this one.
fn orphan(prepare: impl FnOnce()) -> Check {
    let parent = sys!(libc::getpid())?;
    let middle = sys!(libc::fork())?;
    if middle == 0 {
        if sys!(libc::fork()) == Ok(0) {
            let _ = sys!(libc::setsid());
            prepare();
            while sys!(libc::kill(parent, 0)).is_ok() {
                crate::support::pause_ms(20);
            }
        }
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(0) }
    }
    crate::support::reap(middle, 0)?;
    // Until it is ready: it has inherited everything that this process has.
    crate::support::pause_ms(50);
    Ok(())
}

fn io_uring(_: &Ctx) -> Held {
    let mut params = [0_u8; 120];
    let fd = sys!(libc::syscall(libc::SYS_io_uring_setup, 8, params.as_mut_ptr()))?;
    open(fd as i32)
}

fn userfaultfd(_: &Ctx) -> Held {
    const USER_MODE_ONLY: i32 = 1;
    open(sys!(libc::syscall(libc::SYS_userfaultfd, USER_MODE_ONLY))? as i32)
}

fn pidfd(_: &Ctx) -> Held {
    open(sys!(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0))? as i32)
}

fn pty_master(_: &Ctx) -> Held {
    let fd = sys!(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY))?;
    sys!(libc::unlockpt(fd))?;
    open(fd)
}

/// The other end belongs to an orphan, which ends when this process does.
fn pipe_outside(_: &Ctx) -> Held {
    let mut ends = [0; 2];
    sys!(libc::pipe2(ends.as_mut_ptr(), 0))?;
    let middle = sys!(libc::fork())?;
    if middle == 0 {
        if sys!(libc::fork()) == Ok(0) {
            let _ = sys!(libc::setsid());
            let _ = sys!(libc::close(ends[1]));
            let mut byte = 0_u8;
            while sys!(libc::read(ends[0], (&raw mut byte).cast(), 1)) == Ok(1) {}
        }
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(0) }
    }
    crate::support::reap(middle, 0)?;
    sys!(libc::close(ends[0]))?;
    Ok(Box::new(move || sys!(libc::write(ends[1], c"x".as_ptr().cast(), 1)).map(|_| ())))
}

/// An orphan holds it too.
fn eventfd_outside(_: &Ctx) -> Held {
    let fd = sys!(libc::eventfd(5, 0))?;
    orphan(|| ())?;
    open(fd)
}

fn lease(ctx: &Ctx) -> Held {
    sys!(libc::close(file(ctx)?))?;
    let path = ctx.cpath("held file");
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDONLY))?;
    sys!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK))?;
    Ok(Box::new(move || {
        same!("lease", sys!(libc::fcntl(fd, libc::F_GETLEASE))?, libc::F_RDLCK);
        Ok(())
    }))
}

/// A descriptor that sends a signal of its owner's choosing when it becomes ready.
fn fd_owner(_: &Ctx) -> Held {
    let mut ends = [0; 2];
    sys!(libc::pipe2(ends.as_mut_ptr(), 0))?;
    sys!(libc::fcntl(ends[0], libc::F_SETOWN, libc::getpid()))?;
    sys!(libc::fcntl(ends[0], F_SETSIG, libc::SIGWINCH))?;
    sys!(libc::fcntl(ends[0], libc::F_SETFL, libc::O_ASYNC))?;
    Ok(Box::new(move || {
        same!("signal", sys!(libc::fcntl(ends[0], F_GETSIG))?, libc::SIGWINCH);
        Ok(())
    }))
}

// From asm-generic/fcntl.h; the libc crate lacks them.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
