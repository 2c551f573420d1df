//! One test for each way in which a file can be bad. Those that change bytes and leave the checksums show that no damage
//! goes unseen; those that seal again show that the checks behind the checksums do not lean on them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;

use stillpoint_image::format::{
    Encoding, Flags, FrameHeader, FrameType, MAX_CHUNK, PREAMBLE_LENGTH, preamble,
};
use stillpoint_image::records::{DataHeader, Header, Index, IndexEntry, Object, Run, Task, Thread, Trailer};
use stillpoint_image::{
    ChunkError, Damage, Image, ImageError, Inconsistency, Message, Place, ReadAt, RecordError, Size, Unknown,
    VerifiedImage, VerifyOptions,
};
use support::forge::{self, Frame, assemble, contents, dismantle, seal, seal_without_index};
use support::sample::{header, objects, sample};

fn verify(bytes: &[u8]) -> Result<VerifiedImage<&[u8]>, ImageError> {
    Image::verify(bytes)
}

fn refusal(bytes: &[u8]) -> ImageError {
    verify(bytes).expect_err("the image was accepted")
}

#[track_caller]
fn inconsistency(bytes: &[u8]) -> Inconsistency {
    match refusal(bytes) {
        ImageError::Inconsistent { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_out_of_order(bytes: &[u8]) {
    let error = refusal(bytes);
    assert!(matches!(error, ImageError::OutOfOrder { .. }), "{error:?}");
}

fn frame_of(image: &[u8], kind: FrameType) -> usize {
    dismantle(image).iter().position(|frame| frame.kind == kind).unwrap()
}

/// A header that announces nothing, so that tasks are not needed.
fn bare(frames: impl IntoIterator<Item = Frame>) -> Vec<u8> {
    let mut all = vec![Frame::record(FrameType::Header, &Header::default())];
    all.extend(frames);
    seal(&all)
}

fn data_frame(encoding: Encoding, header: &DataHeader, stored: &[u8]) -> Frame {
    let mut payload = (header.encoded_len() as u32).to_le_bytes().to_vec();
    payload.extend(header.encode_to_vec());
    payload.extend(stored);
    Frame { flags: Flags::data(encoding).0, ..Frame::new(FrameType::Data, payload) }
}

/// An image with one object and one data frame.
fn with_data(encoding: Encoding, header: &DataHeader, stored: &[u8]) -> Vec<u8> {
    bare([
        Frame::record(FrameType::Object, &Object { id: 1, ..Object::default() }),
        data_frame(encoding, header, stored),
    ])
}

#[test]
fn the_sample_itself_is_sound() {
    let image = sample();
    assert!(verify(&image).is_ok());
    assert_eq!(seal(&contents(&image)), image);
    assert_eq!(assemble(&dismantle(&image)), image);
}

// ------------------------------------------------------------ damage

#[test]
fn cut_at_any_byte() {
    let image = sample();
    for length in 0..image.len() {
        match refusal(&image[..length]) {
            ImageError::Cut { end, .. } => assert_eq!(end, length as u64),
            other => panic!("cut at {length}: {other:?}"),
        }
    }
}

#[test]
fn cut_at_any_frame_and_sealed_again_without_a_trailer() {
    let frames = dismantle(&sample());
    for count in 0..frames.len() {
        let error = refusal(&assemble(&frames[..count]));
        let ImageError::Cut { at, end } = error else { panic!("{count} frames: {error:?}") };
        assert_eq!((at.frame, at.offset), (count as u64, end));
    }
}

#[test]
fn any_single_bit_flipped() {
    let mut frames = contents(&sample());
    frames.insert(3, Frame::optional(b"skip me".to_vec()));
    let mut image = seal(&frames);
    assert!(verify(&image).is_ok());
    for bit in 0..image.len() * 8 {
        image[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&image).is_err(), "bit {bit} of {} flipped and nobody noticed", image.len() * 8);
        image[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn any_single_byte_removed_or_doubled() {
    let image = sample();
    for position in 0..image.len() {
        let mut less = image.clone();
        let byte = less.remove(position);
        assert!(verify(&less).is_err(), "without byte {position}");
        let mut more = image.clone();
        more.insert(position, byte);
        assert!(verify(&more).is_err(), "with byte {position} twice");
    }
}

#[test]
fn frames_dropped() {
    let frames = dismantle(&sample());
    for position in 0..frames.len() {
        let mut less = frames.clone();
        less.remove(position);
        assert!(verify(&assemble(&less)).is_err(), "without frame {position}");
    }
}

#[test]
fn frames_doubled() {
    let frames = dismantle(&sample());
    for from in 0..frames.len() {
        for to in 0..=frames.len() {
            let mut more = frames.clone();
            more.insert(to, frames[from].clone());
            assert!(verify(&assemble(&more)).is_err(), "frame {from} also at {to}");
        }
    }
}

#[test]
fn frames_swapped() {
    let frames = dismantle(&sample());
    for one in 0..frames.len() {
        for other in 0..one {
            let mut swapped = frames.clone();
            swapped.swap(one, other);
            assert!(verify(&assemble(&swapped)).is_err(), "frames {one} and {other}");
        }
    }
}

#[test]
fn something_appended() {
    let image = sample();
    let end = image.len() as u64;
    for tail in [&b"\0"[..], b"garbage", &image, &preamble()] {
        let error = refusal(&[&image, tail].concat());
        assert!(matches!(error, ImageError::Trailing { offset } if offset == end), "{error:?}");
    }
}

#[test]
fn another_kind_of_file() {
    for bytes in [&b"\x7fELF"[..], b"#!/bin/sh\n", &[0; 4096], b"\x89Stillpt\n\x1a\n\0\0\0\0\0\0"] {
        assert!(matches!(refusal(bytes), ImageError::NotAnImage));
    }
}

#[test]
fn the_message_says_where() {
    let mut image = sample();
    let frames = dismantle(&image);
    let offset: usize =
        PREAMBLE_LENGTH + frames[..3].iter().map(|frame| 16 + frame.payload.len()).sum::<usize>();
    image[offset + 16] ^= 1;
    let error = refusal(&image);
    assert!(
        matches!(error, ImageError::Damaged { at: Place { frame: 3, offset: o }, what: Damage::Payload(FrameType::Task) }
            if o == offset as u64)
    );
    let wanted =
        format!("the image is damaged: frame 3 at byte {offset}: the checksum of the task payload is wrong");
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn a_file_that_cannot_be_read() {
    struct Bad;
    impl ReadAt for Bad {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    assert!(matches!(Image::verify(Bad), Err(ImageError::Io { doing: "read", offset: 0, .. })));
}

// ------------------------------------------------------------ the trailer and the index lie

fn with_trailer(change: impl FnOnce(&mut Trailer)) -> Vec<u8> {
    let mut frames = dismantle(&sample());
    frames.pop();
    let mut trailer = forge::trailer(&frames);
    change(&mut trailer);
    frames.push(Frame::record(FrameType::Trailer, &trailer));
    assemble(&frames)
}

#[test]
fn a_wrong_root() {
    for change in [
        (|trailer| trailer.root[0] ^= 1) as fn(&mut Trailer),
        |trailer| trailer.root.clear(),
        |trailer| trailer.root.push(0),
        |trailer| trailer.root = vec![0; 32],
    ] {
        let error = refusal(&with_trailer(change));
        assert!(matches!(error, ImageError::Damaged { what: Damage::Root, .. }), "{error:?}");
    }
}

#[test]
fn wrong_counts_in_the_trailer() {
    for change in [
        (|trailer| trailer.frames += 1) as fn(&mut Trailer),
        |trailer| trailer.frames = u64::MAX,
        |trailer| trailer.bytes -= 1,
        |trailer| trailer.bytes = 0,
    ] {
        assert!(matches!(inconsistency(&with_trailer(change)), Inconsistency::Trailer { .. }));
    }
}

fn with_index(change: impl FnOnce(&mut Index)) -> Vec<u8> {
    let mut frames = contents(&sample());
    let mut index = forge::index(&frames);
    change(&mut index);
    frames.push(Frame::record(FrameType::Index, &index));
    seal_without_index(&frames)
}

#[test]
fn an_index_that_lies() {
    for change in [
        (|index| index.entries[2].offset += 1) as fn(&mut Index),
        |index| index.entries[2].r#type = 5,
        |index| index.entries[2].r#type += 0x10000,
        |index| index.entries.swap(1, 2),
        |index| index.entries.truncate(3),
        |index| _ = index.entries.remove(0),
        |index| index.entries.clear(),
        |index| index.entries.push(IndexEntry { r#type: 6, offset: 99 }),
    ] {
        assert!(matches!(inconsistency(&with_index(change)), Inconsistency::Index));
    }
}

#[test]
fn an_index_in_parts_is_one_index() {
    let frames = contents(&sample());
    let index = forge::index(&frames);
    for cut in 1..index.entries.len() {
        let (first, second) = index.entries.split_at(cut);
        let part =
            |entries: &[IndexEntry]| Frame::record(FrameType::Index, &Index { entries: entries.to_vec() });
        let both = [&frames[..], &[part(first), part(second)]].concat();
        assert!(verify(&seal_without_index(&both)).is_ok());
        let first_only = [&frames[..], &[part(first)]].concat();
        assert!(matches!(inconsistency(&seal_without_index(&first_only)), Inconsistency::Index));
        let turned = [&frames[..], &[part(second), part(first)]].concat();
        assert!(matches!(inconsistency(&seal_without_index(&turned)), Inconsistency::Index));
        let twice = [&frames[..], &[part(first), part(second), part(second)]].concat();
        assert!(matches!(inconsistency(&seal_without_index(&twice)), Inconsistency::Index));
    }
}

#[test]
fn no_index() {
    assert_out_of_order(&seal_without_index(&contents(&sample())));
}

// ------------------------------------------------------------ order, with right checksums

#[test]
fn sections_out_of_order() {
    let image = sample();
    let frames = contents(&image);
    let of = |kind| frames[frame_of(&image, kind)].clone();
    let order = [FrameType::Header, FrameType::Object, FrameType::Task, FrameType::Data];
    for (position, late) in order.iter().enumerate() {
        for early in &order[..position] {
            // A second copy of an earlier section's frame, after the later one.
            let mut moved = frames.clone();
            let place = moved.iter().rposition(|frame| frame.kind == *late).unwrap();
            moved.insert(place + 1, of(*early));
            assert_out_of_order(&seal(&moved));
        }
    }
}

#[test]
fn no_header_first() {
    let frames = contents(&sample());
    assert_out_of_order(&seal(&frames[1..]));
    assert_out_of_order(&seal(&[]));
    let optional_first = [&[Frame::optional(Vec::new())], &frames[..]].concat();
    assert_out_of_order(&seal(&optional_first));
}

#[test]
fn two_headers() {
    let frames = contents(&sample());
    assert_out_of_order(&seal(&[&frames[..1], &frames[..]].concat()));
}

#[test]
fn a_thread_without_a_task() {
    let thread = Frame::record(FrameType::Thread, &Thread { pid: 7, tid: 7, ..Thread::default() });
    assert_out_of_order(&bare([thread]));
}

#[test]
fn frames_after_the_index() {
    let frames = contents(&sample());
    for frame in [Frame::optional(Vec::new()), frames[1].clone(), frames.last().unwrap().clone()] {
        let mut late = frames.clone();
        late.push(Frame::record(FrameType::Index, &forge::index(&frames)));
        late.push(frame);
        assert_out_of_order(&seal_without_index(&late));
    }
}

// ------------------------------------------------------------ what a newer version may have written

#[test]
fn unknown_format_versions() {
    let mut image = sample();
    image[12] = 2;
    assert!(matches!(refusal(&image), ImageError::Unknown { what: Unknown::FormatVersion(2), .. }));
    let mut image = sample();
    image[15] = 1;
    assert!(matches!(refusal(&image), ImageError::Unknown { what: Unknown::FormatFlags(0x100), .. }));
}

#[test]
fn an_unknown_mandatory_frame() {
    for number in [0, 8, 0x7777, u16::MAX] {
        let error = refusal(&bare([Frame::new(FrameType::Other(number), Vec::new())]));
        assert!(
            matches!(error, ImageError::Unknown { what: Unknown::FrameType(n), .. } if n == number),
            "{error:?}"
        );
    }
}

#[test]
fn an_unknown_optional_frame_is_skipped_but_sealed() {
    let frames = contents(&sample());
    for position in 1..=frames.len() {
        let mut more = frames.clone();
        more.insert(position, Frame::optional(b"later".to_vec()));
        let image = seal(&more);
        assert_eq!(verify(&image).unwrap().frames()[position].kind, FrameType::Other(0x7777));
        // Its bytes count: with another payload and a right checksum, the root no longer fits.
        let mut frames = dismantle(&image);
        frames[position].payload = b"hater".to_vec();
        let error = refusal(&assemble(&frames));
        assert!(matches!(error, ImageError::Damaged { what: Damage::Root, .. }), "{error:?}");
    }
}

#[test]
fn unknown_versions_and_flags_of_known_frames() {
    let image = sample();
    for position in 0..dismantle(&image).len() {
        for (version, flags) in [(0, 1), (2, 1), (1, 0), (1, 1 | 6), (1, 1 | 8), (1, 0x81)] {
            let mut frames = dismantle(&image);
            frames[position].version = version;
            frames[position].flags = flags;
            let error = refusal(&assemble(&frames));
            let what = match error {
                ImageError::Unknown { at, what } if at.frame == position as u64 => what,
                other => panic!("{other:?}"),
            };
            let right = match what {
                Unknown::FrameVersion { version: v, .. } => v == version && version != 1,
                Unknown::Flags { flags: f, .. } => f == flags && flags != 1,
                _ => false,
            };
            assert!(right, "{what:?}");
        }
    }
}

#[test]
fn compressed_records() {
    let frames = contents(&sample());
    for encoding in [Encoding::Lz4, Encoding::Zstd] {
        let mut packed = frames.clone();
        packed[1].flags = Flags::data(encoding).0;
        let error = refusal(&seal(&packed));
        assert!(matches!(error, ImageError::Unknown { what: Unknown::Flags { .. }, .. }), "{error:?}");
    }
}

#[test]
fn an_unknown_field_in_any_record() {
    let image = sample();
    for position in 0..dismantle(&image).len() {
        let mut frames = dismantle(&image);
        if frames[position].kind == FrameType::Data {
            continue;
        }
        frames[position].payload.extend([0xb8, 0x3e, 0x01]); // field 999, varint 1
        let what = inconsistency(&assemble(&frames));
        assert!(
            matches!(what, Inconsistency::Record { source: RecordError::Unfaithful, .. }),
            "frame {position}: {what:?}"
        );
    }
}

// ------------------------------------------------------------ hostile lengths

/// Notes the largest read that it was asked for.
struct Watched<'a>(&'a [u8], Cell<usize>);

impl ReadAt for Watched<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.set(self.1.get().max(buffer.len()));
        self.0.read_at(buffer, offset)
    }
}

fn lone_frame(kind: FrameType, length: u32) -> Vec<u8> {
    let mut image = preamble().to_vec();
    let header = FrameHeader { kind, version: 1, flags: Flags::MANDATORY, length, payload_crc: 0 };
    image.extend(header.to_bytes());
    image
}

#[test]
fn a_length_without_the_bytes_allocates_nothing() {
    for kind in [FrameType::Header, FrameType::Object, FrameType::Data, FrameType::Index] {
        let image = lone_frame(kind, kind.max_payload());
        let watched = Watched(&image, Cell::new(0));
        assert!(matches!(Image::verify(&watched).map(drop), Err(ImageError::Cut { .. })));
        assert!(watched.1.get() <= 64 << 10, "{kind}: read of {} bytes", watched.1.get());
    }
}

#[test]
fn a_length_over_the_limit() {
    for kind in [1, 2, 3, 4, 5, 6, 7].map(FrameType::from_number) {
        for length in [kind.max_payload() + 1, u32::MAX] {
            let error = refusal(&lone_frame(kind, length));
            assert!(
                matches!(error, ImageError::TooLarge { what: Size::Payload { length: l, .. }, .. } if l == length.into()),
                "{error:?}"
            );
        }
    }
}

#[test]
fn a_data_header_longer_than_its_frame() {
    for length in [1u32, 100, 1 << 20, u32::MAX] {
        let frame = Frame::new(FrameType::Data, length.to_le_bytes().to_vec());
        let object = Frame::record(FrameType::Object, &Object { id: 1, ..Object::default() });
        let what = inconsistency(&bare([object, frame]));
        assert!(matches!(what, Inconsistency::Chunk(ChunkError::NoHeader)), "{what:?}");
    }
    for short in 0..4 {
        let frame = Frame::new(FrameType::Data, vec![0; short]);
        let what = inconsistency(&bare([frame]));
        assert!(matches!(what, Inconsistency::Chunk(ChunkError::NoHeader)), "{what:?}");
    }
}

#[test]
fn records_that_need_more_memory_than_allowed() {
    let image = sample();
    let verify = |memory_limit| {
        let mut progress = |_| ControlFlow::Continue(());
        let options = VerifyOptions { memory_limit, ..VerifyOptions::with_progress(&mut progress) };
        Image::verify_with(&image, options)
    };
    assert!(verify(16 << 10).is_ok());
    for limit in [0, 100, 1000] {
        let result = verify(limit);
        assert!(
            matches!(result, Err(ImageError::TooLarge { what: Size::Memory { limit: l }, .. }) if l == limit)
        );
    }
}

// ------------------------------------------------------------ data

fn chunk_error(runs: &[(u64, u64)], raw_length: u32, stored: usize) -> ChunkError {
    let runs = runs.iter().map(|&(offset, length)| Run { offset, length }).collect();
    let header = DataHeader { object: 1, runs, raw_length };
    match inconsistency(&with_data(Encoding::Raw, &header, &vec![0; stored])) {
        Inconsistency::Chunk(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn runs_that_break_a_rule() {
    assert_eq!(chunk_error(&[], 0, 0), ChunkError::Empty);
    assert_eq!(chunk_error(&[(0, 0)], 0, 0), ChunkError::Empty);
    assert_eq!(chunk_error(&[(4, 0), (4, 1)], 1, 1), ChunkError::EmptyRun(4));
    assert_eq!(chunk_error(&[(0, 2), (1, 1)], 3, 3), ChunkError::Overlap(1));
    assert_eq!(chunk_error(&[(5, 1), (1, 1)], 2, 2), ChunkError::Overlap(1));
    assert_eq!(chunk_error(&[(u64::MAX, 1)], 1, 1), ChunkError::Overflow(u64::MAX));
    assert_eq!(chunk_error(&[(1, u64::MAX)], 1, 1), ChunkError::Overflow(1));
    assert_eq!(chunk_error(&[(0, 2)], 1, 1), ChunkError::Sum { runs: 2, declared: 1 });
    assert_eq!(
        chunk_error(&[(0, 1 << 63), (1 << 63, 1)], 1, 1),
        ChunkError::Sum { runs: (1 << 63) + 1, declared: 1 }
    );
    assert_eq!(chunk_error(&[(0, 1 << 20)], 1 << 20, 7), ChunkError::Stored { declared: 1 << 20, stored: 7 });
    let over = MAX_CHUNK as u32 + 1;
    assert_eq!(chunk_error(&[(0, over.into())], over, 7), ChunkError::TooLong(over.into()));
    assert_eq!(chunk_error(&[(0, u32::MAX.into())], u32::MAX, 7), ChunkError::TooLong(u32::MAX.into()));
    let many: Vec<(u64, u64)> = (0..4097).map(|n| (n, 1)).collect();
    assert_eq!(chunk_error(&many, 4097, 4097), ChunkError::TooManyRuns(4097));
}

#[test]
fn data_of_an_object_that_is_not_there() {
    for object in [0, 2] {
        let header = DataHeader { object, runs: vec![Run { offset: 0, length: 1 }], raw_length: 1 };
        let what = inconsistency(&with_data(Encoding::Raw, &header, &[0]));
        assert!(matches!(what, Inconsistency::MissingObject(id) if id == object), "{what:?}");
    }
}

#[test]
fn an_unknown_field_in_a_data_header() {
    let header = DataHeader { object: 1, runs: vec![Run { offset: 0, length: 1 }], raw_length: 1 };
    let mut bytes = header.encode_to_vec();
    bytes.extend([0xb8, 0x3e, 0x01]);
    let mut payload = (bytes.len() as u32).to_le_bytes().to_vec();
    payload.extend(bytes);
    payload.push(0);
    let object = Frame::record(FrameType::Object, &Object { id: 1, ..Object::default() });
    let what = inconsistency(&bare([object, Frame::new(FrameType::Data, payload)]));
    assert!(matches!(what, Inconsistency::Chunk(ChunkError::Header(RecordError::Unfaithful))), "{what:?}");
}

fn packed(encoding: Encoding, raw: &[u8]) -> Vec<u8> {
    match encoding {
        Encoding::Raw => raw.to_vec(),
        Encoding::Lz4 => lz4_flex::block::compress(raw),
        Encoding::Zstd => zstd::bulk::compress(raw, 3).unwrap(),
    }
}

#[test]
fn data_that_unpacks_to_another_length() {
    for encoding in [Encoding::Lz4, Encoding::Zstd] {
        for actual in [0, 1, 9_999, 10_001, 50 << 20] {
            let header =
                DataHeader { object: 1, runs: vec![Run { offset: 0, length: 10_000 }], raw_length: 10_000 };
            let mut stored = packed(encoding, &vec![0; actual]);
            stored.truncate(9_999); // what matters of a bomb is that it begins
            let bytes = with_data(encoding, &header, &stored);
            let image = verify(&bytes).expect("the frame itself is sound");
            let mut raw = Vec::new();
            let error = image.read_data(&image.data()[0], &mut raw).unwrap_err();
            assert!(
                matches!(error, ImageError::Damaged { what: Damage::Compression { expected: 10_000 }, .. }),
                "{error:?}"
            );
            assert!(raw.capacity() < 1 << 20);

            let mut progress = |_| ControlFlow::Continue(());
            let options = VerifyOptions { unpack: true, ..VerifyOptions::with_progress(&mut progress) };
            let error = Image::verify_with(&bytes, options).unwrap_err();
            assert!(
                matches!(error, ImageError::Damaged { what: Damage::Compression { .. }, .. }),
                "{error:?}"
            );
        }
    }
}

#[test]
fn compressed_data_that_is_not_smaller() {
    let header = DataHeader { object: 1, runs: vec![Run { offset: 0, length: 4 }], raw_length: 4 };
    let stored = packed(Encoding::Lz4, b"abcd");
    let what = inconsistency(&with_data(Encoding::Lz4, &header, &stored));
    assert!(matches!(what, Inconsistency::Chunk(ChunkError::Stored { declared: 4, .. })), "{what:?}");
}

#[test]
fn data_that_changed_after_it_was_verified() {
    struct Changing(std::cell::RefCell<Vec<u8>>);
    impl ReadAt for Changing {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.borrow().read_at(buffer, offset)
        }
    }
    let image = Image::verify(Changing(sample().into())).unwrap();
    let mut raw = Vec::new();
    for frame in image.data() {
        image.read_data(frame, &mut raw).unwrap();
        assert_eq!(raw, [0xab; 200]);
    }
    // The last byte of each data frame is that before the next frame's first.
    let starts: Vec<u64> = image.frames().iter().map(|frame| frame.offset).collect();
    for frame in image.data() {
        let next = starts.iter().find(|start| **start > frame.place.offset).unwrap();
        image.source().0.borrow_mut()[*next as usize - 1] ^= 1;
        let error = image.read_data(frame, &mut raw).unwrap_err();
        assert!(
            matches!(error, ImageError::Damaged { at, what: Damage::Payload(_) } if at == frame.place),
            "{error:?}"
        );
    }
    image.source().0.borrow_mut().truncate(starts[5] as usize);
    let error = image.read_data(&image.data()[0], &mut raw).unwrap_err();
    assert!(matches!(error, ImageError::Cut { .. }), "{error:?}");
}

// ------------------------------------------------------------ records that contradict each other

#[test]
fn object_ids_twice_or_zero() {
    let object = |id| Frame::record(FrameType::Object, &Object { id, ..Object::default() });
    assert!(verify(&bare([object(1), object(2)])).is_ok());
    assert!(matches!(
        inconsistency(&bare([object(1), object(2), object(1)])),
        Inconsistency::DuplicateObject(1)
    ));
    assert!(matches!(inconsistency(&bare([object(1), object(0)])), Inconsistency::ZeroObject));
}

/// The sample's header and objects, and these tasks and threads.
fn with_tasks(records: &[Frame]) -> Vec<u8> {
    let mut frames = vec![Frame::record(FrameType::Header, &header())];
    frames.extend(objects().iter().map(|object| Frame::record(FrameType::Object, object)));
    frames.extend_from_slice(records);
    seal(&frames)
}

fn task(pid: u32) -> Frame {
    Frame::record(FrameType::Task, &Task { pid, ..Task::default() })
}

fn thread(pid: u32, tid: u32) -> Frame {
    Frame::record(FrameType::Thread, &Thread { pid, tid, ..Thread::default() })
}

#[test]
fn tasks_and_threads_that_do_not_fit() {
    assert!(verify(&with_tasks(&[task(7), thread(7, 7), task(8), thread(8, 8)])).is_ok());
    let what = |records: &[Frame]| inconsistency(&with_tasks(records));
    assert!(matches!(what(&[task(0)]), Inconsistency::ZeroTask));
    assert!(matches!(what(&[task(7), thread(7, 7), task(7)]), Inconsistency::DuplicateTask(7)));
    assert!(matches!(what(&[task(7), task(8)]), Inconsistency::NoThreads(7)));
    assert!(matches!(what(&[task(7), thread(7, 7), task(8)]), Inconsistency::NoThreads(8)));
    assert!(matches!(
        what(&[task(7), thread(8, 8)]),
        Inconsistency::ForeignThread { pid: 8, tid: 8, task: 7 }
    ));
    assert!(matches!(what(&[task(7), thread(7, 9)]), Inconsistency::LeaderNotFirst { pid: 7, tid: 9 }));
    assert!(matches!(what(&[task(7), thread(7, 7), thread(7, 7)]), Inconsistency::DuplicateThread(7)));
    assert!(matches!(
        what(&[task(7), thread(7, 7)]),
        Inconsistency::Counts { announced_tasks: 2, announced_threads: 2, tasks: 1, threads: 1 }
    ));
    assert!(matches!(what(&[task(5), thread(5, 5), task(6), thread(6, 6)]), Inconsistency::NoRoot(7)));
}

#[test]
fn a_task_of_objects_that_are_not_there() {
    for task in [
        Task { mm: 2, ..Task::default() },
        Task { descriptors: 2, ..Task::default() },
        Task { fs: 2, ..Task::default() },
        Task { handlers: 2, ..Task::default() },
    ] {
        let what = inconsistency(&with_tasks(&[Frame::record(FrameType::Task, &Task { pid: 7, ..task })]));
        assert!(matches!(what, Inconsistency::MissingObject(2)), "{what:?}");
    }
}

#[test]
fn records_that_are_no_records() {
    for position in 0..7 {
        let mut frames = contents(&sample());
        frames[position].payload = vec![0xff; 40];
        let what = inconsistency(&seal(&frames));
        assert!(matches!(what, Inconsistency::Record { source: RecordError::Malformed(_), .. }), "{what:?}");
    }
}

#[test]
fn interruption() {
    let image = sample();
    let mut seen = Vec::new();
    let mut progress = |bytes| {
        seen.push(bytes);
        if seen.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = Image::verify_with(&image, VerifyOptions::with_progress(&mut progress)).unwrap_err();
    let ImageError::Interrupted { offset } = error else { panic!("{error:?}") };
    assert_eq!(seen.last(), Some(&offset));
    assert!(seen.is_sorted());
}
