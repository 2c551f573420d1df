//! A full pipe whose writer waits for room, in a child and in a thread: every byte arrives once, in order.

use std::sync::Arc;

use crate::support::{Check, Crew, Ctx, child, pause_ms, reap};

/// Numbers per write: more than one page, so that a write is cut in its middle.
const BATCH: u64 = 3000;

fn write_numbers(fd: i32, from: u64) -> Check {
    let bytes = (from..from + BATCH).flat_map(u64::to_ne_bytes).collect::<Vec<_>>();
    let mut at = 0;
    while at < bytes.len() {
        at += sys!(libc::write(fd, bytes[at..].as_ptr().cast(), bytes.len() - at))? as usize;
    }
    Ok(())
}

/// Reads `count` bytes and expects the numbers from `at` on.
fn read_numbers(fd: i32, count: usize, at: &mut u64) -> Check<bool> {
    let mut bytes = vec![0; count];
    let mut have = 0;
    while have < count {
        match sys!(libc::read(fd, bytes[have..].as_mut_ptr().cast(), count - have))? {
            0 => return Ok(false),
            n => have += n as usize,
        }
    }
    for number in bytes.chunks_exact(8) {
        same!("a number from the pipe", number, at.to_ne_bytes());
        *at += 1;
    }
    Ok(true)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let (mut a, mut b) = ([0; 2], [0; 2]);
    sys!(libc::pipe2(a.as_mut_ptr(), 0))?;
    sys!(libc::pipe2(b.as_mut_ptr(), 0))?;
    // Reports nothing: it is inside write all the time, until it gets EPIPE.
    let writer = child(ctx.party("writer"), |_| {
        sys!(libc::close(a[0]))?;
        sys!(libc::close(b[0]))?;
        sys!(libc::close(b[1]))?;
        for n in 0.. {
            let result = write_numbers(a[1], n * BATCH);
            if std::io::Error::last_os_error().raw_os_error() == Some(libc::EPIPE) && result.is_err() {
                break;
            }
            result?;
        }
        Ok(())
    })?;
    sys!(libc::close(a[1]))?;
    let crew = Crew::new();
    let failures = Arc::clone(&crew);
    std::thread::spawn(move || {
        for n in 0.. {
            if let Err(error) = write_numbers(b[1], n * BATCH) {
                failures.fail(error);
                return;
            }
        }
    });
    let (mut from_child, mut from_thread) = (0, 0);
    // Let both pipes fill.
    pause_ms(100);
    ctx.verify(|_| {
        crew.failure()?;
        for (fd, at) in [(a[0], &mut from_child), (b[0], &mut from_thread)] {
            ensure!(read_numbers(fd, 8 * 777, at)?, "the writer has gone");
        }
        Ok(())
    })?;
    for _ in 0..100 {
        read_numbers(a[0], 8 * 1000, &mut from_child)?;
        read_numbers(b[0], 8 * 1000, &mut from_thread)?;
    }
    crew.failure()?;
    sys!(libc::close(a[0]))?;
    reap(writer, 0)
}
