//! Areas of memory that are not built yet.

use super::Setup;
use crate::support::{Check, Ctx, Map, fill, holds};

type Held = Check<Box<dyn FnMut() -> Check>>;

pub(super) const ALL: &[(&str, Setup)] = &[
    ("memfd-map", memfd_map),
    ("guarded-shared", guarded_shared),
    ("sysv-shm", sysv_shm),
    ("hugetlb-shared", hugetlb),
    ("secretmem", secretmem),
    ("aio", aio),
    ("io-uring-map", io_uring_map),
];

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Fills a mapping; the check is that it stays so.
fn filled(map: Map) -> Held {
    fill(map.bytes(), 1);
    Ok(Box::new(move || holds("the held area", map.bytes(), 1)))
}

/// Root may look at a file that no descriptor is left of.
fn memfd_map(_: &Ctx) -> Held {
    ensure!(sys!(libc::geteuid())? != 0, "root may look at it");
    let fd = sys!(libc::memfd_create(c"held".as_ptr(), 0))?;
    sys!(libc::ftruncate(fd, 4 * PAGE as i64))?;
    let map = Map::new(4 * PAGE, RW, libc::MAP_SHARED, fd, 0)?;
    sys!(libc::close(fd))?;
    filled(map)
}

/// Root may look behind it.
fn guarded_shared(_: &Ctx) -> Held {
    ensure!(sys!(libc::geteuid())? != 0, "root may look behind it");
    let map = Map::new(4 * PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
    // MADV_GUARD_INSTALL
    map.part(2 * PAGE, PAGE).advise(102)?;
    filled(map.part(0, 2 * PAGE))
}

fn sysv_shm(_: &Ctx) -> Held {
    let id = sys!(libc::shmget(libc::IPC_PRIVATE, 4 * PAGE, 0o600))?;
    let start = sys!(libc::shmat(id, std::ptr::null(), 0));
    // Goes with its last user.
    sys!(libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()))?;
    filled(Map { start: start?.cast(), len: 4 * PAGE })
}

fn hugetlb(_: &Ctx) -> Held {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    filled(Map::new(2 << 20, RW, flags, -1, 0)?)
}

fn secretmem(_: &Ctx) -> Held {
    let fd = sys!(libc::syscall(libc::SYS_memfd_secret, 0))? as i32;
    sys!(libc::ftruncate(fd, PAGE as i64))?;
    let map = Map::new(PAGE, RW, libc::MAP_SHARED, fd, 0)?;
    sys!(libc::close(fd))?;
    filled(map)
}

fn aio(_: &Ctx) -> Held {
    let mut context = 0_u64;
    sys!(libc::syscall(libc::SYS_io_setup, 8, &raw mut context))?;
    Ok(Box::new(move || {
        let mut event = [0_u64; 4];
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let got =
            sys!(libc::syscall(libc::SYS_io_getevents, context, 0, 1, event.as_mut_ptr(), &raw const none))?;
        same!("events", got, 0);
        Ok(())
    }))
}

/// The rings of an io_uring, whose descriptor is closed.
fn io_uring_map(_: &Ctx) -> Held {
    let mut params = [0_u8; 120];
    let fd = sys!(libc::syscall(libc::SYS_io_uring_setup, 8, params.as_mut_ptr()))? as i32;
    let map = Map::new(PAGE, RW, libc::MAP_SHARED, fd, 0)?;
    sys!(libc::close(fd))?;
    Ok(Box::new(move || {
        std::hint::black_box(map.bytes()[0]);
        Ok(())
    }))
}
