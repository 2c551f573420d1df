//! Areas of unusual kinds: guard regions, sealed, droppable, bound to a node, of huge pages, of `/dev/zero`, of a file that
//! was cut since, locked on fault, accounted though not writable.

use crate::support::{Check, Ctx, Map, fill, holds};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

/// Whether a byte can be read, as the kernel sees it: a fault would end this process.
fn readable(map: &Map, probe: i32) -> Check<bool> {
    let got = sys!(libc::write(probe, map.start.cast(), 1));
    match got {
        Ok(_) => Ok(true),
        Err(error) if error.contains("os error 14") => Ok(false),
        Err(error) => Err(error),
    }
}

fn filled(seed: u64) -> Check<Map> {
    let map = Map::anonymous(8 * PAGE)?;
    fill(map.bytes(), seed);
    Ok(map)
}

/// Pages of one size more than this machine may have.
fn huge(flags: i32, fd: i32, seed: u64) -> Option<Map> {
    let map = Map::new(2 << 20, RW, flags, fd, 0).ok()?;
    fill(map.bytes(), seed);
    Some(map)
}

/// Holds where the page was not guarded.
fn holds_around(what: &str, map: &Map, seed: u64, guarded: usize) -> Check {
    let mut pattern = vec![0; map.len];
    fill(&mut pattern, seed);
    for n in (0..map.len / PAGE).filter(|n| *n != guarded) {
        ensure!(map.part(n * PAGE, PAGE).bytes() == &pattern[n * PAGE..][..PAGE], "{what}: page {n} differs");
    }
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    // What is written there goes nowhere, after the kernel has looked at it.
    let probe = {
        let mut ends = [0; 2];
        sys!(libc::pipe2(ends.as_mut_ptr(), 0))?;
        ends
    };
    let look = |map: Map| -> Check<bool> {
        let there = readable(&map, probe[1])?;
        let mut byte = 0_u8;
        if there {
            sys!(libc::read(probe[0], (&raw mut byte).cast(), 1))?;
        }
        Ok(there)
    };
    let guarded = filled(1)?;
    let has_guards = guarded.part(3 * PAGE, PAGE).advise(GUARD_INSTALL).is_ok();
    // The memory behind this guard region is seen through another mapping of it.
    let shared = Map::new(8 * PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
    fill(shared.bytes(), 14);
    let root = sys!(libc::geteuid())? == 0;
    let second = sys!(libc::mremap(shared.start.cast(), 0, 8 * PAGE, libc::MREMAP_MAYMOVE))?;
    let second = Map { start: second.cast(), len: 8 * PAGE };
    // Nobody else may look behind it from outside; and kernels before 6.15 guard no shared memory.
    let has_shared_guards = root && shared.part(2 * PAGE, PAGE).advise(GUARD_INSTALL).is_ok();
    let once = filled(2)?;
    once.protect(libc::PROT_READ)?;
    if has_guards {
        once.part(PAGE, PAGE).advise(GUARD_INSTALL)?;
        once.part(PAGE, PAGE).advise(GUARD_REMOVE)?;
    }
    let sealed = filled(3)?;
    sealed.protect(libc::PROT_READ)?;
    let is_sealed = sys!(libc::syscall(libc::SYS_mseal, sealed.start, sealed.len, 0)).is_ok();
    let droppable = Map::new(4 * PAGE, RW, 0x08 | libc::MAP_ANONYMOUS, -1, 0).ok();
    if let Some(map) = &droppable {
        fill(map.bytes(), 4);
    }
    let bound = filled(5)?;
    let nodes = 1_u64;
    let bind = |map: Map, mode: i32, bits: usize| {
        sys!(libc::syscall(libc::SYS_mbind, map.start, map.len, mode, &raw const nodes, bits, 0)).map(drop)
    };
    let is_bound = bind(bound, 2, 64).is_ok();
    let interleaved = filled(6)?;
    let _ = bind(interleaved, 3, 64);
    let local = filled(7)?;
    let _ = bind(local, 4, 0);
    let hugetlb = huge(PRIVATE | libc::MAP_HUGETLB, -1, 8);
    let huge_file = sys!(libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB));
    let huge_file = huge_file.and_then(|fd| sys!(libc::ftruncate(fd, 4 << 20)).map(|_| fd));
    let huge_file = huge_file.ok().and_then(|fd| huge(libc::MAP_SHARED, fd, 9));
    let zero = sys!(libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR))?;
    let zeroes = Map::new(4 * PAGE, RW, libc::MAP_PRIVATE, zero, 0)?;
    fill(zeroes.part(PAGE, PAGE).bytes(), 10);
    let shared_zeroes = Map::new(4 * PAGE, RW, libc::MAP_SHARED, zero, 0)?;
    fill(shared_zeroes.bytes(), 11);
    std::fs::write(ctx.path("cut"), vec![0x5a; 4 * PAGE]).map_err(|e| e.to_string())?;
    let cut = sys!(libc::open(ctx.cpath("cut").as_ptr(), libc::O_RDWR))?;
    let beyond = Map::new(4 * PAGE, RW, libc::MAP_SHARED, cut, 0)?;
    let beyond_private = Map::new(4 * PAGE, RW, libc::MAP_PRIVATE, cut, 0)?;
    sys!(libc::ftruncate(cut, 2 * PAGE as i64))?;
    let on_fault = filled(12)?;
    let _ = sys!(libc::syscall(libc::SYS_mlock2, on_fault.start, on_fault.len, 1));
    // Written, forgotten, and then executable: charged for as what can be written.
    let code = filled(13)?;
    code.advise(libc::MADV_DONTNEED)?;
    code.protect(libc::PROT_READ | libc::PROT_EXEC)?;

    ctx.verify(|_| {
        if has_guards {
            ensure!(!look(guarded.part(3 * PAGE, PAGE))?, "a guard region is lost");
            holds_around("beside a guard region", &guarded, 1, 3)?;
            holds_around("where a guard region was", &once, 2, 1)?;
            ensure!(once.part(PAGE, PAGE).bytes().iter().all(|&b| b == 0), "where a guard region was");
        }
        ensure!(has_shared_guards != look(shared.part(2 * PAGE, PAGE))?, "a guard region of shared memory");
        holds_around("shared memory beside a guard region", &shared, 14, 2)?;
        holds("shared memory behind a guard region", second.bytes(), 14)?;
        holds("a sealed area", sealed.bytes(), 3)?;
        ensure!(!is_sealed || sealed.protect(RW).is_err(), "the seal is lost");
        if let Some(map) = &droppable {
            // Under memory pressure it may be dropped.
            ensure!(
                map.bytes()[0] == 0 || holds("droppable memory", map.part(0, PAGE).bytes(), 4).is_ok(),
                "droppable"
            );
        }
        holds("a bound area", bound.bytes(), 5)?;
        let mut mode = 0_i32;
        if is_bound {
            sys!(libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, 0_usize, 0_usize, bound.start, 2))?;
            same!("policy of an area", mode, 2);
        }
        holds("an interleaved area", interleaved.bytes(), 6)?;
        holds("a local area", local.bytes(), 7)?;
        for (map, seed) in [(&hugetlb, 8), (&huge_file, 9)] {
            if let Some(map) = map {
                holds("huge pages", map.bytes(), seed)?;
            }
        }
        holds("memory of /dev/zero", zeroes.part(PAGE, PAGE).bytes(), 10)?;
        ensure!(zeroes.part(2 * PAGE, PAGE).bytes().iter().all(|&b| b == 0), "zeroes are none");
        holds("shared memory of /dev/zero", shared_zeroes.bytes(), 11)?;
        for map in [beyond, beyond_private] {
            ensure!(map.part(PAGE, PAGE).bytes().iter().all(|&b| b == 0x5a), "a file that was cut");
            ensure!(!look(map.part(2 * PAGE, PAGE))?, "there is something past the end of a file");
        }
        holds("memory that is locked on fault", on_fault.bytes(), 12)?;
        ensure!(code.bytes().iter().all(|&b| b == 0), "forgotten memory");
        Ok(())
    })
}
