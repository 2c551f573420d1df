//! FIFOs with contents: opened read-write, and by its two ends in two processes.

use crate::support::{Check, Ctx, child, fill, holds, reap};

fn queued(fd: i32) -> Check<i32> {
    let mut count = 0;
    sys!(libc::ioctl(fd, libc::FIONREAD, &raw mut count))?;
    Ok(count)
}

fn read_pattern(fd: i32, len: usize, seed: u64) -> Check {
    let mut bytes = vec![0; len];
    same!("bytes read", sys!(libc::read(fd, bytes.as_mut_ptr().cast(), len))?, len as isize);
    holds("contents of a FIFO", &bytes, seed)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let paths = [ctx.cpath("fifo a"), ctx.cpath("fifo b")];
    for path in &paths {
        sys!(libc::mkfifo(path.as_ptr(), 0o600))?;
    }
    let mut pattern = vec![0; 3000];
    fill(&mut pattern, 1);
    let both = sys!(libc::open(paths[0].as_ptr(), libc::O_RDWR | libc::O_CLOEXEC))?;
    sys!(libc::write(both, pattern.as_ptr().cast(), 3000))?;
    let reader = sys!(libc::open(paths[1].as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK))?;
    let writer = child(ctx.party("writer"), |party| {
        let end = sys!(libc::open(paths[1].as_ptr(), libc::O_WRONLY))?;
        sys!(libc::close(reader))?;
        sys!(libc::close(both))?;
        sys!(libc::write(end, pattern.as_ptr().cast(), 2000))?;
        let flags = sys!(libc::fcntl(end, libc::F_GETFL))?;
        party.run(|_| {
            same!("flags", sys!(libc::fcntl(end, libc::F_GETFL))?, flags);
            same!("bytes in the FIFO, asked by its writer", queued(end)?, 2000);
            Ok(())
        })
    })?;
    crate::support::until("the child has written", || queued(reader) == Ok(2000))?;
    let flags = sys!(libc::fcntl(reader, libc::F_GETFL))?;
    ctx.ready(&["main", "writer"])?;
    ctx.party("main").run(|_| {
        same!("flags", sys!(libc::fcntl(reader, libc::F_GETFL))?, flags);
        same!("bytes in the FIFOs", (queued(both)?, queued(reader)?), (3000, 2000));
        Ok(())
    })?;
    reap(writer, 0)?;
    read_pattern(both, 3000, 1)?;
    read_pattern(reader, 2000, 1)?;
    let mut byte = 0_u8;
    same!("a FIFO without a writer", sys!(libc::read(reader, (&raw mut byte).cast(), 1))?, 0);
    Ok(())
}
