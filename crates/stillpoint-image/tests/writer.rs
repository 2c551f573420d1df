//! What the writer refuses, and what it does when its sink fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use stillpoint_image::format::{INDEX_ENTRIES, MAX_PAYLOAD};
use stillpoint_image::records::{Header, Object, Run, Task, Thread};
use stillpoint_image::{
    ChunkError, Compression, EncodedFrame, Image, ImageError, Inconsistency, Misplaced, Size, Writer,
    encode_data,
};
use support::sample::sample;

type Memory = Writer<Vec<u8>>;

fn started(header: Header) -> Memory {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.header(&header).unwrap();
    writer
}

fn object(id: u64) -> Object {
    Object { id, ..Object::default() }
}

fn chunk(object: u64) -> EncodedFrame<'static> {
    encode_data(object, &[Run { offset: 0, length: 1 }], vec![1], Compression::None).unwrap()
}

#[track_caller]
fn assert_misplaced<T>(result: Result<T, ImageError>) {
    match result {
        Err(ImageError::OutOfOrder { what: Misplaced { .. }, .. }) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[track_caller]
fn inconsistency<T>(result: Result<T, ImageError>) -> Inconsistency {
    match result {
        Err(ImageError::Inconsistent { what, .. }) => what,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn records_out_of_order() {
    let mut writer = Writer::new(Vec::new()).unwrap();
    assert_misplaced(writer.object(&object(1)));
    assert_misplaced(writer.task(&Task::default()));
    assert_misplaced(writer.thread(&Thread::default()));
    assert_misplaced(writer.append(&chunk(1)));
    let header = Header { root_pid: 7, tasks: 1, threads: 1, ..Header::default() };
    writer.header(&header).unwrap();
    assert_misplaced(writer.header(&header));
    assert_misplaced(writer.thread(&Thread { pid: 7, tid: 7, ..Thread::default() }));
    writer.object(&object(1)).unwrap();
    assert!(matches!(inconsistency(writer.append(&chunk(1))), Inconsistency::Counts { .. }));
    writer.task(&Task { pid: 7, ..Task::default() }).unwrap();
    assert_misplaced(writer.object(&object(2)));
    assert!(matches!(inconsistency(writer.append(&chunk(1))), Inconsistency::NoThreads(7)));
    writer.thread(&Thread { pid: 7, tid: 7, ..Thread::default() }).unwrap();
    writer.append(&chunk(1)).unwrap();
    assert_misplaced(writer.task(&Task { pid: 8, ..Task::default() }));
    assert!(matches!(inconsistency(writer.append(&chunk(2))), Inconsistency::MissingObject(2)));

    // None of the refusals left a trace.
    let (image, sealed) = writer.seal().unwrap();
    let image = Image::verify(image).unwrap();
    assert_eq!(image.sealed(), sealed);
    assert_eq!((image.objects().len(), image.tasks().len(), image.data().len()), (1, 1, 1));
}

#[test]
fn an_image_that_is_not_whole_is_not_sealed() {
    assert_misplaced(Writer::new(Vec::new()).unwrap().seal());
    let announced = Header { root_pid: 7, tasks: 1, ..Header::default() };
    assert!(matches!(inconsistency(started(announced.clone()).seal()), Inconsistency::Counts { .. }));
    let mut writer = started(announced);
    writer.task(&Task { pid: 7, ..Task::default() }).unwrap();
    assert!(matches!(inconsistency(writer.seal()), Inconsistency::NoThreads(7)));
}

#[test]
fn object_ids_twice_or_zero() {
    let mut writer = started(Header::default());
    writer.object(&object(1)).unwrap();
    assert!(matches!(inconsistency(writer.object(&object(1))), Inconsistency::DuplicateObject(1)));
    assert!(matches!(inconsistency(writer.object(&object(0))), Inconsistency::ZeroObject));
    assert!(writer.seal().is_ok());
}

#[test]
fn records_that_are_too_large() {
    let mut writer = started(Header::default());
    let body = vec![0; MAX_PAYLOAD as usize];
    let error = writer.object(&Object { id: 1, kind: String::new(), body }).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { what: Size::Payload { .. }, .. }), "{error:?}");
    writer.object(&object(1)).unwrap();
    // As large as can be: tag and length of the body take five bytes, the id two.
    let body = vec![0; MAX_PAYLOAD as usize - 7];
    writer.object(&Object { id: 2, kind: String::new(), body }).unwrap();
    assert!(Image::verify(writer.seal().unwrap().0).is_ok());
}

#[test]
fn a_bad_chunk_becomes_an_image_error() {
    let encode = || -> Result<(), ImageError> {
        encode_data(1, &[], &[][..], Compression::None)?;
        Ok(())
    };
    assert!(matches!(encode(), Err(ImageError::Chunk(ChunkError::Empty))));
}

#[test]
fn an_index_longer_than_one_frame() {
    let mut writer = started(Header::default());
    for id in 1..=2 * INDEX_ENTRIES as u64 {
        writer.object(&object(id)).unwrap();
    }
    let (image, sealed) = writer.seal().unwrap();
    // The header, the objects, three parts of the index, the trailer.
    assert_eq!(sealed.frames, 1 + 2 * INDEX_ENTRIES as u64 + 3 + 1);
    assert_eq!(Image::verify(image).unwrap().sealed(), sealed);
}

/// Takes so many bytes, a few at a time, now and then interrupted.
struct Disk {
    taken: Vec<u8>,
    capacity: usize,
    calls: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let room = self.capacity - self.taken.len();
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = bytes.len().min(room).min(7);
        self.taken.extend(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_to(disk: &mut Disk) -> Result<(), ImageError> {
    let mut writer = Writer::new(disk)?;
    writer.header(&Header::default())?;
    writer.object(&object(1))?;
    writer.append(&chunk(1))?;
    writer.seal()?;
    Ok(())
}

#[test]
fn a_sink_that_takes_little_at_a_time() {
    let mut disk = Disk { taken: Vec::new(), capacity: usize::MAX, calls: 0 };
    write_to(&mut disk).unwrap();
    let mut writer = started(Header::default());
    writer.object(&object(1)).unwrap();
    writer.append(&chunk(1)).unwrap();
    assert_eq!(disk.taken, writer.seal().unwrap().0);
}

#[test]
fn a_disk_that_fills_at_any_byte() {
    let mut whole = Disk { taken: Vec::new(), capacity: usize::MAX, calls: 0 };
    write_to(&mut whole).unwrap();
    for capacity in 0..whole.taken.len() {
        let mut disk = Disk { taken: Vec::new(), capacity, calls: 0 };
        let error = write_to(&mut disk).unwrap_err();
        assert!(matches!(error, ImageError::Io { doing: "write", .. }), "{error:?}");
        assert!(matches!(Image::verify(disk.taken), Err(ImageError::Cut { .. })));
    }
}

#[test]
fn nothing_is_written_after_a_failure() {
    /// Takes four bytes at a time and fails once, at the sixth write: within the header's frame.
    struct Hiccup(usize, Rc<RefCell<Vec<u8>>>);
    impl Write for Hiccup {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            self.1.borrow_mut().extend(&bytes[..bytes.len().min(4)]);
            if self.0 == 6 { Err(io::Error::other("hiccup")) } else { Ok(bytes.len().min(4)) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let taken = Rc::default();
    let mut writer = Writer::new(Hiccup(0, Rc::clone(&taken))).unwrap();
    assert!(matches!(writer.header(&Header::default()), Err(ImageError::Io { offset: 16, .. })));
    let before = taken.borrow().len();
    assert!(matches!(writer.header(&Header::default()), Err(ImageError::Broken)));
    assert!(matches!(writer.object(&object(1)), Err(ImageError::Broken)));
    assert!(matches!(writer.append(&chunk(1)), Err(ImageError::Broken)));
    assert!(matches!(writer.seal(), Err(ImageError::Broken)));
    assert_eq!(taken.borrow().len(), before);
}

#[test]
fn the_same_input_gives_the_same_image() {
    assert_eq!(sample(), sample());
}
