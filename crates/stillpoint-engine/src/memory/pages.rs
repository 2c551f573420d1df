//! Copying pages from frozen tasks into the image.

use stillpoint_image::records::Run;
use stillpoint_sys::{Pid, RemoteAddr, vm};

use super::PAGE;
use super::areas::PageRange;
use crate::Result;

/// How much is copied at once: what one data frame of the image holds.
const CHUNK: u64 = 1 << 20;

/// Takes a part of an object's contents: its runs, ascending and not overlapping, and the bytes of all of them one
/// after the other. Gives back a buffer, that one or another.
pub type Sink<'a> = &'a mut dyn FnMut(&[Run], Vec<u8>) -> Result<Vec<u8>>;

/// Reads the pages of ranges (each with the offset of its contents in the object) and hands them to `sink` in
/// chunks. Pages of zero bytes are left out where that is allowed.
///
/// # Errors
///
/// What the kernel answered, or what `sink` returns.
pub fn copy(
    pid: Pid,
    ranges: impl IntoIterator<Item = (PageRange, u64)>,
    buffer: &mut Vec<u8>,
    sink: Sink<'_>,
) -> Result<()> {
    let mut batch = Batch { pid, forced: None, parts: Vec::new(), length: 0 };
    for (range, offset) in ranges {
        let mut at = range.start;
        while at < range.end {
            let room = CHUNK - batch.length;
            let part = PageRange { start: at, end: range.end.min(at + room), ..range };
            batch.add(part, offset + (at - range.start));
            at = part.end;
            if batch.length == CHUNK || batch.parts.len() == vm::MAX_PIECES {
                batch.flush(buffer, sink)?;
            }
        }
    }
    if batch.length > 0 {
        batch.flush(buffer, sink)?;
    }
    Ok(())
}

struct Batch {
    pid: Pid,
    /// Opened when first something must be read by force.
    forced: Option<vm::Memory>,
    parts: Vec<(PageRange, u64)>,
    length: u64,
}

impl Batch {
    fn add(&mut self, range: PageRange, offset: u64) {
        self.length += range.end - range.start;
        self.parts.push((range, offset));
    }

    fn flush(&mut self, buffer: &mut Vec<u8>, sink: Sink<'_>) -> Result<()> {
        let mut bytes = std::mem::take(buffer);
        // Only what it never held is zeroed.
        bytes.resize(usize::try_from(self.length).unwrap_or(0), 0);
        self.read(&mut bytes)?;
        let (runs, length) = compact(&self.parts, &mut bytes);
        bytes.truncate(length);
        *buffer = if bytes.is_empty() { bytes } else { sink(&runs, bytes)? };
        self.parts.clear();
        self.length = 0;
        Ok(())
    }

    fn read(&mut self, whole: &mut [u8]) -> Result<()> {
        if self.parts.iter().all(|(part, _)| part.readable) {
            let pieces: Vec<vm::Piece> =
                self.parts.iter().map(|(part, _)| (RemoteAddr(part.start), part.end - part.start)).collect();
            // A shortfall is tried again by force below, which also gives the better error.
            if vm::read_pieces(self.pid, &pieces, whole).is_ok_and(|got| got == whole.len()) {
                return Ok(());
            }
        }
        let memory = match &mut self.forced {
            Some(memory) => memory,
            closed => closed.insert(vm::Memory::open(self.pid)?),
        };
        let mut rest = whole;
        for (part, _) in &self.parts {
            let (piece, tail) =
                rest.split_at_mut(usize::try_from(part.end - part.start).unwrap_or(0).min(rest.len()));
            memory.read(RemoteAddr(part.start), piece)?;
            rest = tail;
        }
        Ok(())
    }
}

/// Drops pages of zero bytes from the buffer; returns the runs that are left and their length together.
fn compact(parts: &[(PageRange, u64)], buffer: &mut [u8]) -> (Vec<Run>, usize) {
    let page = usize::try_from(PAGE).unwrap_or(1);
    let mut runs: Vec<Run> = Vec::with_capacity(parts.len());
    let (mut from, mut to) = (0, 0);
    for (part, offset) in parts {
        let mut at = *offset;
        let pages = (part.end - part.start) / PAGE;
        for _ in 0..pages {
            let is_zero = part.zero_elided && buffer.get(from..from + page).is_some_and(is_zero);
            if !is_zero {
                if from != to {
                    buffer.copy_within(from..from + page, to);
                }
                to += page;
                match runs.last_mut() {
                    Some(run) if run.offset + run.length == at => run.length += PAGE,
                    _ => runs.push(Run { offset: at, length: PAGE }),
                }
            }
            from += page;
            at += PAGE;
        }
    }
    (runs, to)
}

/// Whether all bytes are zero. Compilers turn the inner loop into vector code; the outer one gives up early.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(256).all(|chunk| chunk.iter().fold(0, |all, &byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, pages: u64, zero_elided: bool) -> PageRange {
        PageRange { start, end: start + pages * PAGE, zero_elided, readable: true }
    }

    #[test]
    fn zero_pages_are_dropped_where_allowed() {
        let mut buffer = vec![0; 5 * 4096];
        buffer[4096] = 1;
        buffer[2 * 4096] = 2;
        let parts = [(range(0x1000, 4, true), 0x1000), (range(0x9000, 1, false), 0x9000)];
        let (runs, length) = compact(&parts, &mut buffer);
        assert_eq!(runs, [Run { offset: 0x2000, length: 8192 }, Run { offset: 0x9000, length: 4096 }]);
        assert_eq!(length, 3 * 4096);
        assert_eq!((buffer[0], buffer[4096], buffer[8192]), (1, 2, 0));
    }

    #[test]
    fn a_zero_page_with_one_byte_is_not_zero() {
        for at in [0, 255, 256, 4095] {
            let mut page = [0; 4096];
            page[at] = 0x80;
            assert!(!is_zero(&page));
        }
        assert!(is_zero(&[0; 4096]));
    }
}
