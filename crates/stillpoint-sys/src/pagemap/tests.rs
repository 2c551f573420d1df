use super::*;

const PAGE: usize = 4096;

/// Private anonymous memory of this process.
struct Memory {
    at: *mut u8,
    pages: usize,
}

impl Memory {
    fn new(pages: usize) -> Self {
        Self::of(pages, -1, libc::MAP_ANONYMOUS)
    }

    fn of(pages: usize, fd: i32, flags: i32) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | flags | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, protection, flags, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        let memory = Memory { at: at.cast(), pages };
        if flags & libc::MAP_ANONYMOUS != 0 {
            // One page each: so that what is touched is what is asked for.
            memory.advise(0, pages, libc::MADV_NOHUGEPAGE);
        }
        memory
    }

    fn advise(&self, page: usize, count: usize, advice: i32) -> bool {
        assert!(page + count <= self.pages);
        // SAFETY: inside of the mapping, whose contents nothing relies on.
        unsafe { libc::madvise(self.at.add(page * PAGE).cast(), count * PAGE, advice) == 0 }
    }

    fn protect(&self, page: usize, count: usize, protection: i32) {
        assert!(page + count <= self.pages);
        // SAFETY: inside of the mapping.
        let done = unsafe { libc::mprotect(self.at.add(page * PAGE).cast(), count * PAGE, protection) };
        assert_eq!(done, 0);
    }

    fn write(&self, page: usize, value: u8) {
        assert!(page < self.pages);
        // SAFETY: inside of the mapping, which no reference points into.
        unsafe { self.at.add(page * PAGE).write_volatile(value) }
    }

    fn read(&self, page: usize) -> u8 {
        assert!(page < self.pages);
        // SAFETY: inside of the mapping, which no reference points into.
        unsafe { self.at.add(page * PAGE).read_volatile() }
    }

    fn range(&self) -> Range<u64> {
        let start = self.at as u64;
        start..start + (self.pages * PAGE) as u64
    }

    /// Regions as page numbers of this memory.
    fn pages(&self, regions: &[Region]) -> Vec<(u64, u64)> {
        let page = |at: u64| (at - self.range().start) / PAGE as u64;
        regions.iter().map(|r| (page(r.start), page(r.end))).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.at.cast(), self.pages * PAGE) };
    }
}

/// Both methods, or one where the kernel has no more.
fn maps() -> Vec<PageMap> {
    let best = PageMap::open(std::process::id()).unwrap();
    let other = PageMap::open_with(std::process::id(), Method::Entries).unwrap();
    if best.method() == Method::Scan { vec![best, other] } else { vec![other] }
}

#[test]
fn what_must_be_saved_of_anonymous_memory() {
    let memory = Memory::new(64);
    memory.write(3, 1);
    memory.write(4, 1);
    memory.write(10, 1);
    memory.protect(10, 1, libc::PROT_NONE);
    memory.protect(11, 1, libc::PROT_NONE);
    memory.write(63, 0);
    for map in maps() {
        let regions = map.private_pages(memory.range()).unwrap();
        assert_eq!(memory.pages(&regions), [(3, 5), (10, 11), (63, 64)], "{:?}", map.method());
    }
}

#[test]
fn a_page_that_was_only_read_is_the_zero_page() {
    let memory = Memory::new(4);
    assert_eq!(memory.read(1), 0);
    for map in maps() {
        let regions = map.private_pages(memory.range()).unwrap();
        let expected: &[(u64, u64)] = if map.method() == Method::Scan { &[] } else { &[(1, 2)] };
        assert_eq!(memory.pages(&regions), expected);
        assert_eq!(memory.pages(&map.private_pages_of_file(memory.range()).unwrap()), [(1, 2)]);
    }
}

#[test]
fn of_a_private_file_only_what_was_written() {
    let file = rustix::fs::memfd_create("stillpoint-pagemap", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 8 * PAGE as u64).unwrap();
    let memory = Memory::of(8, file.as_raw_fd(), 0);
    memory.read(1);
    memory.read(2);
    memory.write(2, 7);
    memory.write(5, 7);
    for map in maps() {
        let regions = map.private_pages_of_file(memory.range()).unwrap();
        assert_eq!(memory.pages(&regions), [(2, 3), (5, 6)], "{:?}", map.method());
    }
}

#[test]
fn guard_pages_are_told_apart() {
    const MADV_GUARD_INSTALL: i32 = 102;
    let memory = Memory::new(16);
    memory.write(2, 1);
    memory.write(7, 1);
    if !memory.advise(4, 3, MADV_GUARD_INSTALL) {
        return;
    }
    for map in maps() {
        match map.guards().unwrap() {
            Guards::Reported => {
                assert_eq!(memory.pages(&map.guard_pages(memory.range()).unwrap()), [(4, 7)]);
                let saved = map.private_pages(memory.range()).unwrap();
                assert_eq!(memory.pages(&saved), [(2, 3), (7, 8)], "{:?}", map.method());
            }
            Guards::Hidden => assert!(map.guard_pages(memory.range()).is_err()),
            Guards::Absent => panic!("the kernel just made some"),
        }
    }
}

#[test]
fn more_regions_than_one_call_returns() {
    let memory = Memory::new(6 * REGIONS);
    for page in (0..memory.pages).step_by(2) {
        memory.write(page, 1);
    }
    for map in maps() {
        let found = memory.pages(&map.private_pages(memory.range()).unwrap());
        let wrong = found.iter().zip(0..).find(|(region, n)| **region != (2 * n, 2 * n + 1));
        assert_eq!(wrong, None, "{:?}", map.method());
        assert_eq!(found.len(), memory.pages / 2);
    }
}

#[test]
fn runs_that_span_many_pieces_are_merged() {
    let memory = Memory::new(2 * ENTRIES + 10);
    for page in 5..memory.pages - 5 {
        memory.write(page, 1);
    }
    for map in maps() {
        let regions = map.private_pages(memory.range()).unwrap();
        assert_eq!(memory.pages(&regions), [(5, memory.pages as u64 - 5)], "{:?}", map.method());
    }
}

#[test]
fn a_huge_range_with_little_in_it() {
    // 64 GiB: too many entries to read in a test, nothing to the scan.
    let memory = Memory::new(16 << 20);
    memory.write(0, 1);
    memory.write((16 << 20) - 1, 1);
    let map = PageMap::open(std::process::id()).unwrap();
    if map.method() == Method::Scan {
        let regions = map.private_pages(memory.range()).unwrap();
        assert_eq!(memory.pages(&regions), [(0, 1), ((16 << 20) - 1, 16 << 20)]);
    }
}

#[test]
fn all_of_a_huge_page_counts() {
    // 2 MiB, aligned, in one entry of the page table where the kernel grants it.
    let memory = Memory::of(1024, -1, libc::MAP_ANONYMOUS);
    memory.advise(0, 1024, libc::MADV_HUGEPAGE);
    let start = memory.range().start;
    memory.write(usize::try_from((start.next_multiple_of(2 << 20) - start) / 4096).unwrap(), 1);
    let found: Vec<_> = maps().iter().map(|map| map.private_pages(memory.range()).unwrap()).collect();
    assert!(found.iter().all(|regions| *regions == found[0] && regions.len() == 1), "{found:?}");
}

#[test]
fn rounds_of_tracking_give_what_was_written() {
    let memory = Memory::new(64);
    for page in [2, 5, 6] {
        memory.write(page, 1);
    }
    let Some(_userfaultfd) = track(memory.range()) else { return };
    let map = PageMap::open(std::process::id()).unwrap();
    let first = map.take_written(memory.range()).unwrap();
    let contains = |page: u64| memory.pages(&first).iter().any(|(start, end)| (*start..*end).contains(&page));
    assert!([2, 5, 6].into_iter().all(contains), "{first:?}");
    assert_eq!(map.take_written(memory.range()).unwrap(), []);
    memory.write(5, 2);
    memory.write(40, 0);
    memory.read(2);
    assert_eq!(memory.pages(&map.take_written(memory.range()).unwrap()), [(5, 6), (40, 41)]);
    assert_eq!(map.take_written(memory.range()).unwrap(), []);
    // Protection adds markers for pages that were never touched: too many pages are named, never too few.
    let saved = memory.pages(&map.private_pages(memory.range()).unwrap());
    for page in [2, 5, 6, 40] {
        assert!(saved.iter().any(|(start, end)| (*start..*end).contains(&page)), "{saved:?}");
    }
}

/// Registers memory of this process for asynchronous write protection; none where that is not allowed.
fn track(range: Range<u64>) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    const UFFD_USER_MODE_ONLY: i32 = 1;
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
    const WP_UNPOPULATED: u64 = 1 << 13;
    const WP_ASYNC: u64 = 1 << 15;
    // SAFETY: takes an integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY | libc::O_CLOEXEC) };
    let fd = i32::try_from(fd).unwrap();
    if fd < 0 {
        return None;
    }
    // SAFETY: just opened, and owned by nobody else.
    let owned = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    let mut api = [0xaa_u64, WP_UNPOPULATED | WP_ASYNC, 0];
    // SAFETY: struct uffdio_api has three words.
    let done = unsafe { libc::ioctl(fd, UFFDIO_API, api.as_mut_ptr()) };
    if done != 0 {
        return None;
    }
    let mut register = [range.start, range.end - range.start, 2, 0];
    // SAFETY: struct uffdio_register has four words; the mode (write protection) reads and writes nothing.
    let done = unsafe { libc::ioctl(fd, UFFDIO_REGISTER, register.as_mut_ptr()) };
    assert_eq!(done, 0);
    Some(owned)
}

#[test]
fn tracking_without_registration_is_refused() {
    let memory = Memory::new(4);
    for map in maps() {
        assert!(map.take_written(memory.range()).is_err());
    }
}

#[test]
fn what_a_method_does_not_know_is_refused() {
    let memory = Memory::new(4);
    let [entries] = &maps()[maps().len() - 1..] else { panic!() };
    for category in [category::PFNZERO, category::WRITTEN, category::HUGE, 1 << 40] {
        let query = Query { none: category, ..Query::default() };
        assert!(entries.scan(memory.range(), &query).is_err());
    }
    for map in maps() {
        let query = Query { all: 1 << 40, ..Query::default() };
        assert!(map.scan(memory.range(), &query).is_err());
        let off = memory.range().start + 1;
        assert_eq!(map.private_pages(off..off + 4096).unwrap_err().errno(), Some(libc::EINVAL));
        assert_eq!(map.private_pages(off..off - 1).unwrap_or_default(), []);
    }
}

#[test]
fn a_zombie_has_no_pages() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    while crate::proc::stat::read(child.id()).unwrap().state != b'Z' {
        std::thread::yield_now();
    }
    let errno = PageMap::open(child.id()).unwrap_err().errno();
    // Without privilege the kernel looks at who may trace it first.
    let expected = if rustix::process::geteuid().is_root() { libc::ESRCH } else { libc::EACCES };
    assert_eq!(errno, Some(expected));
    child.wait().unwrap();
    assert!(PageMap::open(child.id()).is_err());
}

#[test]
fn neighbours_are_merged_only_when_alike() {
    let mut regions = Vec::new();
    let mut merge = Merge { pending: None, each: |r| regions.push(r) };
    for (start, end, categories) in [(0, 1, 1), (1, 2, 1), (2, 3, 2), (4, 5, 2)] {
        merge.push(Region { start, end, categories });
    }
    merge.finish();
    let found: Vec<_> = regions.iter().map(|r| (r.start, r.end, r.categories)).collect();
    assert_eq!(found, [(0, 2, 1), (2, 3, 2), (4, 5, 2)]);
}
