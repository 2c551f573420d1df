//! The layout of an image file, byte by byte. All integers are little endian.
//!
//! ```text
//!  offset 0
//!  +----------------------------------------------------------------------------------------------+
//!  | preamble, 16 bytes                                                                           |
//!  |   magic "\x89Stillpt\r\n\x1a\n" (12) | format version u16 = 1 | reserved u16 = 0              |
//!  +----------------------------------------------------------------------------------------------+
//!  | frame | Header                                       exactly one                             |
//!  +----------------------------------------------------------------------------------------------+
//!  | frame | Object                                       any number, each id once                |
//!  +----------------------------------------------------------------------------------------------+
//!  | frame | Task,  then its Thread frames, leader first  any number of such groups               |
//!  +----------------------------------------------------------------------------------------------+
//!  | frame | Data                                         any number                              |
//!  +----------------------------------------------------------------------------------------------+
//!  | frame | Index                                        one or more: where each frame above is  |
//!  +----------------------------------------------------------------------------------------------+
//!  | frame | Trailer                                      exactly one: counts and the root        |
//!  +----------------------------------------------------------------------------------------------+
//!  end of file: nothing may follow
//!
//!  A frame:
//!  +---------+-----------+---------+--------------+-------------------+-------------------+---------+
//!  | type u16| version u8| flags u8| length u32   | CRC32C of payload | CRC32C of the 12  | payload |
//!  |         |           |         | of payload   | u32               | bytes before, u32 | ...     |
//!  +---------+-----------+---------+--------------+-------------------+-------------------+---------+
//!  0         2           3         4              8                   12                  16
//!
//!  flags:   bit 0     mandatory: a reader that does not know the type must refuse the image
//!           bits 1-2  compression of a Data frame's bytes: 0 none, 1 LZ4 block, 2 Zstandard
//!           bits 3-7  zero
//!
//!  The payload of a Data frame:
//!  +------------+---------------------+-------------------------------------------------------------+
//!  | length u32 | DataHeader          | the bytes of all its runs, one after the other: raw_length  |
//!  | of header  | (protobuf)          | bytes, or fewer if compressed                               |
//!  +------------+---------------------+-------------------------------------------------------------+
//!  Every other payload is one protobuf message: see `proto/stillpoint.proto`.
//! ```
//!
//! **The root** is `BLAKE3-derive_key(ROOT_CONTEXT)` over the preamble and then, for each frame before the trailer, its
//! 16 header bytes and the plain BLAKE3 hash (32 bytes) of its payload. So payloads can be hashed on any thread, and
//! the root still fixes their order. It protects against damage and half-written files. It is no signature: whoever
//! can write the file can also compute a new root. Who needs to know the author signs the root.
//!
//! **Optional frames.** Between the Header and the first Index a frame whose type is unknown and whose mandatory bit
//! is clear is skipped; it is part of the index and the root all the same. Known types always carry the bit.
//!
//! **Exact records.** A record must be encoded the way this crate encodes it: a field that the reader does not know, a
//! field given twice, a default spelled out or fields out of order are refused. An old reader can so never drop a field
//! that a newer writer depends on; information that may be ignored travels in optional frames.
//!
//! **Overlap.** Within a Data frame runs ascend and do not overlap. Two Data frames may overlap: the later one in the
//! file holds the truth, as a writer that copies memory while tasks still run needs it.

/// The first twelve bytes. The first is not ASCII, and the line ends break when a transfer "converts" text.
pub const MAGIC: [u8; 12] = *b"\x89Stillpt\r\n\x1a\n";

/// The version of the layout that this crate reads and writes. Records evolve without it.
pub const FORMAT_VERSION: u16 = 1;

/// Length of the preamble in bytes.
pub const PREAMBLE_LENGTH: usize = 16;

/// Length of a frame header in bytes.
pub const FRAME_HEADER_LENGTH: usize = 16;

/// Most bytes that one Data frame holds, before compression.
pub const MAX_CHUNK: usize = 1 << 20;

/// Most runs in one Data frame.
pub const MAX_RUNS: usize = 4096;

/// Most bytes of an encoded `DataHeader`: enough for [`MAX_RUNS`] of the longest runs.
pub const MAX_DATA_HEADER: usize = 128 << 10;

/// Longest payload of any frame.
pub const MAX_PAYLOAD: u32 = 16 << 20;

/// Longest payload of the Header: it is decoded before anything else is known of the file.
pub const MAX_HEADER_PAYLOAD: u32 = 1 << 20;

/// Longest payload of an Index frame; a long index is several frames.
pub const MAX_INDEX_PAYLOAD: u32 = 1 << 20;

/// Most entries that the writer puts in one Index frame; of at most 17 bytes each, so [`MAX_INDEX_PAYLOAD`] holds them.
pub const INDEX_ENTRIES: usize = 1 << 15;

/// Longest payload of the Trailer.
pub const MAX_TRAILER_PAYLOAD: u32 = 1 << 10;

/// Longest payload of a Data frame.
pub const MAX_DATA_PAYLOAD: u32 = (4 + MAX_DATA_HEADER + MAX_CHUNK) as u32;

/// Separates the root from every other use of BLAKE3.
pub const ROOT_CONTEXT: &str = "stillpoint 2026-01 image root v1";

/// The version that every frame type has today.
pub const FRAME_VERSION: u8 = 1;

const FLAG_MANDATORY: u8 = 1;
const COMPRESSION_SHIFT: u8 = 1;
const COMPRESSION_MASK: u8 = 0b110;

/// The sixteen bytes that open a file of this version.
pub fn preamble() -> [u8; PREAMBLE_LENGTH] {
    let mut bytes = [0; PREAMBLE_LENGTH];
    bytes[..12].copy_from_slice(&MAGIC);
    bytes[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameType {
    /// A [`Header`](crate::records::Header).
    Header,
    /// An [`Object`](crate::records::Object).
    Object,
    /// A [`Task`](crate::records::Task).
    Task,
    /// A [`Thread`](crate::records::Thread).
    Thread,
    /// A [`DataHeader`](crate::records::DataHeader) and raw bytes.
    Data,
    /// An [`Index`](crate::records::Index).
    Index,
    /// A [`Trailer`](crate::records::Trailer).
    Trailer,
    /// A type that this version does not know.
    Other(u16),
}

impl FrameType {
    /// The type with this number in a frame header.
    pub fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Header,
            2 => Self::Object,
            3 => Self::Task,
            4 => Self::Thread,
            5 => Self::Data,
            6 => Self::Index,
            7 => Self::Trailer,
            other => Self::Other(other),
        }
    }

    /// The number that stands for this type in a frame header.
    pub fn number(self) -> u16 {
        match self {
            Self::Header => 1,
            Self::Object => 2,
            Self::Task => 3,
            Self::Thread => 4,
            Self::Data => 5,
            Self::Index => 6,
            Self::Trailer => 7,
            Self::Other(other) => other,
        }
    }

    /// The longest payload, in bytes, that a frame of this type may have.
    pub fn max_payload(self) -> u32 {
        match self {
            Self::Header => MAX_HEADER_PAYLOAD,
            Self::Object | Self::Task | Self::Thread | Self::Other(_) => MAX_PAYLOAD,
            Self::Data => MAX_DATA_PAYLOAD,
            Self::Index => MAX_INDEX_PAYLOAD,
            Self::Trailer => MAX_TRAILER_PAYLOAD,
        }
    }
}

impl std::fmt::Display for FrameType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Object => f.write_str("object"),
            Self::Task => f.write_str("task"),
            Self::Thread => f.write_str("thread"),
            Self::Data => f.write_str("data"),
            Self::Index => f.write_str("index"),
            Self::Trailer => f.write_str("trailer"),
            Self::Other(number) => write!(f, "type {number}"),
        }
    }
}

/// How the bytes of a Data frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// One LZ4 block.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// The flags byte of a frame header.
///
/// Any value can be held, so that a reader can report what it met; [`Flags::encoding`] tells whether it makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// A mandatory frame, not compressed.
    pub const MANDATORY: Self = Self(FLAG_MANDATORY);

    /// The flags of a Data frame.
    pub fn data(encoding: Encoding) -> Self {
        let bits = match encoding {
            Encoding::Raw => 0,
            Encoding::Lz4 => 1,
            Encoding::Zstd => 2,
        };
        Self(FLAG_MANDATORY | bits << COMPRESSION_SHIFT)
    }

    /// Whether a reader that does not know the frame's type must refuse the image.
    pub fn mandatory(self) -> bool {
        self.0 & FLAG_MANDATORY != 0
    }

    /// How the payload is stored; `None` if a bit is set that this version does not know.
    pub fn encoding(self) -> Option<Encoding> {
        if self.0 & !(FLAG_MANDATORY | COMPRESSION_MASK) != 0 {
            return None;
        }
        match (self.0 & COMPRESSION_MASK) >> COMPRESSION_SHIFT {
            0 => Some(Encoding::Raw),
            1 => Some(Encoding::Lz4),
            2 => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// A frame header: everything about a frame that can be known without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameType,
    /// The version of that type, [`FRAME_VERSION`].
    pub version: u8,
    /// Whether it may be skipped, and how it is compressed.
    pub flags: Flags,
    /// Length of the payload in bytes.
    pub length: u32,
    /// CRC32C of the payload as it is stored.
    pub payload_crc: u32,
}

impl FrameHeader {
    /// The bytes of this header, with its own checksum.
    pub fn to_bytes(self) -> [u8; FRAME_HEADER_LENGTH] {
        let mut bytes = [0; FRAME_HEADER_LENGTH];
        bytes[0..2].copy_from_slice(&self.kind.number().to_le_bytes());
        bytes[2] = self.version;
        bytes[3] = self.flags.0;
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header back; `None` if its checksum is wrong. No field is judged.
    pub fn from_bytes(bytes: &[u8; FRAME_HEADER_LENGTH]) -> Option<Self> {
        let [t0, t1, version, flags, l0, l1, l2, l3, p0, p1, p2, p3, h0, h1, h2, h3] = *bytes;
        if crc32c::crc32c(&bytes[..12]) != u32::from_le_bytes([h0, h1, h2, h3]) {
            return None;
        }
        Some(Self {
            kind: FrameType::from_number(u16::from_le_bytes([t0, t1])),
            version,
            flags: Flags(flags),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            payload_crc: u32::from_le_bytes([p0, p1, p2, p3]),
        })
    }
}

/// Computes the root of an image: see the [module](self) for its definition.
#[derive(Debug, Clone)]
pub struct RootHasher(blake3::Hasher);

impl RootHasher {
    /// A root that covers the preamble and no frame yet.
    pub fn new(preamble: &[u8; PREAMBLE_LENGTH]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(ROOT_CONTEXT);
        hasher.update(preamble);
        Self(hasher)
    }

    /// Adds the next frame.
    pub fn frame(&mut self, header: &[u8; FRAME_HEADER_LENGTH], payload: &PayloadHash) {
        self.0.update(header);
        self.0.update(&payload.0);
    }

    /// The root over all frames so far.
    pub fn root(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The BLAKE3 hash of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadHash([u8; 32]);

impl PayloadHash {
    /// Hashes a payload given in two parts, either of which may be empty.
    pub fn of(first: &[u8], second: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(first);
        hasher.update(second);
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_header_comes_back() {
        let header = FrameHeader {
            kind: FrameType::Other(0xbeef),
            version: 3,
            flags: Flags(0xff),
            length: u32::MAX,
            payload_crc: 0x0102_0304,
        };
        assert_eq!(FrameHeader::from_bytes(&header.to_bytes()), Some(header));
    }

    #[test]
    fn every_flipped_bit_of_a_frame_header_shows() {
        let header = FrameHeader {
            kind: FrameType::Task,
            version: FRAME_VERSION,
            flags: Flags::MANDATORY,
            length: 77,
            payload_crc: 99,
        };
        for bit in 0..FRAME_HEADER_LENGTH * 8 {
            let mut bytes = header.to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::from_bytes(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn type_numbers_and_types_are_one_to_one() {
        for number in 0..=u16::MAX {
            assert_eq!(FrameType::from_number(number).number(), number);
        }
    }

    #[test]
    fn flags_that_no_one_defined_are_noticed() {
        let known: Vec<u8> = (0..=u8::MAX).filter(|bits| Flags(*bits).encoding().is_some()).collect();
        assert_eq!(known, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_root_depends_on_order() {
        let header = |length| {
            FrameHeader {
                kind: FrameType::Object,
                version: 1,
                flags: Flags::MANDATORY,
                length,
                payload_crc: 0,
            }
            .to_bytes()
        };
        let hash = PayloadHash::of(b"x", b"");
        let mut one = RootHasher::new(&preamble());
        one.frame(&header(1), &hash);
        one.frame(&header(2), &hash);
        let mut other = RootHasher::new(&preamble());
        other.frame(&header(2), &hash);
        other.frame(&header(1), &hash);
        assert_ne!(one.root(), other.root());
    }
}
