//! `/proc/PID/ns`: the namespaces of a task, by inode number.
//!
//! See namespaces(7) and the kernel's `fs/proc/namespaces.c`. Two tasks are in one namespace if the inode numbers
//! are the same (all are of one file system, nsfs).

use std::fs;
use std::os::unix::ffi::OsStringExt;

use super::link;
use super::tasks::gone;
use super::text::{Text, split_once};
use crate::{Error, Pid, Result};

const TEXT: Text = Text("reading a task's namespaces");

/// One entry of `/proc/PID/ns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// The entry: `net`, `pid`, `pid_for_children`, ...
    pub name: Vec<u8>,
    /// The inode number. None for `pid_for_children` after unshare(CLONE_NEWPID), until its first process is born,
    /// and for what a zombie has left.
    pub inode: Option<u64>,
}

/// All namespaces of a task, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespaces(pub Vec<Namespace>);

impl Namespaces {
    /// The inode number of an entry; none when the kernel has no such namespaces, or no inode yet.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|n| n.name == name.as_bytes())?.inode
    }

    /// The names of the entries in which two tasks differ.
    #[must_use]
    pub fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a [u8]> {
        let differs = |mine: &&Namespace| !other.0.contains(mine);
        let missing = |theirs: &&Namespace| !self.0.iter().any(|mine| mine.name == theirs.name);
        let (mine, theirs) = (self.0.iter().filter(differs), other.0.iter().filter(missing));
        mine.chain(theirs).map(|n| &n.name[..]).collect()
    }
}

/// Reads the links of `/proc/PID/ns`; a thread id serves as well as a process id.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT or ESRCH when the task is gone, a link that is not understood.
pub fn read(pid: Pid) -> Result<Namespaces> {
    let failed = |e: std::io::Error| Error::io(TEXT.0, Some(pid), &e);
    let directory = format!("/proc/{pid}/ns");
    let mut namespaces = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().into_vec();
        // Names of the kernel's own making are ASCII.
        let text = std::str::from_utf8(&name).map_err(|_| TEXT.bad("a name", &name).of(pid))?;
        let inode = match link::ns(pid, text) {
            Ok(link) => Some(parse(&link).map_err(|e| e.of(pid))?.1),
            Err(e) if gone(&e) && fs::metadata(&directory).is_ok() => None,
            Err(e) => return Err(e),
        };
        namespaces.push(Namespace { name, inode });
    }
    namespaces.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(Namespaces(namespaces))
}

/// Parses a link: `net:[4026531833]`, as kind and inode number.
///
/// # Errors
///
/// Anything else.
pub fn parse(link: &[u8]) -> Result<(Vec<u8>, u64)> {
    let bad = || TEXT.bad("a namespace", link);
    let (kind, inode) = split_once(link, b':').ok_or_else(bad)?;
    let inode = inode.strip_prefix(b"[").and_then(|i| i.strip_suffix(b"]")).ok_or_else(bad)?;
    if kind.is_empty() {
        return Err(bad());
    }
    Ok((kind.to_vec(), TEXT.decimal("an inode number", inode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let namespaces = read(std::process::id()).unwrap();
        for name in ["mnt", "pid", "net", "uts", "ipc"] {
            assert!(namespaces.get(name).is_some(), "{name}");
        }
        assert_eq!(namespaces.differing(&namespaces), Vec::<&[u8]>::new());
        let mut other = namespaces.clone();
        other.0.retain(|n| n.name != b"uts");
        other.0[0].inode = None;
        assert_eq!(other.differing(&namespaces).len(), 2);
        assert_eq!(namespaces.differing(&other).len(), 2);
    }

    #[test]
    fn a_link() {
        assert_eq!(parse(b"net:[4026531833]").unwrap(), (b"net".to_vec(), 4_026_531_833));
        for bad in [&b""[..], b"net", b"net:", b"net:[", b"net:[x]", b"net:[1", b":[1]"] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
