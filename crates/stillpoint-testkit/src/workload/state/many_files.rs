//! Thousands of open files and hundreds of areas: of different permissions, next to each other, and such as the kernel
//! would merge had they been made together.

use crate::support::{Check, Ctx, Map, fill, holds};

const PAGE: usize = 4096;
const AREAS: usize = 600;

pub(crate) fn run(ctx: &Ctx) -> Check {
    // SAFETY: all zeroes is a valid rlimit.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    sys!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
    limit.rlim_cur = limit.rlim_max.min(5000);
    sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    let count = limit.rlim_cur as usize - 100;
    let names = (0..20).map(|n| format!("one of many {n}")).collect::<Vec<_>>();
    for name in &names {
        std::fs::write(ctx.path(name), name).map_err(|e| e.to_string())?;
    }
    let mut files = Vec::with_capacity(count);
    for n in 0..count {
        let path = ctx.cpath(&names[n % names.len()]);
        let fd = sys!(libc::open(path.as_ptr(), libc::O_RDONLY))?;
        sys!(libc::lseek(fd, n as i64, libc::SEEK_SET))?;
        files.push(fd);
    }
    let map = Map::anonymous(AREAS * PAGE)?;
    for n in 0..AREAS {
        fill(map.part(n * PAGE, PAGE).bytes(), n as u64);
        if n % 2 == 1 {
            map.part(n * PAGE, PAGE).protect(libc::PROT_READ)?;
        }
    }
    // Areas that were written to before they became neighbours of a kind stay apart.
    let apart = Map::anonymous(8 * PAGE)?;
    for n in [1, 3, 5, 7] {
        apart.part(n * PAGE, PAGE).protect(libc::PROT_NONE)?;
    }
    for n in [0, 2, 4, 6] {
        fill(apart.part(n * PAGE, PAGE).bytes(), n as u64);
    }
    for n in [1, 3, 5, 7] {
        apart.part(n * PAGE, PAGE).protect(libc::PROT_READ | libc::PROT_WRITE)?;
    }
    ctx.verify(|_| {
        for (n, &fd) in files.iter().enumerate() {
            same!("offset of a file", sys!(libc::lseek(fd, 0, libc::SEEK_CUR))?, n as i64);
        }
        for n in 0..AREAS {
            holds("one of many areas", map.part(n * PAGE, PAGE).bytes(), n as u64)?;
        }
        for n in [0, 2, 4, 6] {
            holds("areas that are apart", apart.part(n * PAGE, PAGE).bytes(), n as u64)?;
        }
        Ok(())
    })
}
