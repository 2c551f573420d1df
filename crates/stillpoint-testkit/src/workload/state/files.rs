//! Regular files: offset, append, access modes, dup, a description shared by fork, close-on-exec, many descriptors.

use crate::support::{Check, Ctx, child, fill, matches, reap};

const SIZE: usize = 64 * 1024;

fn offset(fd: i32) -> Check<i64> {
    sys!(libc::lseek(fd, 0, libc::SEEK_CUR))
}

fn flags(fd: i32) -> Check<(i32, i32)> {
    Ok((sys!(libc::fcntl(fd, libc::F_GETFL))?, sys!(libc::fcntl(fd, libc::F_GETFD))?))
}

/// Moves the offset through one descriptor, expects another to follow, and puts it back.
fn joint(a: i32, b: i32, expected: bool) -> Check {
    let (before_a, before_b) = (offset(a)?, offset(b)?);
    sys!(libc::lseek(a, before_a + 17, libc::SEEK_SET))?;
    let moved = offset(b)? == before_b + 17 && before_a == before_b;
    sys!(libc::lseek(a, before_a, libc::SEEK_SET))?;
    same!(format!("descriptors {a} and {b} move together"), moved, expected);
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let mut contents = vec![0; SIZE];
    fill(&mut contents, 1);
    for name in ["data", "log", "relative"] {
        std::fs::write(ctx.path(name), &contents).map_err(|e| e.to_string())?;
    }
    let (data, log) = (ctx.cpath("data"), ctx.cpath("log"));
    let open = |path: &std::ffi::CStr, flags: i32| sys!(libc::open(path.as_ptr(), flags));
    let read = open(&data, libc::O_RDONLY | libc::O_CLOEXEC)?;
    let both = open(&data, libc::O_RDWR)?;
    let append = open(&log, libc::O_WRONLY | libc::O_APPEND)?;
    let odd = open(&data, libc::O_RDONLY | libc::O_NOATIME | libc::O_NONBLOCK)?;
    let dup = sys!(libc::dup(read))?;
    let high = sys!(libc::fcntl(both, libc::F_DUPFD_CLOEXEC, 200))?;
    let dir = ctx.cpath("");
    sys!(libc::chdir(dir.as_ptr()))?;
    let relative = open(c"relative", libc::O_RDONLY)?;
    sys!(libc::chdir(c"/".as_ptr()))?;
    for (fd, at) in [(read, 4096), (both, 100), (odd, SIZE as i64 + 5), (relative, 8)] {
        sys!(libc::lseek(fd, at, libc::SEEK_SET))?;
    }
    let many = (0..100).map(|_| open(&data, libc::O_RDONLY)).collect::<Check<Vec<_>>>()?;
    for (i, fd) in many.iter().enumerate() {
        sys!(libc::lseek(*fd, i as i64 * 8, libc::SEEK_SET))?;
    }
    let fds = [read, both, append, odd, dup, high, relative];
    let before = fds.map(|fd| (flags(fd), offset(fd)));
    let check = || -> Check {
        for (fd, before) in fds.iter().zip(&before).filter(|(fd, _)| **fd != relative) {
            same!(format!("flags and offset of descriptor {fd}"), (flags(*fd), offset(*fd)), *before);
        }
        for (i, fd) in many.iter().enumerate() {
            same!("offset of one of many", offset(*fd)?, i as i64 * 8);
        }
        let mut page = [0_u8; 4096];
        same!("bytes read", sys!(libc::pread(read, page.as_mut_ptr().cast(), 4096, 0))?, 4096);
        ensure!(matches(&page, 1), "contents differ");
        Ok(())
    };
    // Each process moves its own descriptions only: offsets are shared, and both moving one at once would tell nothing.
    let sharer = child(ctx.party("child"), |party| {
        party.run(|_| {
            same!("flags in the child", fds.map(flags), before.each_ref().map(|(flags, _)| flags.clone()));
            same!("offset in the child", offset(relative)?, 8);
            joint(relative, append, false)
        })
    })?;
    ctx.ready(&["main", "child"])?;
    ctx.party("main").run(|_| {
        check()?;
        joint(read, dup, true)?;
        joint(both, high, true)?;
        joint(read, both, false)
    })?;
    reap(sharer, 0)?;
    // Shared with the child; then what is written to the log goes to its end.
    same!("offset of what the child moved", offset(relative)?, 8);
    check()?;
    sys!(libc::write(append, c"end".as_ptr().cast(), 3))?;
    let written = std::fs::read(ctx.path("log")).map_err(|e| e.to_string())?;
    ensure!(written.len() == SIZE + 3 && written.ends_with(b"end"), "append did not go to the end");
    same!("offset after a write", sys!(libc::write(both, c"x".as_ptr().cast(), 1)).and(offset(high))?, 101);
    Ok(())
}
