//! `/proc/PID/smaps`: the areas of an address space with their flags and counters.
//!
//! See proc_pid_smaps(5), and `show_smap` and `show_smap_vma_flags` in the kernel's `fs/proc/task_mmu.c`.

use super::maps::{self, Mapping};
use super::source;
use super::text::{Text, exactly, split_once, trim, words};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's memory areas with their flags");

/// One area with its flags and the counters that matter to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Addresses, protection, file and name.
    pub map: Mapping,
    /// The two-letter names of the `VmFlags` line, in the kernel's order (`rd`, `wr`, `mr`, `gd`, `lo`, `ht`,
    /// ...; `??` for a flag that the running kernel has no name for). What they mean is the caller's to know.
    pub vm_flags: Vec<[u8; 2]>,
    /// Bytes resident.
    pub rss: u64,
    /// Bytes resident that belong to no file: what of a private file mapping was written.
    pub anonymous: u64,
    /// Bytes swapped out.
    pub swap: u64,
    /// Bytes locked with mlock(2).
    pub locked: u64,
    /// Page size in bytes: more than the system's for hugetlb.
    pub kernel_page_size: u64,
    /// Bytes resident in shared hugetlb pages, which `rss` does not count.
    pub shared_hugetlb: u64,
    /// Bytes resident in private hugetlb pages, which `rss` does not count.
    pub private_hugetlb: u64,
    /// The protection key of pkey_mprotect(2), where the processor has them.
    pub protection_key: Option<u32>,
}

impl Area {
    /// Whether the kernel gave a flag, for example `b"gd"`.
    #[must_use]
    pub fn has_flag(&self, flag: &[u8; 2]) -> bool {
        self.vm_flags.contains(flag)
    }
}

/// Reads `/proc/PID/smaps`. Empty for a task without an address space: a zombie or a kernel thread.
///
/// The kernel walks the page tables for this; [`maps::read`] is much cheaper for a large task.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT or ESRCH when the task is gone, and a text that is not understood.
pub fn read(pid: Pid) -> Result<Vec<Area>> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/smaps"), parse)
}

/// Parses the text of `/proc/PID/smaps`.
///
/// Lines in kB are statistics: those that are not kept are passed over, known or not. Any other line that is
/// not known is an error, since it could tell of something that a checkpoint must save.
///
/// # Errors
///
/// Any line that is not understood, and an area without its `VmFlags` line (a text that was cut).
pub fn parse(bytes: &[u8]) -> Result<Vec<Area>> {
    let mut areas = Vec::new();
    let mut last_end = 0;
    let mut lines = TEXT.lines(bytes)?;
    while let Some(line) = lines.next() {
        areas.push(parse_area(line, &mut lines, &mut last_end)?);
    }
    Ok(areas)
}

fn parse_area<'a>(
    header: &[u8],
    lines: &mut impl Iterator<Item = &'a [u8]>,
    last_end: &mut u64,
) -> Result<Area> {
    let mut area = Area {
        map: maps::parse_line(header, last_end)?,
        vm_flags: Vec::new(),
        rss: 0,
        anonymous: 0,
        swap: 0,
        locked: 0,
        kernel_page_size: 0,
        shared_hugetlb: 0,
        private_hugetlb: 0,
        protection_key: None,
    };
    let mut size = 0;
    // VmFlags is the last line of each area on all kernels (since 3.8).
    for line in lines {
        let (key, value) = split_once(line, b':').ok_or_else(|| TEXT.bad("a line of smaps", line))?;
        match key {
            b"Size" => size = kilobytes(line, value)?,
            b"Rss" => area.rss = kilobytes(line, value)?,
            b"Anonymous" => area.anonymous = kilobytes(line, value)?,
            b"Swap" => area.swap = kilobytes(line, value)?,
            b"Locked" => area.locked = kilobytes(line, value)?,
            b"KernelPageSize" => area.kernel_page_size = kilobytes(line, value)?,
            b"Shared_Hugetlb" => area.shared_hugetlb = kilobytes(line, value)?,
            b"Private_Hugetlb" => area.private_hugetlb = kilobytes(line, value)?,
            b"ProtectionKey" => area.protection_key = Some(TEXT.decimal("protection key", trim(value))?),
            b"THPeligible" => {
                let _: u32 = TEXT.decimal("THPeligible", trim(value))?;
            }
            b"VmFlags" => {
                for word in words(value) {
                    let flag = <[u8; 2]>::try_from(word).map_err(|_| TEXT.bad("a VmFlag", word))?;
                    area.vm_flags.push(flag);
                }
                // Both are in every kernel's text; their absence means a text that we take for what it is not.
                if size != area.map.len() {
                    return Err(TEXT.bad("an area whose Size is not its size", header));
                }
                if area.kernel_page_size == 0 {
                    return Err(TEXT.bad("an area without KernelPageSize", header));
                }
                return Ok(area);
            }
            _ => {
                kilobytes(line, value)?;
            }
        }
    }
    Err(TEXT.bad("an area without VmFlags", header))
}

/// `   8 kB`, in bytes.
fn kilobytes(line: &[u8], value: &[u8]) -> Result<u64> {
    let bad = || TEXT.bad("a line of smaps", line);
    let [number, b"kB"] = exactly(value).ok_or_else(bad)? else { return Err(bad()) };
    TEXT.decimal::<u64>("a counter", number)?.checked_mul(1024).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel() {
        let areas = parse(include_bytes!("testdata/smaps-6.18")).unwrap();
        let first = &areas[0];
        assert_eq!(first.map.name, b"/usr/bin/cat");
        assert_eq!(first.rss, 8192);
        assert_eq!(first.kernel_page_size, 4096);
        assert_eq!(first.vm_flags, [*b"rd", *b"mr", *b"mw", *b"me"]);
        let stack = areas.iter().find(|a| a.map.name == b"[stack]").unwrap();
        assert!(stack.has_flag(b"gd") && stack.anonymous > 0);
    }

    #[test]
    fn linux_5_10_with_protection_keys() {
        let areas = parse(include_bytes!("testdata/smaps-5.10")).unwrap();
        assert_eq!(areas.len(), 2);
        assert_eq!(areas[0].protection_key, Some(3));
        assert_eq!(areas[0].map.name, b"/tmp/new\nline (deleted)");
        assert_eq!(areas[0].swap, 12 << 10);
        assert_eq!(areas[1].vm_flags, [[0_u8; 2]; 0]);
        assert_eq!(areas[1].private_hugetlb, 2 << 20);
        assert_eq!(areas[1].kernel_page_size, 2 << 20);
    }

    const AREA: &str = "00001000-00002000 r--p 00000000 00:00 0 \n\
        Size:                  4 kB\nKernelPageSize:        4 kB\n";

    #[test]
    fn statistics_may_be_unknown_and_nothing_else() {
        let with = |line: &str| parse(format!("{AREA}{line}VmFlags: rd \n").as_bytes());
        assert!(with("").is_ok());
        assert!(with("NewCounter:            7 kB\n").is_ok());
        assert!(with("NewCounter:            7\n").is_err());
        assert!(with("NewFlag: yes\n").is_err());
        assert!(with("Rss: 18014398509481984 kB\n").is_err());
        assert!(with("Rss\n").is_err());
    }

    #[test]
    fn a_cut_or_inconsistent_area_is_refused() {
        assert!(parse(AREA.as_bytes()).is_err());
        assert!(parse(format!("{AREA}Rss: 4 kB\n{AREA}VmFlags: rd \n").as_bytes()).is_err());
        assert!(parse(format!("{AREA}Size: 8 kB\nVmFlags: rd \n").as_bytes()).is_err());
        assert!(parse(format!("{AREA}VmFlags: rdw \n").as_bytes()).is_err());
    }

    #[test]
    fn this_process_as_in_maps() {
        let areas = read(std::process::id()).unwrap();
        assert!(areas.iter().any(|a| a.map.name == b"[stack]" && a.rss > 0));
        assert!(areas.iter().all(|a| !a.vm_flags.is_empty()));
    }
}
