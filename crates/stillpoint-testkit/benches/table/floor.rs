//! Floors: what nobody can leave out, done by one thread in the plainest way that is known to be fast, by a process
//! of its own so that its memory does not count as the command's.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Instant;

use super::shape::{MEMORY, map};

/// What is read, written or copied at once; it stays in the processor's cache.
const STEP: usize = 256 << 10;

/// Measures a floor and prints it in nanoseconds.
pub(crate) fn run(name: &str, path: &Path) -> Result<(), String> {
    match name.split_once(':') {
        Some(("save", pid)) => save(pid.parse().map_err(|_| "no pid")?, path),
        _ if name == "restore" => restore(path),
        _ => Err("no such floor".into()),
    }
}

/// Reads the memory of a process and writes it to a new file on tmpfs. Prints the time.
fn save(pid: i32, path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let start = largest_area(pid)?;
    let mut buffer = vec![0u8; STEP];
    let mut file = File::create(path).map_err(failed)?;
    let clock = Instant::now();
    for offset in (0..MEMORY).step_by(STEP) {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: STEP };
        let remote = libc::iovec { iov_base: (start + offset) as *mut libc::c_void, iov_len: STEP };
        // SAFETY: the local vector is the buffer; the remote one is only looked at by the kernel.
        let got = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
        if got.cast_unsigned() != STEP {
            return Err(format!("reading memory: {got}"));
        }
        file.write_all(&buffer).map_err(failed)?;
    }
    println!("{}", clock.elapsed().as_nanos());
    Ok(())
}

/// Populates fresh memory and copies into it, from a file on tmpfs through a small buffer. Prints the time.
fn restore(path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(failed)?;
    let clock = Instant::now();
    let start = map(MEMORY)?;
    for offset in (0..MEMORY).step_by(16 << 20) {
        // SAFETY: within what was mapped above.
        let part = unsafe { start.add(offset) };
        // SAFETY: as above; it gives the part pages and no more.
        if unsafe { libc::madvise(part.cast(), 16 << 20, libc::MADV_POPULATE_WRITE) } != 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
        // SAFETY: as above, and nothing else refers to it.
        let part = unsafe { std::slice::from_raw_parts_mut(part, 16 << 20) };
        let got = file.read(part).map_err(failed)?;
        if got < part.len() {
            file.rewind().map_err(failed)?;
        }
    }
    println!("{}", clock.elapsed().as_nanos());
    Ok(())
}

/// Where the area starts that holds the memory.
fn largest_area(pid: i32) -> Result<usize, String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|error| error.to_string())?;
    maps.lines()
        .filter_map(|line| {
            let (start, rest) = line.split_once('-')?;
            let (end, _) = rest.split_once(' ')?;
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        })
        .find(|(start, end)| end - start >= MEMORY)
        .map(|(start, _)| start)
        .ok_or_else(|| "the process has no such memory".to_owned())
}
