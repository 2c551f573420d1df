//! `/proc/PID/mountinfo`: the mounts of a task's mount namespace, below its root.
//!
//! See proc_pid_mountinfo(5) and `show_mountinfo` in the kernel's `fs/proc_namespace.c`. Mounts that the task's
//! root does not reach are not printed.

use super::source;
use super::text::{Text, split_once};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's mounts");

/// One mount. Escapes are undone except in the two lists of options, which are kept as the kernel prints them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id; unique while it is mounted, then used again.
    pub id: u32,
    /// The id of the mount that it is on; of itself, or of one that is not printed, for the root.
    pub parent: u32,
    /// Major and minor number: st_dev of its files, for most file systems.
    pub dev: (u32, u32),
    /// The directory of the file system that it shows.
    pub root: Vec<u8>,
    /// Where it is, as of the task's root; with `//deleted` behind it when that was deleted.
    pub mount_point: Vec<u8>,
    /// Options of the mount: `rw,nosuid,relatime`.
    pub options: Vec<u8>,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub optional: Vec<Vec<u8>>,
    /// File system type, with `.SUBTYPE` where it has one.
    pub fs_type: Vec<u8>,
    /// What was mounted. May be empty.
    pub source: Vec<u8>,
    /// Options of the file system.
    pub super_options: Vec<u8>,
}

/// Reads `/proc/PID/mountinfo`.
///
/// # Errors
///
/// EINVAL for a zombie, ENOENT or ESRCH when the task is gone, and a text that is
/// not understood.
pub fn read(pid: Pid) -> Result<Vec<Mount>> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/mountinfo"), parse)
}

/// Parses the text of `/proc/PID/mountinfo`.
///
/// # Errors
///
/// Any line that is not understood.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mount>> {
    TEXT.lines(bytes)?.map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Result<Mount> {
    let bad = || TEXT.bad("a line of mountinfo", line);
    // One space between fields: two of them surround an empty field.
    let mut fields = line.split(|c| *c == b' ');
    let mut next = || fields.next().ok_or_else(bad);
    let (id, parent, dev) = (next()?, next()?, next()?);
    let (root, mount_point, options) = (next()?, next()?, next()?);
    let mut optional = Vec::new();
    loop {
        match next()? {
            b"-" => break,
            b"" => return Err(bad()),
            field => optional.push(field.to_vec()),
        }
    }
    let (fs_type, source) = (next()?, next()?);
    // Nothing says that options hold no space, and nothing follows them.
    let mut super_options = next()?.to_vec();
    for more in fields {
        super_options.push(b' ');
        super_options.extend_from_slice(more);
    }
    let (major, minor) = split_once(dev, b':').ok_or_else(bad)?;
    Ok(Mount {
        id: TEXT.decimal("mount id", id)?,
        parent: TEXT.decimal("parent's id", parent)?,
        dev: (TEXT.decimal("major number", major)?, TEXT.decimal("minor number", minor)?),
        root: unescape(root).ok_or_else(bad)?,
        mount_point: unescape(mount_point).ok_or_else(bad)?,
        options: options.to_vec(),
        optional,
        fs_type: unescape(fs_type).ok_or_else(bad)?,
        source: unescape(source).ok_or_else(bad)?,
        super_options,
    })
}

/// Undoes `mangle_path`: `\` and three octal digits. The backslash itself is always escaped.
fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, after @ ..] = rest {
        if *byte != b'\\' {
            out.push(*byte);
            rest = after;
            continue;
        }
        let [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = after else { return None };
        out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints() {
        let mounts = parse(
            b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            36 35 98:0 /mnt\\0401 /mnt\\012two\\134 rw,noatime master:1 shared:2 - fuse.ss\\043hfs  rw,a=\\b c\n\
            40 27 0:4 net:[4026532008] /run/netns/x\xff//deleted rw - nsfs nsfs rw\n",
        )
        .unwrap();
        assert_eq!(mounts[0].dev, (0, 21));
        assert_eq!(mounts[0].fs_type, b"proc");
        assert_eq!(mounts[1].root, b"/mnt 1");
        assert_eq!(mounts[1].mount_point, b"/mnt\ntwo\\");
        assert_eq!(mounts[1].optional, [b"master:1".to_vec(), b"shared:2".to_vec()]);
        assert_eq!(mounts[1].fs_type, b"fuse.ss#hfs");
        assert_eq!(mounts[1].source, b"");
        assert_eq!(mounts[1].super_options, b"rw,a=\\b c");
        assert_eq!(mounts[2].root, b"net:[4026532008]");
        assert_eq!(mounts[2].mount_point, b"/run/netns/x\xff//deleted");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b"22 27 0:21 / /proc rw,relatime proc proc rw\n"[..],
            b"22 27 0:21 / /proc rw,relatime - proc proc\n",
            b"22 27 0.21 / /proc rw,relatime - proc proc rw\n",
            b"22 27 0:21 / /pr\\oc rw,relatime - proc proc rw\n",
            b"22 27 0:21 / /pr\\400 rw,relatime - proc proc rw\n",
            b"22 27 0:21 / /pr\\04 rw,relatime - proc proc rw\n",
            b"22 27 0:21 / /proc rw,relatime  - proc proc rw\n",
            b"x 27 0:21 / /proc rw,relatime - proc proc rw\n",
            b"22 27 0:21 / /proc rw,relatime - proc proc rw",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn this_process() {
        let mounts = read(std::process::id()).unwrap();
        assert!(mounts.iter().any(|m| m.mount_point == b"/proc" && m.fs_type == b"proc"));
    }
}
