//! The object table of a checkpoint: one id for each kernel object, saved once, whoever shares it.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use stillpoint_image::Message;

use super::record;
use crate::{Code, Error, Result};

/// What tells one shared kernel object from another while a tree is captured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A pipe or FIFO, by device and inode.
    Pipe(u64, u64),
    /// The inode of a deleted file or memfd, by device and inode.
    DeletedFile(u64, u64),
    /// A file that is executed or mapped, by device, inode and the path that it was reached by.
    FileName(u64, u64, Vec<u8>),
    /// A shared anonymous area, by device and inode of the file that the kernel keeps behind it.
    SharedMemory(u64, u64),
}

/// An id for a shared object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// It was met before; its record is made or being made.
    Known(u64),
    /// It is new; the caller makes its record.
    New(u64),
}

impl Met {
    /// The id, new or not.
    #[must_use]
    pub fn id(self) -> u64 {
        match self {
            Met::Known(id) | Met::New(id) => id,
        }
    }
}

/// Bytes that belong to an object and are written to the image after all records.
#[derive(Debug)]
pub struct Content {
    /// The object.
    pub object: u64,
    /// Where they come from.
    pub source: Source,
}

/// Where an object's contents come from.
#[derive(Debug)]
pub enum Source {
    /// Memory of the tool: what was queued in a pipe.
    Bytes(Vec<u8>),
    /// A file, read when its turn comes.
    File {
        /// A descriptor of the tool's own, whose position nobody shares.
        fd: OwnedFd,
        /// What of it holds data.
        extents: Vec<record::Extent>,
        /// Whether pages of zero bytes are left out: of a file that does not tell its holes.
        zero_elided: bool,
    },
}

/// The most that is read at once.
const CHUNK: usize = 1 << 20;

impl Content {
    /// How many bytes there are.
    #[must_use]
    pub fn length(&self) -> u64 {
        match &self.source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File { extents, .. } => extents.iter().map(|extent| extent.length).sum(),
        }
    }

    /// Hands the bytes to `sink`, in ascending order of offset, at most 1 MiB at a time.
    ///
    /// # Errors
    ///
    /// What `sink` returns; [`Code::Failed`] when the file cannot be read or is shorter than it was.
    pub fn stream(&self, sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        match &self.source {
            Source::Bytes(bytes) => {
                let mut offset = 0;
                for chunk in bytes.chunks(CHUNK) {
                    sink(offset, chunk)?;
                    offset += chunk.len() as u64;
                }
                Ok(())
            }
            Source::File { fd, extents, zero_elided } => {
                let mut buffer = vec![0; CHUNK];
                for extent in extents {
                    let end = extent.offset + extent.length;
                    let mut offset = extent.offset;
                    while offset < end {
                        let want = usize::try_from(end - offset).unwrap_or(CHUNK).min(CHUNK);
                        let got = match rustix::io::pread(fd, &mut buffer[..want], offset) {
                            Ok(0) => return Err(unreadable("the file became shorter while it was read")),
                            Ok(got) => got,
                            Err(Errno::INTR) => continue,
                            Err(errno) => return Err(unreadable(errno)),
                        };
                        if *zero_elided {
                            for run in runs(&buffer[..got]) {
                                sink(offset + run.start as u64, &buffer[run])?;
                            }
                        } else {
                            sink(offset, &buffer[..got])?;
                        }
                        offset += got as u64;
                    }
                }
                Ok(())
            }
        }
    }
}

/// The parts of a buffer, in whole pages but for the last, that are not zero.
fn runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let page = usize::try_from(crate::memory::PAGE).unwrap_or(1);
    for (n, part) in bytes.chunks(page).enumerate().filter(|(_, part)| part.iter().any(|&byte| byte != 0)) {
        let (start, end) = (n * page, n * page + part.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

fn unreadable(cause: impl std::fmt::Display) -> Box<Error> {
    Box::new(Error::new(Code::Failed, "reading the contents of a deleted file").cause(cause))
}

/// The object table of a checkpoint. Ids start at 1; 0 means "none".
#[derive(Debug, Default)]
pub struct Objects {
    last: u64,
    records: Vec<record::Object>,
    met: HashMap<Key, u64>,
    contents: Vec<Content>,
}

impl Objects {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An id for an object whose record is made later. Records are ordered by id, so what is referred to must be
    /// reserved before what refers to it.
    pub fn reserve(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The id of a shared object, reserved now if it was not met before.
    pub fn meet(&mut self, key: Key) -> Met {
        if let Some(&id) = self.met.get(&key) {
            return Met::Known(id);
        }
        let id = self.reserve();
        self.met.insert(key, id);
        Met::New(id)
    }

    /// The id of a shared object, if it was met before.
    #[must_use]
    pub fn known(&self, key: &Key) -> Option<u64> {
        self.met.get(key).copied()
    }

    /// The record of an id, once it was made.
    #[must_use]
    pub fn record(&self, id: u64) -> Option<&record::Object> {
        self.records.iter().rev().find(|object| object.id == id)
    }

    /// Makes the record of a reserved id.
    pub fn put(&mut self, id: u64, kind: &str, body: &impl Message) {
        debug_assert!(id != 0 && id <= self.last, "the id was not reserved");
        self.records.push(record::Object::with_body(id, kind, body));
    }

    /// Reserves an id and makes its record.
    pub fn add(&mut self, kind: &str, body: &impl Message) -> u64 {
        let id = self.reserve();
        self.put(id, kind, body);
        id
    }

    /// How many open file descriptions have a record.
    #[must_use]
    pub fn descriptions(&self) -> u64 {
        self.records.iter().filter(|object| super::registry::describes_open_file(&object.kind)).count() as u64
    }

    /// Adds contents to be written later.
    pub fn content(&mut self, object: u64, source: Source) {
        self.contents.push(Content { object, source });
    }

    /// The records ordered by id, and the contents ordered by object.
    #[must_use]
    pub fn into_parts(mut self) -> (Vec<record::Object>, Vec<Content>) {
        self.records.sort_by_key(|object| object.id);
        self.contents.sort_by_key(|content| content.object);
        (self.records, self.contents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_object_gets_one_id_and_stands_before_what_refers_to_it() {
        let mut objects = Objects::new();
        let pipe = objects.meet(Key::Pipe(1, 2));
        assert_eq!(pipe, Met::New(1));
        let end = objects.add("pipe-end", &record::PipeEnd { open: None, pipe: pipe.id() });
        assert_eq!(objects.meet(Key::Pipe(1, 2)), Met::Known(1));
        assert_eq!(objects.meet(Key::DeletedFile(1, 2)), Met::New(3));
        objects.put(pipe.id(), "pipe", &record::Pipe::default());
        let (records, _) = objects.into_parts();
        assert_eq!(records.iter().map(|object| object.id).collect::<Vec<_>>(), [pipe.id(), end]);
    }

    #[test]
    fn contents_come_in_chunks_and_a_shortened_file_is_an_error() {
        let file = rustix::fs::memfd_create("contents", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 3 << 20).unwrap();
        let extent = record::Extent { offset: 4096, length: (2 << 20) + 5 };
        let content = Content {
            object: 1,
            source: Source::File { fd: file, extents: vec![extent], zero_elided: false },
        };
        assert_eq!(content.length(), (2 << 20) + 5);
        let mut seen = Vec::new();
        content
            .stream(&mut |offset, bytes| {
                seen.push((offset, bytes.len()));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [(4096, 1 << 20), (4096 + (1 << 20), 1 << 20), (4096 + (2 << 20), 5)]);
        let Source::File { fd, .. } = &content.source else { unreachable!() };
        rustix::fs::ftruncate(fd, 1 << 20).unwrap();
        assert!(content.stream(&mut |_, _| Ok(())).is_err());
    }

    #[test]
    fn pages_of_zeroes_are_cut_out() {
        let mut bytes = vec![0; 5 * 4096 + 10];
        assert_eq!(runs(&bytes), []);
        (bytes[4095], bytes[4096], bytes[4 * 4096], bytes[5 * 4096 + 9]) = (1, 1, 1, 1);
        assert_eq!(runs(&bytes), [0..2 * 4096, 4 * 4096..5 * 4096 + 10]);
    }
}
