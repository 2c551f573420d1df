//! Data frames: the rules of a chunk, and the making of one on any thread.

use std::borrow::Cow;

use prost::Message;

use crate::codec;
use crate::format::{
    Encoding, FRAME_HEADER_LENGTH, FRAME_VERSION, Flags, FrameHeader, FrameType, MAX_CHUNK, MAX_DATA_HEADER,
    MAX_RUNS, PayloadHash,
};
use crate::records::{DataHeader, Run};
use crate::strict::decode_exact;

/// How the bytes of a chunk are to be stored. A chunk that does not shrink is stored raw whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4: fast, about half the size for typical memory.
    Lz4,
    /// Zstandard at this level: 1 is quick, 19 is small. The library brings levels that it lacks into its range.
    Zstd(i32),
}

/// Which rule a chunk of data breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// No bytes at all.
    #[error("a data frame holds no bytes")]
    Empty,
    /// More bytes than a frame may hold.
    #[error("a data frame of {0} bytes is over the limit of {MAX_CHUNK}")]
    TooLong(u64),
    /// More runs than a frame may hold.
    #[error("a data frame of {0} runs is over the limit of {MAX_RUNS}")]
    TooManyRuns(usize),
    /// A run of length zero.
    #[error("the run at {0:#x} is empty")]
    EmptyRun(u64),
    /// A run that starts before the end of the one before it.
    #[error("the run at {0:#x} starts before the one before it ends")]
    Overlap(u64),
    /// A run that passes the end of 64-bit offsets.
    #[error("the run at {0:#x} passes the end of the address space")]
    Overflow(u64),
    /// The runs do not add up to the bytes.
    #[error("the runs of a data frame hold {runs} bytes, but it declares {declared}")]
    Sum {
        /// All runs together.
        runs: u64,
        /// The bytes that are there, or `raw_length`.
        declared: u64,
    },
    /// The stored bytes are not as many as they must be: all for raw bytes, fewer for compressed ones.
    #[error("a data frame of {declared} bytes stores {stored}")]
    Stored {
        /// `raw_length`.
        declared: u64,
        /// The rest of the payload.
        stored: u64,
    },
    /// The payload is shorter than its own header says.
    #[error("the header of a data frame does not fit its payload")]
    NoHeader,
    /// The header is no `DataHeader`.
    #[error("the header of a data frame: {0}")]
    Header(#[from] crate::strict::RecordError),
}

/// Runs must ascend without overlap, none empty, and add up to `declared` bytes.
fn check_runs(runs: &[Run], declared: u64) -> Result<(), ChunkError> {
    if declared == 0 {
        return Err(ChunkError::Empty);
    }
    if declared > MAX_CHUNK as u64 {
        return Err(ChunkError::TooLong(declared));
    }
    if runs.len() > MAX_RUNS {
        return Err(ChunkError::TooManyRuns(runs.len()));
    }
    let mut free_from = 0;
    let mut sum = 0u64;
    for run in runs {
        if run.length == 0 {
            return Err(ChunkError::EmptyRun(run.offset));
        }
        if run.offset < free_from {
            return Err(ChunkError::Overlap(run.offset));
        }
        free_from = run.offset.checked_add(run.length).ok_or(ChunkError::Overflow(run.offset))?;
        // Runs do not overlap, so their sum is at most the end of the last one.
        sum = sum.saturating_add(run.length);
    }
    if sum != declared {
        return Err(ChunkError::Sum { runs: sum, declared });
    }
    Ok(())
}

/// Reads the front of a Data payload; returns the header and where the stored bytes begin.
pub(crate) fn parse_payload(payload: &[u8], encoding: Encoding) -> Result<(DataHeader, usize), ChunkError> {
    let (length, rest) = payload.split_first_chunk::<4>().ok_or(ChunkError::NoHeader)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_DATA_HEADER {
        return Err(ChunkError::NoHeader);
    }
    let (header, stored) = rest.split_at_checked(length).ok_or(ChunkError::NoHeader)?;
    let header: DataHeader = decode_exact(header)?;
    check_runs(&header.runs, header.raw_length.into())?;
    let fits = match encoding {
        Encoding::Raw => stored.len() == header.raw_length as usize,
        Encoding::Lz4 | Encoding::Zstd => stored.len() < header.raw_length as usize,
    };
    if !fits {
        let stored = stored.len() as u64;
        return Err(ChunkError::Stored { declared: header.raw_length.into(), stored });
    }
    Ok((header, 4 + length))
}

/// A data frame, complete with checksums and hash, ready for [`Writer::append`](crate::Writer::append).
#[derive(Debug, Clone)]
pub struct EncodedFrame<'a> {
    pub(crate) object: u64,
    pub(crate) header: [u8; FRAME_HEADER_LENGTH],
    /// The length of the data header and the data header.
    pub(crate) front: Vec<u8>,
    /// The bytes as they are stored.
    pub(crate) body: Cow<'a, [u8]>,
    pub(crate) hash: PayloadHash,
    /// The caller's buffer, if it gave one and the body is another.
    spare: Option<Vec<u8>>,
}

impl EncodedFrame<'_> {
    /// The object whose data this is.
    pub fn object(&self) -> u64 {
        self.object
    }

    /// Length of the frame in the file, in bytes.
    pub fn stored_length(&self) -> u64 {
        (FRAME_HEADER_LENGTH + self.front.len() + self.body.len()) as u64
    }

    /// Gives back the buffer of raw bytes that [`encode_data`] was given by value, to be filled again. Its contents are
    /// unspecified. `None` if the bytes were borrowed.
    pub fn into_buffer(self) -> Option<Vec<u8>> {
        match (self.spare, self.body) {
            (Some(spare), _) => Some(spare),
            (None, Cow::Owned(body)) => Some(body),
            (None, Cow::Borrowed(_)) => None,
        }
    }
}

/// Makes a data frame of `object` from the bytes of all `runs`, one after the other.
///
/// Give the bytes by reference and, uncompressed, they are not copied at all: the writer hands them to the sink as they
/// are. Give a `Vec` to send the frame to another thread, and take the buffer back with [`EncodedFrame::into_buffer`].
/// All that costs time (compression, checksum, hash) happens here, on the calling thread, and depends on nothing else.
///
/// # Errors
///
/// If the runs do not ascend, overlap, are empty, do not add up to `raw.len()`, or there are more of them or of the
/// bytes than [`MAX_RUNS`] and [`MAX_CHUNK`].
pub fn encode_data<'a>(
    object: u64,
    runs: &[Run],
    raw: impl Into<Cow<'a, [u8]>>,
    compression: Compression,
) -> Result<EncodedFrame<'a>, ChunkError> {
    let raw = raw.into();
    check_runs(runs, raw.len() as u64)?;
    let raw_length = u32::try_from(raw.len()).map_err(|_| ChunkError::TooLong(raw.len() as u64))?;
    let front = encode_front(&DataHeader { object, runs: runs.to_vec(), raw_length });

    let (encoding, body, spare) = match codec::compress(&raw, compression) {
        Some((encoding, packed)) => {
            let spare = if let Cow::Owned(raw) = raw { Some(raw) } else { None };
            (encoding, Cow::Owned(packed), spare)
        }
        None => (Encoding::Raw, raw, None),
    };
    let header = FrameHeader {
        kind: FrameType::Data,
        version: FRAME_VERSION,
        flags: Flags::data(encoding),
        // Bounded by MAX_DATA_PAYLOAD, since the runs and the bytes are.
        length: (front.len() + body.len()) as u32,
        payload_crc: crc32c::crc32c_append(crc32c::crc32c(&front), &body),
    };
    let hash = PayloadHash::of(&front, &body);
    Ok(EncodedFrame { object, header: header.to_bytes(), front, body, hash, spare })
}

fn encode_front(header: &DataHeader) -> Vec<u8> {
    let length = header.encoded_len();
    let mut front = Vec::with_capacity(4 + length);
    front.extend_from_slice(&(length as u32).to_le_bytes());
    front.extend_from_slice(&header.encode_to_vec());
    front
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::MAX_DATA_PAYLOAD;

    fn run(offset: u64, length: u64) -> Run {
        Run { offset, length }
    }

    fn refusal(runs: &[Run], bytes: usize) -> ChunkError {
        encode_data(1, runs, vec![0; bytes], Compression::None).unwrap_err()
    }

    #[test]
    fn runs_that_break_a_rule_are_refused() {
        assert_eq!(refusal(&[], 0), ChunkError::Empty);
        assert_eq!(refusal(&[], 1), ChunkError::Sum { runs: 0, declared: 1 });
        assert_eq!(refusal(&[run(9, 0), run(9, 1)], 1), ChunkError::EmptyRun(9));
        assert_eq!(refusal(&[run(0, 2), run(1, 1)], 3), ChunkError::Overlap(1));
        assert_eq!(refusal(&[run(8, 1), run(4, 1)], 2), ChunkError::Overlap(4));
        assert_eq!(refusal(&[run(u64::MAX, 1)], 1), ChunkError::Overflow(u64::MAX));
        assert_eq!(refusal(&[run(2, u64::MAX)], 1), ChunkError::Overflow(2));
        assert_eq!(refusal(&[run(0, 5)], 4), ChunkError::Sum { runs: 5, declared: 4 });
        assert_eq!(refusal(&[run(0, MAX_CHUNK as u64 + 1)], MAX_CHUNK + 1), ChunkError::TooLong(1_048_577));
        let runs: Vec<Run> = (0..=MAX_RUNS as u64).map(|n| run(n * 2, 1)).collect();
        assert_eq!(refusal(&runs, runs.len()), ChunkError::TooManyRuns(4097));
    }

    #[test]
    fn adjacent_runs_are_allowed() {
        assert!(encode_data(1, &[run(0, 1), run(1, 1)], vec![0; 2], Compression::None).is_ok());
    }

    #[test]
    fn the_largest_chunk_fits() {
        let length = (MAX_CHUNK / MAX_RUNS) as u64;
        let start = u64::MAX - (MAX_RUNS as u64) * length * 2;
        let runs: Vec<Run> = (0..MAX_RUNS as u64).map(|n| run(start + n * length * 2, length)).collect();
        let frame = encode_data(u64::MAX, &runs, vec![0; MAX_CHUNK], Compression::None).unwrap();
        assert!(frame.front.len() - 4 <= MAX_DATA_HEADER);
        assert!(frame.stored_length() <= u64::from(MAX_DATA_PAYLOAD) + FRAME_HEADER_LENGTH as u64);
    }

    #[test]
    fn borrowed_bytes_are_not_copied_and_owned_ones_come_back() {
        let raw = vec![0; 4096];
        let frame = encode_data(1, &[run(0, 4096)], &raw[..], Compression::None).unwrap();
        assert!(matches!(frame.body, Cow::Borrowed(body) if body.as_ptr() == raw.as_ptr()));
        assert!(frame.into_buffer().is_none());
        let at = raw.as_ptr();
        for compression in [Compression::None, Compression::Zstd(1)] {
            let frame = encode_data(1, &[run(0, 4096)], raw.clone(), compression).unwrap();
            assert_eq!(frame.into_buffer().unwrap().capacity(), 4096);
        }
        let frame = encode_data(1, &[run(0, 4096)], raw, Compression::Lz4).unwrap();
        let buffer = frame.into_buffer().unwrap();
        assert_eq!(buffer.as_ptr(), at);
    }
}
