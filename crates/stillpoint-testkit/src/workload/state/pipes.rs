//! Pipes: contents, sizes, flags, both ends in one process and in two, an end that nobody holds.

use crate::support::{Check, Ctx, child, fill, holds, reap, until};

fn pipe(flags: i32) -> Check<[i32; 2]> {
    let mut ends = [0; 2];
    sys!(libc::pipe2(ends.as_mut_ptr(), flags))?;
    Ok(ends)
}

fn write_pattern(fd: i32, len: usize, seed: u64) -> Check {
    let mut bytes = vec![0; len];
    fill(&mut bytes, seed);
    same!("bytes written", sys!(libc::write(fd, bytes.as_ptr().cast(), len))?, len as isize);
    Ok(())
}

fn read_pattern(fd: i32, len: usize, seed: u64) -> Check {
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        let got = sys!(libc::read(fd, bytes[at..].as_mut_ptr().cast(), len - at))?;
        ensure!(got > 0, "a pipe ended after {at} bytes of {len}");
        at += got as usize;
    }
    holds("contents of a pipe", &bytes, seed)
}

fn queued(fd: i32) -> Check<i32> {
    let mut count = 0;
    sys!(libc::ioctl(fd, libc::FIONREAD, &raw mut count))?;
    Ok(count)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let own = pipe(libc::O_CLOEXEC)?;
    write_pattern(own[1], 10_000, 1)?;
    let large = pipe(libc::O_NONBLOCK)?;
    sys!(libc::fcntl(large[1], libc::F_SETPIPE_SZ, 256 * 1024))?;
    write_pattern(large[1], 200_000, 2)?;
    // The flags of the two ends differ.
    sys!(libc::fcntl(large[0], libc::F_SETFL, 0))?;
    let small = pipe(0)?;
    sys!(libc::fcntl(small[1], libc::F_SETPIPE_SZ, 4096))?;
    let no_writer = pipe(0)?;
    write_pattern(no_writer[1], 500, 3)?;
    sys!(libc::close(no_writer[1]))?;
    let no_reader = pipe(0)?;
    sys!(libc::close(no_reader[0]))?;
    // One end each: this process writes, the child answers.
    let (down, up) = (pipe(0)?, pipe(0)?);
    let answerer = child(ctx.party("child"), |party| {
        sys!(libc::close(down[1]))?;
        sys!(libc::close(up[0]))?;
        sys!(libc::fcntl(down[0], libc::F_SETFL, libc::O_NONBLOCK))?;
        let mut expected = 0_u64;
        let mut answer = move || -> Check<bool> {
            let mut bytes = [0_u8; 8];
            match sys!(libc::read(down[0], bytes.as_mut_ptr().cast(), 8)) {
                Ok(8) => {
                    same!("what the child reads", u64::from_ne_bytes(bytes), expected);
                    sys!(libc::write(up[1], bytes.as_ptr().cast(), 8))?;
                    expected += 1;
                    Ok(false)
                }
                Ok(0) => Ok(true),
                Ok(n) => Err(format!("the child read {n} bytes of 8")),
                Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) => Ok(false),
                Err(error) => Err(error),
            }
        };
        party.run(|_| answer().map(|_| ()))?;
        let mut failure = Ok(());
        until("the parent closes its end", || match answer() {
            Ok(end) => end,
            Err(error) => {
                failure = Err(error);
                true
            }
        })?;
        failure
    })?;
    sys!(libc::close(down[0]))?;
    sys!(libc::close(up[1]))?;
    let (mut sent, mut got) = (0_u64, 0_u64);
    ctx.ready(&["main", "child"])?;
    ctx.party("main").run(|_| {
        for (fd, count) in [(own[0], 10_000), (large[0], 200_000), (small[0], 0), (no_writer[0], 500)] {
            same!("bytes in a pipe", queued(fd)?, count);
        }
        let sizes = [own, large, small].map(|p| sys!(libc::fcntl(p[0], libc::F_GETPIPE_SZ)));
        same!("sizes of pipes", sizes, [Ok(65_536), Ok(262_144), Ok(4096)]);
        let flags = large.map(|fd| sys!(libc::fcntl(fd, libc::F_GETFL)));
        same!("flags of the ends", flags, [Ok(0), Ok(libc::O_WRONLY | libc::O_NONBLOCK)]);
        // Up to sixteen numbers under way.
        while sent < got + 16 {
            sys!(libc::write(down[1], (&raw const sent).cast(), 8))?;
            sent += 1;
        }
        while queued(up[0])? >= 8 {
            let mut answer = 0_u64;
            sys!(libc::read(up[0], (&raw mut answer).cast(), 8))?;
            same!("the child's answer", answer, got);
            got += 1;
        }
        Ok(())
    })?;
    sys!(libc::close(down[1]))?;
    while got < sent {
        let mut answer = 0_u64;
        same!("bytes of an answer", sys!(libc::read(up[0], (&raw mut answer).cast(), 8))?, 8);
        same!("the child's answer", answer, got);
        got += 1;
    }
    reap(answerer, 0)?;
    read_pattern(own[0], 10_000, 1)?;
    read_pattern(large[0], 200_000, 2)?;
    read_pattern(no_writer[0], 500, 3)?;
    let mut byte = 0_u8;
    same!("a pipe without a writer", sys!(libc::read(no_writer[0], (&raw mut byte).cast(), 1))?, 0);
    // Rust programs ignore SIGPIPE.
    let broken = sys!(libc::write(no_reader[1], (&raw const byte).cast(), 1));
    ensure!(
        broken.is_err() && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPIPE),
        "a pipe without a reader took a byte"
    );
    Ok(())
}
