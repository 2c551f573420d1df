//! One round: a tree is started, saved, saved and ended, restored, and killed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stillpoint_testkit::harness;

use super::shape::Shape;

/// What one run of the command took.
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    /// As the command tells them, as JSON.
    pub(crate) phases: String,
    pub(crate) cpu: Duration,
    pub(crate) peak_kib: u64,
    /// Of a checkpoint that left the tree running: how long no task of it ran.
    pub(crate) frozen: Option<Duration>,
}

/// The floors beside them.
#[derive(Clone, Copy)]
pub(crate) struct Floors {
    pub(crate) checkpoint: Duration,
    pub(crate) restore: Duration,
}

pub(crate) struct Round {
    pub(crate) checkpoint: Sample,
    pub(crate) restore: Sample,
    pub(crate) floors: Option<Floors>,
}

/// What this process must be before it starts anything: the parent of orphans, with nothing open that they would get.
pub(crate) fn prepare() -> Result<(), String> {
    // SAFETY: takes numbers.
    let subreaper = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    // SAFETY: sets a flag of descriptors; whatever was inherited is nobody's business here.
    let close = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if subreaper != 0 || close != 0 { Err(std::io::Error::last_os_error().to_string()) } else { Ok(()) }
}

/// Measures a tree once.
pub(crate) fn round(shape: &Shape, tool: &Path, place: &Path) -> Result<Round, String> {
    let mut tree = Tree::start(shape, place)?;
    let (kept, image) = (place.join("kept.sp"), place.join("image.sp"));
    // Of a round that failed.
    let _ = std::fs::remove_file(&image);
    let floors = if shape.has_floor { Some(floors(&tree, place)?) } else { None };
    let pid = tree.root.to_string();
    let running = sample(tool, place, &["checkpoint", &pid, "--leave-running", "-o"], &kept)?;
    remove(&kept)?;
    let mut checkpoint = sample(tool, place, &["checkpoint", &pid, "-o"], &image)?;
    checkpoint.frozen = running.frozen;
    tree.ended()?;
    let restore = sample(tool, place, &["restore", "--detach"], &image)?;
    let alive = harness::tree_of(tree.root).into_iter().filter(|pid| harness::running(*pid)).count();
    drop(tree);
    remove(&image)?;
    if alive != shape.processes {
        return Err(format!("{} processes of {} were restored", alive, shape.processes));
    }
    Ok(Round { checkpoint, restore, floors })
}

fn floors(tree: &Tree, place: &Path) -> Result<Floors, String> {
    let path = place.join("floor");
    let measure = |name: &str| -> Result<Duration, String> {
        let output = Command::new(own()?).args(["floor", name]).arg(&path).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().map(Duration::from_nanos).map_err(|_| format!("the floor {name} failed"))
    };
    let floors =
        Floors { checkpoint: measure(&format!("save:{}", tree.root))?, restore: measure("restore")? };
    remove(&path)?;
    Ok(floors)
}

fn remove(path: &Path) -> Result<(), String> {
    std::fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn own() -> Result<std::path::PathBuf, String> {
    std::env::current_exe().map_err(|error| error.to_string())
}

/// Runs the command to its end.
fn sample(tool: &Path, place: &Path, args: &[&str], image: &Path) -> Result<Sample, String> {
    let failed = |error: std::io::Error| error.to_string();
    let said = place.join("said");
    let mut command = Command::new(tool);
    command.args(args).arg(image).arg("--json").env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(File::create(&said).map_err(failed)?).stderr(Stdio::inherit());
    let clock = Instant::now();
    let child = command.spawn().map_err(failed)?;
    let (status, usage) = wait(&child)?;
    let wall = clock.elapsed();
    let text = std::fs::read_to_string(&said).map_err(failed)?;
    if status != 0 {
        return Err(format!("{command:?}: status {status:#x}: {text}"));
    }
    let json: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let frozen = json["frozen_ms"].as_f64().map(|ms| Duration::from_secs_f64(ms / 1e3));
    let time = |time: libc::timeval| {
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_usec).unwrap_or(0) * 1000)
    };
    Ok(Sample {
        wall,
        phases: json["phases_ms"].to_string(),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak_kib: usage.ru_maxrss.unsigned_abs(),
        frozen,
    })
}

/// Waits for the command, which alone tells what it used.
fn wait(child: &Child) -> Result<(i32, libc::rusage), String> {
    let mut status = 0;
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both outlive the call.
    let got = unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) };
    if got < 0 { Err(std::io::Error::last_os_error().to_string()) } else { Ok((status, usage)) }
}

/// A tree, killed when it is dropped.
struct Tree {
    root: u32,
}

impl Tree {
    fn start(shape: &Shape, place: &Path) -> Result<Self, String> {
        let ready = place.join("ready");
        let _ = std::fs::remove_file(&ready);
        let mut command = Command::new(own()?);
        command.args(["shape", shape.name]).arg(place).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn().map_err(|error| error.to_string())?;
        let tree = Tree { root: child.id() };
        let deadline = Instant::now() + harness::PATIENCE;
        while !ready.is_symlink() {
            if Instant::now() > deadline {
                return Err(format!("the tree {} does not become ready", shape.name));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its last steps, and what its forks left to be done, are no part of what is measured.
        std::thread::sleep(Duration::from_millis(20));
        Ok(tree)
    }

    /// Reaps the tree, which the command has ended.
    fn ended(&mut self) -> Result<(), String> {
        reap(libc::WNOHANG);
        if harness::running(self.root) { Err("the tree was not ended".into()) } else { Ok(()) }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        harness::kill_tree(self.root);
        reap(0);
    }
}

/// Reaps every child that has ended; with 0, until no child is left.
fn reap(flags: i32) {
    // SAFETY: a null pointer means that the status is of no interest.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), flags | libc::__WALL) } > 0 {}
}
