//! Page tables of another task: `PAGEMAP_SCAN`, with `/proc/PID/pagemap` as the slower path.
//!
//! See ioctl_pagemap_scan(2), proc_pid_pagemap(5) and the kernel's `fs/proc/task_mmu.c`. Both need ptrace access
//! and no privilege: without CAP_SYS_ADMIN the kernel hides page frame numbers, which nothing here asks for, and
//! shows the flags.
//!
//! The answer holds for a task that is stopped. A page that is being migrated counts as swapped for a moment,
//! and is asked for all the same.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::{Error, Pid, Result};

/// What can be said of a page, as bits of a set: `PAGE_IS_*` of `include/uapi/linux/fs.h`.
pub mod category {
    /// The area is registered for asynchronous write protection by userfaultfd.
    pub const WPALLOWED: u64 = 1 << 0;
    /// Written since it was write-protected.
    pub const WRITTEN: u64 = 1 << 1;
    /// In the page cache: of a file, or of shared anonymous memory. Known only of pages that are present.
    pub const FILE: u64 = 1 << 2;
    /// In memory.
    pub const PRESENT: u64 = 1 << 3;
    /// Swapped out, or a marker in the page table: a guard page, an untouched page that userfaultfd protects, a
    /// page being migrated, a poisoned page.
    pub const SWAPPED: u64 = 1 << 4;
    /// The zero page.
    pub const PFNZERO: u64 = 1 << 5;
    /// Part of a huge page that one entry of the page table maps.
    pub const HUGE: u64 = 1 << 6;
    /// The soft-dirty bit (CONFIG_MEM_SOFT_DIRTY).
    pub const SOFT_DIRTY: u64 = 1 << 7;
    /// A guard page of MADV_GUARD_INSTALL; always together with [`SWAPPED`] (Linux 6.15).
    pub const GUARD: u64 = 1 << 8;
}

/// Pages in a row of which the same is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Address of the first page.
    pub start: u64,
    /// Address after the last page.
    pub end: u64,
    /// Those of the categories asked for that apply: [`Query::report`].
    pub categories: u64,
}

/// Which pages are wanted, and what is to be said of them. Sets are of the bits in [`category`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Query {
    /// All of these must apply.
    pub all: u64,
    /// None of these may apply.
    pub none: u64,
    /// At least one of these must apply, unless empty.
    pub any: u64,
    /// Which categories to report; regions that differ in one are not merged.
    pub report: u64,
}

impl Query {
    fn categories(&self) -> u64 {
        self.all | self.none | self.any | self.report
    }

    fn wants(&self, categories: u64) -> bool {
        categories & self.all == self.all
            && categories & self.none == 0
            && (self.any == 0 || categories & self.any != 0)
    }
}

/// How a task's pages are found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The ioctl `PAGEMAP_SCAN` (Linux 6.7): knows every [`category`], skips what is not mapped.
    Scan,
    /// Reading eight bytes for each page: knows PRESENT, SWAPPED, FILE, SOFT_DIRTY and, from Linux 6.15, GUARD.
    Entries,
}

/// Whether guard pages can be told from pages that were swapped out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guards {
    /// They are reported (Linux 6.15).
    Reported,
    /// This kernel has no guard pages (before Linux 6.13).
    Absent,
    /// This kernel has guard pages, but reports them as swapped (Linux 6.13 and 6.14). Reading one fails with
    /// EFAULT, in `/proc/PID/mem` and process_vm_readv(2).
    Hidden,
}

/// The page map of one address space. It stays with the address space that the task had when it was opened, also
/// when the task calls execve(2).
#[derive(Debug)]
pub struct PageMap {
    file: File,
    pid: Pid,
    method: Method,
    page: u64,
}

const DOING: &str = "reading a task's page map";

/// Regions that one ioctl may return: 96 KiB.
const REGIONS: usize = 4096;

/// Entries that one read may return: 256 KiB, for 128 MiB of address space.
const ENTRIES: usize = 32 * 1024;

impl PageMap {
    /// Opens `/proc/PID/pagemap`, to be asked by the best method that this kernel has.
    ///
    /// # Errors
    ///
    /// EACCES without ptrace access; ENOENT or ESRCH when the task is gone; ESRCH when it has no address space.
    pub fn open(pid: Pid) -> Result<Self> {
        let mut map = Self::open_with(pid, Method::Entries)?;
        map.method = match map.probe(0)? {
            true => Method::Scan,
            false => Method::Entries,
        };
        Ok(map)
    }

    /// Opens `/proc/PID/pagemap`, to be asked by the given method.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(pid: Pid, method: Method) -> Result<Self> {
        let failed = |e: &std::io::Error| Error::io(DOING, Some(pid), e);
        let file = File::open(format!("/proc/{pid}/pagemap")).map_err(|e| failed(&e))?;
        // A zombie or a kernel thread has no page tables: older kernels let it be opened, and read as empty. Not
        // all of them expect an ioctl on it.
        let read = file.read_at(&mut [0; 8], 0).map_err(|e| failed(&e))?;
        if read != 8 {
            return Err(Error::Errno { doing: DOING.into(), pid: Some(pid), errno: libc::ESRCH });
        }
        Ok(PageMap { file, pid, method, page: page_size() })
    }

    /// The method in use.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The pages of a private area that must be saved: in memory or swapped out, and neither in the page cache nor
    /// guard pages nor the zero page. Ascending, merged, categories PRESENT or SWAPPED not told apart.
    ///
    /// Only for areas without a file. Where there is one the zero page is not what an untouched page holds, and
    /// KSM and UFFDIO_ZEROPAGE put it there: see [`private_pages_of_file`](Self::private_pages_of_file).
    ///
    /// By [`Method::Entries`], zero pages cannot be told apart and are among the result: elide them by contents.
    /// So are, by either method, pages that were never touched in an area that userfaultfd write-protects.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that does not begin at a page, EFAULT for one beyond the user's addresses, and ESRCH when
    /// the address space is gone.
    pub fn private_pages(&self, range: Range<u64>) -> Result<Vec<Region>> {
        self.private(range, category::FILE | category::PFNZERO)
    }

    /// [`private_pages`](Self::private_pages) for a private mapping of a file: those that differ from the file,
    /// the zero page among them.
    ///
    /// # Errors
    ///
    /// As [`private_pages`](Self::private_pages).
    pub fn private_pages_of_file(&self, range: Range<u64>) -> Result<Vec<Region>> {
        self.private(range, category::FILE)
    }

    fn private(&self, range: Range<u64>, mut none: u64) -> Result<Vec<Region>> {
        if self.guards()? == Guards::Reported {
            none |= category::GUARD;
        }
        if self.method == Method::Entries {
            none &= KNOWN_OF_ENTRIES;
        }
        self.scan(range, &Query { none, any: category::PRESENT | category::SWAPPED, ..Query::default() })
    }

    /// The guard pages of MADV_GUARD_INSTALL, ascending and merged.
    ///
    /// # Errors
    ///
    /// As [`private_pages`](Self::private_pages), and where the kernel has guard pages but does not tell them
    /// apart ([`Guards::Hidden`]).
    pub fn guard_pages(&self, range: Range<u64>) -> Result<Vec<Region>> {
        match self.guards()? {
            Guards::Reported => self.scan(range, &Query { all: category::GUARD, ..Query::default() }),
            Guards::Absent => Ok(Vec::new()),
            Guards::Hidden => Err(Error::Unexpected {
                doing: "looking for guard pages".into(),
                pid: Some(self.pid),
                what: "this kernel (6.13 or 6.14) has guard pages and does not tell them from swapped ones"
                    .into(),
            }),
        }
    }

    /// Whether this kernel tells guard pages apart. Found out once.
    ///
    /// # Errors
    ///
    /// When the kernel answers the probe with something unforeseen.
    pub fn guards(&self) -> Result<Guards> {
        static GUARDS: OnceLock<Guards> = OnceLock::new();
        if let Some(guards) = GUARDS.get() {
            return Ok(*guards);
        }
        // The bit of the ioctl and the bit in the entries came with the same release.
        let guards = if self.probe(category::GUARD)? {
            Guards::Reported
        } else if kernel_has_guards()? {
            Guards::Hidden
        } else {
            Guards::Absent
        };
        Ok(*GUARDS.get_or_init(|| guards))
    }

    /// The pages of a range that a query wants, ascending; neighbours of which the same is reported are merged.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that does not begin at a page or a category that the kernel does not know, EFAULT for a
    /// range beyond the user's addresses, ESRCH when the address space is gone; an error for a category that the
    /// method does not know.
    pub fn scan(&self, range: Range<u64>, query: &Query) -> Result<Vec<Region>> {
        let mut regions = Vec::new();
        self.scan_each(range, query, |region| regions.push(region))?;
        Ok(regions)
    }

    /// [`scan`](Self::scan) without a vector of all regions, for ranges that may have very many.
    ///
    /// # Errors
    ///
    /// As [`scan`](Self::scan).
    pub fn scan_each(&self, range: Range<u64>, query: &Query, each: impl FnMut(Region)) -> Result<()> {
        let merge = Merge { pending: None, each };
        match self.method {
            Method::Scan => self.scan_by_ioctl(range, query, 0, merge),
            Method::Entries => self.scan_by_entries(range, query, merge),
        }
    }

    /// The pages written since the last call, write-protecting them again in the same step: one round of tracking.
    /// The range must be registered with userfaultfd (UFFD_FEATURE_WP_ASYNC) in the task.
    ///
    /// # Errors
    ///
    /// EPERM when an area of the range is not so registered, and an error when the method is not [`Method::Scan`].
    pub fn take_written(&self, range: Range<u64>) -> Result<Vec<Region>> {
        if self.method != Method::Scan {
            return Err(self.unsupported("tracking writes needs PAGEMAP_SCAN (Linux 6.7)"));
        }
        let query = Query { all: category::WRITTEN, ..Query::default() };
        let mut regions = Vec::new();
        let merge = Merge { pending: None, each: |region| regions.push(region) };
        self.scan_by_ioctl(range, &query, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, merge)?;
        Ok(regions)
    }

    fn scan_by_ioctl(
        &self,
        range: Range<u64>,
        query: &Query,
        flags: u64,
        mut merge: Merge<impl FnMut(Region)>,
    ) -> Result<()> {
        let mut vector = vec![PageRegion::default(); REGIONS.min(pages(&range, self.page))];
        let mut at = range.start;
        // The kernel stops when the vector is full and says where, in walk_end. But it also collects regions 512 at
        // a time and leaves in walk_end where it last did so, when it goes on and reaches the end (seen on Linux
        // 6.18): walk_end may lie before regions that were returned. So go on from whatever is later, and believe
        // in the end only what walk_end says of it: a scan too many costs little, one too few would lose pages.
        while at < range.end {
            let mut arg = ScanArg::new(at..range.end, query, flags);
            let filled = self.ioctl(&mut arg, &mut vector)?;
            let filled = vector.get(..filled).ok_or_else(|| self.unsupported("more regions than room"))?;
            for region in filled {
                merge.push(Region { start: region.start, end: region.end, categories: region.categories });
            }
            let next = filled.last().map_or(0, |region| region.end).max(arg.walk_end);
            if next <= at || next > range.end.checked_next_multiple_of(self.page).unwrap_or(u64::MAX) {
                return Err(self.unsupported("PAGEMAP_SCAN made no progress"));
            }
            at = next;
        }
        merge.finish();
        Ok(())
    }

    /// One `PAGEMAP_SCAN`; returns how many regions the vector holds.
    fn ioctl(&self, arg: &mut ScanArg, vector: &mut [PageRegion]) -> Result<usize> {
        arg.vec = vector.as_mut_ptr().expose_provenance() as u64;
        arg.vec_len = vector.len() as u64;
        // SAFETY: `arg` is the struct that PAGEMAP_SCAN takes, and says its own size; the kernel writes to it and to
        // at most `vec_len` elements at `vec`, which are `vector`, exclusively borrowed and of the kernel's layout.
        let filled = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, std::ptr::from_mut(arg)) };
        usize::try_from(filled).map_err(|_| Error::last("scanning a task's page map", Some(self.pid)))
    }

    /// Whether the kernel has `PAGEMAP_SCAN` and knows these categories, by a scan of nothing.
    fn probe(&self, categories: u64) -> Result<bool> {
        let query = Query { report: categories, ..Query::default() };
        match self.ioctl(&mut ScanArg::new(0..0, &query, 0), &mut [PageRegion::default()]) {
            Ok(_) => Ok(true),
            // EINVAL: a category that is not known, or the ioctl itself under an emulation of Linux.
            Err(e) if matches!(e.errno(), Some(libc::ENOTTY | libc::EINVAL)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn scan_by_entries(
        &self,
        range: Range<u64>,
        query: &Query,
        mut merge: Merge<impl FnMut(Region)>,
    ) -> Result<()> {
        if query.categories() & !KNOWN_OF_ENTRIES != 0 {
            return Err(self.unsupported("/proc/PID/pagemap does not tell all that is asked for"));
        }
        let einval = || Error::Errno { doing: DOING.into(), pid: Some(self.pid), errno: libc::EINVAL };
        if !range.start.is_multiple_of(self.page) {
            return Err(einval());
        }
        let mut buffer = vec![0; 8 * ENTRIES.min(pages(&range, self.page))];
        let mut at = range.start;
        while at < range.end {
            let room = buffer.len().min(pages(&(at..range.end), self.page).saturating_mul(8));
            // The product cannot overflow: it is at most an eighth of 2^64.
            let read = match self.file.read_at(&mut buffer[..room], at / self.page * 8) {
                Ok(read) if read >= 8 => read,
                // Empty: the address space is gone, or the addresses are not the user's.
                Ok(_) => {
                    return Err(Error::Errno {
                        doing: DOING.into(),
                        pid: Some(self.pid),
                        errno: libc::ESRCH,
                    });
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::io(DOING, Some(self.pid), &e)),
            };
            for entry in buffer[..read].as_chunks::<8>().0 {
                let categories = categories_of_entry(u64::from_ne_bytes(*entry));
                let end = at.checked_add(self.page).ok_or_else(einval)?;
                if query.wants(categories) {
                    merge.push(Region { start: at, end, categories: categories & query.report });
                }
                at = end;
            }
        }
        merge.finish();
        Ok(())
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::Unexpected { doing: DOING.into(), pid: Some(self.pid), what: what.into() }
    }
}

/// Categories that an entry of `/proc/PID/pagemap` tells of. WRITTEN is not among them: the bit that is there says
/// that a page is protected, which an area without userfaultfd never is.
const KNOWN_OF_ENTRIES: u64 =
    category::PRESENT | category::SWAPPED | category::FILE | category::SOFT_DIRTY | category::GUARD;

/// `PM_*` of `fs/proc/task_mmu.c`, also in `Documentation/admin-guide/mm/pagemap.rst`.
fn categories_of_entry(entry: u64) -> u64 {
    let bit = |number: u32, category: u64| if entry >> number & 1 != 0 { category } else { 0 };
    bit(63, category::PRESENT)
        | bit(62, category::SWAPPED)
        | bit(61, category::FILE)
        | bit(58, category::GUARD)
        | bit(55, category::SOFT_DIRTY)
}

/// Joins neighbours of which the same is reported. The kernel does so within one ioctl, but not across two.
struct Merge<F> {
    pending: Option<Region>,
    each: F,
}

impl<F: FnMut(Region)> Merge<F> {
    fn push(&mut self, region: Region) {
        match &mut self.pending {
            Some(last) if last.end == region.start && last.categories == region.categories => {
                last.end = region.end;
            }
            pending => {
                if let Some(done) = pending.replace(region) {
                    (self.each)(done);
                }
            }
        }
    }

    fn finish(mut self) {
        if let Some(done) = self.pending.take() {
            (self.each)(done);
        }
    }
}

/// How many pages a range touches; at least one.
fn pages(range: &Range<u64>, page: u64) -> usize {
    let bytes = range.end.saturating_sub(range.start);
    usize::try_from(bytes.div_ceil(page)).unwrap_or(usize::MAX).max(1)
}

fn page_size() -> u64 {
    // SAFETY: sysconf reads a constant of the process.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It cannot fail for _SC_PAGESIZE.
    u64::try_from(size).unwrap_or(4096)
}

/// Whether this kernel has MADV_GUARD_INSTALL, tried on a page of our own.
fn kernel_has_guards() -> Result<bool> {
    const MADV_GUARD_INSTALL: i32 = 102;
    const DOING: &str = "finding out whether the kernel has guard pages";
    let size = usize::try_from(page_size()).unwrap_or(4096);
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping where the kernel likes, which overlaps nothing.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(Error::last(DOING, None));
    }
    // SAFETY: the page was mapped above, and nothing else refers to it.
    let done = unsafe { libc::madvise(page, size, MADV_GUARD_INSTALL) };
    let result = match done {
        0 => Ok(true),
        _ => match Error::last(DOING, None) {
            e if e.errno() == Some(libc::EINVAL) => Ok(false),
            e => Err(e),
        },
    };
    // SAFETY: as above; the page is not used afterwards.
    unsafe { libc::munmap(page, size) };
    result
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<PageRegion>() == 24 && size_of::<ScanArg>() == 96);

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

impl ScanArg {
    fn new(range: Range<u64>, query: &Query, flags: u64) -> Self {
        ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags,
            start: range.start,
            end: range.end,
            walk_end: 0,
            vec: 0,
            vec_len: 0,
            max_pages: 0,
            // A category that is both inverted and in the mask must not apply.
            category_inverted: query.none,
            category_mask: query.all | query.none,
            category_anyof_mask: query.any,
            return_mask: query.report,
        }
    }
}

#[cfg(test)]
mod tests;
