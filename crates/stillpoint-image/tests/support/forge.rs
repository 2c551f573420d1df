//! Takes images apart and puts them together again, with right checksums and a right root around wrong contents: what
//! someone would do who means harm. Shared by the tests and the fuzzer.

use stillpoint_image::Message;
use stillpoint_image::format::{
    FRAME_HEADER_LENGTH, Flags, FrameHeader, FrameType, PREAMBLE_LENGTH, PayloadHash, RootHasher, preamble,
};
use stillpoint_image::records::{Index, IndexEntry, Trailer};

/// One frame, whatever its fields say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: FrameType,
    pub(crate) version: u8,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: FrameType, payload: Vec<u8>) -> Self {
        Self { kind, version: 1, flags: 1, payload }
    }

    pub(crate) fn record(kind: FrameType, record: &impl Message) -> Self {
        Self::new(kind, record.encode_to_vec())
    }

    /// An unknown frame that may be skipped.
    pub(crate) fn optional(payload: Vec<u8>) -> Self {
        Self { kind: FrameType::Other(0x7777), version: 9, flags: 0, payload }
    }

    /// The frame's header, with right checksums.
    pub(crate) fn header(&self) -> [u8; FRAME_HEADER_LENGTH] {
        FrameHeader {
            kind: self.kind,
            version: self.version,
            flags: Flags(self.flags),
            length: self.payload.len() as u32,
            payload_crc: crc32c::crc32c(&self.payload),
        }
        .to_bytes()
    }

    fn length(&self) -> u64 {
        (FRAME_HEADER_LENGTH + self.payload.len()) as u64
    }
}

/// The frames of a sound image, with its index and trailer.
pub(crate) fn dismantle(image: &[u8]) -> Vec<Frame> {
    try_dismantle(image).unwrap()
}

/// The frames of an image whose frame headers, at least, are sound.
pub(crate) fn try_dismantle(image: &[u8]) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut rest = image.get(PREAMBLE_LENGTH..)?;
    while !rest.is_empty() {
        let (header, after) = rest.split_first_chunk()?;
        let header = FrameHeader::from_bytes(header)?;
        let (payload, after) = after.split_at_checked(header.length as usize)?;
        frames.push(Frame {
            kind: header.kind,
            version: header.version,
            flags: header.flags.0,
            payload: payload.to_vec(),
        });
        rest = after;
    }
    Some(frames)
}

/// The frames of a sound image, without its index and trailer.
pub(crate) fn contents(image: &[u8]) -> Vec<Frame> {
    let mut frames = dismantle(image);
    frames.retain(|frame| !matches!(frame.kind, FrameType::Index | FrameType::Trailer));
    frames
}

/// The index that fits the frames.
pub(crate) fn index(frames: &[Frame]) -> Index {
    let mut offset = PREAMBLE_LENGTH as u64;
    let mut entries = Vec::new();
    for frame in frames {
        entries.push(IndexEntry { r#type: frame.kind.number().into(), offset });
        offset += frame.length();
    }
    Index { entries }
}

/// The trailer that fits the frames, index and all.
pub(crate) fn trailer(frames: &[Frame]) -> Trailer {
    let mut root = RootHasher::new(&preamble());
    for frame in frames {
        root.frame(&frame.header(), &PayloadHash::of(&frame.payload, &[]));
    }
    Trailer {
        frames: frames.len() as u64,
        bytes: PREAMBLE_LENGTH as u64 + frames.iter().map(Frame::length).sum::<u64>(),
        root: root.root().to_vec(),
    }
}

/// The bytes of these frames and no others.
pub(crate) fn assemble(frames: &[Frame]) -> Vec<u8> {
    let mut image = preamble().to_vec();
    for frame in frames {
        image.extend(frame.header());
        image.extend(&frame.payload);
    }
    image
}

/// An image of these frames with an index and a trailer that fit them.
pub(crate) fn seal(frames: &[Frame]) -> Vec<u8> {
    let mut frames = frames.to_vec();
    frames.push(Frame::record(FrameType::Index, &index(&frames)));
    seal_without_index(&frames)
}

/// An image of these frames with a trailer that fits them.
pub(crate) fn seal_without_index(frames: &[Frame]) -> Vec<u8> {
    let mut frames = frames.to_vec();
    frames.push(Frame::record(FrameType::Trailer, &trailer(&frames)));
    assemble(&frames)
}
