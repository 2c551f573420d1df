//! A private mapping of a file: pages that were written to and pages that were not, part read-only; the program itself
//! likewise (its relocated data is such a mapping).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Check, Ctx, Map, fill, holds};

const PAGE: usize = 4096;

static DATA: [AtomicU64; 1024] = [const { AtomicU64::new(7) }; 1024];
/// Relocated at start: lies in an area that is read-only afterwards.
static RELOCATED: [&AtomicU64; 4] = [&DATA[0], &DATA[100], &DATA[500], &DATA[1023]];

pub(crate) fn run(ctx: &Ctx) -> Check {
    // Ends in the middle of a page.
    let mut contents = vec![0; 20 * PAGE + 100];
    contents.chunks_mut(PAGE).enumerate().for_each(|(i, page)| fill(page, i as u64));
    let path = ctx.path("mapped file");
    std::fs::write(&path, &contents).map_err(|e| e.to_string())?;
    let path = ctx.cpath("mapped file");
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDONLY))?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::new(21 * PAGE, prot, libc::MAP_PRIVATE, fd, 0)?;
    let from_middle = Map::new(2 * PAGE, libc::PROT_READ, libc::MAP_PRIVATE, fd, 5 * PAGE as i64)?;
    sys!(libc::close(fd))?;
    for written in [3, 4, 11, 20] {
        fill(map.part(written * PAGE, PAGE).bytes(), 100 + written as u64);
    }
    map.part(10 * PAGE, 3 * PAGE).protect(libc::PROT_READ)?;
    let untouched = map.part(15 * PAGE, PAGE);
    for (i, cell) in DATA.iter().enumerate() {
        cell.store(i as u64 * 3, Ordering::SeqCst);
    }
    ctx.verify(|_| {
        for i in (0..21).filter(|i| *i != 15) {
            let seed = if [3, 4, 11, 20].contains(&i) { 100 + i } else { i };
            holds("a private mapping of a file", map.part(i * PAGE, PAGE).bytes(), seed as u64)?;
        }
        holds("a page looked at by no one before", untouched.bytes(), 15)?;
        holds("the file from its middle", from_middle.part(PAGE, PAGE).bytes(), 6)?;
        for (i, cell) in DATA.iter().enumerate() {
            same!("the program's data", cell.load(Ordering::SeqCst), i as u64 * 3);
        }
        same!("relocated pointers", RELOCATED.map(|cell| cell.load(Ordering::SeqCst)), [0, 300, 1500, 3069]);
        Ok(())
    })
}
