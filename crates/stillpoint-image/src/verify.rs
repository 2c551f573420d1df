//! The one way into an image: a single pass over every byte.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use prost::Message;

use crate::data::parse_payload;
use crate::error::{Damage, ImageError, Inconsistency, Place, Size, Unknown};
use crate::format::{
    Encoding, FORMAT_VERSION, FRAME_HEADER_LENGTH, FRAME_VERSION, FrameHeader, FrameType, MAGIC,
    PREAMBLE_LENGTH, PayloadHash, RootHasher, preamble,
};
use crate::grammar::{Fault, Grammar};
use crate::image::{DataFrame, FrameInfo, Parts, SavedTask, VerifiedImage, unpack};
use crate::records::{Header, Index, Object, Task, Thread, Trailer};
use crate::source::{Ahead, ReadAt};
use crate::strict::decode_exact;
use crate::writer::Sealed;

/// A payload buffer grows as its bytes arrive, from this size on, so that a length alone allocates nothing.
const FIRST_READ: usize = 64 << 10;

/// How much data there must be before a second thread is worth its start.
const SECOND_THREAD: u64 = 1 << 20;

/// What a record costs, at most, in sets and tables that know it by its id.
const LOOKUP: usize = 64;

/// How an image is verified.
pub struct VerifyOptions<'a> {
    /// Most bytes of memory that the records of the image may occupy; data is not held in memory, only where it is.
    /// Lists that grow may for a moment take up to three times that, and decoding a record some 200 MiB more.
    pub memory_limit: u64,
    /// Also decompress every chunk, instead of finding out on [`VerifiedImage::read_data`] that one does not unpack.
    /// Only an image that was made to deceive passes all other checks and fails this one.
    pub unpack: bool,
    /// Hash on a second thread once there is data. Without it, or if no thread can be had, verifying takes longer.
    pub second_thread: bool,
    /// Called after each frame with the bytes done so far; [`ControlFlow::Break`] ends the pass with
    /// [`ImageError::Interrupted`].
    pub progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl std::fmt::Debug for VerifyOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyOptions")
            .field("memory_limit", &self.memory_limit)
            .field("unpack", &self.unpack)
            .field("second_thread", &self.second_thread)
            .finish_non_exhaustive()
    }
}

impl<'a> VerifyOptions<'a> {
    /// The memory limit where none is set: 4 GiB.
    pub const DEFAULT_MEMORY_LIMIT: u64 = 4 << 30;

    /// The defaults, with this hook.
    pub fn with_progress(progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>) -> Self {
        Self { memory_limit: Self::DEFAULT_MEMORY_LIMIT, unpack: false, second_thread: true, progress }
    }
}

/// An image that nobody has looked at yet. There is nothing to be done with it but to verify it.
#[derive(Debug, Clone, Copy)]
pub enum Image {}

impl Image {
    /// Checks a whole image: checksums, order, limits, index, counts, root, and that nothing follows; and decodes all
    /// records. Takes one sequential pass.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn verify<S: ReadAt>(source: S) -> Result<VerifiedImage<S>, ImageError> {
        Self::verify_with(source, VerifyOptions::with_progress(&mut |_| ControlFlow::Continue(())))
    }

    /// As [`verify`](Self::verify), with limits and a hook of the caller's.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn verify_with<S: ReadAt>(
        source: S,
        options: VerifyOptions<'_>,
    ) -> Result<VerifiedImage<S>, ImageError> {
        std::thread::scope(|scope| Pass::new(source, options, scope).run()).map(VerifiedImage::from)
    }
}

struct Pass<'a, 'scope, 'env, S> {
    source: Ahead<S>,
    options: VerifyOptions<'a>,
    hashing: Hashing<'scope, 'env>,
    grammar: Grammar,
    offset: u64,
    memory: u64,
    header: Option<Header>,
    objects: Vec<Object>,
    tasks: Vec<SavedTask>,
    data: Vec<DataFrame>,
    frames: Vec<FrameInfo>,
    /// Frames that stand before the index, once it began, and how many of them it has listed.
    before_index: Option<usize>,
    listed: usize,
    unpacked: Vec<u8>,
}

impl<'a, 'scope, 'env, S: ReadAt> Pass<'a, 'scope, 'env, S> {
    fn new(source: S, options: VerifyOptions<'a>, scope: &'scope Scope<'scope, 'env>) -> Self {
        let threads = options.second_thread.then_some(scope);
        Self {
            source: Ahead::new(source),
            options,
            hashing: Hashing {
                root: Some(RootHasher::new(&preamble())),
                spare: Payload::default(),
                threads,
                worker: None,
            },
            grammar: Grammar::default(),
            offset: 0,
            memory: 0,
            header: None,
            objects: Vec::new(),
            tasks: Vec::new(),
            data: Vec::new(),
            frames: Vec::new(),
            before_index: None,
            listed: 0,
            unpacked: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Parts<S>, ImageError> {
        self.preamble()?;
        loop {
            let (bytes, header, encoding) = self.frame_header()?;
            let payload = self.payload(&header)?;
            if header.kind == FrameType::Trailer {
                return self.finish(payload.bytes(), &header);
            }
            self.take_record(payload.bytes(), &header, encoding)?;
            self.charge(size_of::<FrameInfo>() as u64)?;
            self.frames.push(FrameInfo { kind: header.kind, offset: self.offset, length: header.length });
            if header.kind == FrameType::Data && self.offset > SECOND_THREAD {
                self.hashing.start();
            }
            self.hashing.frame(bytes, payload);
            self.advance(FRAME_HEADER_LENGTH as u64 + u64::from(header.length))?;
            if (self.options.progress)(self.offset).is_break() {
                return Err(ImageError::Interrupted { offset: self.offset });
            }
        }
    }

    fn preamble(&mut self) -> Result<(), ImageError> {
        let mut bytes = [0; PREAMBLE_LENGTH];
        let length = self.read(&mut bytes, 0)?;
        let magic = length.min(MAGIC.len());
        if bytes[..magic] != MAGIC[..magic] {
            return Err(ImageError::NotAnImage);
        }
        if length < PREAMBLE_LENGTH {
            return Err(ImageError::Cut { at: self.place(), end: length as u64 });
        }
        let [.., v0, v1, r0, r1] = bytes;
        let version = u16::from_le_bytes([v0, v1]);
        if version != FORMAT_VERSION {
            return Err(self.unknown(Unknown::FormatVersion(version)));
        }
        let reserved = u16::from_le_bytes([r0, r1]);
        if reserved != 0 {
            return Err(self.unknown(Unknown::FormatFlags(reserved)));
        }
        self.advance(PREAMBLE_LENGTH as u64)
    }

    fn frame_header(&mut self) -> Result<([u8; FRAME_HEADER_LENGTH], FrameHeader, Encoding), ImageError> {
        let mut bytes = [0; FRAME_HEADER_LENGTH];
        let length = self.read(&mut bytes, self.offset)?;
        if length < FRAME_HEADER_LENGTH {
            return Err(ImageError::Cut { at: self.place(), end: self.offset.saturating_add(length as u64) });
        }
        let Some(header) = FrameHeader::from_bytes(&bytes) else {
            return Err(ImageError::Damaged { at: self.place(), what: Damage::FrameHeader });
        };
        let FrameHeader { kind, version, flags, length, .. } = header;
        let unknown_flags = || Unknown::Flags { kind, flags: flags.0 };
        let encoding = flags.encoding().ok_or_else(|| self.unknown(unknown_flags()))?;
        if let FrameType::Other(number) = kind {
            if flags.mandatory() {
                return Err(self.unknown(Unknown::FrameType(number)));
            }
        } else {
            if version != FRAME_VERSION {
                return Err(self.unknown(Unknown::FrameVersion { kind, version }));
            }
            // No writer of this version leaves a known frame optional or compresses anything but data.
            if !flags.mandatory() || (encoding != Encoding::Raw && kind != FrameType::Data) {
                return Err(self.unknown(unknown_flags()));
            }
        }
        let limit = kind.max_payload();
        if length > limit {
            let what = Size::Payload { kind, length: length.into(), limit };
            return Err(ImageError::TooLarge { at: self.place(), what });
        }
        Ok((bytes, header, encoding))
    }

    fn payload(&mut self, header: &FrameHeader) -> Result<Payload, ImageError> {
        let mut payload = self.hashing.buffer();
        let length = header.length as usize;
        payload.length = 0;
        while payload.length < length {
            let step = payload.length.max(FIRST_READ).min(length - payload.length);
            let end = payload.length + step;
            if payload.buffer.len() < end {
                payload.buffer.resize(end, 0);
            }
            let at = self.offset.saturating_add((FRAME_HEADER_LENGTH + payload.length) as u64);
            let read = self.read(&mut payload.buffer[payload.length..end], at)?;
            if read < step {
                return Err(ImageError::Cut { at: self.place(), end: at.saturating_add(read as u64) });
            }
            payload.length = end;
        }
        if crc32c::crc32c(payload.bytes()) != header.payload_crc {
            return Err(ImageError::Damaged { at: self.place(), what: Damage::Payload(header.kind) });
        }
        Ok(payload)
    }

    fn take_record(
        &mut self,
        payload: &[u8],
        header: &FrameHeader,
        encoding: Encoding,
    ) -> Result<(), ImageError> {
        let kind = header.kind;
        match kind {
            FrameType::Header => {
                let record: Header = self.decode(kind, payload)?;
                self.admit(|grammar| grammar.header(&record))?;
                self.header = Some(record);
            }
            FrameType::Object => {
                let record: Object = self.decode(kind, payload)?;
                self.admit(|grammar| grammar.object(&record))?;
                self.charge((size_of::<Object>() + LOOKUP + payload.len()) as u64)?;
                self.objects.push(record);
            }
            FrameType::Task => {
                let record: Task = self.decode(kind, payload)?;
                self.admit(|grammar| grammar.task(&record))?;
                self.charge(task_memory(&record, payload.len()))?;
                self.tasks.push(SavedTask { task: record, threads: Vec::new() });
            }
            FrameType::Thread => {
                let record: Thread = self.decode(kind, payload)?;
                self.admit(|grammar| grammar.thread(&record))?;
                self.charge(thread_memory(&record, payload.len()))?;
                // The grammar saw to it that there is a task.
                if let Some(task) = self.tasks.last_mut() {
                    task.threads.push(record);
                }
            }
            FrameType::Data => self.take_data(payload, header, encoding)?,
            FrameType::Index => self.take_index(payload)?,
            FrameType::Trailer | FrameType::Other(_) => self.admit(|grammar| grammar.optional(kind))?,
        }
        Ok(())
    }

    fn take_data(
        &mut self,
        payload: &[u8],
        header: &FrameHeader,
        encoding: Encoding,
    ) -> Result<(), ImageError> {
        let (record, front) = parse_payload(payload, encoding)
            .map_err(|error| Fault::from(Inconsistency::Chunk(error)).at(self.place()))?;
        self.admit(|grammar| grammar.data(record.object))?;
        let memory = size_of::<DataFrame>() + LOOKUP + size_of_val(record.runs.as_slice());
        self.charge(memory as u64)?;
        let (front_bytes, body) = payload.split_at_checked(front).unwrap_or_default();
        let frame = DataFrame {
            object: record.object,
            runs: record.runs.into_boxed_slice(),
            raw_length: record.raw_length,
            encoding,
            place: self.place(),
            body_offset: self.offset.saturating_add((FRAME_HEADER_LENGTH + front) as u64),
            body_length: body.len() as u32, // part of a payload whose length is a u32
            front_crc: crc32c::crc32c(front_bytes),
            payload_crc: header.payload_crc,
        };
        if self.options.unpack && encoding != Encoding::Raw {
            self.unpacked.resize(frame.raw_length as usize, 0);
            unpack(&frame, body, &mut self.unpacked)?;
        }
        self.data.push(frame);
        Ok(())
    }

    fn take_index(&mut self, payload: &[u8]) -> Result<(), ImageError> {
        let record: Index = self.decode(FrameType::Index, payload)?;
        self.admit(Grammar::index)?;
        let before = *self.before_index.get_or_insert(self.frames.len());
        let rest = self.frames.get(self.listed..before).unwrap_or_default();
        let matches = !record.entries.is_empty()
            && record.entries.len() <= rest.len()
            && record.entries.iter().zip(rest).all(|(entry, frame)| {
                entry.r#type == u32::from(frame.kind.number()) && entry.offset == frame.offset
            });
        if !matches {
            return Err(ImageError::Inconsistent { at: self.place(), what: Inconsistency::Index });
        }
        self.listed += record.entries.len();
        Ok(())
    }

    fn finish(mut self, payload: &[u8], header: &FrameHeader) -> Result<Parts<S>, ImageError> {
        let at = self.place();
        let record: Trailer = self.decode(FrameType::Trailer, payload)?;
        self.admit(Grammar::trailer)?;
        if self.before_index != Some(self.listed) {
            return Err(ImageError::Inconsistent { at, what: Inconsistency::Index });
        }
        if record.frames != at.frame || record.bytes != at.offset {
            let what = Inconsistency::Trailer { frames: record.frames, bytes: record.bytes, at };
            return Err(ImageError::Inconsistent { at, what });
        }
        let root = match self.hashing.finish() {
            Some(root) if record.root == root => root,
            _ => return Err(ImageError::Damaged { at, what: Damage::Root }),
        };
        self.advance(FRAME_HEADER_LENGTH as u64 + u64::from(header.length))?;
        if self.read(&mut [0], self.offset)? != 0 {
            return Err(ImageError::Trailing { offset: self.offset });
        }
        // Not to stop: the work is done. So that the caller sees the end.
        let _ = (self.options.progress)(self.offset);
        // The grammar saw to it that there is a header.
        let Some(header) = self.header else { return Err(ImageError::NotAnImage) };
        let sealed = Sealed { frames: at.frame + 1, bytes: self.offset, root };
        let Self { source, objects, tasks, data, frames, .. } = self;
        Ok(Parts { source: source.source, header, objects, tasks, data, frames, sealed })
    }

    fn place(&self) -> Place {
        Place { frame: self.frames.len() as u64, offset: self.offset }
    }

    fn unknown(&self, what: Unknown) -> ImageError {
        ImageError::Unknown { at: self.place(), what }
    }

    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, ImageError> {
        self.source.read_full(buffer, offset).map_err(|source| ImageError::Io {
            doing: "read",
            offset,
            source,
        })
    }

    fn advance(&mut self, length: u64) -> Result<(), ImageError> {
        let next = self.offset.checked_add(length);
        self.offset = next.ok_or(ImageError::TooLarge { at: self.place(), what: Size::File })?;
        Ok(())
    }

    fn decode<M: Message + Default>(&self, kind: FrameType, payload: &[u8]) -> Result<M, ImageError> {
        decode_exact(payload)
            .map_err(|source| Fault::from(Inconsistency::Record { kind, source }).at(self.place()))
    }

    fn admit(&mut self, ask: impl FnOnce(&mut Grammar) -> Result<(), Fault>) -> Result<(), ImageError> {
        ask(&mut self.grammar).map_err(|fault| fault.at(self.place()))
    }

    fn charge(&mut self, memory: u64) -> Result<(), ImageError> {
        self.memory = self.memory.saturating_add(memory);
        let limit = self.options.memory_limit;
        if self.memory > limit {
            return Err(ImageError::TooLarge { at: self.place(), what: Size::Memory { limit } });
        }
        Ok(())
    }
}

/// What a decoded task occupies, at most: an empty repeated message takes two bytes in the file and a struct in memory.
fn task_memory(task: &Task, encoded: usize) -> u64 {
    let nested = size_of_val(task.interval_timers.as_slice())
        + size_of_val(task.limits.as_slice())
        + size_of_val(task.pending.as_slice());
    (size_of::<SavedTask>() + LOOKUP + nested + encoded) as u64
}

/// What a decoded thread occupies, at most: ids take one byte or more in the file and four in memory.
fn thread_memory(thread: &Thread, encoded: usize) -> u64 {
    let nested = size_of_val(thread.pending.as_slice());
    (size_of::<Thread>() + LOOKUP + nested + 4 * encoded) as u64
}

/// A payload in a buffer that is used again.
#[derive(Default)]
struct Payload {
    buffer: Vec<u8>,
    length: usize,
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

/// The root, computed here or, once there is data, on a thread of its own: the hash is the slowest part of the pass.
struct Hashing<'scope, 'env> {
    /// `None` while the worker has it.
    root: Option<RootHasher>,
    spare: Payload,
    /// `None` once a thread was started, or may not be.
    threads: Option<&'scope Scope<'scope, 'env>>,
    worker: Option<Worker<'scope>>,
}

type Job = ([u8; FRAME_HEADER_LENGTH], Payload);

struct Worker<'scope> {
    jobs: SyncSender<Job>,
    done: Receiver<Payload>,
    /// Buffers given to the worker and not yet back.
    away: usize,
    thread: ScopedJoinHandle<'scope, RootHasher>,
}

/// Buffers in use: one is filled while another is hashed and a third waits.
const BUFFERS: usize = 3;

impl Hashing<'_, '_> {
    /// Starts the worker, unless it runs already or cannot be had.
    fn start(&mut self) {
        let Some(scope) = self.threads.take() else { return };
        let Some(root) = self.root.clone() else { return };
        let (jobs, queue) = sync_channel::<Job>(BUFFERS);
        let (give_back, done) = sync_channel(BUFFERS);
        let work = move || {
            let mut root = root;
            for (header, payload) in queue {
                root.frame(&header, &PayloadHash::of(payload.bytes(), &[]));
                // The other side is gone if the pass ended early; then the queue ends too.
                let _ = give_back.send(payload);
            }
            root
        };
        if let Ok(thread) = std::thread::Builder::new().name("image hash".into()).spawn_scoped(scope, work) {
            self.root = None;
            self.worker = Some(Worker { jobs, done, away: 0, thread });
        }
    }

    /// A buffer for the next payload.
    fn buffer(&mut self) -> Payload {
        let Some(worker) = &mut self.worker else { return std::mem::take(&mut self.spare) };
        let back = if worker.away < BUFFERS { worker.done.try_recv().ok() } else { worker.done.recv().ok() };
        worker.away -= usize::from(back.is_some());
        back.unwrap_or_default()
    }

    fn frame(&mut self, header: [u8; FRAME_HEADER_LENGTH], payload: Payload) {
        if let Some(worker) = &mut self.worker {
            // Fails only if the worker is gone, and then `finish` has no root to give.
            if worker.jobs.send((header, payload)).is_ok() {
                worker.away += 1;
            }
        } else if let Some(root) = &mut self.root {
            root.frame(&header, &PayloadHash::of(payload.bytes(), &[]));
            self.spare = payload;
        }
    }

    /// The root over all frames; `None` if the worker did not live to give it.
    fn finish(&mut self) -> Option<[u8; 32]> {
        if let Some(Worker { jobs, thread, .. }) = self.worker.take() {
            drop(jobs);
            self.root = thread.join().ok();
        }
        self.root.as_ref().map(RootHasher::root)
    }
}
