//! What can be wrong with an image, and where.

use std::fmt;
use std::io;

use crate::data::ChunkError;
use crate::format::FrameType;
use crate::strict::RecordError;

/// Where in an image something was met: a frame and where it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the frame, from 0.
    pub frame: u64,
    /// Byte offset of the frame in the file.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} at byte {}", self.frame, self.offset)
    }
}

/// Why an image cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be read or written.
    #[error("cannot {doing} the image at byte {offset}")]
    Io {
        /// "read" or "write".
        doing: &'static str,
        /// Byte offset in the file.
        offset: u64,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("this is not a Stillpoint image: it does not begin like one")]
    NotAnImage,
    /// The file ends too early: a checkpoint that did not finish, or a copy that was cut.
    #[error("the image is cut off: it ends at byte {end}, within or before {at}")]
    Cut {
        /// The frame that is not whole.
        at: Place,
        /// Where the file ends.
        end: u64,
    },
    /// Bytes follow the trailer.
    #[error("the image ends at byte {offset}, but more bytes follow")]
    Trailing {
        /// The end of the trailer.
        offset: u64,
    },
    /// A checksum or the root does not fit the bytes.
    #[error("the image is damaged: {at}: {what}")]
    Damaged {
        /// The frame.
        at: Place,
        /// Which check failed.
        what: Damage,
    },
    /// A frame stands where its type may not.
    #[error("{at}: {what}")]
    OutOfOrder {
        /// The frame.
        at: Place,
        /// What was met and what it followed.
        what: Misplaced,
    },
    /// Something exceeds a limit of the format or of the reader.
    #[error("{at}: {what}")]
    TooLarge {
        /// The frame.
        at: Place,
        /// What is too large.
        what: Size,
    },
    /// The image needs a newer Stillpoint.
    #[error("{at}: {what}: the image was written by a newer version, or is damaged")]
    Unknown {
        /// The frame.
        at: Place,
        /// What this version does not know.
        what: Unknown,
    },
    /// Each record is sound, but together they make no sense.
    #[error("the image contradicts itself: {at}: {what}")]
    Inconsistent {
        /// The frame.
        at: Place,
        /// The contradiction.
        what: Inconsistency,
    },
    /// [`encode_data`](crate::encode_data) was given something that is no data frame.
    #[error("cannot make a data frame")]
    Chunk(#[from] ChunkError),
    /// The writer failed earlier, or its image is not whole; it takes no more.
    #[error("the image cannot be continued: an earlier write failed")]
    Broken,
    /// The progress hook asked to stop.
    #[error("interrupted while verifying the image at byte {offset}")]
    Interrupted {
        /// How far it came.
        offset: u64,
    },
}

/// Which check of the bytes failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The frame header's checksum.
    #[error("the checksum of the frame header is wrong")]
    FrameHeader,
    /// The payload's checksum.
    #[error("the checksum of the {0} payload is wrong")]
    Payload(FrameType),
    /// The trailer's root is not the root of the frames.
    #[error("the root hash in the trailer is not that of the frames")]
    Root,
    /// A compressed chunk does not decompress to what its header says.
    #[error("the compressed data does not unpack to the {expected} bytes that its header declares")]
    Compression {
        /// What the data header says.
        expected: u32,
    },
}

/// A frame where its type may not stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {found} frame may not stand {}", After(*after))]
pub struct Misplaced {
    /// The type met.
    pub found: FrameType,
    /// The type of the known frame before it, if there was one.
    pub after: Option<FrameType>,
}

struct After(Option<FrameType>);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("first"),
            Some(kind) => write!(f, "after a {kind} frame"),
        }
    }
}

/// Something that exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Size {
    /// The payload of a frame, in bytes.
    #[error("a {kind} payload of {length} bytes is over the limit of {limit}")]
    Payload {
        /// The frame's type.
        kind: FrameType,
        /// Its length.
        length: u64,
        /// The limit for that type.
        limit: u32,
    },
    /// What the verified records would occupy in memory, in bytes.
    #[error("the records need more than the {limit} bytes of memory that the reader allows")]
    Memory {
        /// The limit, [`VerifyOptions::memory_limit`](crate::VerifyOptions::memory_limit).
        limit: u64,
    },
    /// A length or offset that passes the end of a 64-bit file.
    #[error("the image is longer than 64-bit offsets can say")]
    File,
}

/// What this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// The version in the preamble.
    #[error("unknown format version {0}")]
    FormatVersion(u16),
    /// The reserved bytes of the preamble are not zero.
    #[error("unknown format flags {0:#06x}")]
    FormatFlags(u16),
    /// A frame type that is marked as mandatory.
    #[error("unknown mandatory frame type {0}")]
    FrameType(u16),
    /// A version of a known frame type.
    #[error("unknown version {version} of a {kind} frame")]
    FrameVersion {
        /// The type.
        kind: FrameType,
        /// Its version.
        version: u8,
    },
    /// Flags that have no meaning, or none for this type.
    #[error("unknown flags {flags:#04x} of a {kind} frame")]
    Flags {
        /// The type.
        kind: FrameType,
        /// All its flags.
        flags: u8,
    },
}

/// A contradiction between records, or between a record and the rules of its type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Inconsistency {
    /// The payload is not a record.
    #[error("the {kind} record: {source}")]
    Record {
        /// The frame's type.
        kind: FrameType,
        /// What is wrong with it.
        source: RecordError,
    },
    /// A data frame breaks its rules.
    #[error("{0}")]
    Chunk(ChunkError),
    /// An object with id 0, which means "none".
    #[error("an object has the id 0")]
    ZeroObject,
    /// Two objects with one id.
    #[error("two objects have the id {0}")]
    DuplicateObject(u64),
    /// A reference to an object that is not there.
    #[error("there is no object {0}, which the frame refers to")]
    MissingObject(u64),
    /// A task with pid 0.
    #[error("a task has the pid 0")]
    ZeroTask,
    /// Two tasks with one pid.
    #[error("two tasks have the pid {0}")]
    DuplicateTask(u32),
    /// A thread whose pid is not that of the task before it.
    #[error("thread {tid} of task {pid} follows task {task}")]
    ForeignThread {
        /// The thread's task, as it says.
        pid: u32,
        /// The thread.
        tid: u32,
        /// The task whose threads stand here.
        task: u32,
    },
    /// The first thread of a task is not its leader.
    #[error("the first thread of task {pid} is {tid}, not the leader")]
    LeaderNotFirst {
        /// The task.
        pid: u32,
        /// Its first thread.
        tid: u32,
    },
    /// Two threads with one tid.
    #[error("two threads have the tid {0}")]
    DuplicateThread(u32),
    /// A task that is no zombie and has no threads.
    #[error("task {0} has no thread and is not a zombie")]
    NoThreads(u32),
    /// The header's counts are not those of the records.
    #[error(
        "the header announces {announced_tasks} tasks and {announced_threads} threads, but there are {tasks} and \
         {threads}"
    )]
    Counts {
        /// `Header.tasks`.
        announced_tasks: u32,
        /// `Header.threads`.
        announced_threads: u32,
        /// Tasks met.
        tasks: u64,
        /// Threads met.
        threads: u64,
    },
    /// The root of the tree is not among the tasks.
    #[error("the root task {0} is not in the image")]
    NoRoot(u32),
    /// The index is not a list of the frames.
    #[error("the index does not list the frames that the image holds")]
    Index,
    /// The trailer's counts are not those of the file.
    #[error("the trailer announces {frames} frames in {bytes} bytes, but stands in {at}")]
    Trailer {
        /// `Trailer.frames`.
        frames: u64,
        /// `Trailer.bytes`.
        bytes: u64,
        /// The trailer.
        at: Place,
    },
}
