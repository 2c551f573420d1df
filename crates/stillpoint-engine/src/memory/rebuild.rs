//! Rebuilding a process's areas: mapped by the process itself, filled from outside, then given their final
//! protection and advice.

use std::collections::{HashMap, HashSet};

use stillpoint_image::records::{Area, Backing, Mm};
use stillpoint_sys::program::{Arg, Expect};
use stillpoint_sys::{RemoteAddr, arch};

use super::ranges::{minus, union};
use super::{PAGE, policy};
use crate::plan::inherit::Heir;
use crate::restore::sequence::Sequence;
use crate::{Code, Error, Result};

const READ_WRITE: u32 = (libc::PROT_READ | libc::PROT_WRITE).cast_unsigned();
const WRITE: u32 = libc::PROT_WRITE.cast_unsigned();
const PR_SET_VMA: i32 = 0x5356_4d41;
// include/uapi/asm-generic/mman-common.h and mman.h
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;
const MAP_DROPPABLE: i32 = 0x08;
const HUGE_SHIFT: u32 = 26;
/// mseal(2), Linux 6.10.
const SYS_MSEAL: i64 = 462;

/// Madvise(2) advice by the flag that shows it.
const ADVICE: &[(&str, i32, &str)] = &[
    ("rr", libc::MADV_RANDOM, "random"),
    ("sr", libc::MADV_SEQUENTIAL, "sequential"),
    ("dc", libc::MADV_DONTFORK, "dontfork"),
    ("dd", libc::MADV_DONTDUMP, "dontdump"),
    ("wf", libc::MADV_WIPEONFORK, "wipeonfork"),
    ("mg", libc::MADV_MERGEABLE, "mergeable"),
    ("hg", libc::MADV_HUGEPAGE, "hugepage"),
    ("nh", libc::MADV_NOHUGEPAGE, "nohugepage"),
];

/// Descriptors, in the process, of the files that areas map: by object and whether it is open for writing.
pub type Files = HashMap<(u64, bool), u32>;

/// Where shared anonymous memory is staged in every process of the tree: mapped once by the root before it has
/// children, so that all inherit the same memory.
pub type Staged = HashMap<u64, RemoteAddr>;

/// Which runs of addresses will be filled; ascending.
#[derive(Debug, Default)]
pub struct Filled(Vec<(u64, u64)>);

impl Filled {
    /// Adds a run of a data frame.
    pub fn add(&mut self, offset: u64, length: u64) {
        match self.0.last_mut() {
            Some(last) if last.1 == offset => last.1 = offset.saturating_add(length),
            _ => self.0.push((offset, offset.saturating_add(length))),
        }
    }

    /// Sorts the runs, once all are known.
    pub fn finish(&mut self) {
        self.0.sort_unstable();
    }

    fn touches(&self, area: &Area) -> bool {
        let at = self.0.partition_point(|&(_, end)| end <= area.start);
        self.0.get(at).is_some_and(|&(start, _)| start < area.end)
    }
}

/// Maps all areas, writable where they will be filled. Those that an heir keeps are mapped already.
///
/// # Errors
///
/// When the areas refer to what was not prepared.
pub fn map(
    sequence: &mut Sequence,
    mm: &Mm,
    filled: &Filled,
    files: &Files,
    staged: &Staged,
    heir: Option<&Heir>,
) -> Result<()> {
    // The kernel's own areas stand together; one call maps them all.
    if let Some(start) = kernel_areas_start(mm) {
        let what = format!("mapping the vDSO at {start:x}");
        let (number, arguments) = arch::map_kernel_areas(start);
        sequence.call(what, number, arguments.map(Arg::Value));
    }
    for area in &mm.areas {
        let protection = first_protection(area, filled);
        if heir.is_some_and(|heir| heir.kept.contains(&(area.start, area.end))) {
            protect(sequence, area, protection);
            continue;
        }
        match area.backing() {
            Backing::Vdso | Backing::Vvar | Backing::Unspecified => {}
            Backing::Anonymous => map_area(sequence, area, protection, libc::MAP_ANONYMOUS, None),
            Backing::PrivateFile => map_area(sequence, area, protection, 0, Some(file(files, area, false)?)),
            Backing::SharedFile => {
                let fd = file(files, area, area.opened_writable)?;
                map_shared_file(sequence, area, fd);
            }
            Backing::SharedAnonymous => map_shared(sequence, area, staged)?,
        }
        if !matches!(area.backing(), Backing::Vdso | Backing::Vvar | Backing::Unspecified) {
            policy::set(sequence, area);
            mark(sequence, area, filled);
        }
        if !area.name.is_empty() {
            let name = sequence.current().string(&area.name);
            sequence.call(
                format!("naming area {:x}", area.start),
                libc::SYS_prctl,
                [
                    PR_SET_VMA.into(),
                    Arg::Value(0),
                    Arg::Value(area.start),
                    Arg::Value(area.end - area.start),
                    name.into(),
                ],
            );
        }
    }
    Ok(())
}

/// Leaves the marks on an area that only its past explains.
fn mark(sequence: &mut Sequence, area: &Area, filled: &Filled) {
    let mut advise = |what: &str, advice: i32| {
        sequence.call_expecting(
            format!("{what} area {:x}-{:x}", area.start, area.end),
            libc::SYS_madvise,
            [Arg::Value(area.start), Arg::Value(PAGE), advice.into()],
            // Each is a hint about the past that older kernels do not keep: then there is nothing to leave.
            Expect::Anything,
        );
    };
    // What was writable once stays accounted only if it was written to (mm/mprotect.c, mprotect_fixup).
    if once_writable(area) && !filled.touches(area) && area.huge_page_size == 0 {
        advise("touching", MADV_POPULATE_WRITE);
        advise("forgetting the first page of", libc::MADV_DONTNEED);
    }
    if has(area, "gu") && area.guards.is_empty() {
        advise("guarding the first page of", MADV_GUARD_INSTALL);
        advise("unguarding the first page of", MADV_GUARD_REMOVE);
    }
}

fn protect(sequence: &mut Sequence, area: &Area, protection: u32) {
    sequence.call(
        format!("protecting area {:x}-{:x}", area.start, area.end),
        libc::SYS_mprotect,
        [Arg::Value(area.start), Arg::Value(area.end - area.start), protection.into()],
    );
}

/// Unmaps what a child was born with of its parent's memory, but for what it keeps: what it inherits, the program area
/// and staged memory.
pub fn sweep(sequence: &mut Sequence, heir: Option<&Heir>, needed: &[(u64, u64)]) {
    let kept = heir.map_or(&[][..], |heir| heir.kept.as_slice());
    let kept = union([kept, needed].concat());
    for (start, end) in minus(&[(0, arch::TASK_SIZE)], &kept) {
        sequence.call(
            "unmapping what is the parent's alone",
            libc::SYS_munmap,
            [Arg::Value(start), Arg::Value(end - start)],
        );
    }
    for &(start, end) in heir.into_iter().flat_map(|heir| &heir.holes) {
        sequence.call(
            format!("emptying {start:x}-{end:x}"),
            libc::SYS_madvise,
            [Arg::Value(start), Arg::Value(end - start), libc::MADV_DONTNEED.into()],
        );
    }
}

/// Where the kernel's areas (vvar and vDSO) start.
#[must_use]
pub fn kernel_areas_start(mm: &Mm) -> Option<u64> {
    let special = |area: &&Area| matches!(area.backing(), Backing::Vdso | Backing::Vvar);
    mm.areas.iter().filter(special).map(|area| area.start).min()
}

fn file(files: &Files, area: &Area, writable: bool) -> Result<u32> {
    files.get(&(area.object, writable)).copied().ok_or_else(|| {
        Error::new(Code::Failed, "rebuilding memory")
            .cause(format!("no file for area {:x}", area.start))
            .into()
    })
}

/// The protection with which an area is mapped at first.
fn first_protection(area: &Area, filled: &Filled) -> u32 {
    if filled.touches(area) {
        return area.protection | READ_WRITE;
    }
    if once_writable(area) { area.protection | READ_WRITE } else { area.protection }
}

/// An area that is accounted though not writable was writable once: only then is it charged.
fn once_writable(area: &Area) -> bool {
    let private = matches!(area.backing(), Backing::Anonymous | Backing::PrivateFile);
    private && area.protection & WRITE == 0 && has(area, "ac") && !has(area, "nr")
}

fn map_area(sequence: &mut Sequence, area: &Area, protection: u32, kind: i32, fd: Option<u32>) {
    let private = if has(area, "dp") { MAP_DROPPABLE } else { libc::MAP_PRIVATE };
    let mut flags = kind | private | libc::MAP_FIXED_NOREPLACE;
    if area.huge_page_size != 0 {
        let size = area.huge_page_size.trailing_zeros() << HUGE_SHIFT;
        flags |= libc::MAP_HUGETLB | size.cast_signed();
    }
    if has(area, "gd") {
        flags |= libc::MAP_GROWSDOWN;
    }
    if has(area, "nr") {
        flags |= libc::MAP_NORESERVE;
    }
    mmap(sequence, area, protection, flags, fd);
}

fn map_shared_file(sequence: &mut Sequence, area: &Area, fd: u32) {
    let mut flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
    if has(area, "nr") {
        flags |= libc::MAP_NORESERVE;
    }
    mmap(sequence, area, area.protection, flags, Some(fd));
}

fn mmap(sequence: &mut Sequence, area: &Area, protection: u32, flags: i32, fd: Option<u32>) {
    let what = format!("mapping area {:x}-{:x}", area.start, area.end);
    let fd = fd.map_or(Arg::from(-1), Arg::from);
    sequence.call_expecting(
        what,
        libc::SYS_mmap,
        [
            Arg::Value(area.start),
            Arg::Value(area.end - area.start),
            protection.into(),
            flags.into(),
            fd,
            Arg::Value(if fd == Arg::from(-1) { 0 } else { area.offset }),
        ],
        Expect::Exactly(area.start.cast_signed()),
    );
}

/// mremap(2) with an old size of 0 maps the same shared memory once more.
fn map_shared(sequence: &mut Sequence, area: &Area, staged: &Staged) -> Result<()> {
    let start = staged.get(&area.object).ok_or_else(|| {
        Error::new(Code::Failed, "rebuilding memory")
            .cause(format!("no shared memory for area {:x}", area.start))
    })?;
    sequence.call_expecting(
        format!("mapping shared area {:x}-{:x}", area.start, area.end),
        libc::SYS_mremap,
        [
            Arg::Value(start.0 + area.offset),
            Arg::Value(0),
            Arg::Value(area.end - area.start),
            (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED).into(),
            Arg::Value(area.start),
        ],
        Expect::Exactly(area.start.cast_signed()),
    );
    Ok(())
}

/// Maps shared memory where it is staged: by the root, before it has children. What is mapped without a reserve of
/// memory may be larger than the machine's.
pub fn stage<'a>(
    sequence: &mut Sequence,
    staged: &Staged,
    sizes: &HashMap<u64, u64>,
    areas: impl Iterator<Item = &'a Area>,
) {
    let reserved: HashSet<u64> = areas.filter(|area| !has(area, "nr")).map(|area| area.object).collect();
    for (object, at) in staged {
        let size = sizes.get(object).copied().unwrap_or(0);
        let reserve = if reserved.contains(object) { 0 } else { libc::MAP_NORESERVE };
        sequence.call_expecting(
            format!("making shared memory of {size} bytes"),
            libc::SYS_mmap,
            [
                Arg::Value(at.0),
                Arg::Value(size),
                READ_WRITE.into(),
                (libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | reserve).into(),
                (-1).into(),
                Arg::Value(0),
            ],
            Expect::Exactly(at.0.cast_signed()),
        );
    }
}

/// Unmaps what was staged, in every process.
pub fn unstage(sequence: &mut Sequence, staged: &Staged, sizes: &HashMap<u64, u64>) {
    for (object, at) in staged {
        let size = sizes.get(object).copied().unwrap_or(0);
        sequence.call(
            "unmapping staged shared memory",
            libc::SYS_munmap,
            [Arg::Value(at.0), Arg::Value(size)],
        );
    }
}

/// Gives filled areas their final protection, and all their advice and locks.
pub fn finish(sequence: &mut Sequence, mm: &Mm, filled: &Filled) {
    for area in &mm.areas {
        if matches!(area.backing(), Backing::Vdso | Backing::Vvar | Backing::Unspecified) {
            continue;
        }
        let length = area.end - area.start;
        let range = [Arg::Value(area.start), Arg::Value(length)];
        let first = match area.backing() {
            Backing::SharedFile => area.protection,
            Backing::SharedAnonymous => READ_WRITE,
            _ => first_protection(area, filled),
        };
        if first != area.protection {
            protect(sequence, area, area.protection);
        }
        for (_, advice, name) in ADVICE.iter().filter(|(flag, ..)| has(area, flag)) {
            sequence.call(
                format!("advising {name} for area {:x}", area.start),
                libc::SYS_madvise,
                [range[0], range[1], (*advice).into()],
            );
        }
        for guard in &area.guards {
            sequence.call(
                format!("guarding {:x}", guard.offset),
                libc::SYS_madvise,
                [Arg::Value(guard.offset), Arg::Value(guard.length), MADV_GUARD_INSTALL.into()],
            );
        }
        if has(area, "lo") {
            let on_fault = i32::from(has(area, "lf"));
            // Locking what may not be read marks it and then fails to bring its pages in.
            let unreadable = area.protection == 0 || !area.guards.is_empty();
            let expect = if unreadable { Expect::Anything } else { Expect::Success };
            sequence.call_expecting(
                format!("locking area {:x}-{:x}", area.start, area.end),
                libc::SYS_mlock2,
                [range[0], range[1], on_fault.into()],
                expect,
            );
        }
    }
}

/// Seals areas: after that nothing of them can be changed.
pub fn seal(sequence: &mut Sequence, mm: &Mm) {
    let sealed = |area: &&Area| {
        has(area, "sl") && !matches!(area.backing(), Backing::Vdso | Backing::Vvar | Backing::Unspecified)
    };
    for area in mm.areas.iter().filter(sealed) {
        sequence.call(
            format!("sealing area {:x}-{:x}", area.start, area.end),
            SYS_MSEAL,
            [Arg::Value(area.start), Arg::Value(area.end - area.start), Arg::Value(0)],
        );
    }
}

/// Sets what the kernel keeps of a program's layout: code, data, heap, stack, arguments, auxv, executable (none: it is
/// the right one already).
pub fn set_layout(sequence: &mut Sequence, mm: &Mm, executable: Option<u32>) {
    const PR_SET_MM: i32 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    let auxv = sequence.current().data(&mm.auxv);
    let words = [
        mm.start_code,
        mm.end_code,
        mm.start_data,
        mm.end_data,
        mm.start_brk,
        mm.brk,
        mm.start_stack,
        mm.arg_start,
        mm.arg_end,
        mm.env_start,
        mm.env_end,
    ];
    let mut map: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // The address of the auxiliary vector is known once the program has its place.
    map.extend_from_slice(&[0; 8]);
    map.extend_from_slice(&u32::try_from(mm.auxv.len()).unwrap_or(0).to_le_bytes());
    map.extend_from_slice(&executable.unwrap_or(u32::MAX).to_le_bytes());
    let size = map.len() as u64;
    let map = sequence.current().data_pointing(&map, words.len() * 8, auxv);
    sequence.call(
        "setting the program's layout and executable",
        libc::SYS_prctl,
        [PR_SET_MM.into(), Arg::Value(PR_SET_MM_MAP), map.into(), Arg::Value(size), Arg::Value(0)],
    );
}

fn has(area: &Area, flag: &str) -> bool {
    area.flags.iter().any(|have| have == flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, protection: u32, flags: &[&str]) -> Area {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let backing = Backing::Anonymous.into();
        Area { start, end, protection, backing, flags, ..Area::default() }
    }

    #[test]
    fn what_is_filled_is_writable_at_first() {
        let mut filled = Filled::default();
        filled.add(0x3000, 0x1000);
        filled.add(0x4000, 0x1000);
        filled.finish();
        assert_eq!(first_protection(&area(0x4000, 0x5000, 0, &[]), &filled), READ_WRITE);
        assert_eq!(first_protection(&area(0x5000, 0x6000, 0, &[]), &filled), 0);
        assert_eq!(first_protection(&area(0x5000, 0x6000, 1, &["ac"]), &filled), READ_WRITE);
        assert_eq!(first_protection(&area(0x5000, 0x6000, 1, &["ac", "nr"]), &filled), 1);
        assert_eq!(first_protection(&area(0x2000, 0x3001, 5, &[]), &filled), 7);
    }
}
