//! Images that are sealed well and mean harm: a real one is taken apart, its records are edited, and it is sealed again.
//! Whatever they say, a restore ends by itself, with one of its own exit statuses, and leaves nothing unless it succeeds.

// What fails in a helper fails its test.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stillpoint_image::Message;
use stillpoint_image::format::FrameType;
use stillpoint_image::records::{DataHeader, Mm, Object, Run};

#[path = "../../stillpoint-image/tests/support/forge.rs"]
#[allow(dead_code)]
mod forge;
mod wire;

use forge::Frame;

fn command() -> Command {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_stillpoint"));
    Command::new(
        std::env::var_os("STILLPOINT_BIN_DIR")
            .map_or_else(built, |dir| PathBuf::from(dir).join("stillpoint")),
    )
}

/// The frames of an image of a shell that waits for a child with a pipe between them; both have been ended.
fn frames(directory: &Path) -> Vec<Frame> {
    let script = "import os, signal, time\nr, w = os.pipe()\nos.write(w, b'queued')\n\
                  a = bytearray(os.urandom(65536))\nos.fork()\nopen('ready', 'a').write('x')\nsignal.pause()";
    let mut shell = Command::new("python3")
        .args(["-c", script])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start python3");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(directory.join("ready")).map_or(0, |file| file.len()) < 2 {
        assert!(Instant::now() < deadline, "the workload is not ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    let image = directory.join("image");
    let done = command()
        .args(["checkpoint", &shell.id().to_string(), "-o"])
        .arg(&image)
        .output()
        .expect("start stillpoint");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    shell.wait().expect("reap");
    forge::contents(&std::fs::read(image).expect("read the image"))
}

/// Restores, and returns the exit status. Nothing that was restored is left.
fn restore(directory: &Path, frames: &[Frame], what: &str) -> (i32, String) {
    let image = directory.join("edited");
    std::fs::write(&image, forge::seal(frames)).expect("write the image");
    let pid_file = directory.join("pid");
    let mut child = command()
        .args(["restore", "--pidns", "--detach", "--pid-file"])
        .args([&pid_file, &image])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start stillpoint");
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        assert!(Instant::now() < deadline, "{what}: the restore does not end");
        std::thread::sleep(Duration::from_millis(1));
    };
    if status.success() {
        end_namespace(&image);
        std::fs::remove_file(&pid_file).expect("remove");
    }
    assert!(!pid_file.exists(), "{what}: the pid file is left");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut said).expect("read");
    (status.code().unwrap_or(-1), said)
}

/// Kills the init of the namespace that was made for an image; it takes all that was restored with it. The root, whose
/// pid the file tells, may have ended already.
fn end_namespace(image: &Path) {
    let image = image.as_os_str().as_encoded_bytes();
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if line.split(|&byte| byte == 0).any(|word| word == image) {
            Command::new("kill").arg("-KILL").arg(process.file_name()).status().expect("kill");
        }
    }
}

fn kind_of(object: u64, frames: &[Frame]) -> String {
    let objects = frames.iter().filter(|frame| frame.kind == FrameType::Object);
    let mut decoded = objects.map(|frame| Object::decode(&frame.payload[..]).expect("an object"));
    decoded.find(|candidate| candidate.id == object).map(|object| object.kind).unwrap_or_default()
}

/// Splits the payload of a data frame.
fn data(frame: &Frame) -> (DataHeader, Vec<u8>) {
    let (length, rest) = frame.payload.split_first_chunk::<4>().expect("a data frame");
    let (header, bytes) = rest.split_at(u32::from_le_bytes(*length) as usize);
    (DataHeader::decode(header).expect("a data header"), bytes.to_vec())
}

fn with_data(frame: &Frame, header: &DataHeader, bytes: &[u8]) -> Frame {
    let header = header.encode_to_vec();
    let length = u32::try_from(header.len()).expect("short").to_le_bytes();
    Frame { payload: [&length[..], &header, bytes].concat(), ..frame.clone() }
}

#[test]
fn contents_outside_of_what_they_belong_to_are_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let frames = frames(directory.path());
    let (status, said) = restore(directory.path(), &frames, "the image as it was");
    assert_eq!(status, 0, "{said}");
    let at = frames
        .iter()
        .position(|frame| frame.kind == FrameType::Data && kind_of(data(frame).0.object, &frames) == "mm")
        .expect("memory");
    let other = frames
        .iter()
        .filter(|frame| frame.kind == FrameType::Object)
        .map(|frame| Object::decode(&frame.payload[..]).expect("an object"))
        .find(|object| object.kind == "file-name")
        .expect("a file")
        .id;
    let (header, bytes) = data(&frames[at]);
    let last = header.runs.len() - 1;
    let moved = |edit: &dyn Fn(&mut DataHeader)| {
        let mut header = header.clone();
        edit(&mut header);
        let mut edited = frames.clone();
        edited[at] = with_data(&frames[at], &header, &bytes);
        edited
    };
    let cases = [
        ("below all areas", moved(&|header| header.runs[0].offset = 0x1000)),
        ("above all areas", moved(&|header| header.runs[last].offset = 0x7fff_ffff_0000)),
        ("outside of user memory", moved(&|header| header.runs[last].offset = u64::MAX << 20)),
        ("of an object without contents", moved(&|header| header.object = other)),
        (
            "past the end of an area",
            moved(&|header| {
                let Run { offset, length } = header.runs[last];
                header.runs[last] = Run { offset: offset + (1 << 30), length };
            }),
        ),
    ];
    for (what, edited) in cases {
        let (status, said) = restore(directory.path(), &edited, what);
        assert_eq!(status, 4, "contents {what}: {said}");
        assert!(said.contains("contents of object"), "{what}: {said}");
    }
}

/// What is done to a record.
type Edit<'a> = &'a dyn Fn(&mut Mm);

#[test]
fn inherited_pages_that_are_not_the_parents_are_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let frames = frames(directory.path());
    let mm = |frame: &Frame| {
        let object = Object::decode(&frame.payload[..]).ok().filter(|_| frame.kind == FrameType::Object)?;
        let mm = Mm::decode(&object.body[..]).ok().filter(|_| object.kind == "mm")?;
        Some((object.id, mm))
    };
    let is_heir = |frame: &Frame| mm(frame).is_some_and(|(_, mm)| !mm.inherited.is_empty());
    let at = frames.iter().position(is_heir).expect("a child that inherits");
    let edits: [(&str, Edit<'_>); 6] = [
        ("outside of all areas", &|mm| mm.inherited[0].offset = 0x1000),
        ("past the end of an area", &|mm| mm.inherited[0].length += 1 << 30),
        ("not of whole pages", &|mm| mm.inherited[0].length = 1),
        ("twice", &|mm| mm.inherited.insert(0, mm.inherited[0])),
        ("of nobody", &|mm| mm.parent = 0),
        ("of another program", &|mm| mm.executable = mm.areas.iter().map(|area| area.object).max().unwrap()),
    ];
    for (what, edit) in edits {
        let mut edited = frames.clone();
        let (id, mut mm) = mm(&frames[at]).expect("memory");
        edit(&mut mm);
        edited[at] = Frame::record(FrameType::Object, &Object::with_body(id, "mm", &mm));
        let (status, said) = restore(directory.path(), &edited, what);
        assert_eq!(status, 4, "inherited pages {what}: {said}");
    }
}

#[test]
fn edited_records_end_in_an_exit_status_and_leave_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let frames = frames(directory.path());
    let records: Vec<usize> = (0..frames.len()).filter(|&n| frames[n].kind != FrameType::Data).collect();
    let cases = std::env::var("STILLPOINT_EDITS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let seed = std::env::var("STILLPOINT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1u64);
    let mut random = wire::Random(seed);
    let mut statuses = std::collections::BTreeMap::new();
    for case in 0..cases {
        let at = records[random.below(records.len())];
        let mut edited = frames.clone();
        let told = wire::edit(&mut edited[at].payload, &mut random);
        let what = format!("case {case} of seed {seed}: {:?} number {at}, {told}", edited[at].kind);
        let (status, said) = restore(directory.path(), &edited, &what);
        assert!((0..=5).contains(&status) && status != 2, "{what}: status {status}: {said}");
        *statuses.entry(status).or_insert(0u32) += 1;
    }
    eprintln!("exit statuses: {statuses:?}");
}
