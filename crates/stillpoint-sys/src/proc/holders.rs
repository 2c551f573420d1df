//! Which processes hold a file open: to find out whether a pipe or file is shared with processes outside.
//!
//! Seen are the descriptors of every process that `/proc` shows and lets the caller read. Not seen are
//! descriptors in flight in a Unix socket, registered with io_uring, or held by the kernel itself.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::tasks::{descriptors, gone, processes, threads};
use super::{link, stat};
use crate::task::{Shared, kcmp};
use crate::{Pid, Result};

/// What is looked for.
#[derive(Debug, Clone)]
pub enum Sought {
    /// Pipes by the number in `pipe:[N]`.
    Pipes(BTreeSet<u64>),
    /// Sockets by the number in `socket:[N]`.
    Sockets(BTreeSet<u64>),
    /// A file of any kind, by st_dev and st_ino. Asks stat(2) of each descriptor, which is slower than reading
    /// its link and may hang where a network file system does.
    File {
        /// st_dev.
        dev: u64,
        /// st_ino.
        ino: u64,
    },
}

/// A process that holds what was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: Pid,
    /// The thread whose table it is in: the leader, but for a thread with a table of its own.
    pub tid: Pid,
    /// The comm of that thread.
    pub comm: Vec<u8>,
    /// The descriptor.
    pub fd: u32,
    /// What its link in `/proc` says.
    pub link: Vec<u8>,
}

/// The result of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holders {
    /// Who holds it, by pid and descriptor.
    pub found: Vec<Holder>,
    /// Processes whose descriptors may not be read: any of them may be a holder too.
    pub unreadable: usize,
}

/// Looks through the descriptors of all processes but those that `except` is true for.
///
/// # Errors
///
/// When `/proc` cannot be read. Processes that end meanwhile are passed over.
pub fn find(sought: &Sought, except: impl Fn(Pid) -> bool) -> Result<Holders> {
    let mut holders = Holders::default();
    for pid in processes()?.into_iter().filter(|pid| !except(*pid)) {
        match scan_process(pid, sought, &mut holders.found) {
            Ok(()) => {}
            Err(e) if gone(&e) => {}
            Err(e) if matches!(e.errno(), Some(libc::EACCES | libc::EPERM)) => holders.unreadable += 1,
            Err(e) => return Err(e),
        }
    }
    Ok(holders)
}

fn scan_process(pid: Pid, sought: &Sought, found: &mut Vec<Holder>) -> Result<()> {
    scan_table(pid, pid, sought, found)?;
    for tid in threads(pid)?.into_iter().filter(|tid| *tid != pid) {
        // Threads nearly always share their leader's table. One that cannot be compared (no kcmp, no ptrace
        // access, or a leader that has ended and has no table any more) is read on its own.
        if kcmp(pid, tid, Shared::Descriptors).ok() != Some(Ordering::Equal) {
            let before = found.len();
            scan_table(pid, tid, sought, found)?;
            dedup(found, before);
        }
    }
    Ok(())
}

/// Drops what a thread holds under the same number as another of its process: the same table, most likely.
fn dedup(found: &mut Vec<Holder>, before: usize) {
    let new = found.split_off(before);
    for holder in new {
        let same = |h: &Holder| h.pid == holder.pid && h.fd == holder.fd && h.link == holder.link;
        if !found.iter().any(same) {
            found.push(holder);
        }
    }
}

fn scan_table(pid: Pid, tid: Pid, sought: &Sought, found: &mut Vec<Holder>) -> Result<()> {
    let mut comm: Option<Vec<u8>> = None;
    for fd in descriptors(tid)? {
        let link = match link::fd(tid, fd) {
            Ok(link) => link,
            // Closed meanwhile, or the path is longer than the kernel can say.
            Err(e) if gone(&e) => continue,
            Err(e) if e.errno() == Some(libc::ENAMETOOLONG) => Vec::new(),
            Err(e) => return Err(e),
        };
        if !matches(sought, tid, fd, &link) {
            continue;
        }
        let comm = match &comm {
            Some(comm) => comm.clone(),
            None => comm.insert(stat::read_thread(pid, tid)?.comm).clone(),
        };
        found.push(Holder { pid, tid, comm, fd, link });
    }
    Ok(())
}

fn matches(sought: &Sought, tid: Pid, fd: u32, link: &[u8]) -> bool {
    match sought {
        Sought::Pipes(inodes) => number(link, b"pipe:[").is_some_and(|n| inodes.contains(&n)),
        Sought::Sockets(inodes) => number(link, b"socket:[").is_some_and(|n| inodes.contains(&n)),
        Sought::File { dev, ino } => std::fs::metadata(format!("/proc/{tid}/fd/{fd}"))
            .is_ok_and(|found| found.dev() == *dev && found.ino() == *ino),
    }
}

/// `pipe:[N]` with a prefix of `pipe:[`.
fn number(link: &[u8], prefix: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(prefix)?.strip_suffix(b"]")?;
    super::text::Text("reading the link of a descriptor").decimal("an inode number", digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio, id};

    #[test]
    fn a_pipe_to_a_child() {
        let mut child = Command::new("sleep").arg("100").stdout(Stdio::piped()).spawn().unwrap();
        let pipe = child.stdout.take().unwrap();
        let mine = u32::try_from(pipe.as_raw_fd()).unwrap();
        let link = link::fd(id(), mine).unwrap();
        let inode = number(&link, b"pipe:[").unwrap();

        let all = find(&Sought::Pipes([inode].into()), |_| false).unwrap();
        let outside = find(&Sought::Pipes([inode].into()), |pid| pid == id()).unwrap();
        let none = find(&Sought::Sockets([inode].into()), |_| false).unwrap();
        let stat = rustix::fs::fstat(&pipe).unwrap();
        let file = find(&Sought::File { dev: stat.st_dev, ino: stat.st_ino }, |pid| pid == id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        assert!(all.found.iter().any(|h| h.pid == id() && h.fd == mine));
        let expected = Holder { pid: child.id(), tid: child.id(), comm: b"sleep".to_vec(), fd: 1, link };
        assert_eq!(outside.found, [expected]);
        assert_eq!(none.found, []);
        assert_eq!(file.found, outside.found);
    }

    #[test]
    fn a_thread_with_its_own_table() {
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: unshare takes an integer; only this thread's own descriptors are affected, and it opens
            // those that it uses afterwards.
            #[allow(unsafe_code)]
            let done = unsafe { libc::unshare(libc::CLONE_FILES) };
            assert_eq!(done, 0);
            let (read, _write) = std::io::pipe().unwrap();
            send.send(u32::try_from(read.as_raw_fd()).unwrap()).unwrap();
            let _ = wait.recv();
        });
        let fd = receive.recv().unwrap();
        let tid = threads(id()).unwrap().into_iter().find(|tid| {
            link::fd(*tid, fd).is_ok_and(|l| l.starts_with(b"pipe:"))
                && kcmp(id(), *tid, Shared::Descriptors).unwrap() != Ordering::Equal
        });
        let tid = tid.unwrap();
        let inode = number(&link::fd(tid, fd).unwrap(), b"pipe:[").unwrap();
        let holders = find(&Sought::Pipes([inode].into()), |_| false).unwrap();
        drop(stop);
        thread.join().unwrap();
        assert_eq!(holders.found.len(), 2, "{holders:?}");
        assert!(holders.found.iter().all(|h| h.pid == id() && h.tid == tid));
    }
}
