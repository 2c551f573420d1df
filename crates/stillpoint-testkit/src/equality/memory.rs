//! Areas and pages.
//!
//! Contents are read through `/proc/PID/mem`, which reads areas without read permission too. What is absent is not
//! touched where touching it would change it: an absent page of private anonymous memory is zero, and reading a hole of
//! shared memory would fill it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Area, Facts, proc};

const PAGE: u64 = 4096;

/// Pagemap bits, from Documentation/admin-guide/mm/pagemap.rst.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;
const GUARD: u64 = 1 << 58;

/// A thread's rseq area: the kernel writes the number of the current CPU into it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RseqArea(pub(super) u64);

impl RseqArea {
    /// Blanks what the kernel writes on each migration: cpu_id_start, cpu_id, node_id, mm_cid.
    fn blank(self, address: u64, page: &mut [u8]) {
        for (offset, len) in [(0, 8), (20, 8)] {
            for at in (self.0 + offset)..(self.0 + offset + len) {
                if at >= address && at - address < PAGE {
                    page[(at - address) as usize] = 0;
                }
            }
        }
    }
}

/// Areas by `START-END`, and hashes of the pages that are not zero.
pub(super) fn record(
    dir: &str,
    pid: u32,
    rseq: &[RseqArea],
) -> io::Result<(std::collections::BTreeMap<String, Area>, Facts)> {
    let smaps = proc::read(&format!("{dir}/smaps"))?;
    let mem = File::open(format!("{dir}/mem"))?;
    let pagemap = File::open(format!("{dir}/pagemap"))?;
    let mut areas = std::collections::BTreeMap::new();
    let mut pages = Facts::new();
    // A kernel without NUMA has no such file.
    let policies = policies(&proc::read(&format!("{dir}/numa_maps")).unwrap_or_default());
    for mut area in parse(&smaps)? {
        area.policy = policies.get(&area.start).cloned().unwrap_or_default();
        let mut reader = Reader { area: &mut area, mem: &mem, pagemap: &pagemap, pid, rseq };
        reader.read(&mut pages)?;
        areas.insert(area.key(), area);
    }
    Ok((areas, pages))
}

struct Reader<'a> {
    area: &'a mut Area,
    mem: &'a File,
    pagemap: &'a File,
    pid: u32,
    rseq: &'a [RseqArea],
}

impl Reader<'_> {
    fn read(&mut self, pages: &mut Facts) -> io::Result<()> {
        if self.area.path == "[vsyscall]" {
            self.area.unreadable = Some("vsyscall".to_owned());
            return Ok(());
        }
        let private = self.area.perms.ends_with('p');
        let entries = self.pagemap_entries()?;
        let is_private = |e: &u64| e & (PRESENT | SWAPPED) != 0 && e & (FILE_OR_SHARED | GUARD) == 0;
        self.area.private_pages = entries.iter().filter(|e| is_private(e)).count() as u64;
        for (address, entry) in (self.area.start..).step_by(PAGE as usize).zip(&entries) {
            if entry & GUARD != 0 {
                pages.insert(format!("{address:012x}"), "guard".to_owned());
            }
        }
        if self.area.flags.iter().any(|f| f == "io" || f == "pf") {
            self.area.unreadable = Some("no pages of its own".to_owned());
            return Ok(());
        }
        let anonymous = self.area.inode == "0";
        if private && anonymous {
            let wanted = |i: usize| is_private(&entries[i]);
            return self.read_pages(pages, wanted);
        }
        if self.area.path.starts_with("/dev/zero (deleted)") || self.area.path.starts_with("/SYSV") {
            return match File::open(format!(
                "/proc/{}/map_files/{:x}-{:x}",
                self.pid, self.area.start, self.area.end
            )) {
                Ok(file) => self.read_shared(&file, pages),
                // An ordinary user may not: what this task has touched is what can be compared.
                Err(_) => self.read_pages(pages, |i| entries[i] & (PRESENT | SWAPPED) != 0),
            };
        }
        self.read_pages(pages, |i| entries[i] & GUARD == 0)
    }

    fn pagemap_entries(&self) -> io::Result<Vec<u64>> {
        let count = ((self.area.end - self.area.start) / PAGE) as usize;
        let mut bytes = vec![0; count * 8];
        self.pagemap.read_exact_at(&mut bytes, self.area.start / PAGE * 8)?;
        Ok(bytes.chunks_exact(8).map(|c| c.try_into().map(u64::from_ne_bytes).unwrap_or(0)).collect())
    }

    /// Reads the wanted pages, in runs.
    fn read_pages(&mut self, pages: &mut Facts, wanted: impl Fn(usize) -> bool) -> io::Result<()> {
        let count = ((self.area.end - self.area.start) / PAGE) as usize;
        let mut buffer = vec![0; 64 * PAGE as usize];
        let mut i = 0;
        while i < count {
            if !wanted(i) {
                i += 1;
                continue;
            }
            let run = (i..count.min(i + 64)).take_while(|&j| wanted(j)).count();
            let address = self.area.start + i as u64 * PAGE;
            let chunk = &mut buffer[..run * PAGE as usize];
            if self.mem.read_exact_at(chunk, address).is_ok() {
                self.hash(address, chunk, pages);
            } else {
                // Page by page: one of them lies beyond the end of its file, or cannot be read at all.
                for j in 0..run {
                    let address = address + j as u64 * PAGE;
                    let page = &mut chunk[..PAGE as usize];
                    match self.mem.read_exact_at(page, address) {
                        Ok(()) => self.hash(address, page, pages),
                        Err(e) => {
                            let why =
                                e.raw_os_error().map_or_else(|| e.to_string(), |n| format!("errno {n}"));
                            pages.insert(format!("{address:012x}"), format!("unreadable: {why}"));
                        }
                    }
                }
            }
            i += run;
        }
        Ok(())
    }

    /// Reads shared memory through its file, which tells holes from data.
    fn read_shared(&mut self, file: &File, pages: &mut Facts) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let end = (self.area.offset + (self.area.end - self.area.start)).cast_signed();
        let mut at = self.area.offset.cast_signed();
        let mut page = vec![0; PAGE as usize];
        while at < end {
            // SAFETY: lseek takes numbers only; the descriptor is open for as long as `file` is borrowed.
            let data = unsafe { libc::lseek(file.as_raw_fd(), at, libc::SEEK_DATA) };
            if data < 0 {
                break;
            }
            // SAFETY: as above.
            let hole = unsafe { libc::lseek(file.as_raw_fd(), data, libc::SEEK_HOLE) }.min(end);
            at = data - data % PAGE.cast_signed();
            while at < hole {
                page.fill(0);
                file.read_at(&mut page, at.cast_unsigned())?;
                let address = self.area.start + (at.cast_unsigned() - self.area.offset);
                self.hash(address, &mut page, pages);
                at += PAGE.cast_signed();
            }
        }
        Ok(())
    }

    fn hash(&self, address: u64, bytes: &mut [u8], pages: &mut Facts) {
        for (address, page) in (address..).step_by(PAGE as usize).zip(bytes.chunks_exact_mut(PAGE as usize)) {
            for area in self.rseq {
                area.blank(address, page);
            }
            if page.iter().any(|&b| b != 0) {
                let hash = blake3::hash(page);
                pages.insert(format!("{address:012x}"), hash.to_hex()[..32].to_owned());
            }
        }
    }
}

/// Policies by the first address of their areas. What follows them is how many pages are where.
fn policies(numa_maps: &[u8]) -> std::collections::BTreeMap<u64, String> {
    let line = |line: &[u8]| -> Option<(u64, String)> {
        let line = proc::text(line);
        let (start, rest) = line.split_once(' ')?;
        let policy = rest.split(' ').take_while(|word| !word.contains('=') || word.contains(':'));
        let known = policy.filter(|word| !["heap", "stack", "huge"].contains(word));
        Some((u64::from_str_radix(start, 16).ok()?, known.collect::<Vec<_>>().join(" ")))
    };
    numa_maps.split(|&b| b == b'\n').filter_map(line).collect()
}

/// The areas of a smaps file, without their pages.
fn parse(smaps: &[u8]) -> io::Result<Vec<Area>> {
    let mut out: Vec<Area> = Vec::new();
    for line in smaps.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let line = proc::text(line);
        let first = line.split(' ').next().unwrap_or_default();
        if first.contains('-') && !first.ends_with(':') {
            out.push(header(&line).ok_or_else(|| proc::bad(&line))?);
        } else if let (Some(flags), Some(area)) = (line.strip_prefix("VmFlags:"), out.last_mut()) {
            area.flags = flags.split_whitespace().map(str::to_owned).collect();
        }
    }
    Ok(out)
}

fn header(line: &str) -> Option<Area> {
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_start_matches(' ');
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after;
        word
    };
    let (start, end) = word().split_once('-')?;
    let (perms, offset, device, inode) = (word(), word(), word(), word());
    Some(Area {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        perms: perms.to_owned(),
        offset: u64::from_str_radix(offset, 16).ok()?,
        device: device.to_owned(),
        inode: inode.to_owned(),
        path: rest.trim_start_matches(' ').to_owned(),
        ..Area::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_stays_whole() {
        let text = b"7f00-8000 r--p 00001000 fe:00 42   /a b (deleted)\nSize: 4 kB\nVmFlags: rd mr\n";
        let areas = parse(text).unwrap();
        assert_eq!(areas[0].path, "/a b (deleted)");
        assert_eq!(areas[0].flags, ["rd", "mr"]);
        assert_eq!((areas[0].start, areas[0].offset), (0x7f00, 0x1000));
    }

    #[test]
    fn blanking_hits_only_what_the_kernel_writes() {
        let mut page = vec![1; PAGE as usize];
        RseqArea(0x1000 + 64).blank(0x1000, &mut page);
        assert_eq!(page.iter().filter(|&&b| b == 0).count(), 16);
        assert_eq!((page[63], page[64], page[72], page[84], page[92]), (1, 0, 1, 0, 1));
    }
}
