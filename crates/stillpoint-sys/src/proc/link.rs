//! The links of `/proc/PID`: what they show is a path as of the reader's root, or a name such as `pipe:[42]`.
//!
//! A path is a hint. The kernel appends ` (deleted)` to the path of a deleted file, which a file may also be
//! called; it prefixes `(unreachable)` to a path outside of the reader's root; and a name longer than a page
//! fails with ENAMETOOLONG. Open the link itself to get at the file, and compare device and inode.
//!
//! A thread id serves as well as a process id: `/proc/TID` exists, though it is not listed.

use crate::{Error, Pid, Result};

/// The program: `/proc/PID/exe`. ENOENT for a kernel thread or a zombie.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT or ESRCH when the task is gone or has none.
pub fn exe(pid: Pid) -> Result<Vec<u8>> {
    read(pid, "exe")
}

/// The working directory: `/proc/PID/cwd`.
///
/// # Errors
///
/// As [`exe`].
pub fn cwd(pid: Pid) -> Result<Vec<u8>> {
    read(pid, "cwd")
}

/// The root directory: `/proc/PID/root`.
///
/// # Errors
///
/// As [`exe`].
pub fn root(pid: Pid) -> Result<Vec<u8>> {
    read(pid, "root")
}

/// A descriptor: `/proc/PID/fd/FD`.
///
/// # Errors
///
/// As [`exe`].
pub fn fd(pid: Pid, fd: u32) -> Result<Vec<u8>> {
    read(pid, &format!("fd/{fd}"))
}

/// A namespace: `/proc/PID/ns/NAME`; see [`namespaces`](super::namespaces) for all of them, parsed.
///
/// # Errors
///
/// As [`exe`].
pub fn ns(pid: Pid, name: &str) -> Result<Vec<u8>> {
    read(pid, &format!("ns/{name}"))
}

/// The file of a memory area: `/proc/PID/map_files/START-END`. Unlike the name in `maps` it has nothing escaped.
///
/// # Errors
///
/// As [`exe`]; ENOENT when there is no area of these bounds with a file.
pub fn map_file(pid: Pid, start: u64, end: u64) -> Result<Vec<u8>> {
    read(pid, &format!("map_files/{start:x}-{end:x}"))
}

/// Any link below `/proc/PID`.
///
/// # Errors
///
/// As [`exe`].
pub fn read(pid: Pid, name: &str) -> Result<Vec<u8>> {
    let path = format!("/proc/{pid}/{name}");
    match rustix::fs::readlink(&path, Vec::new()) {
        Ok(link) => Ok(link.into_bytes()),
        Err(e) => Err(Error::Errno {
            doing: format!("reading the link {path}"),
            pid: Some(pid),
            errno: e.raw_os_error(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn links_of_this_process() {
        let pid = std::process::id();
        assert_eq!(exe(pid).unwrap(), std::env::current_exe().unwrap().as_os_str().as_bytes());
        assert_eq!(cwd(pid).unwrap(), std::env::current_dir().unwrap().as_os_str().as_bytes());
        assert_eq!(root(pid).unwrap(), b"/");
        assert!(ns(pid, "net").unwrap().starts_with(b"net:["));
        assert_eq!(fd(pid, 999_999).unwrap_err().errno(), Some(libc::ENOENT));
    }

    #[test]
    fn a_long_name_of_any_bytes() {
        let mut directory = std::env::temp_dir();
        directory.push(format!("stillpoint-link-{}", std::process::id()));
        let top = directory.clone();
        for _ in 0..12 {
            directory.push(OsStr::from_bytes(&[0xff; 255]));
        }
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("new\nline");
        let file = std::fs::File::create(&path).unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        assert_eq!(fd(std::process::id(), number).unwrap(), path.as_os_str().as_bytes());
        std::fs::remove_dir_all(top).unwrap();
        let mut deleted = path.into_os_string();
        deleted.push(" (deleted)");
        assert_eq!(fd(std::process::id(), number).unwrap(), deleted.as_bytes());
    }
}
