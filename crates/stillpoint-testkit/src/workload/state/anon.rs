//! Private anonymous memory: patterns, zero pages, contents without permissions, and advice that sticks to areas.

use crate::support::{Check, Ctx, Map, child, fill, holds, reap};

const PAGE: usize = 4096;

pub(crate) fn run(ctx: &Ctx) -> Check {
    let plain = Map::anonymous(300 * PAGE)?;
    // Two pages of pattern, one untouched, one written with zeroes, again and again.
    for (i, page) in plain.bytes().chunks_mut(PAGE).enumerate() {
        match i % 4 {
            0 | 1 => fill(page, i as u64),
            2 => {}
            _ => page.fill(0),
        }
    }
    let dup = Map::anonymous(64 * PAGE)?;
    dup.bytes().chunks_mut(PAGE).for_each(|page| fill(page, 9));
    let kept = |seed: u64| -> Check<Map> {
        let map = Map::anonymous(8 * PAGE)?;
        fill(map.bytes(), seed);
        Ok(map)
    };
    let none = kept(1)?;
    none.protect(libc::PROT_NONE)?;
    let read_only = kept(2)?;
    read_only.protect(libc::PROT_READ)?;
    let write_exec = kept(3)?;
    write_exec.protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)?;
    let no_fork = kept(4)?;
    no_fork.advise(libc::MADV_DONTFORK)?;
    let wiped = kept(5)?;
    wiped.advise(libc::MADV_WIPEONFORK)?;
    let no_dump = kept(6)?;
    no_dump.advise(libc::MADV_DONTDUMP)?;
    let huge = Map::anonymous(6 << 20)?;
    // A kernel without huge pages refuses the advice.
    let _ = huge.advise(libc::MADV_HUGEPAGE);
    fill(huge.bytes(), 7);
    let no_huge = kept(8)?;
    let _ = no_huge.advise(libc::MADV_NOHUGEPAGE);
    let sequential = kept(10)?;
    sequential.advise(libc::MADV_SEQUENTIAL)?;
    let locked = kept(11)?;
    // The limit may be too low for an ordinary user.
    let _ = sys!(libc::mlock(locked.start.cast(), locked.len));
    let no_reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let sparse = Map::new(1 << 30, libc::PROT_READ | libc::PROT_WRITE, no_reserve, -1, 0)?;
    let islands = [0, 12_345 * PAGE, (1 << 30) - PAGE];
    islands.iter().for_each(|&at| fill(sparse.part(at, PAGE).bytes(), at as u64));

    // Pages that a child shares with this process until one of them writes.
    let common = Map::anonymous(32 * PAGE)?;
    fill(common.bytes(), 20);
    let sharer = child(ctx.party("child"), |party| {
        fill(common.part(8 * PAGE, PAGE).bytes(), 21);
        party.run(|_| {
            holds("the child's copy", common.part(0, 8 * PAGE).bytes(), 20)?;
            holds("the child's own page", common.part(8 * PAGE, PAGE).bytes(), 21)?;
            ensure!(wiped.bytes().iter().all(|&b| b == 0), "wipe-on-fork memory has contents in the child");
            holds(
                "memory without permissions, in the child",
                {
                    none.protect(libc::PROT_READ)?;
                    none.bytes()
                },
                1,
            )?;
            none.protect(libc::PROT_NONE)
        })
    })?;
    ctx.ready(&["main", "child"])?;
    ctx.party("main").run(|round| {
        for (i, page) in plain.bytes().chunks(PAGE).enumerate() {
            match i % 4 {
                0 | 1 => holds("plain memory", page, i as u64)?,
                _ => ensure!(page.iter().all(|&b| b == 0), "zero page {i} has contents"),
            }
        }
        dup.bytes().chunks(PAGE).try_for_each(|page| holds("duplicate pages", page, 9))?;
        none.protect(libc::PROT_READ)?;
        holds("memory without permissions", none.bytes(), 1)?;
        none.protect(libc::PROT_NONE)?;
        let areas = [(read_only, 2), (write_exec, 3), (no_fork, 4), (wiped, 5), (no_dump, 6), (huge, 7)];
        for (map, seed) in areas.into_iter().chain([(no_huge, 8), (sequential, 10), (locked, 11)]) {
            holds(&format!("area {seed}"), map.bytes(), seed)?;
        }
        // Reading everywhere would fill it: look at the islands and beside them.
        for at in islands {
            holds("sparse memory", sparse.part(at, PAGE).bytes(), at as u64)?;
        }
        ensure!(sparse.part(5000 * PAGE, PAGE).bytes().iter().all(|&b| b == 0), "a hole has contents");
        holds("memory shared with a child until written", common.part(0, 32 * PAGE).bytes(), 20)?;
        // From time to time ask the kernel what the advice does: a forked child sees it.
        if round % 8 == 0 {
            let probe = sys!(libc::fork())?;
            if probe == 0 {
                let wiped = wiped.bytes().iter().all(|&b| b == 0);
                let gone = sys!(libc::msync(no_fork.start.cast(), no_fork.len, libc::MS_ASYNC)).is_err();
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(i32::from(wiped) + 2 * i32::from(gone)) }
            }
            reap(probe, 3 << 8)?;
        }
        Ok(())
    })?;
    reap(sharer, 0)
}
