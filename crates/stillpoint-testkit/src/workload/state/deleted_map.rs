//! Mappings of deleted files: shared with a child and with a descriptor, private with changed pages, and mapped only.

use crate::support::{Check, Ctx, Map, child, fill, holds, reap};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn deleted(ctx: &Ctx, name: &str, pages: usize, seed: u64) -> Check<i32> {
    let path = ctx.cpath(name);
    let fd = sys!(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600))?;
    let mut bytes = vec![0; pages * PAGE];
    fill(&mut bytes, seed);
    sys!(libc::write(fd, bytes.as_ptr().cast(), bytes.len()))?;
    sys!(libc::unlink(path.as_ptr()))?;
    Ok(fd)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let fd = deleted(ctx, "deleted and mapped", 8, 1)?;
    let shared = Map::new(8 * PAGE, RW, libc::MAP_SHARED, fd, 0)?;
    let read_only = Map::new(4 * PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 4 * PAGE as i64)?;
    let private = Map::new(8 * PAGE, RW, libc::MAP_PRIVATE, fd, 0)?;
    fill(private.part(PAGE, PAGE).bytes(), 2);
    let library = deleted(ctx, "deleted library", 5, 3)?;
    let code = Map::new(5 * PAGE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, library, 0)?;
    // Nobody but root is shown a file from outside that is mapped only.
    if sys!(libc::geteuid())? == 0 {
        sys!(libc::close(library))?;
    }
    let mut pattern = vec![0; 8 * PAGE];
    fill(&mut pattern, 1);
    let check = move || -> Check {
        for n in (0..8).filter(|n| *n != 7) {
            ensure!(shared.part(n * PAGE, PAGE).bytes() == &pattern[n * PAGE..][..PAGE], "page {n}, shared");
            let same = private.part(n * PAGE, PAGE).bytes() == &pattern[n * PAGE..][..PAGE];
            ensure!(same == (n != 1), "page {n}, private");
        }
        holds("a page of its own", private.part(PAGE, PAGE).bytes(), 2)?;
        ensure!(read_only.part(0, 3 * PAGE).bytes() == &pattern[4 * PAGE..7 * PAGE], "its second mapping");
        holds("a deleted library", code.bytes(), 3)
    };
    let check_child = check.clone();
    let other = child(ctx.party("child"), |party| party.run(|_| check_child()))?;
    ctx.ready(&["main", "child"])?;
    ctx.party("main").run(|round| {
        // The descriptor sees what the mapping writes.
        fill(shared.part(7 * PAGE, PAGE).bytes(), round);
        let mut page = [0; PAGE];
        sys!(libc::pread(fd, page.as_mut_ptr().cast(), PAGE, 7 * PAGE as i64))?;
        holds("what was written through the mapping", &page, round)?;
        holds("and seen by the other", read_only.part(3 * PAGE, PAGE).bytes(), round)?;
        check()
    })?;
    reap(other, 0)
}
