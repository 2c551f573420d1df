//! Shared anonymous memory between a parent, a child and a grandchild; sparse; mapped twice; with parts given back.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Check, Ctx, Map, child, fill, holds, reap, until};

const PAGE: usize = 4096;
const LEN: usize = 64 << 20;

/// Islands of contents in the large area.
const ISLANDS: [usize; 4] = [0, 77 * PAGE, LEN / 2, LEN - PAGE];

fn cell(map: &Map, index: usize) -> &AtomicU64 {
    // SAFETY: aligned, inside the mapping, which stays.
    unsafe { &*map.start.add(8 * index).cast::<AtomicU64>() }
}

/// Adds to an own cell and waits for the others to answer: memory is shared only if what one writes the others see.
fn answer(map: &Map, own: usize, round: u64) -> Check {
    ensure!(cell(map, own).load(Ordering::SeqCst) >= round, "cell {own} went back");
    cell(map, own).store(round + 1, Ordering::SeqCst);
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let large = Map::new(LEN, prot, flags, -1, 0)?;
    ISLANDS.iter().for_each(|&at| fill(large.part(at, PAGE).bytes(), at as u64));
    // Written, then given back by this process: the contents stay in the shared object, unmapped.
    large.part(77 * PAGE, PAGE).advise(libc::MADV_DONTNEED)?;
    let cells = Map::new(PAGE, prot, flags, -1, 0)?;
    let private_view = Map::new(4 * PAGE, prot, flags, -1, 0)?;
    fill(private_view.bytes(), 3);
    // A second mapping of the same object, grown out of nothing (old size 0 duplicates a shared mapping).
    let second = sys!(libc::mremap(private_view.start.cast(), 0, 4 * PAGE, libc::MREMAP_MAYMOVE))?;
    let second = Map { start: second.cast(), len: 4 * PAGE };
    second.protect(libc::PROT_READ)?;
    let only_mine = Map::new(3 * PAGE, prot, flags, -1, 0)?;
    fill(only_mine.bytes(), 4);
    only_mine.part(PAGE, PAGE).protect(libc::PROT_NONE)?;

    let check = move |own: usize, round: u64| -> Check {
        for at in ISLANDS {
            holds("an island of shared memory", large.part(at, PAGE).bytes(), at as u64)?;
        }
        holds("shared memory", private_view.bytes(), 3)?;
        holds("its second mapping", second.bytes(), 3)?;
        answer(&cells, own, round)
    };
    let grand = ctx.party("grandchild");
    let other = child(ctx.party("child"), |party| {
        let grandchild = child(grand, |party| party.run(|round| check(2, round)))?;
        party.run(|round| {
            // Reads a hole of its own: a hole stays zero.
            ensure!(large.part(LEN / 4, PAGE).bytes()[0] == 0, "a hole has contents");
            check(1, round)
        })?;
        reap(grandchild, 0)
    })?;
    // Unmapped here, still mapped by the children.
    ctx.ready(&["main", "child", "grandchild"])?;
    ctx.party("main").run(|round| {
        holds("a shared area of one process", only_mine.part(0, PAGE).bytes(), 4)?;
        check(0, round)?;
        // A marker that the children must see: written here, read there, and back.
        cell(&cells, 8).store(round, Ordering::SeqCst);
        ensure!(cell(&cells, 8).load(Ordering::SeqCst) == round, "the marker is lost");
        Ok(())
    })?;
    until("the children have answered", || (1..3).all(|own| cell(&cells, own).load(Ordering::SeqCst) > 0))?;
    reap(other, 0)
}
