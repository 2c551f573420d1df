//! Where an image is read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Something that can be read at any offset, without a position of its own.
///
/// An image that arrives on a pipe must be stored first (a temporary file, a memfd): nothing of it may be believed
/// before its last byte was checked.
pub trait ReadAt {
    /// Reads up to `buffer.len()` bytes from `offset` and says how many; 0 only at the end, or for an empty buffer.
    ///
    /// # Errors
    ///
    /// As of `pread(2)`. [`io::ErrorKind::Interrupted`] makes the caller try again.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buffer, offset)
    }
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

impl<S: ReadAt + ?Sized> ReadAt for std::sync::Arc<S> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

/// Fills the buffer as far as the source goes and says how far that was.
pub(crate) fn read_full<S: ReadAt + ?Sized>(source: &S, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let Some(at) = offset.checked_add(done as u64) else { break };
        match source.read_at(&mut buffer[done..], at) {
            Ok(0) => break,
            // A source that claims more than it was asked for is broken; do not run past the buffer for it.
            Ok(read) => done = done.saturating_add(read).min(buffer.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A source that is read from front to back in small pieces: it reads ahead, so that a record costs no system call.
#[derive(Debug)]
pub(crate) struct Ahead<S> {
    pub(crate) source: S,
    window: Vec<u8>,
    /// Where the window begins in the source, and how much of it is filled.
    start: u64,
    filled: usize,
}

/// What is read ahead. Pieces that are larger than half of it pass it by.
const WINDOW: usize = 64 << 10;

impl<S: ReadAt> Ahead<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, window: Vec::new(), start: 0, filled: 0 }
    }

    /// As [`read_full`].
    pub(crate) fn read_full(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let have = self.take(buffer, offset);
        let Some(rest) = buffer.get_mut(have..).filter(|rest| !rest.is_empty()) else { return Ok(have) };
        let Some(at) = offset.checked_add(have as u64) else { return Ok(have) };
        if rest.len() > WINDOW / 2 {
            return Ok(have + read_full(&self.source, rest, at)?);
        }
        self.window.resize(WINDOW, 0);
        self.filled = 0;
        self.start = at;
        self.filled = read_full(&self.source, &mut self.window, at)?;
        Ok(have + self.take(rest, at))
    }

    /// Copies what the window holds from `offset` on, and says how much that is.
    fn take(&self, buffer: &mut [u8], offset: u64) -> usize {
        let skip = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let have = skip.and_then(|skip| self.window.get(skip..self.filled)).unwrap_or_default();
        let length = have.len().min(buffer.len());
        buffer[..length].copy_from_slice(&have[..length]);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_like_a_file() {
        let source = vec![1, 2, 3];
        let mut buffer = [0; 2];
        assert_eq!(source.read_at(&mut buffer, 0).unwrap(), 2);
        assert_eq!(source.read_at(&mut buffer, 2).unwrap(), 1);
        assert_eq!(source.read_at(&mut buffer, 3).unwrap(), 0);
        assert_eq!(source.read_at(&mut buffer, u64::MAX).unwrap(), 0);
    }

    #[test]
    fn reading_ahead_gives_the_same_bytes() {
        let source: Vec<u8> = (0..3 * WINDOW as u32 + 7).map(|n| (n * 7 % 251) as u8).collect();
        let mut ahead = Ahead::new(source.clone());
        let mut at = 0;
        for length in [1, 24, 0, 5000, WINDOW / 2 + 1, 24, WINDOW / 2, WINDOW, 3, WINDOW, 24, 1] {
            let mut buffer = vec![0; length];
            let got = ahead.read_full(&mut buffer, at as u64).unwrap();
            assert_eq!(got, length.min(source.len() - at));
            assert_eq!(buffer[..got], source[at..at + got]);
            at += got;
        }
        assert_eq!(at, source.len());
        // Backwards and far beyond the end.
        let mut buffer = [0; 3];
        assert_eq!(ahead.read_full(&mut buffer, 5).unwrap(), 3);
        assert_eq!(buffer, source[5..8]);
        assert_eq!(ahead.read_full(&mut buffer, u64::MAX).unwrap(), 0);
        assert_eq!(ahead.read_full(&mut buffer, u64::MAX - 1).unwrap(), 0);
    }

    #[test]
    fn short_and_interrupted_reads_are_continued() {
        struct Slow(std::cell::Cell<bool>);
        impl ReadAt for Slow {
            fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
                self.0.set(!self.0.get());
                if self.0.get() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                b"hello"[..].read_at(&mut buffer[..1], offset)
            }
        }
        let mut buffer = [0; 8];
        assert_eq!(read_full(&Slow(false.into()), &mut buffer, 0).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
    }
}
