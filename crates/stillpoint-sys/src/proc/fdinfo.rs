//! `/proc/PID/fdinfo/FD`: position, flags and what the kind of file adds.
//!
//! See proc_pid_fdinfo(5) and `seq_show` in the kernel's `fs/proc/fd.c`.

use std::os::fd::OwnedFd;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::source;
use super::text::{Text, split_once, trim};
use crate::{Error, Pid, Result};

const TEXT: Text = Text("reading what is known of a descriptor");

/// One descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// File offset. Negative offsets exist (`/dev/mem` and the like).
    pub pos: i64,
    /// Flags of open(2), with O_CLOEXEC being that of this descriptor.
    pub flags: u32,
    /// The mount, as in [`mountinfo`](super::mountinfo); a mount that belongs to no namespace is not listed there.
    pub mnt_id: u32,
    /// Inode number (Linux 5.14).
    pub ino: Option<u64>,
    /// Every other line, in order: what is before the first `:` and what is after it, without spaces around it.
    /// A line without `:` is all key. Lines of `lock:` are here, one for each lock that the process holds by
    /// this descriptor.
    pub rest: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FdInfo {
    /// The values of all lines with a key, for example `lock` or `tfd`.
    pub fn values<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.rest.iter().filter(move |(k, _)| k == key).map(|(_, value)| &value[..])
    }

    /// The value of the only line with a key; none when there is none or more than one.
    #[must_use]
    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let mut found = self.rest.iter().filter(|(k, _)| k == key);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }
}

/// Reads `/proc/PID/fdinfo/FD`; a thread id serves as well as a process id, for a thread with its own table.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT when the descriptor or the task is gone, a text that is not understood.
pub fn read(pid: Pid, fd: u32) -> Result<FdInfo> {
    source::parse_single(TEXT.0, pid, &format!("/proc/{pid}/fdinfo/{fd}"), parse)
}

/// `/proc/PID/fdinfo`, open, for many descriptors of one task: the kernel makes an inode for each file of it that is
/// listed or looked up, and keeps it, so that what is listed here costs less to read than by the whole path.
#[derive(Debug)]
pub struct Directory {
    pid: Pid,
    fd: OwnedFd,
}

impl Directory {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// EACCES without ptrace access, ENOENT or ESRCH when the task is gone.
    pub fn open(pid: Pid) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{pid}/fdinfo"), flags, Mode::empty())
            .map(|fd| Directory { pid, fd })
            .map_err(|errno| Error::io("listing a task's descriptors", Some(pid), &errno.into()))
    }

    /// The open descriptors, ascending.
    ///
    /// # Errors
    ///
    /// ENOENT or ESRCH when the task is gone.
    pub fn descriptors(&self) -> Result<Vec<u32>> {
        let failed = |errno: Errno| Error::io("listing a task's descriptors", Some(self.pid), &errno.into());
        let mut numbers = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                numbers.push(TEXT.decimal("a descriptor's number", name).map_err(|e| e.of(self.pid))?);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// As [`read`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read(&self, fd: u32) -> Result<FdInfo> {
        source::parse_single_in(TEXT.0, self.pid, &self.fd, &fd.to_string(), parse)
    }
}

/// Parses the text of `/proc/PID/fdinfo/FD`.
///
/// # Errors
///
/// `pos`, `flags` or `mnt_id` missing, not understood or there twice.
pub fn parse(bytes: &[u8]) -> Result<FdInfo> {
    let (mut pos, mut flags, mut mnt_id, mut ino) = (None, None, None, None);
    let mut rest = Vec::new();
    for line in TEXT.lines(bytes)? {
        let (key, value) = split_once(line, b':').unwrap_or((line, b""));
        let value = trim(value);
        let twice = match key {
            b"pos" => pos.replace(TEXT.signed("pos", value)?).is_some(),
            b"flags" => flags.replace(TEXT.octal("flags", value)?).is_some(),
            b"mnt_id" => mnt_id.replace(TEXT.decimal("mnt_id", value)?).is_some(),
            b"ino" => ino.replace(TEXT.decimal("ino", value)?).is_some(),
            _ => {
                rest.push((key.to_vec(), value.to_vec()));
                false
            }
        };
        if twice {
            return Err(TEXT.bad("a line that comes twice", line));
        }
    }
    let missing = |key: &str| TEXT.bad("a line is missing", key.as_bytes());
    Ok(FdInfo {
        pos: pos.ok_or_else(|| missing("pos"))?,
        flags: flags.ok_or_else(|| missing("flags"))?,
        mnt_id: mnt_id.ok_or_else(|| missing("mnt_id"))?,
        ino,
        rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_with_a_lock() {
        let info = parse(
            b"pos:\t4096\nflags:\t0100002\nmnt_id:\t28\nino:\t77\n\
            lock:\t1: POSIX  ADVISORY  WRITE 1234 fe:00:77 0 EOF\n\
            lock:\t2: FLOCK  ADVISORY  WRITE 1234 fe:00:77 0 EOF\n",
        )
        .unwrap();
        assert_eq!((info.pos, info.flags, info.mnt_id, info.ino), (4096, 0o100_002, 28, Some(77)));
        assert_eq!(info.values(b"lock").count(), 2);
        assert_eq!(info.value(b"lock"), None);
        assert_eq!(info.rest[0].1, b"1: POSIX  ADVISORY  WRITE 1234 fe:00:77 0 EOF");
    }

    #[test]
    fn kinds_add_lines_of_many_shapes() {
        let info = parse(
            b"pos:\t0\nflags:\t02\nmnt_id:\t15\n\
            tfd:        5 events:       1d data: ffffffffffffffff  pos:0 ino:61af sdev:7\n\
            inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0\n\
            settime flags: 01\nno colon\n",
        )
        .unwrap();
        assert_eq!(info.ino, None);
        assert_eq!(info.value(b"settime flags"), Some(&b"01"[..]));
        assert!(info.value(b"inotify wd").unwrap().starts_with(b"1 ino:"));
        assert_eq!(info.value(b"no colon"), Some(&b""[..]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b""[..],
            b"pos:\t0\nflags:\t02\n",
            b"pos:\t0\nflags:\t08\nmnt_id:\t1\n",
            b"pos:\t0\npos:\t0\nflags:\t02\nmnt_id:\t1\n",
            b"pos:\t0\nflags:\t02\nmnt_id:\t1\nino:\tx\n",
            b"pos:\t0\nflags:\t02\nmnt_id:\t1",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_file_of_this_process() {
        use std::io::Read;
        let mut file = std::fs::File::open("/proc/self/exe").unwrap();
        file.read_exact(&mut [0; 100]).unwrap();
        let info = read(std::process::id(), u32::try_from(file.as_raw_fd()).unwrap()).unwrap();
        assert_eq!(info.pos, 100);
        assert_ne!(info.flags & 0o2_000_000, 0, "O_CLOEXEC");
        assert_eq!(info.rest, []);
    }
}
