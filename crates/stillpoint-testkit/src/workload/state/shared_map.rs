//! A shared mapping of a file, by two processes, beside a descriptor of the same file: what one writes the others see.

use crate::support::{Check, Ctx, Map, child, fill, holds, matches, reap, until};

const PAGE: usize = 4096;

pub(crate) fn run(ctx: &Ctx) -> Check {
    let mut contents = vec![0; 16 * PAGE];
    contents.chunks_mut(PAGE).enumerate().for_each(|(i, page)| fill(page, i as u64));
    std::fs::write(ctx.path("shared file"), &contents).map_err(|e| e.to_string())?;
    let path = ctx.cpath("shared file");
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDWR))?;
    let map = Map::new(16 * PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0)?;
    let read_only = Map::new(2 * PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 4 * PAGE as i64)?;
    fill(map.part(4 * PAGE, PAGE).bytes(), 50);
    // No write to the file after this: the image holds what it was, and a strict restore compares.
    sys!(libc::msync(map.start.cast(), map.len, libc::MS_SYNC))?;
    let check = move || -> Check {
        for i in 0..15 {
            let seed = if i == 4 { 50 } else { i as u64 };
            holds("a shared mapping of a file", map.part(i * PAGE, PAGE).bytes(), seed)?;
        }
        holds("its read-only mapping", read_only.part(0, PAGE).bytes(), 50)?;
        let mut page = vec![0; PAGE];
        let got = sys!(libc::pread(fd, page.as_mut_ptr().cast(), PAGE, 4 * PAGE as i64))?;
        same!("bytes read", got, PAGE as isize);
        holds("the file behind it", &page, 50)
    };
    let other = child(ctx.party("child"), |party| {
        party.run(|_| check())?;
        // Once the parent has verified for the last time: it writes, this process sees it, and answers.
        until("the parent writes", || matches(map.part(15 * PAGE, PAGE).bytes(), 100))?;
        fill(map.part(9 * PAGE, PAGE).bytes(), 90);
        Ok(())
    })?;
    ctx.ready(&["main", "child"])?;
    ctx.party("main").run(|_| check())?;
    fill(map.part(15 * PAGE, PAGE).bytes(), 100);
    reap(other, 0)?;
    holds("what the child wrote", map.part(9 * PAGE, PAGE).bytes(), 90)?;
    let mut page = vec![0; PAGE];
    sys!(libc::pread(fd, page.as_mut_ptr().cast(), PAGE, 9 * PAGE as i64))?;
    holds("what the child wrote, in the file", &page, 90)
}
