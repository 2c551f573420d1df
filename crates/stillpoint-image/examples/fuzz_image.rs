//! Fuzzes the image reader and writer on a stable toolchain, for a bounded time:
//!
//! ```text
//! cargo run --release -p stillpoint-image --example fuzz_image -- --seconds 20
//!     --seed N      start from this seed; it is printed, and random otherwise
//!     --corpus DIR  images to start from, fuzz/corpus/image of the repository otherwise
//!     --keep        add to the corpus one small image for each new answer of the reader
//!     FILE...       only check these files, such as the one that a failure has left in fuzz/artifacts/image
//! ```
//!
//! Blind mutation of bytes would never come past the first checksum, so most mutations work on frames and put right
//! checksums, index and root around the result. What guides the search is the reader's answer: an image that is refused
//! in a way not seen before, or accepted in a new shape, is mutated further.
//!
//! What must hold for every input (see `check`): no panic on any thread; one or two threads give the same answer; chunks
//! unpack exactly when the verifying pass says so; an accepted image, written anew, is accepted and equal, byte for byte
//! where the format leaves no choice. And what the writer seals, the reader accepts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is what this program looks for")]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use stillpoint_image::format::{Encoding, FrameType};
use stillpoint_image::records::{DataHeader, Header, Object, Run, Task, Thread};
use stillpoint_image::{
    Compression, Image, ImageError, Message, VerifiedImage, VerifyOptions, Writer, encode_data,
};

#[path = "../tests/support/mod.rs"]
mod support;

use support::forge::{self, Frame};

/// No input is large, so none may take this long.
const SLOW: Duration = Duration::from_secs(10);

/// Inputs stay below this, so that the loop stays fast.
const LARGEST: usize = 16 << 10;

static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Also notices a panic of the hashing thread, which the reader would turn into an error.
    std::panic::set_hook(Box::new(|info| {
        *PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(info.to_string());
    }));
    let mut fuzzer = Fuzzer { random: Random(arguments.seed), pool: Pool::default(), runs: 0 };
    let files = if arguments.files.is_empty() { list(&arguments.corpus) } else { arguments.files.clone() };
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for file in &files {
        match std::fs::read(file) {
            Ok(input) => inputs.push(input),
            Err(error) => {
                eprintln!("cannot read {}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        }
    }
    let known = inputs.len();
    let result = fuzzer.run(inputs, &arguments);
    if let Err(Failure { why, input }) = result {
        eprintln!("seed {}, run {}: {why}", arguments.seed, fuzzer.runs);
        let folder = repository().join("fuzz/artifacts/image");
        let path = folder.join(format!("{:08x}.img", crc32c::crc32c(&input)));
        match std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, &input)) {
            Ok(()) => eprintln!("the input is in {}", path.display()),
            Err(error) => eprintln!("cannot keep the input in {}: {error}", path.display()),
        }
        return ExitCode::FAILURE;
    }
    println!(
        "seed {}: {} inputs, {} of them kept before; {} different answers",
        arguments.seed,
        fuzzer.runs,
        known,
        fuzzer.pool.by_answer.len()
    );
    if arguments.keep {
        fuzzer.pool.keep(&arguments.corpus);
    }
    ExitCode::SUCCESS
}

struct Arguments {
    seconds: u64,
    seed: u64,
    corpus: PathBuf,
    keep: bool,
    files: Vec<PathBuf>,
}

impl Arguments {
    fn parse() -> Self {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mut parsed = Self {
            seconds: 20,
            seed: clock.as_nanos() as u64,
            corpus: repository().join("fuzz/corpus/image"),
            keep: false,
            files: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number");
            match argument.as_str() {
                "--seconds" => parsed.seconds = number(),
                "--seed" => parsed.seed = number(),
                "--corpus" => parsed.corpus = arguments.next().expect("a folder").into(),
                "--keep" => parsed.keep = true,
                option if option.starts_with('-') => panic!("unknown option {option}"),
                file => parsed.files.push(file.into()),
            }
        }
        parsed
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

struct Failure {
    why: String,
    input: Vec<u8>,
}

// ------------------------------------------------------------ the loop

struct Fuzzer {
    random: Random,
    pool: Pool,
    runs: u64,
}

impl Fuzzer {
    fn run(&mut self, inputs: Vec<Vec<u8>>, arguments: &Arguments) -> Result<(), Failure> {
        for input in inputs {
            self.try_input(input)?;
        }
        if !arguments.files.is_empty() {
            return Ok(());
        }
        self.try_input(support::sample::sample())?;
        let end = Instant::now() + Duration::from_secs(arguments.seconds);
        while Instant::now() < end {
            for _ in 0..64 {
                let input = catch_unwind(AssertUnwindSafe(|| self.invent()));
                let Ok(input) = input else {
                    // The writer's fault: there is no input, only the seed.
                    self.runs += 1;
                    let why = PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
                    return Err(Failure { why: why.unwrap_or_default(), input: Vec::new() });
                };
                self.try_input(input)?;
            }
        }
        Ok(())
    }

    fn try_input(&mut self, input: Vec<u8>) -> Result<(), Failure> {
        self.runs += 1;
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| check(&input)));
        let panic = PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let why = match (result, panic) {
            (_, Some(panic)) => panic,
            (Err(_), None) => "a panic without a message".into(),
            (Ok(_), None) if start.elapsed() > SLOW => format!("it took {:?}", start.elapsed()),
            (Ok(answer), None) => {
                self.pool.add(answer, input);
                return Ok(());
            }
        };
        Err(Failure { why, input })
    }

    fn invent(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let input = match random.below(8) {
            0 => write_something(random),
            1 => {
                let mut bytes = self.pool.pick(random).to_vec();
                for _ in 0..=random.below(4) {
                    mutate_bytes(random, &mut bytes);
                }
                bytes
            }
            _ => {
                let other = forge::try_dismantle(self.pool.pick(random)).unwrap_or_default();
                match forge::try_dismantle(self.pool.pick(random)) {
                    Some(frames) => mutate_frames(random, frames, &other),
                    None => write_something(random),
                }
            }
        };
        if input.len() > LARGEST { support::sample::sample() } else { input }
    }
}

/// One input, the smallest so far, for each answer.
#[derive(Default)]
struct Pool {
    by_answer: HashMap<String, usize>,
    inputs: Vec<Vec<u8>>,
}

impl Pool {
    fn add(&mut self, answer: String, input: Vec<u8>) {
        match self.by_answer.get(&answer) {
            Some(position) => {
                if input.len() < self.inputs[*position].len() {
                    self.inputs[*position] = input;
                }
            }
            None => {
                self.by_answer.insert(answer, self.inputs.len());
                self.inputs.push(input);
            }
        }
    }

    fn pick(&self, random: &mut Random) -> &[u8] {
        &self.inputs[random.below(self.inputs.len())]
    }

    fn keep(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("the corpus folder");
        for (answer, position) in &self.by_answer {
            let path = folder.join(format!("{:08x}.img", crc32c::crc32c(answer.as_bytes())));
            let input = &self.inputs[*position];
            if std::fs::metadata(&path).is_ok_and(|known| known.len() <= input.len() as u64) {
                continue;
            }
            std::fs::write(&path, input).expect("write to the corpus");
        }
    }
}

// ------------------------------------------------------------ what must hold

/// Checks one input and says what the reader made of it, without the numbers.
fn check(input: &[u8]) -> String {
    let one = verify(input, false, false);
    // Starting a thread takes longer than all the rest, so not each time; but for one input always the same.
    let two = verify(input, crc32c::crc32c(input).is_multiple_of(8), false);
    let unpacked = verify(input, false, true);
    let image = match (one, two, unpacked) {
        (Ok(one), Ok(_), unpacked) => {
            let mut raw = Vec::new();
            let readable = one.data().iter().all(|frame| one.read_data(frame, &mut raw).is_ok());
            assert_eq!(unpacked.is_ok(), readable, "one says that the data unpacks, one does not");
            match unpacked {
                Ok(image) => image,
                Err(error) => return shape(&format!("{error:?}")),
            }
        }
        (Err(one), Err(two), Err(_)) => {
            let answer = shape(&format!("{one:?}"));
            assert_eq!(answer, shape(&format!("{two:?}")), "one thread says this, two threads that");
            assert!(!one.to_string().is_empty());
            return answer;
        }
        (one, two, unpacked) => panic!("accepted: {} {} {}", one.is_ok(), two.is_ok(), unpacked.is_ok()),
    };
    rewrite(&image, input);
    let mut kinds: Vec<String> = image.frames().iter().map(|frame| shape(&frame.kind.to_string())).collect();
    kinds.sort();
    kinds.dedup();
    format!("{} {:?}", kinds.join(" "), image.data().first().map(|frame| frame.encoding))
}

fn verify(input: &[u8], second_thread: bool, unpack: bool) -> Result<VerifiedImage<&[u8]>, ImageError> {
    let mut progress = |_| ControlFlow::Continue(());
    let options = VerifyOptions {
        memory_limit: 64 << 20,
        second_thread,
        unpack,
        ..VerifyOptions::with_progress(&mut progress)
    };
    Image::verify_with(input, options)
}

/// Leaves out all digits and what strings hold: two errors of one kind have one shape.
fn shape(text: &str) -> String {
    let mut quoted = false;
    text.chars()
        .filter(|character| {
            quoted ^= *character == '"';
            !quoted && !character.is_ascii_digit()
        })
        .collect()
}

/// An accepted image can be written, and is then the same image.
fn rewrite(image: &VerifiedImage<&[u8]>, input: &[u8]) {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.header(image.header()).unwrap();
    for object in image.objects() {
        writer.object(object).unwrap();
    }
    for task in image.tasks() {
        writer.task(&task.task).unwrap();
        for thread in &task.threads {
            writer.thread(thread).unwrap();
        }
    }
    let mut raw = Vec::new();
    for frame in image.data() {
        image.read_data(frame, &mut raw).unwrap();
        assert_eq!(frame.split(&raw).map(|(_, bytes)| bytes.len()).sum::<usize>(), raw.len());
        writer.append(&encode_data(frame.object, &frame.runs, &raw[..], Compression::None).unwrap()).unwrap();
    }
    let (bytes, sealed) = writer.seal().unwrap();
    let again = verify(&bytes, false, false).expect("the reader refuses what the writer sealed");
    assert_eq!(again.sealed(), sealed);
    assert_eq!(again.header(), image.header());
    assert_eq!(again.objects(), image.objects());
    assert_eq!(again.tasks(), image.tasks());
    assert_eq!(again.data().len(), image.data().len());
    let count = |kind| image.frames().iter().filter(|frame| frame.kind == kind).count();
    let optional = image.frames().iter().any(|frame| matches!(frame.kind, FrameType::Other(_)));
    let raw_only = image.data().iter().all(|frame| frame.encoding == Encoding::Raw);
    if count(FrameType::Index) == 1 && raw_only && !optional {
        assert_eq!(bytes, input, "two files hold one image");
    }
}

// ------------------------------------------------------------ mutation

fn mutate_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
    let position = random.below(bytes.len());
    match random.below(7) {
        _ if bytes.is_empty() => bytes.push(random.byte()),
        0 => bytes[position] ^= 1 << random.below(8),
        1 => bytes[position] = random.byte(),
        2 => bytes.insert(position, random.byte()),
        3 => drop(bytes.remove(position)),
        4 => bytes.truncate(position),
        5 => {
            let number = random.number().to_le_bytes();
            let length = 1 << random.below(4);
            for (byte, new) in bytes[position..].iter_mut().zip(&number[..length]) {
                *byte = *new;
            }
        }
        _ => {
            let piece = bytes[position..].iter().take(random.below(64)).copied().collect::<Vec<u8>>();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
    }
}

fn mutate_frames(random: &mut Random, mut frames: Vec<Frame>, other: &[Frame]) -> Vec<u8> {
    // Sometimes the index and trailer are mutated with the rest; else they are made to fit.
    let fit = random.below(4) != 0;
    if fit {
        frames.retain(|frame| !matches!(frame.kind, FrameType::Index | FrameType::Trailer));
    }
    for _ in 0..=random.below(3) {
        mutate_frame_list(random, &mut frames, other);
    }
    if fit {
        return forge::seal(&frames);
    }
    if random.below(2) == 0 {
        frames.retain(|frame| frame.kind != FrameType::Trailer);
        return forge::seal_without_index(&frames);
    }
    forge::assemble(&frames)
}

fn mutate_frame_list(random: &mut Random, frames: &mut Vec<Frame>, other: &[Frame]) {
    let position = random.below(frames.len());
    if frames.is_empty() || random.below(4) == 0 {
        // Mostly where it belongs, so that it is read at all.
        let frame = invent_frame(random);
        let section = |frame: &Frame| frame.kind.number();
        let place = match random.below(4) {
            0 => position,
            _ => {
                frames.iter().rposition(|known| section(known) <= section(&frame)).map_or(0, |last| last + 1)
            }
        };
        frames.insert(place, frame);
        return;
    }
    match random.below(9) {
        0 => drop(frames.remove(position)),
        1 => frames.insert(random.below(frames.len()), frames[position].clone()),
        2 => {
            let to = random.below(frames.len());
            frames.swap(position, to);
        }
        3 => frames[position].kind = FrameType::from_number(random.below(10) as u16),
        4 => {
            frames[position].flags = if random.below(3) == 0 { random.byte() } else { random.below(6) as u8 }
        }
        5 => frames[position].version = random.byte(),
        6 if !other.is_empty() => frames.insert(position, other[random.below(other.len())].clone()),
        7 => frames.truncate(position),
        _ => mutate_bytes(random, &mut frames[position].payload),
    }
}

fn invent_frame(random: &mut Random) -> Frame {
    let id = random.small();
    match random.below(7) {
        0 => Frame::record(
            FrameType::Header,
            &Header {
                root_pid: id as u32,
                tasks: random.below(3) as u32,
                threads: random.below(3) as u32,
                ..Header::default()
            },
        ),
        1 => Frame::record(
            FrameType::Object,
            &Object { id, body: vec![0; random.below(40)], ..Object::default() },
        ),
        2 => Frame::record(
            FrameType::Task,
            &Task { pid: id as u32, mm: random.small(), zombie: random.below(2) == 0, ..Task::default() },
        ),
        3 => Frame::record(
            FrameType::Thread,
            &Thread { pid: id as u32, tid: random.small() as u32, ..Thread::default() },
        ),
        4 => Frame::optional(vec![random.byte(); random.below(40)]),
        _ => invent_data(random),
    }
}

/// A data frame whose rules are sometimes broken by a little, and whose bytes are sometimes packed.
fn invent_data(random: &mut Random) -> Frame {
    let mut runs = Vec::new();
    let mut next = if random.below(4) == 0 { random.number() } else { 0 };
    for _ in 0..random.below(4) {
        let run = Run { offset: next, length: random.small() * 16 };
        next = run.offset.wrapping_add(run.length).wrapping_add(random.small());
        runs.push(run);
    }
    let sum = runs.iter().map(|run| run.length).sum::<u64>() as u32;
    let raw = vec![7; if random.below(8) == 0 { random.below(5000) } else { sum as usize }];
    let raw_length = if random.below(8) == 0 { random.number() as u32 } else { sum };
    let header = DataHeader { object: random.small(), runs, raw_length };
    let mut payload = (header.encoded_len() as u32).to_le_bytes().to_vec();
    if random.below(16) == 0 {
        payload = (random.number() as u32).to_le_bytes().to_vec();
    }
    payload.extend(header.encode_to_vec());
    let encoding = [Encoding::Raw, Encoding::Lz4, Encoding::Zstd][random.below(3)];
    match encoding {
        Encoding::Raw => payload.extend(&raw),
        Encoding::Lz4 => payload.extend(lz4_flex::block::compress(&raw)),
        Encoding::Zstd => payload.extend(zstd::bulk::compress(&raw, 1).unwrap()),
    }
    if random.below(8) == 0 {
        mutate_bytes(random, &mut payload);
    }
    let flags = stillpoint_image::format::Flags::data(encoding).0;
    Frame { flags, ..Frame::new(FrameType::Data, payload) }
}

/// Calls the writer at random and ignores its refusals. What it seals all the same, `check` wants to see accepted; so the
/// answer must be an image or, where it was never sealed, anything.
fn write_something(random: &mut Random) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let _ = writer.header(&Header {
        root_pid: random.small() as u32,
        tasks: random.below(3) as u32,
        threads: random.below(3) as u32,
        ..Header::default()
    });
    for step in 0..random.below(24) {
        // Mostly forward: objects, tasks, threads, data.
        let refusal = match (step / 5 + random.below(2)) % 4 {
            0 => writer.object(&Object { id: random.small(), ..Object::default() }),
            1 => writer.task(&Task {
                pid: random.small() as u32,
                zombie: random.below(2) == 0,
                mm: if random.below(2) == 0 { random.small() } else { 0 },
                ..Task::default()
            }),
            2 => writer.thread(&Thread {
                pid: random.small() as u32,
                tid: random.small() as u32,
                ..Thread::default()
            }),
            _ => {
                let length = random.small() * 50;
                let compression =
                    [Compression::None, Compression::Lz4, Compression::Zstd(1)][random.below(3)];
                let run = Run { offset: random.number(), length };
                encode_data(random.small(), &[run], vec![random.byte(); length as usize], compression)
                    .map_err(ImageError::from)
                    .and_then(|frame| writer.append(&frame))
            }
        };
        drop(refusal);
    }
    match writer.seal() {
        Ok((bytes, sealed)) => {
            let image = Image::verify(&bytes[..]).expect("the reader refuses what the writer sealed");
            assert_eq!(image.sealed(), sealed);
            bytes
        }
        Err(_) => support::sample::sample(),
    }
}

// ------------------------------------------------------------ chance

/// SplitMix64: the same seed gives the same run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than the limit; 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// An id or pid: few, so that they meet.
    fn small(&mut self) -> u64 {
        self.next() % 4
    }

    /// A number that is likely to be at an edge.
    fn number(&mut self) -> u64 {
        let edge = 1u64.checked_shl(self.below(66) as u32).unwrap_or(0);
        edge.wrapping_add(self.next() % 3).wrapping_sub(1)
    }
}
