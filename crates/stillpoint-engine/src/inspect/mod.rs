//! What an image holds, as plain data: for `inspect`, and for whoever wants to know before restoring.
//!
//! [`read`] is the only effect here. Everything else is a pure function from a [`VerifiedImage`] to structures that
//! can be serialised. Kernel bytes (paths, names, hosts) become text in which everything but printable ASCII is
//! escaped as by `u8::escape_ascii`, so that no two names look alike and none can drive a terminal. What cannot be
//! understood is shown as such, never left out: an image may come from a newer version.

mod body;
mod files;
mod memory;
mod objects;
mod overview;
mod source;
mod tasks;

use std::fs::File;

pub use files::{Files, OpenDescriptor, TaskFiles, files};
pub use memory::{AddressSpace, MemoryArea, MemoryMap, memory};
pub use objects::{ObjectTable, SavedObject, objects};
pub use overview::{Choice, Integrity, Overview, integrity, overview};
pub use source::{Depth, image_error, read};
pub use tasks::{TaskTree, TreeTask, TreeThread, tasks};

/// A verified image, as the engine reads it.
pub type VerifiedImage = stillpoint_image::VerifiedImage<File>;

/// Kernel bytes as text.
fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A verified image that is read from anywhere: what the functions of this module take.
type Saved<S> = stillpoint_image::VerifiedImage<S>;

/// Bytes that the image holds for an object, uncompressed. Where data frames overlap, the later one counts.
fn content_bytes<S>(image: &Saved<S>, object: u64) -> u64 {
    covered(image, object).iter().fold(0, |sum, range| sum.saturating_add(range.1 - range.0))
}

/// The parts of an object for which the image holds data: (start, end), ascending, not overlapping.
fn covered<S>(image: &Saved<S>, object: u64) -> Vec<(u64, u64)> {
    let runs = image.data_of(object).flat_map(|frame| frame.runs.iter());
    let mut ranges: Vec<_> = runs.map(|run| (run.offset, run.offset.saturating_add(run.length))).collect();
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    //! An image as small as one can be that has some of everything.

    use stillpoint_image::records::{
        Area, Backing, Descriptor, DescriptorTable, FileIdentity, FileName, Foreign, FsContext, Header,
        Machine, Mm, Object, OpenFile, Pipe, PipeEnd, RegularFile, Run, Task, Thread,
    };
    use stillpoint_image::{Compression, Image, Message, Writer, encode_data};

    use super::*;

    fn file(path: &[u8]) -> Option<FileIdentity> {
        Some(FileIdentity { path: path.to_vec(), ..FileIdentity::default() })
    }

    fn area(start: u64, end: u64, protection: u32, backing: Backing, object: u64) -> Area {
        Area { start, end, protection, backing: backing.into(), object, ..Area::default() }
    }

    fn objects() -> Vec<Object> {
        let open = |flags, position| Some(OpenFile { flags, position, ..OpenFile::default() });
        let descriptor = |number, file| Descriptor { number, file, close_on_exec: number > 2 };
        vec![
            Object::with_body(1, "file-name", &FileName { file: file(b"/usr/bin/count") }),
            Object::with_body(
                2,
                "regular-file",
                &RegularFile { open: open(0o2001, 5), file: file(b"/tmp/\x1b[31mlog") },
            ),
            Object::with_body(3, "pipe", &Pipe { capacity: 65536, queued: 5, ..Pipe::default() }),
            Object::with_body(4, "pipe-end", &PipeEnd { open: open(0, 0), pipe: 3 }),
            Object::with_body(
                5,
                "descriptor-table",
                &DescriptorTable {
                    descriptors: vec![descriptor(0, 4), descriptor(1, 2), descriptor(7, 2)],
                    ..DescriptorTable::default()
                },
            ),
            Object::with_body(
                6,
                "descriptor-table",
                &DescriptorTable { descriptors: vec![descriptor(1, 2)], ..DescriptorTable::default() },
            ),
            Object::with_body(
                7,
                "mm",
                &Mm {
                    executable: 1,
                    areas: vec![
                        area(0x1000, 0x3000, 5, Backing::PrivateFile, 1),
                        area(0x10000, 0x20000, 3, Backing::Anonymous, 0),
                    ],
                    ..Mm::default()
                },
            ),
            Object::with_body(
                8,
                "fs-context",
                &FsContext { cwd: file(b"/tmp"), root: file(b"/"), umask: 0o22 },
            ),
            Object { id: 9, kind: "from-the-future".into(), body: vec![1, 2, 3] },
        ]
    }

    /// Two tasks and a zombie, three threads; a file that both tasks share; a pipe with contents.
    pub(crate) fn image() -> Vec<u8> {
        let header = Header {
            tool: "stillpoint 0.1.0".into(),
            machine: Some(Machine {
                arch: "x86_64".into(),
                kernel_release: b"6.18".to_vec(),
                ..Machine::default()
            }),
            root_pid: 10,
            tasks: 3,
            threads: 3,
            foreign: Some(Foreign {
                session: 4,
                process_group: 4,
                terminal: true,
                foreground: true,
                foreground_group: 0,
            }),
            ..Header::default()
        };
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.header(&header).unwrap();
        for object in &objects() {
            writer.object(object).unwrap();
        }
        let task = |pid, parent, descriptors| Task {
            pid,
            parent,
            descriptors,
            process_group: parent,
            session: parent,
            mm: 7,
            fs: 8,
            name: b"count\n".to_vec(),
            ..Task::default()
        };
        let thread = |pid, tid| Thread { pid, tid, name: b"worker".to_vec(), ..Thread::default() };
        writer.task(&task(12, 10, 6)).unwrap();
        writer.thread(&thread(12, 12)).unwrap();
        writer.task(&task(10, 0, 5)).unwrap();
        writer.thread(&thread(10, 10)).unwrap();
        writer.thread(&thread(10, 11)).unwrap();
        writer
            .task(&Task { pid: 13, parent: 12, zombie: true, exit_code: 0x100, ..Task::default() })
            .unwrap();
        let mut data = |object, offset, bytes: &[u8]| {
            let run = Run { offset, length: bytes.len() as u64 };
            writer.append(&encode_data(object, &[run], bytes, Compression::None).unwrap()).unwrap();
        };
        data(3, 0, b"hello");
        data(7, 0x11000, &[7; 0x1000]);
        // Once more: what was written later counts, and is not counted twice.
        data(7, 0x11800, &[8; 0x1000]);
        writer.seal().unwrap().0
    }

    pub(crate) fn verified() -> Saved<Vec<u8>> {
        Image::verify(image()).unwrap()
    }

    #[test]
    fn overlapping_data_counts_once() {
        let image = verified();
        assert_eq!(covered(&image, 7), [(0x11000, 0x12800)]);
        assert_eq!(content_bytes(&image, 3), 5);
        assert_eq!(content_bytes(&image, 1), 0);
    }

    #[test]
    fn a_record_of_the_wrong_kind_is_shown_not_trusted() {
        let wrong = Object {
            id: 1,
            kind: "pipe".into(),
            body: Header { tasks: 5, ..Header::default() }.encode_to_vec(),
        };
        assert!(matches!(body::Body::of(&wrong), body::Body::Unreadable(_)));
    }
}
