//! The heap: its contents and that it goes on growing and shrinking where it ended.

use crate::support::{Check, Ctx, Map, fill, holds};

fn current() -> Check<usize> {
    sys!(libc::syscall(libc::SYS_brk, 0_usize)).map(|end| end as usize)
}

fn set(end: usize) -> Check {
    let got = sys!(libc::syscall(libc::SYS_brk, end))?;
    same!("end of the heap", got as usize, end);
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    // By the raw call: the allocator's own part of the heap lies below and is left alone, and it copes with a break that
    // moved on.
    let start = current()?.next_multiple_of(4096);
    let kept = 64 * 4096 + 123;
    set(start + kept)?;
    let heap = Map { start: start as *mut u8, len: kept };
    fill(heap.bytes(), 5);
    ctx.verify(|round| {
        same!("end of the heap", current()?, start + kept);
        holds("the heap", heap.bytes(), 5)?;
        let more = 8192 * (1 + round as usize % 7);
        set(start + kept + more)?;
        let grown = Map { start: (start + kept.next_multiple_of(4096)) as *mut u8, len: more - 4096 };
        ensure!(grown.bytes().iter().all(|&b| b == 0), "new heap has contents");
        fill(grown.bytes(), 6);
        set(start + kept)
    })
}
