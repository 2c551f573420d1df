//! Whole files of `/proc`, read through one buffer per thread.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::{Error, Pid, Result};

/// The room offered to one read(2). seq_file hands out about a page at a time whatever is offered, other files
/// as much as fits.
const STEP: usize = 64 * 1024;

/// A buffer that grew beyond this is given back to the allocator after use.
const KEEP: usize = 4 * 1024 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Reads a file to its end and parses it; errors carry the task.
pub(super) fn parse<T>(
    doing: &str,
    pid: Pid,
    path: &str,
    parse: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<T> {
    parse_system(doing, path, parse).map_err(|e| e.of(pid))
}

/// Like [`parse`], for a file that the kernel makes up in one go (`single_open` of its seq_file): all of it comes with
/// the first read if there is room, so that a read which leaves room was the last.
pub(super) fn parse_single<T>(
    doing: &str,
    pid: Pid,
    path: &str,
    parse: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<T> {
    parse_file(doing, path, true, parse).map_err(|e| e.of(pid))
}

/// Like [`parse`], for a file that belongs to no task.
pub(super) fn parse_system<T>(doing: &str, path: &str, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    parse_file(doing, path, false, parse)
}

/// Like [`parse_single`], for a file of a directory that is open.
pub(super) fn parse_single_in<T>(
    doing: &str,
    pid: Pid,
    directory: &OwnedFd,
    name: &str,
    parse: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<T> {
    let open = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?))
    };
    read_file(doing, name, open, true, parse).map_err(|e| e.of(pid))
}

fn parse_file<T>(doing: &str, path: &str, single: bool, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    read_file(doing, path, || File::open(path), single, parse)
}

fn read_file<T>(
    doing: &str,
    path: &str,
    open: impl FnOnce() -> std::io::Result<File>,
    single: bool,
    parse: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<T> {
    // Taken out of the cell, so that a parser that reads another file finds an empty buffer, not a borrowed one.
    let mut buffer = BUFFER.take();
    let result = open()
        .and_then(|file| fill(file, single, &mut buffer))
        .map_err(|e| Error::io(format!("{doing} ({path})"), None, &e))
        .and_then(|filled| parse(&buffer[..filled]));
    if buffer.len() <= KEEP {
        BUFFER.set(buffer);
    }
    result
}

/// Reads to the end, which a read that leaves room has reached of a file in one go (`single`); the vector's length is
/// the room, the result how much of it is filled.
fn fill(mut file: File, single: bool, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut filled = 0;
    loop {
        if buffer.len() - filled < STEP / 2 {
            buffer.resize((filled + STEP).max(buffer.len() * 2), 0);
        }
        match file.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(filled),
            Ok(n) => {
                filled += n;
                if single && filled < buffer.len() {
                    return Ok(filled);
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
