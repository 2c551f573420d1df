//! Writing an image, front to back.

use std::io::{self, IoSlice, Write};

use prost::Message;

use crate::data::EncodedFrame;
use crate::error::{ImageError, Place, Size};
use crate::format::{
    FRAME_HEADER_LENGTH, FRAME_VERSION, Flags, FrameHeader, FrameType, INDEX_ENTRIES, PREAMBLE_LENGTH,
    PayloadHash, RootHasher, preamble,
};
use crate::grammar::{Fault, Grammar};
use crate::records::{Header, Index, IndexEntry, Object, Task, Thread, Trailer};

/// What is known of an image that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Frames in the file, with the trailer.
    pub frames: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// The root over all frames: two images with one root are the same image.
    pub root: [u8; 32],
}

/// Writes an image to a sink, in one pass and without seeks.
///
/// Records must come in the order of the format: [`header`](Self::header), [`object`](Self::object)s, each
/// [`task`](Self::task) with its [`thread`](Self::thread)s, data ([`append`](Self::append)), [`seal`](Self::seal). What
/// comes out of order, or contradicts what came before, is refused with the error that the reader would give; such a
/// refusal leaves the image as it was. After a failed write the writer refuses everything.
///
/// An image that is not sealed is no image: dropping the writer leaves a file that the reader calls cut off.
///
/// Records are small and written one by one, so wrap a file in a [`BufWriter`](io::BufWriter); large chunks pass it by.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    grammar: Grammar,
    root: RootHasher,
    index: Vec<IndexEntry>,
    /// Bytes and frames written.
    offset: u64,
    frames: u64,
    scratch: Vec<u8>,
    broken: bool,
}

impl<W: Write> Writer<W> {
    /// Starts an image at the sink's current position.
    ///
    /// # Errors
    ///
    /// If the sink does not take the first bytes.
    pub fn new(sink: W) -> Result<Self, ImageError> {
        let preamble = preamble();
        let mut writer = Self {
            sink,
            grammar: Grammar::default(),
            root: RootHasher::new(&preamble),
            index: Vec::new(),
            offset: 0,
            frames: 0,
            scratch: Vec::new(),
            broken: false,
        };
        writer.write_all(&preamble, &[], &[])?;
        writer.offset = PREAMBLE_LENGTH as u64;
        Ok(writer)
    }

    /// Writes the header. Its counts of tasks and threads must turn out true.
    ///
    /// # Errors
    ///
    /// If it is not the first record, or the sink fails.
    pub fn header(&mut self, header: &Header) -> Result<(), ImageError> {
        self.record(FrameType::Header, header, |grammar| grammar.header(header))
    }

    /// Writes an object.
    ///
    /// # Errors
    ///
    /// If its id is 0 or taken, it is too large, it comes out of order, or the sink fails.
    pub fn object(&mut self, object: &Object) -> Result<(), ImageError> {
        self.record(FrameType::Object, object, |grammar| grammar.object(object))
    }

    /// Writes a task, whose threads must follow.
    ///
    /// # Errors
    ///
    /// If its pid is 0 or taken, it refers to an object that was not written, the task before it has no thread, it comes
    /// out of order, or the sink fails.
    pub fn task(&mut self, task: &Task) -> Result<(), ImageError> {
        self.record(FrameType::Task, task, |grammar| grammar.task(task))
    }

    /// Writes a thread of the last task; the leader is the first.
    ///
    /// # Errors
    ///
    /// If it is no thread of that task, its tid is taken, it comes out of order, or the sink fails.
    pub fn thread(&mut self, thread: &Thread) -> Result<(), ImageError> {
        self.record(FrameType::Thread, thread, |grammar| grammar.thread(thread))
    }

    /// Writes a data frame that [`encode_data`](crate::encode_data) made.
    ///
    /// # Errors
    ///
    /// If its object was not written, the tasks are not those that the header announced, or the sink fails.
    pub fn append(&mut self, frame: &EncodedFrame<'_>) -> Result<(), ImageError> {
        self.check_usable()?;
        self.check_room(frame.stored_length())?;
        self.grammar.data(frame.object).map_err(|fault| fault.at(self.place()))?;
        self.write_frame(FrameType::Data, &frame.header, &frame.front, &frame.body, &frame.hash)
    }

    /// Writes the index and the trailer and flushes the sink, which it returns. Only now is it an image; whether it is
    /// also on disk is for the caller to see to (`fsync`, then rename).
    ///
    /// # Errors
    ///
    /// If the header is missing, the tasks are not those that it announced, or the sink fails.
    pub fn seal(mut self) -> Result<(W, Sealed), ImageError> {
        let entries = std::mem::take(&mut self.index);
        if entries.is_empty() {
            // There is no header: the grammar says so.
            self.record(FrameType::Index, &Index::default(), Grammar::index)?;
        }
        for part in entries.chunks(INDEX_ENTRIES) {
            self.record(FrameType::Index, &Index { entries: part.to_vec() }, Grammar::index)?;
        }
        let root = self.root.root();
        let trailer = Trailer { frames: self.frames, bytes: self.offset, root: root.to_vec() };
        self.record(FrameType::Trailer, &trailer, Grammar::trailer)?;
        let offset = self.offset;
        self.sink.flush().map_err(|source| ImageError::Io { doing: "write", offset, source })?;
        Ok((self.sink, Sealed { frames: self.frames, bytes: self.offset, root }))
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Frames written so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The sink, for looking at it. Writing to it spoils the image.
    pub fn sink(&self) -> &W {
        &self.sink
    }

    fn place(&self) -> Place {
        Place { frame: self.frames, offset: self.offset }
    }

    fn check_usable(&self) -> Result<(), ImageError> {
        if self.broken { Err(ImageError::Broken) } else { Ok(()) }
    }

    fn check_room(&self, length: u64) -> Result<(), ImageError> {
        match self.offset.checked_add(length) {
            Some(_) => Ok(()),
            None => Err(ImageError::TooLarge { at: self.place(), what: Size::File }),
        }
    }

    fn record<M: Message>(
        &mut self,
        kind: FrameType,
        record: &M,
        admit: impl FnOnce(&mut Grammar) -> Result<(), Fault>,
    ) -> Result<(), ImageError> {
        self.check_usable()?;
        let (length, limit) = (record.encoded_len() as u64, kind.max_payload());
        let length = match u32::try_from(length) {
            Ok(length) if length <= limit => length,
            _ => {
                let what = Size::Payload { kind, length, limit };
                return Err(ImageError::TooLarge { at: self.place(), what });
            }
        };
        self.check_room(FRAME_HEADER_LENGTH as u64 + u64::from(length))?;
        admit(&mut self.grammar).map_err(|fault| fault.at(self.place()))?;

        let mut payload = std::mem::take(&mut self.scratch);
        payload.clear();
        payload.reserve(length as usize);
        record.encode_raw(&mut payload);
        let header = FrameHeader {
            kind,
            version: FRAME_VERSION,
            flags: Flags::MANDATORY,
            length,
            payload_crc: crc32c::crc32c(&payload),
        };
        let hash = PayloadHash::of(&payload, &[]);
        let result = self.write_frame(kind, &header.to_bytes(), &payload, &[], &hash);
        self.scratch = payload;
        result
    }

    fn write_frame(
        &mut self,
        kind: FrameType,
        header: &[u8; FRAME_HEADER_LENGTH],
        front: &[u8],
        body: &[u8],
        hash: &PayloadHash,
    ) -> Result<(), ImageError> {
        self.write_all(header, front, body)?;
        self.root.frame(header, hash);
        if !matches!(kind, FrameType::Index | FrameType::Trailer) {
            self.index.push(IndexEntry { r#type: kind.number().into(), offset: self.offset });
        }
        self.offset += (header.len() + front.len() + body.len()) as u64;
        self.frames += 1;
        Ok(())
    }

    /// Writes three parts in one call where the sink can.
    fn write_all(&mut self, first: &[u8], second: &[u8], third: &[u8]) -> Result<(), ImageError> {
        let mut parts = [IoSlice::new(first), IoSlice::new(second), IoSlice::new(third)];
        let mut parts = &mut parts[..];
        // Drop empty parts at the front: a sink that is asked to write nothing answers 0, which would mean "full".
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let error = match self.sink.write_vectored(parts) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    IoSlice::advance_slices(&mut parts, written);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            // Part of the frame may be in the file: whatever followed would not be where the index says.
            self.broken = true;
            return Err(ImageError::Io { doing: "write", offset: self.offset, source: error });
        }
        Ok(())
    }
}
