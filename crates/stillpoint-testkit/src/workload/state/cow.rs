//! Memory that children have in common with their parent until one of them writes.

use crate::support::{Check, Ctx, Map, child, fill, holds, reap};

const PAGE: usize = 4096;
const PAGES: usize = 2048;
/// Each process writes a page of its own every so many.
const STRIDE: usize = 64;

/// The pages that a process changes: those whose number leaves this rest.
fn own(map: &Map, rest: usize, change: impl Fn(&Map)) {
    (rest..PAGES).step_by(STRIDE).for_each(|page| change(&map.part(page * PAGE, PAGE)));
}

/// Verifies the memory as a process knows it: of each page, by its rest, what it holds.
fn check(map: &Map, expected: &dyn Fn(usize) -> Option<u64>) -> Check {
    for page in 0..PAGES {
        let bytes = map.part(page * PAGE, PAGE);
        match expected(page % STRIDE) {
            Some(seed) => holds("a page of common memory", bytes.bytes(), seed)?,
            None => ensure!(bytes.bytes().iter().all(|&byte| byte == 0), "page {page} is not zero"),
        }
    }
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let map = Map::anonymous(PAGES * PAGE)?;
    map.bytes().chunks_mut(PAGE).for_each(|page| fill(page, 1));
    let split = Map::anonymous(8 * PAGE)?;
    fill(split.bytes(), 5);
    let grand = ctx.party("grandchild");
    let first = child(ctx.party("first"), |party| {
        own(&map, 1, |page| fill(page.bytes(), 2));
        own(&map, 2, |page| page.bytes().fill(0));
        own(&map, 3, |page| drop(page.advise(libc::MADV_DONTNEED)));
        // An area that is two here and one there.
        split.part(0, 4 * PAGE).protect(libc::PROT_READ)?;
        let expected = |rest| match rest {
            1 => Some(2),
            2 | 3 => None,
            _ => Some(1),
        };
        let grandchild = child(grand, |party| {
            own(&map, 4, |page| fill(page.bytes(), 3));
            party.run(|_| check(&map, &|rest| if rest == 4 { Some(3) } else { expected(rest) }))
        })?;
        party.run(|_| {
            check(&map, &expected)?;
            holds("an area that was split", split.bytes(), 5)
        })?;
        reap(grandchild, 0)
    })?;
    let second = child(ctx.party("second"), |party| {
        own(&map, 6, |page| fill(page.bytes(), 4));
        party.run(|_| check(&map, &|rest| Some(if rest == 6 { 4 } else { 1 })))
    })?;
    // What the parent writes after the fork its children do not see.
    own(&map, 7, |page| fill(page.bytes(), 9));
    own(&map, 8, |page| page.bytes().fill(0));
    ctx.ready(&["main", "first", "grandchild", "second"])?;
    ctx.party("main").run(|_| {
        check(&map, &|rest| match rest {
            7 => Some(9),
            8 => None,
            _ => Some(1),
        })?;
        holds("an area that a child has split", split.bytes(), 5)
    })?;
    reap(first, 0)?;
    reap(second, 0)
}
