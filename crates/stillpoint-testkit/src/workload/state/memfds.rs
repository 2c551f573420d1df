//! Files of memfd_create: sparse, opened several ways, sealed every way, mapped shared and private, by two processes, and
//! one that is mapped only.

use crate::support::{Check, Ctx, Map, child, fill, holds, reap};

const PAGE: usize = 4096;
const SIZE: i64 = 50 << 20;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn memfd(name: &std::ffi::CStr, flags: u32, pages: usize, seed: u64) -> Check<i32> {
    let fd = sys!(libc::memfd_create(name.as_ptr(), flags))?;
    let mut bytes = vec![0; pages * PAGE];
    fill(&mut bytes, seed);
    same!("bytes written", sys!(libc::write(fd, bytes.as_ptr().cast(), bytes.len()))?, bytes.len() as isize);
    Ok(fd)
}

fn contents(what: &str, fd: i32, at: i64, pages: usize, seed: u64) -> Check {
    let mut bytes = vec![0; pages * PAGE];
    same!(
        "bytes read",
        sys!(libc::pread(fd, bytes.as_mut_ptr().cast(), bytes.len(), at))?,
        bytes.len() as isize
    );
    holds(what, &bytes, seed)
}

/// Opens the file of a descriptor anew.
fn reopen(fd: i32, flags: i32) -> Check<i32> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).map_err(|e| e.to_string())?;
    sys!(libc::open(path.as_ptr(), flags))
}

fn seals(fd: i32) -> Check<i32> {
    sys!(libc::fcntl(fd, libc::F_GET_SEALS))
}

fn add_seals(fd: i32, seals: i32) -> Check {
    sys!(libc::fcntl(fd, libc::F_ADD_SEALS, seals)).map(|_| ())
}

struct Sparse {
    fd: i32,
    reader: i32,
    appender: i32,
}

const ISLANDS: [(i64, u64); 3] = [(0, 1), (10 << 20, 2), (SIZE - PAGE as i64, 3)];

impl Sparse {
    fn new() -> Check<Self> {
        let fd = sys!(libc::memfd_create(c"a name/with (deleted) and \n".as_ptr(), libc::MFD_CLOEXEC))?;
        sys!(libc::ftruncate(fd, SIZE))?;
        for (at, seed) in ISLANDS {
            let mut page = [0_u8; PAGE];
            fill(&mut page, seed);
            sys!(libc::pwrite(fd, page.as_ptr().cast(), PAGE, at))?;
        }
        let reader = reopen(fd, libc::O_RDONLY)?;
        let appender = reopen(fd, libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK | libc::O_CLOEXEC)?;
        sys!(libc::lseek(fd, 111, libc::SEEK_SET))?;
        sys!(libc::lseek(reader, SIZE + 5, libc::SEEK_SET))?;
        sys!(libc::fchmod(fd, 0o640))?;
        Ok(Sparse { fd, reader, appender })
    }

    fn check(&self) -> Check {
        for (at, seed) in ISLANDS {
            contents("an island of a memfd", self.reader, at, 1, seed)?;
        }
        // SAFETY: all zeroes is a valid stat.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        sys!(libc::fstat(self.fd, &raw mut stat))?;
        same!("size, links and mode", (stat.st_size, stat.st_nlink, stat.st_mode & 0o777), (SIZE, 0, 0o640));
        ensure!(stat.st_blocks * 512 < SIZE / 4, "the holes are filled");
        same!("its seals", seals(self.fd)?, libc::F_SEAL_SEAL);
        same!("offset", sys!(libc::lseek(self.fd, 0, libc::SEEK_CUR))?, 111);
        same!("offset of the reader", sys!(libc::lseek(self.reader, 0, libc::SEEK_CUR))?, SIZE + 5);
        let flags = sys!(libc::fcntl(self.appender, libc::F_GETFL))?;
        let kept = libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK;
        same!("flags of the appender", flags & (libc::O_ACCMODE | kept), kept);
        let mut byte = 0_u8;
        ensure!(sys!(libc::write(self.reader, (&raw const byte).cast(), 1)).is_err(), "the reader writes");
        ensure!(sys!(libc::read(self.appender, (&raw mut byte).cast(), 1)).is_err(), "the appender reads");
        Ok(())
    }
}

struct Sealed {
    whole: i32,
    view: Map,
    later: i32,
    before: Map,
    after: Map,
    executable: Option<i32>,
}

impl Sealed {
    fn new() -> Check<Self> {
        let whole = memfd(c"whole", libc::MFD_ALLOW_SEALING, 4, 11)?;
        add_seals(whole, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?;
        // Before Linux 6.7 a sealed file could be mapped only through a descriptor that cannot write.
        let shared = |fd| Map::new(4 * PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        let view = shared(whole).or_else(|_| shared(reopen(whole, libc::O_RDONLY)?))?;
        let later = memfd(c"later", libc::MFD_ALLOW_SEALING, 4, 12)?;
        let before = Map::new(4 * PAGE, RW, libc::MAP_SHARED, later, 0)?;
        add_seals(later, libc::F_SEAL_FUTURE_WRITE)?;
        let after = shared(later)?;
        // Linux 6.3: MFD_NOEXEC_SEAL.
        let executable = memfd(c"", 8, 1, 13).ok();
        Ok(Sealed { whole, view, later, before, after, executable })
    }

    fn check(&self, round: u64) -> Check {
        contents("a sealed memfd", self.whole, 0, 4, 11)?;
        holds("its mapping", self.view.bytes(), 11)?;
        ensure!(self.view.protect(RW).is_err(), "a sealed mapping can be made writable");
        let byte = 0_u8;
        ensure!(
            sys!(libc::write(self.whole, (&raw const byte).cast(), 1)).is_err(),
            "a sealed memfd is written"
        );
        ensure!(sys!(libc::ftruncate(self.whole, 0)).is_err(), "a sealed memfd is cut");
        same!("all its seals", seals(self.whole)?, 0xf);
        ensure!(add_seals(self.whole, libc::F_SEAL_WRITE).is_err(), "F_SEAL_SEAL is lost");
        same!("seals of one sealed later", seals(self.later)?, libc::F_SEAL_FUTURE_WRITE);
        ensure!(
            sys!(libc::pwrite(self.later, (&raw const byte).cast(), 1, 0)).is_err(),
            "F_SEAL_FUTURE_WRITE is lost"
        );
        // The mapping of before writes on, and the one of after sees it.
        fill(self.before.part(PAGE, PAGE).bytes(), round);
        holds("what was written through the older mapping", self.after.part(PAGE, PAGE).bytes(), round)?;
        holds("one sealed later", &self.before.part(0, PAGE).bytes()[..], 12)?;
        ensure!(self.after.protect(RW).is_err(), "a mapping of after can be made writable");
        if let Some(fd) = self.executable {
            same!("seals of one that is not executable", seals(fd)?, 0x20);
            ensure!(sys!(libc::fchmod(fd, 0o777)).is_err(), "F_SEAL_EXEC is lost");
        }
        Ok(())
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let sparse = Sparse::new()?;
    let sealed = Sealed::new()?;
    let shared = memfd(c"shared", 0, 8, 21)?;
    let map = Map::new(8 * PAGE, RW, libc::MAP_SHARED, shared, 0)?;
    let part = Map::new(2 * PAGE, libc::PROT_READ, libc::MAP_SHARED, shared, 4 * PAGE as i64)?;
    let private = Map::new(8 * PAGE, RW, libc::MAP_PRIVATE, shared, 0)?;
    fill(private.part(2 * PAGE, PAGE).bytes(), 22);
    let code = Map::new(PAGE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, shared, 0)?;
    // Mapped only, in both processes: nobody but root is shown such a file from outside.
    let lonely = memfd(c"lonely", 0, 3, 31)?;
    sys!(libc::ftruncate(lonely, 3 * PAGE as i64 - 100))?;
    let alone = Map::new(4 * PAGE, RW, libc::MAP_SHARED, lonely, 0)?;
    if sys!(libc::geteuid())? == 0 {
        sys!(libc::close(lonely))?;
    }
    let cell = Map::new(PAGE, RW, libc::MAP_SHARED, memfd(c"cell", 0, 1, 0)?, 0)?;
    cell.bytes().fill(0);

    let check = move || -> Check {
        sparse.check()?;
        for n in [0, 1, 3, 4, 5, 6, 7] {
            let mut page = vec![0; 8 * PAGE];
            fill(&mut page, 21);
            ensure!(
                map.part(n * PAGE, PAGE).bytes() == &page[n * PAGE..(n + 1) * PAGE],
                "page {n} of a shared memfd"
            );
            ensure!(
                private.part(n * PAGE, PAGE).bytes() == &page[n * PAGE..(n + 1) * PAGE],
                "page {n}, private"
            );
        }
        ensure!(part.bytes() == map.part(4 * PAGE, 2 * PAGE).bytes(), "a part of a shared memfd");
        ensure!(code.bytes() == map.part(0, PAGE).bytes(), "an executable mapping");
        holds("a private page of a memfd", private.part(2 * PAGE, PAGE).bytes(), 22)?;
        let mut lonely = vec![0; 3 * PAGE];
        fill(&mut lonely, 31);
        lonely[3 * PAGE - 100..].fill(0);
        ensure!(alone.part(0, 3 * PAGE).bytes() == &lonely[..], "a memfd that is mapped only");
        Ok(())
    };
    let counter = move |at: usize| -> &'static std::sync::atomic::AtomicU64 {
        // SAFETY: aligned, inside the mapping, which stays.
        unsafe { &*cell.start.add(8 * at).cast() }
    };
    let order = std::sync::atomic::Ordering::SeqCst;
    let other = child(ctx.party("child"), |party| {
        party.run(|_| {
            counter(1).store(counter(0).load(order), order);
            check()
        })
    })?;
    ctx.ready(&["main", "child"])?;
    ctx.party("main").run(|round| {
        counter(0).store(round + 1, order);
        sealed.check(round)?;
        check()
    })?;
    ensure!(counter(1).load(order) > 0, "the child does not share the memfd");
    reap(other, 0)
}
