//! A small image that has one of everything.

use stillpoint_image::records::{Clocks, Header, Machine, Object, Pipe, Run, Task, Thread};
use stillpoint_image::{Compression, Writer, encode_data};

pub(crate) fn sample() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.header(&header()).unwrap();
    for object in objects() {
        writer.object(&object).unwrap();
    }
    writer.task(&Task { pid: 7, mm: 1, ..Task::default() }).unwrap();
    writer.thread(&Thread { pid: 7, tid: 7, registers: vec![1, 2, 3], ..Thread::default() }).unwrap();
    writer.thread(&Thread { pid: 7, tid: 8, ..Thread::default() }).unwrap();
    writer.task(&Task { pid: 9, parent: 7, zombie: true, ..Task::default() }).unwrap();
    let page = [0xab; 200];
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
        let runs = [Run { offset: 0x1000, length: 150 }, Run { offset: 0x2000, length: 50 }];
        writer.append(&encode_data(1, &runs, &page[..], compression).unwrap()).unwrap();
    }
    let (image, sealed) = writer.seal().unwrap();
    assert_eq!(sealed.bytes, image.len() as u64);
    image
}

pub(crate) fn header() -> Header {
    Header {
        tool: "sample".into(),
        machine: Some(Machine { arch: "x86_64".into(), page_size: 4096, ..Machine::default() }),
        clocks: Some(Clocks { realtime_ns: 3, monotonic_ns: 2, boottime_ns: 1 }),
        root_pid: 7,
        tasks: 2,
        threads: 2,
        ..Header::default()
    }
}

pub(crate) fn objects() -> [Object; 2] {
    [
        Object { id: 1, kind: "mm".into(), body: Vec::new() },
        Object::with_body(u64::MAX, "pipe", &Pipe { capacity: 65536, queued: 5, ..Pipe::default() }),
    ]
}
