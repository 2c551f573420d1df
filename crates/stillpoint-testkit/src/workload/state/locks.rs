//! File locks: of processes, of open file descriptions, and somebody who waits for one.
//!
//! Who may not lock a byte is told by F_GETLK, which never shows a process its own locks: each of two processes
//! verifies those of the other.

use crate::support::{Check, Ctx, child, reap};

/// Mode, first and last byte, and holder: -1 for an open file description.
type Lock = (i32, i64, i64, i32);

const EOF: i64 = i64::MAX;

fn flock(mode: i32, start: i64, end: i64) -> libc::flock {
    libc::flock {
        l_type: mode as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: if end == EOF { 0 } else { end - start + 1 },
        l_pid: 0,
    }
}

fn set(fd: i32, command: i32, mode: i32, start: i64, end: i64) -> Check {
    let lock = flock(mode, start, end);
    sys!(libc::fcntl(fd, command, &raw const lock)).map(|_| ())
}

/// Whose lock keeps us from writing a byte.
fn held(fd: i32, at: i64) -> Check<Option<Lock>> {
    let mut lock = flock(libc::F_WRLCK, at, at);
    sys!(libc::fcntl(fd, libc::F_GETLK, &raw mut lock))?;
    let end = if lock.l_len == 0 { EOF } else { lock.l_start + lock.l_len - 1 };
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some((
        i32::from(lock.l_type),
        lock.l_start,
        end,
        lock.l_pid,
    )))
}

/// Expects others to hold exactly these, as far as they can be told: byte by byte where locks begin and end.
fn exactly(what: &str, fd: i32, locks: &[Lock]) -> Check {
    for at in (0..60).chain(990..1020).chain([1 << 40, EOF - 1]) {
        let expected = locks.iter().copied().find(|(_, start, end, _)| (*start..=*end).contains(&at));
        same!(format!("lock on byte {at} of {what}"), held(fd, at)?, expected);
    }
    Ok(())
}

/// Expects flock(2) of a new open file description to be refused, or not.
fn whole(path: &std::ffi::CStr, operation: i32, taken: bool) -> Check {
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?;
    let refused = sys!(libc::flock(fd, operation | libc::LOCK_NB)).is_err();
    sys!(libc::close(fd))?;
    same!(format!("flock of {path:?}"), refused, taken);
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    use libc::{F_OFD_SETLK, F_RDLCK, F_SETLK, F_SETLKW, F_UNLCK, F_WRLCK};
    let me = sys!(libc::getpid())?;
    let open = |name: &str, flags: i32| {
        sys!(libc::open(ctx.cpath(name).as_ptr(), flags | libc::O_CREAT | libc::O_CLOEXEC, 0o600))
    };
    // Of this process, through three open file descriptions of one file.
    let write = open("process", libc::O_RDWR)?;
    let duplicate = sys!(libc::dup(write))?;
    let other = open("process", libc::O_RDWR)?;
    let read = open("process", libc::O_RDONLY)?;
    set(duplicate, F_SETLK, F_WRLCK, 0, 9)?;
    set(other, F_SETLK, F_RDLCK, 20, 29)?;
    set(read, F_SETLK, F_RDLCK, 40, EOF)?;
    let mine = [(F_WRLCK, 0, 9, me), (F_RDLCK, 20, 29, me), (F_RDLCK, 40, EOF, me)];
    // Of a file without a name.
    let nameless = open("nameless", libc::O_RDWR)?;
    sys!(libc::unlink(ctx.cpath("nameless").as_ptr()))?;
    set(nameless, F_SETLK, F_WRLCK, 5, 5)?;
    // Of open file descriptions, one of them shared with the child.
    let (one, two) = (open("description", libc::O_RDWR)?, open("description", libc::O_RDWR)?);
    set(one, F_OFD_SETLK, F_WRLCK, 5, 9)?;
    set(two, F_OFD_SETLK, F_RDLCK, 10, 19)?;
    let described = [(F_WRLCK, 5, 9, -1), (F_RDLCK, 10, 19, -1)];
    let (exclusive, shared) = (open("exclusive", libc::O_RDONLY)?, open("shared", libc::O_WRONLY)?);
    sys!(libc::flock(exclusive, libc::LOCK_EX))?;
    sys!(libc::flock(shared, libc::LOCK_SH))?;
    let (exclusive_path, shared_path) = (ctx.cpath("exclusive"), ctx.cpath("shared"));
    let descriptions = |fd: i32| -> Check {
        exactly("a file locked by descriptions", fd, &described)?;
        whole(&exclusive_path, libc::LOCK_SH, true)?;
        whole(&shared_path, libc::LOCK_EX, true)?;
        whole(&shared_path, libc::LOCK_SH, false)
    };
    let (mut begun, mut over) = ([0; 2], [0; 2]);
    sys!(libc::pipe2(begun.as_mut_ptr(), libc::O_CLOEXEC))?;
    sys!(libc::pipe2(over.as_mut_ptr(), libc::O_CLOEXEC))?;
    let tell = |pipe: [i32; 2]| sys!(libc::write(pipe[1], c"x".as_ptr().cast(), 1));
    let wait = |pipe: [i32; 2]| {
        let mut byte = 0_u8;
        sys!(libc::read(pipe[0], (&raw mut byte).cast(), 1))
    };
    let prober = child(ctx.party("prober"), |party| {
        sys!(libc::close(two))?;
        set(write, F_SETLK, F_RDLCK, 1000, 1009)?;
        tell(begun)?;
        party.run(|_| {
            exactly("the parent's file", write, &mine)?;
            exactly("a file without a name", nameless, &[(F_WRLCK, 5, 5, me)])?;
            descriptions(one)
        })?;
        // The parent verifies once more, too.
        wait(over).map(|_| ())
    })?;
    wait(begun)?;
    let waiter = child(ctx.party("waiter"), |_| {
        // Held by the parent to its end.
        set(write, F_SETLKW, F_WRLCK, 3, 4)?;
        exactly("the file when it is this child's turn", write, &mine[1..])
    })?;
    ctx.ready(&["main", "prober"])?;
    ctx.party("main").run(|_| {
        exactly("the child's file", write, &[(F_RDLCK, 1000, 1009, prober)])?;
        exactly("this process's own nameless file", nameless, &[])?;
        descriptions(one)?;
        let mut status = 0;
        let ended = sys!(libc::waitpid(waiter, &raw mut status, libc::WNOHANG))?;
        same!("whether the waiting child still waits", ended, 0);
        Ok(())
    })?;
    tell(over)?;
    reap(prober, 0)?;
    exactly("the file after the child's end", write, &[])?;
    set(write, F_SETLK, F_UNLCK, 0, 9)?;
    reap(waiter, 0)?;
    // The last open file description takes its lock along.
    sys!(libc::close(exclusive))?;
    whole(&exclusive_path, libc::LOCK_EX, false)?;
    // Closing any descriptor of a file gives up all of a process's locks on it.
    sys!(libc::close(read))?;
    let check = child(ctx.party("check"), |_| exactly("the file when all is given up", write, &[]))?;
    reap(check, 0)
}
