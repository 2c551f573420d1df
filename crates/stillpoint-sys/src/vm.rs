//! Another task's memory: process_vm_readv(2), process_vm_writev(2) and `/proc/PID/mem`.
//!
//! The first two go through the task's protections and cost the least; `/proc/PID/mem` ignores protections
//! (the kernel's FOLL_FORCE), which PROT_NONE areas with contents need.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use crate::{Error, Pid, RemoteAddr, Result};

/// One piece of remote memory: start and length in bytes.
pub type Piece = (RemoteAddr, u64);

/// The most pieces of one call: UIO_MAXIOV.
pub const MAX_PIECES: usize = 1024;

/// Reads pieces of a task's memory, one after the other, into `buffer`; returns how much was read, which is less
/// than asked for when a piece is not readable.
///
/// # Errors
///
/// EFAULT when not even the first page was readable, EPERM without ptrace access.
pub fn read_pieces(pid: Pid, pieces: &[Piece], buffer: &mut [u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote: Vec<libc::iovec> = pieces.iter().map(remote_iovec).collect();
    // SAFETY: `local` describes `buffer`, which is exclusively ours; the remote side is checked by the kernel.
    let got = unsafe {
        libc::process_vm_readv(signed(pid), &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
    };
    usize::try_from(got).map_err(|_| Error::last("reading a task's memory", Some(pid)))
}

/// Reads exactly `buffer.len()` bytes at an address.
///
/// # Errors
///
/// EFAULT when some of it is not readable.
pub fn read(pid: Pid, at: RemoteAddr, buffer: &mut [u8]) -> Result<()> {
    let got = read_pieces(pid, &[(at, buffer.len() as u64)], buffer)?;
    whole(pid, got, buffer.len(), "reading")
}

/// Writes `bytes` to the pieces, in order, through the task's protections; all of it or an error.
///
/// # Errors
///
/// EFAULT when some of it is not writable.
pub fn write_pieces(pid: Pid, pieces: &[Piece], bytes: &[u8]) -> Result<()> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote: Vec<libc::iovec> = pieces.iter().map(remote_iovec).collect();
    // SAFETY: the kernel only reads from `local`, which describes `bytes`; the remote side is checked by it.
    let put = unsafe {
        libc::process_vm_writev(signed(pid), &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
    };
    let put = usize::try_from(put).map_err(|_| Error::last("writing a task's memory", Some(pid)))?;
    whole(pid, put, bytes.len(), "writing")
}

/// Writes `bytes` at an address.
///
/// # Errors
///
/// EFAULT when some of it is not writable.
pub fn write(pid: Pid, at: RemoteAddr, bytes: &[u8]) -> Result<()> {
    write_pieces(pid, &[(at, bytes.len() as u64)], bytes)
}

/// `/proc/PID/mem`: a task's memory whatever its protections.
#[derive(Debug)]
pub struct Memory {
    pid: Pid,
    file: File,
}

impl Memory {
    /// Opens it for reading and writing.
    ///
    /// # Errors
    ///
    /// EACCES without ptrace access.
    pub fn open(pid: Pid) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(|e| Error::io("opening a task's memory", Some(pid), &e))?;
        Ok(Memory { pid, file })
    }

    /// Reads exactly `buffer.len()` bytes at an address.
    ///
    /// # Errors
    ///
    /// EIO when nothing is mapped there.
    pub fn read(&self, at: RemoteAddr, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, at.0)
            .map_err(|e| Error::io("reading a task's memory by force", Some(self.pid), &e))
    }

    /// Writes `bytes` at an address.
    ///
    /// # Errors
    ///
    /// EIO when nothing is mapped there.
    pub fn write(&self, at: RemoteAddr, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, at.0)
            .map_err(|e| Error::io("writing a task's memory by force", Some(self.pid), &e))
    }
}

/// A mapping of a file in this process, for the time of one look.
struct Window {
    start: *mut libc::c_void,
    length: usize,
}

impl Window {
    fn map(fd: impl AsFd, offset: u64, length: usize, protection: i32) -> Result<Self> {
        let at = libc::off_t::try_from(offset).map_err(|_| Error::last("mapping a file", None))?;
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away from anybody.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, at) };
        if start == libc::MAP_FAILED {
            return Err(Error::last("mapping a file", None));
        }
        Ok(Window { start, length })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and no pointer into it outlives this.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// Writes to a file through a mapping: to one of hugetlbfs, which has no write(2). The bytes must lie within the file.
///
/// # Errors
///
/// ENOMEM when there are not enough huge pages.
pub fn write_mapped(fd: impl AsFd, offset: u64, bytes: &[u8], page: u64) -> Result<()> {
    let inside = usize::try_from(offset % page).unwrap_or(0);
    let length = (inside + bytes.len()).next_multiple_of(usize::try_from(page).unwrap_or(1));
    let window = Window::map(fd, offset - offset % page, length, libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the window spans `length` bytes, of which `inside + bytes.len()` are used; a shared mapping has reserved
    // its huge pages, so none is missing. Nobody else of this process knows of it.
    unsafe {
        let to = window.start.cast::<u8>().add(inside);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
    }
    Ok(())
}

/// Whether the last page of a file holds anything past the file's end, where only mappings reach. The file must not
/// change meanwhile.
///
/// # Errors
///
/// When the file cannot be mapped for reading.
pub fn written_past_end(fd: impl AsFd) -> Result<bool> {
    const PAGE: usize = 4096;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::Errno {
        doing: "reading the size of a file".into(),
        pid: None,
        errno: errno.raw_os_error(),
    })?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let inside = usize::try_from(size % PAGE as u64).unwrap_or(0);
    if inside == 0 {
        return Ok(false);
    }
    let window = Window::map(fd, size - inside as u64, PAGE, libc::PROT_READ)?;
    // SAFETY: the page holds the file's last bytes, so it is within the file as the kernel counts, and stays so for
    // the caller says that the file does not change. Volatile: others may map it too.
    let rest = (inside..PAGE).map(|at| unsafe { window.start.cast::<u8>().add(at).read_volatile() });
    Ok(rest.into_iter().any(|byte| byte != 0))
}

fn remote_iovec(piece: &Piece) -> libc::iovec {
    libc::iovec {
        iov_base: piece.0.0 as *mut libc::c_void,
        iov_len: usize::try_from(piece.1).unwrap_or(usize::MAX),
    }
}

fn signed(pid: Pid) -> i32 {
    i32::try_from(pid).unwrap_or(-1)
}

fn whole(pid: Pid, got: usize, want: usize, doing: &str) -> Result<()> {
    if got == want {
        Ok(())
    } else {
        Err(Error::Errno { doing: format!("{doing} a task's memory"), pid: Some(pid), errno: libc::EFAULT })
    }
}
