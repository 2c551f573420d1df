//! An image that was verified from its first byte to its last.

use std::collections::HashMap;

use crate::codec;
use crate::error::{Damage, ImageError, Place};
use crate::format::{Encoding, FrameType};
use crate::records::{Header, Object, Run, Task, Thread};
use crate::source::{ReadAt, read_full};
use crate::writer::Sealed;

/// A task and its threads.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedTask {
    /// The task.
    pub task: Task,
    /// Its threads, the leader first. Only a zombie has none.
    pub threads: Vec<Thread>,
}

/// Where a frame is, for tools that show an image's anatomy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its type.
    pub kind: FrameType,
    /// Where its header starts in the file.
    pub offset: u64,
    /// Length of its payload in bytes.
    pub length: u32,
}

/// A data frame: whose bytes it holds, and where they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFrame {
    /// The object whose data this is. It is in the image.
    pub object: u64,
    /// What parts of the object's data: ascending, not overlapping, none empty.
    pub runs: Box<[Run]>,
    /// The length of all runs together: at most [`MAX_CHUNK`](crate::format::MAX_CHUNK).
    pub raw_length: u32,
    /// How the bytes are stored.
    pub encoding: Encoding,
    /// The frame.
    pub place: Place,
    /// Where the stored bytes are in the file, and how many.
    pub(crate) body_offset: u64,
    pub(crate) body_length: u32,
    /// CRC32C of the payload before the stored bytes, and of all of it.
    pub(crate) front_crc: u32,
    pub(crate) payload_crc: u32,
}

impl DataFrame {
    /// Where the raw bytes are in the file, if they are stored raw; they can then be read without this crate, or mapped.
    /// Whoever does so forgoes the checksum that [`VerifiedImage::read_data`] repeats.
    pub fn raw_offset(&self) -> Option<u64> {
        (self.encoding == Encoding::Raw).then_some(self.body_offset)
    }

    /// Bytes that the data occupies in the file.
    pub fn stored_length(&self) -> u32 {
        self.body_length
    }

    /// Cuts the bytes of [`VerifiedImage::read_data`] into the runs. Stops early if there are fewer bytes than that.
    pub fn split<'a>(&'a self, raw: &'a [u8]) -> impl Iterator<Item = (Run, &'a [u8])> {
        let mut rest = raw;
        self.runs.iter().map_while(move |run| {
            let (bytes, after) = rest.split_at_checked(usize::try_from(run.length).ok()?)?;
            rest = after;
            Some((*run, bytes))
        })
    }
}

/// An image whose every byte was checked by [`Image::verify`](crate::Image::verify).
///
/// What holds of it: the records are in order and decoded, object ids are unique and not 0, tasks and threads are as
/// many as the header says, data and tasks refer to objects that exist. What the bodies of objects mean, and whether
/// references inside them resolve, is the engine's to check.
///
/// The file must not be changed while this exists. Records are in memory; the data is read again on demand, and each
/// chunk's checksum is then checked again.
#[derive(Debug)]
pub struct VerifiedImage<S> {
    pub(crate) source: S,
    pub(crate) header: Header,
    pub(crate) objects: Vec<Object>,
    pub(crate) tasks: Vec<SavedTask>,
    pub(crate) data: Vec<DataFrame>,
    pub(crate) frames: Vec<FrameInfo>,
    pub(crate) sealed: Sealed,
    object_by_id: HashMap<u64, usize>,
    data_by_object: HashMap<u64, Vec<usize>>,
}

/// The records of an image, before the lookup tables are made.
pub(crate) struct Parts<S> {
    pub(crate) source: S,
    pub(crate) header: Header,
    pub(crate) objects: Vec<Object>,
    pub(crate) tasks: Vec<SavedTask>,
    pub(crate) data: Vec<DataFrame>,
    pub(crate) frames: Vec<FrameInfo>,
    pub(crate) sealed: Sealed,
}

impl<S> From<Parts<S>> for VerifiedImage<S> {
    fn from(parts: Parts<S>) -> Self {
        let Parts { source, header, objects, tasks, data, frames, sealed } = parts;
        let object_by_id =
            objects.iter().enumerate().map(|(position, object)| (object.id, position)).collect();
        let mut data_by_object: HashMap<u64, Vec<usize>> = HashMap::new();
        for (position, chunk) in data.iter().enumerate() {
            data_by_object.entry(chunk.object).or_default().push(position);
        }
        Self { source, header, objects, tasks, data, frames, sealed, object_by_id, data_by_object }
    }
}

impl<S> VerifiedImage<S> {
    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All objects, as they stand in the file.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The object with this id.
    pub fn object(&self, id: u64) -> Option<&Object> {
        self.object_by_id.get(&id).and_then(|position| self.objects.get(*position))
    }

    /// All tasks with their threads, as they stand in the file.
    pub fn tasks(&self) -> &[SavedTask] {
        &self.tasks
    }

    /// All data frames, as they stand in the file. Where two overlap, the later one counts.
    pub fn data(&self) -> &[DataFrame] {
        &self.data
    }

    /// The data frames of one object, as they stand in the file. Where two overlap, the later one counts.
    pub fn data_of(&self, object: u64) -> impl Iterator<Item = &DataFrame> {
        let positions = self.data_by_object.get(&object).map(Vec::as_slice).unwrap_or_default();
        positions.iter().filter_map(|position| self.data.get(*position))
    }

    /// All frames but the trailer, as they stand in the file.
    pub fn frames(&self) -> &[FrameInfo] {
        &self.frames
    }

    /// Size and root of the image.
    pub fn sealed(&self) -> Sealed {
        self.sealed
    }

    /// What the image is read from.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: ReadAt> VerifiedImage<S> {
    /// Reads the bytes of a data frame of this image: all its runs, one after the other. Replaces what `raw` held; use
    /// one buffer for many frames.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or has changed, or if the compressed bytes do not unpack to what the frame declares:
    /// [`verify`](crate::Image::verify) checks the latter only when asked to.
    pub fn read_data(&self, frame: &DataFrame, raw: &mut Vec<u8>) -> Result<(), ImageError> {
        raw.resize(frame.raw_length as usize, 0);
        if frame.encoding == Encoding::Raw {
            return self.read_body(frame, raw);
        }
        codec::with_scratch(frame.body_length as usize, |packed| {
            self.read_body(frame, packed)?;
            unpack(frame, packed, raw)
        })
    }

    fn read_body(&self, frame: &DataFrame, body: &mut [u8]) -> Result<(), ImageError> {
        let read = read_full(&self.source, body, frame.body_offset).map_err(|source| ImageError::Io {
            doing: "read",
            offset: frame.body_offset,
            source,
        })?;
        if read < body.len() {
            return Err(ImageError::Cut {
                at: frame.place,
                end: frame.body_offset.saturating_add(read as u64),
            });
        }
        if crc32c::crc32c_append(frame.front_crc, body) != frame.payload_crc {
            return Err(ImageError::Damaged { at: frame.place, what: Damage::Payload(FrameType::Data) });
        }
        Ok(())
    }
}

pub(crate) fn unpack(frame: &DataFrame, packed: &[u8], raw: &mut [u8]) -> Result<(), ImageError> {
    if codec::decompress(packed, frame.encoding, raw) {
        return Ok(());
    }
    let what = Damage::Compression { expected: frame.raw_length };
    Err(ImageError::Damaged { at: frame.place, what })
}
