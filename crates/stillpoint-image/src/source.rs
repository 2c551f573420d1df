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
