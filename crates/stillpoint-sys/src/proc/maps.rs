//! `/proc/PID/maps`: the areas of an address space, without flags and counters.
//!
//! See proc_pid_maps(5) and `show_map_vma` in the kernel's `fs/proc/task_mmu.c`.

use super::text::{Text, split_once};
use super::{source, text};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's memory areas");

/// What a mapping allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Perms {
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub exec: bool,
    /// MAP_SHARED rather than MAP_PRIVATE: the kernel's VM_MAYSHARE.
    pub shared: bool,
}

/// One area, as both `maps` and `smaps` begin it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after the area.
    pub end: u64,
    /// What it allows.
    pub perms: Perms,
    /// Offset of `start` in the file, in bytes; 0 for anonymous memory.
    pub offset: u64,
    /// Major and minor number of the file system's device. Some file systems (btrfs, overlayfs) print another
    /// device here than stat(2) gives.
    pub dev: (u32, u32),
    /// Inode number; 0 for an area without a file.
    pub inode: u64,
    /// The path of the file, with the kernel's ` (deleted)` kept; `[heap]`, `[stack]`, `[vdso]` and the like;
    /// `[anon:NAME]`; or empty.
    ///
    /// A hint only: the kernel writes a newline as `\012` (undone here) but a backslash as itself, so a file
    /// that is called `a\012b` reads like one with a newline. The identity is the device and inode, and the link
    /// in `/proc/PID/map_files`.
    pub name: Vec<u8>,
}

impl Mapping {
    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never: the kernel has no empty area, and the parser refuses one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The addresses, as a range.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.start..self.end
    }
}

/// Reads `/proc/PID/maps`. Empty for a task without an address space: a zombie or a kernel thread.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT or ESRCH when the task is gone, and a text that is not understood.
pub fn read(pid: Pid) -> Result<Vec<Mapping>> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/maps"), parse)
}

/// Parses the text of `/proc/PID/maps`.
///
/// # Errors
///
/// Any line that is not understood, and areas that are not in ascending order.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mapping>> {
    let mut mappings = Vec::new();
    let mut last_end = 0;
    for line in TEXT.lines(bytes)? {
        mappings.push(parse_line(line, &mut last_end)?);
    }
    Ok(mappings)
}

/// The column at which names begin, unless the fields before are longer:
/// `seq_setwidth(m, 25 + sizeof(void *) * 6 - 1)` and one space.
const NAME_COLUMN: usize = 25 + 8 * 6 - 1;

/// Parses one line; `last_end` is where the area before ended.
pub(super) fn parse_line(line: &[u8], last_end: &mut u64) -> Result<Mapping> {
    let bad = || TEXT.bad("a line of maps", line);
    let mut rest = line;
    let mut field = |until: u8| -> Result<&[u8]> {
        let (field, after) = split_once(rest, until).ok_or_else(bad)?;
        rest = after;
        Ok(field)
    };
    let start = TEXT.hex("start address", field(b'-')?)?;
    let end = TEXT.hex("end address", field(b' ')?)?;
    let perms = parse_perms(field(b' ')?).ok_or_else(bad)?;
    let offset = TEXT.hex("offset", field(b' ')?)?;
    let dev = (TEXT.hex("major number", field(b':')?)?, TEXT.hex("minor number", field(b' ')?)?);
    let inode = TEXT.decimal("inode number", field(b' ')?)?;
    if start >= end || start < *last_end {
        return Err(TEXT.bad("an area out of order", line));
    }
    *last_end = end;
    let name = if rest.is_empty() {
        Vec::new()
    } else {
        // The name begins at a fixed column, so a name that itself begins with a space (a path below a detached
        // mount may) keeps it.
        let begin = NAME_COLUMN.max(line.len() - rest.len()) + 1;
        let padding = &line[line.len() - rest.len()..begin.min(line.len())];
        if begin >= line.len() || padding.iter().any(|c| *c != b' ') {
            return Err(bad());
        }
        unescape_newline(&line[begin..])
    };
    Ok(Mapping { start, end, perms, offset, dev, inode, name })
}

fn parse_perms(field: &[u8]) -> Option<Perms> {
    let &[r, w, x, s] = field else { return None };
    let flag = |byte, yes, no| (byte == yes || byte == no).then_some(byte == yes);
    Some(Perms {
        read: flag(r, b'r', b'-')?,
        write: flag(w, b'w', b'-')?,
        exec: flag(x, b'x', b'-')?,
        shared: flag(s, b's', b'p')?,
    })
}

/// Undoes `seq_path(m, path, "\n")`.
fn unescape_newline(name: &[u8]) -> Vec<u8> {
    text::replace(name, b"\\012", b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_columns() {
        let text = b"555714d24000-555714d26000 r--p 00000000 fe:00 247030                     /usr/bin/cat\n\
            555714d2e000-555714d2f000 rw-s 00009000 103:1f 18446744073709551615      /a b\\012c\xff (deleted)\n\
            7f8608d39000-7f8608d5d000 ---p 00000000 00:00 0 \n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        let maps = parse(text).unwrap();
        assert_eq!(maps.len(), 4);
        assert_eq!(maps[0].name, b"/usr/bin/cat");
        assert_eq!(maps[0].perms, Perms { read: true, ..Perms::default() });
        assert_eq!(maps[1].name, b"/a b\nc\xff (deleted)");
        assert_eq!(maps[1].dev, (0x103, 0x1f));
        assert_eq!(maps[1].inode, u64::MAX);
        assert!(maps[1].perms.shared && maps[1].perms.write);
        assert_eq!(maps[2].name, b"");
        assert_eq!(maps[2].perms, Perms::default());
        assert_eq!(maps[3].start, 0xffff_ffff_ff60_0000);
        assert_eq!(maps[3].name, b"[vsyscall]");
    }

    #[test]
    fn a_name_that_begins_with_a_space_keeps_it() {
        let mut line = b"00001000-00002000 r--p 00000000 fe:00 24 ".to_vec();
        line.resize(NAME_COLUMN + 1, b' ');
        line.extend_from_slice(b" odd");
        let map = parse_line(&line, &mut 0).unwrap();
        assert_eq!(map.name, b" odd");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b"1000-2000 r--p 00000000 fe:00 1 \n2000-1000 r--p 00000000 fe:00 1 \n"[..],
            b"1000-3000 r--p 00000000 fe:00 1 \n2000-4000 r--p 00000000 fe:00 1 \n",
            b"1000-1000 r--p 00000000 fe:00 1 \n",
            b"1000-2000 r--q 00000000 fe:00 1 \n",
            b"1000-2000 r--p 00000000 fe:00 1 /too/early\n",
            b"1000-2000 r--p 00000000 fe00 1 \n",
            b"1000-2000 r--p 00000000 fe:00 1",
            b"\n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn this_process() {
        let maps = read(std::process::id()).unwrap();
        assert!(maps.iter().any(|m| m.name == b"[stack]"));
        let here = this_process as *const () as u64;
        assert!(maps.iter().any(|m| m.range().contains(&here) && m.perms.exec));
    }
}
