//! A deleted file: sparse, with contents, open twice, shared by a child; one more that is deleted and empty.

use crate::support::{Check, Ctx, child, fill, holds, reap};

const PAGE: usize = 4096;
const SIZE: i64 = 50 << 20;

fn island(fd: i32, at: i64, seed: u64) -> Check {
    let mut page = [0_u8; PAGE];
    same!("bytes read", sys!(libc::pread(fd, page.as_mut_ptr().cast(), PAGE, at))?, PAGE as isize);
    holds("an island of a deleted file", &page, seed)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let path = ctx.cpath("soon deleted");
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let first = sys!(libc::open(path.as_ptr(), flags, 0o640))?;
    let second = sys!(libc::open(path.as_ptr(), libc::O_RDONLY))?;
    sys!(libc::fchmod(first, 0o640))?;
    sys!(libc::ftruncate(first, SIZE))?;
    let islands = [(0, 1), (10 << 20, 2), (SIZE - PAGE as i64, 3)];
    for (at, seed) in islands {
        let mut page = [0_u8; PAGE];
        fill(&mut page, seed);
        sys!(libc::pwrite(first, page.as_ptr().cast(), PAGE, at))?;
    }
    sys!(libc::lseek(first, 111, libc::SEEK_SET))?;
    sys!(libc::lseek(second, 222, libc::SEEK_SET))?;
    sys!(libc::unlink(path.as_ptr()))?;
    let empty_path = ctx.cpath("empty");
    let empty = sys!(libc::open(empty_path.as_ptr(), flags, 0o600))?;
    sys!(libc::unlink(empty_path.as_ptr()))?;

    let check = move || -> Check {
        for (at, seed) in islands {
            island(first, at, seed)?;
            island(second, at, seed)?;
        }
        // SAFETY: all zeroes is a valid stat.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        sys!(libc::fstat(first, &raw mut stat))?;
        same!("size, links and mode", (stat.st_size, stat.st_nlink, stat.st_mode & 0o777), (SIZE, 0, 0o640));
        ensure!(stat.st_blocks * 512 < SIZE / 4, "the holes are filled");
        let (size, inode) = (stat.st_size, stat.st_ino);
        sys!(libc::fstat(second, &raw mut stat))?;
        same!("size and inode of the second", (stat.st_size, stat.st_ino), (size, inode));
        sys!(libc::fstat(empty, &raw mut stat))?;
        same!("size of the empty file", stat.st_size, 0);
        same!("offset of the first", sys!(libc::lseek(first, 0, libc::SEEK_CUR))?, 111);
        same!("offset of the second", sys!(libc::lseek(second, 0, libc::SEEK_CUR))?, 222);
        Ok(())
    };
    let sharer = child(ctx.party("child"), |party| party.run(|_| check()))?;
    ctx.ready(&["main", "child"])?;
    ctx.party("main").run(|_| check())?;
    reap(sharer, 0)?;
    // It can still be written to, and the other descriptor sees that.
    let mut page = [0_u8; PAGE];
    fill(&mut page, 9);
    sys!(libc::pwrite(first, page.as_ptr().cast(), PAGE, 20 << 20))?;
    island(second, 20 << 20, 9)
}
