//! Processes, threads, children and descriptors: the directories of `/proc`.
//!
//! What a running task starts while it is being listed may be missed; list again once it is stopped, until
//! nothing new turns up.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::text::{Text, words};
use super::{source, stat};
use crate::{Error, Pid, Result};

const TEXT: Text = Text("listing tasks");

/// The threads of a process, ascending. The thread group leader is among them even when it is a zombie.
///
/// # Errors
///
/// ENOENT or ESRCH when the process is gone.
pub fn threads(pid: Pid) -> Result<Vec<Pid>> {
    numbers("listing a process's threads", &format!("/proc/{pid}/task"), false).map_err(|e| e.of(pid))
}

/// The open descriptors of a process, ascending; a thread id serves as well, for a thread with its own table.
/// Empty for a zombie.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT or ESRCH when the task is gone.
pub fn descriptors(pid: Pid) -> Result<Vec<u32>> {
    numbers("listing a task's descriptors", &format!("/proc/{pid}/fd"), false).map_err(|e| e.of(pid))
}

/// Every process that `/proc` shows, ascending. A `/proc` mounted with `hidepid` shows only the caller's own.
///
/// # Errors
///
/// When `/proc` cannot be read.
pub fn processes() -> Result<Vec<Pid>> {
    numbers("listing processes", "/proc", true)
}

/// The processes that one thread started, zombies included; none where the kernel has no such file
/// (CONFIG_PROC_CHILDREN).
///
/// # Errors
///
/// ENOENT or ESRCH when the thread is gone.
pub fn children_of_thread(pid: Pid, tid: Pid) -> Result<Option<Vec<Pid>>> {
    let directory = format!("/proc/{pid}/task/{tid}");
    match source::parse(TEXT.0, tid, &format!("{directory}/children"), parse_children) {
        Ok(children) => Ok(Some(children)),
        // Either the thread is gone or the kernel lacks the file: only the former lacks the directory too.
        Err(e) if e.errno() == Some(libc::ENOENT) && fs::metadata(&directory).is_ok() => Ok(None),
        Err(e) => Err(e),
    }
}

/// The children of a process, of all its threads, ascending; zombies included.
///
/// Scans all of `/proc` where the kernel has no `children` files: for a whole tree call [`parents`] once instead.
///
/// # Errors
///
/// ENOENT or ESRCH when the process is gone.
pub fn children(pid: Pid) -> Result<Vec<Pid>> {
    let mut children = Vec::new();
    for tid in threads(pid)? {
        match children_of_thread(pid, tid) {
            Ok(Some(found)) => children.extend(found),
            Ok(None) => return children_by_scan(pid),
            // A thread that ended hands its children to another one of the process, which may come later or may
            // have been passed; the scan sees them all.
            Err(e) if gone(&e) => return children_by_scan(pid),
            Err(e) => return Err(e),
        }
    }
    children.sort_unstable();
    Ok(children)
}

/// [`children`] by a scan of all of `/proc`.
///
/// # Errors
///
/// When `/proc` cannot be read, or a process's `stat` is not understood.
pub fn children_by_scan(pid: Pid) -> Result<Vec<Pid>> {
    Ok(parents()?.into_iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child).collect())
}

/// Every process with its parent, by one scan of `/proc`, ascending. Processes that end meanwhile are left out.
///
/// # Errors
///
/// When `/proc` cannot be read, or a process's `stat` is not understood.
pub fn parents() -> Result<Vec<(Pid, Pid)>> {
    let mut parents = Vec::new();
    for pid in processes()? {
        match stat::read(pid) {
            Ok(stat) => parents.push((pid, stat.ppid)),
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(parents)
}

/// Parses the text of `/proc/PID/task/TID/children`: numbers, each with a space behind it.
///
/// # Errors
///
/// Anything else.
pub fn parse_children(bytes: &[u8]) -> Result<Vec<Pid>> {
    if !matches!(bytes, [] | [.., b' ']) {
        return Err(TEXT.bad("a list of children that was cut", bytes));
    }
    words(bytes).map(|w| TEXT.decimal("a child", w)).collect()
}

/// Whether an error says that the task is no more.
pub(super) fn gone(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::ENOENT | libc::ESRCH))
}

/// The names of a directory that are numbers, ascending; other names are an error, or are passed over.
fn numbers(doing: &str, directory: &str, others: bool) -> Result<Vec<u32>> {
    let failed = |e: std::io::Error| Error::io(doing, None, &e);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match number(&name) {
            Some(number) => numbers.push(number),
            None if others => {}
            None => return Err(Error::parse(doing, format!("a name that is no number: {name:?}"))),
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn number(name: &OsStr) -> Option<u32> {
    TEXT.decimal("a number", name.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, id};

    #[test]
    fn threads_of_this_process() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let threads = threads(id()).unwrap();
        assert!(threads.contains(&id()) && threads.len() >= 2);
        assert!(threads.is_sorted());
        drop(stop);
        let _ = thread.join().unwrap();
    }

    #[test]
    fn children_both_ways() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        assert!(children(id()).unwrap().contains(&child.id()));
        assert!(children_by_scan(id()).unwrap().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(id()).unwrap().contains(&child.id()));
        assert!(gone(&threads(child.id()).unwrap_err()));
        assert!(gone(&children_of_thread(child.id(), child.id()).unwrap_err()));
    }

    #[test]
    fn descriptors_of_this_process() {
        use std::os::fd::AsRawFd;
        let file = fs::File::open("/dev/null").unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        assert!(descriptors(id()).unwrap().contains(&number));
    }

    #[test]
    fn a_list_of_children() {
        assert_eq!(parse_children(b"").unwrap(), []);
        assert_eq!(parse_children(b"7 12 4194304 ").unwrap(), [7, 12, 4_194_304]);
        assert!(parse_children(b"7 12").is_err());
        assert!(parse_children(b"7 x ").is_err());
        assert!(parse_children(b"7\n").is_err());
    }
}
