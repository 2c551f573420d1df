//! Whatever is written comes back, from memory and from a file, in any compression, with one thread or two.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::prelude::*;
use stillpoint_image::format::{Encoding, MAX_CHUNK};
use stillpoint_image::records::{Header, Object, Run, Task, Thread};
use stillpoint_image::{Compression, Image, SavedTask, VerifyOptions, Writer, encode_data};

/// A chunk's bytes and where they belong.
#[derive(Debug, Clone)]
struct Chunk {
    object: usize,
    /// Gap before and length of each run.
    runs: Vec<(u64, u16)>,
    fill: u8,
    noise: bool,
    compression: Compression,
}

impl Chunk {
    fn runs(&self) -> Vec<Run> {
        let mut next = 0u64;
        let mut runs = Vec::new();
        for &(gap, length) in &self.runs {
            let (offset, length) = (next + gap, u64::from(length));
            runs.push(Run { offset, length });
            next = offset + length;
        }
        runs
    }

    fn raw(&self) -> Vec<u8> {
        let length: usize = self.runs.iter().map(|(_, length)| usize::from(*length)).sum();
        let mut state = u32::from(self.fill);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if self.noise { (state >> 24) as u8 } else { self.fill }
        };
        (0..length).map(|_| next()).collect()
    }
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Lz4), (-5..12).prop_map(Compression::Zstd)]
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let runs = vec((0..1u64 << 58, 1..=8192u16), 1..20);
    (any::<prop::sample::Index>(), runs, any::<u8>(), any::<bool>(), compression()).prop_map(
        |(object, runs, fill, noise, compression)| Chunk {
            object: object.index(usize::MAX),
            runs,
            fill,
            noise,
            compression,
        },
    )
}

fn objects() -> impl Strategy<Value = Vec<Object>> {
    let one = (1..u64::MAX, "[a-z-]{0,12}", vec(any::<u8>(), 0..300));
    vec(one, 0..12).prop_map(|all| {
        let mut objects: Vec<Object> =
            all.into_iter().map(|(id, kind, body)| Object { id, kind, body }).collect();
        objects.sort_by_key(|object| object.id);
        objects.dedup_by_key(|object| object.id);
        objects
    })
}

/// Tasks 1, 2, ...: each with so many threads, a zombie if none.
fn tasks() -> impl Strategy<Value = Vec<SavedTask>> {
    vec((0..4u32, vec(any::<u8>(), 0..64)), 0..5).prop_map(|all| {
        let task = |(position, (threads, name)): (usize, (u32, Vec<u8>))| {
            let pid = 100 * (position as u32 + 1);
            SavedTask {
                task: Task { pid, name: name.clone(), zombie: threads == 0, ..Task::default() },
                threads: (0..threads)
                    .map(|n| Thread { pid, tid: pid + n, extended: name.clone(), ..Thread::default() })
                    .collect(),
            }
        };
        all.into_iter().enumerate().map(task).collect()
    })
}

fn header(tasks: &[SavedTask]) -> Header {
    Header {
        root_pid: tasks.first().map_or(0, |task| task.task.pid),
        tasks: tasks.len() as u32,
        threads: tasks.iter().map(|task| task.threads.len() as u32).sum(),
        ..Header::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_comes_back(objects in objects(), tasks in tasks(), chunks in vec(chunk(), 0..12)) {
        let header = header(&tasks);
        let mut writer = Writer::new(Vec::new())?;
        writer.header(&header)?;
        for object in &objects {
            writer.object(object)?;
        }
        for task in &tasks {
            writer.task(&task.task)?;
            for thread in &task.threads {
                writer.thread(thread)?;
            }
        }
        let mut wanted = Vec::new();
        for chunk in chunks.iter().filter(|_| !objects.is_empty()) {
            let object = objects[chunk.object % objects.len()].id;
            writer.append(&encode_data(object, &chunk.runs(), &chunk.raw()[..], chunk.compression)?)?;
            wanted.push((object, chunk.runs(), chunk.raw()));
        }
        prop_assert_eq!(writer.frames(), 1 + objects.len() as u64 + u64::from(header.tasks + header.threads)
            + wanted.len() as u64);
        let (bytes, sealed) = writer.seal()?;
        prop_assert_eq!(sealed.bytes, bytes.len() as u64);

        for second_thread in [false, true] {
            let mut progress = |_| ControlFlow::Continue(());
            let options =
                VerifyOptions { second_thread, unpack: true, ..VerifyOptions::with_progress(&mut progress) };
            let image = Image::verify_with(&bytes, options)?;
            prop_assert_eq!(image.header(), &header);
            prop_assert_eq!(image.objects(), &objects[..]);
            prop_assert_eq!(image.tasks(), &tasks[..]);
            prop_assert_eq!(image.sealed(), sealed);
            let mut raw = vec![9; 3];
            let mut found = Vec::new();
            for frame in image.data() {
                image.read_data(frame, &mut raw)?;
                found.push((frame.object, frame.runs.to_vec(), raw.clone()));
                if let Some(offset) = frame.raw_offset() {
                    prop_assert_eq!(&bytes[offset as usize..][..raw.len()], &raw[..]);
                }
                let pieces: Vec<u8> = frame.split(&raw).flat_map(|(_, piece)| piece.to_vec()).collect();
                prop_assert_eq!(&pieces, &raw);
                prop_assert_eq!(frame.split(&raw).map(|(run, _)| run).collect::<Vec<_>>(), frame.runs.to_vec());
            }
            prop_assert_eq!(&found, &wanted);
            for object in &objects {
                prop_assert_eq!(image.object(object.id), Some(object));
                let own: Vec<_> = image.data_of(object.id).map(|frame| frame.place).collect();
                let all: Vec<_> =
                    image.data().iter().filter(|frame| frame.object == object.id).map(|frame| frame.place).collect();
                prop_assert_eq!(own, all);
            }
        }
    }
}

/// 48 chunks of 1 MiB, compressed on two threads, by way of a file.
#[test]
fn large_chunks_through_a_file() {
    let path = std::env::temp_dir().join(format!("stillpoint-image-{}", std::process::id()));
    let file = std::fs::File::create_new(&path).unwrap();
    let mut writer = Writer::new(std::io::BufWriter::new(file)).unwrap();
    writer.header(&Header::default()).unwrap();
    writer.object(&Object { id: 5, ..Object::default() }).unwrap();
    let raw =
        |n: u64| -> Vec<u8> { (0..MAX_CHUNK as u64).map(|at| (at / (n + 1)) as u8 ^ n as u8).collect() };
    let compression = |n| [Compression::None, Compression::Lz4, Compression::Zstd(1)][n as usize % 3];
    for pair in 0..24 {
        let [one, other] = std::thread::scope(|scope| {
            [2 * pair, 2 * pair + 1]
                .map(|n| {
                    let run = Run { offset: n << 20, length: 1 << 20 };
                    scope.spawn(move || encode_data(5, &[run], raw(n), compression(n)).unwrap())
                })
                .map(|thread| thread.join().unwrap())
        });
        writer.append(&one).unwrap();
        writer.append(&other).unwrap();
    }
    let (sink, sealed) = writer.seal().unwrap();
    drop(sink);

    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let image = Image::verify(file).unwrap();
    assert_eq!(image.sealed(), sealed);
    assert_eq!(image.data().len(), 48);
    let mut found = Vec::new();
    for (n, frame) in image.data_of(5).enumerate() {
        image.read_data(frame, &mut found).unwrap();
        assert!(found == raw(n as u64), "chunk {n}");
        let encoding = [Encoding::Raw, Encoding::Lz4, Encoding::Zstd][n % 3];
        assert!(frame.encoding == encoding || frame.encoding == Encoding::Raw);
    }
}
