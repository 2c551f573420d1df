//! What processes have in common: memory by copy on write, which is saved once and is in memory once after a restore;
//! and descriptors shared with a process outside of the tree, which is refused.

use std::process::{Command, Stdio};

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Failure, Guard, Outcome, Place, Tool, Who, Workload, tree_of, wait_for};

/// What a tree's private memory takes, KiB: all pages that it maps, and each page once.
#[derive(Debug, Clone, Copy)]
struct Memory {
    mapped: u64,
    taken: u64,
}

fn memory(workload: &Workload) -> Outcome<Memory> {
    let mut memory = Memory { mapped: 0, taken: 0 };
    for pid in tree_of(workload.pid()) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let value = |name: &str| -> Outcome<u64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name));
            let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| Failure::new(format!("no {name} in {text}")))
        };
        memory.mapped += value("Anonymous:")?;
        memory.taken += value("Pss_Anon:")?;
    }
    Ok(memory)
}

fn round(who: Who) -> Outcome {
    let mut workload = Workload::start("cow", who)?;
    workload.progress()?;
    workload.quiet()?;
    let before = memory(&workload)?;
    expect!(before.taken * 2 < before.mapped, "the workload shares nothing: {before:?}");
    workload.checkpoint_and_end("image")?;
    let image = std::fs::metadata(workload.place().path("image"))?.len() / 1024;
    expect!(image < before.taken + before.taken / 4, "an image of {image} KiB for {before:?}");
    workload.restore("image", &[])?;
    let after = memory(&workload)?;
    expect!(after.taken < before.taken + before.taken / 4, "{before:?} before, {after:?} after");
    workload.wake()?;
    workload.progress()?;
    workload.finish()
}

#[test]
fn memory_is_not_multiplied() -> Outcome {
    if Who::Root.can_run() { round(Who::Root) } else { Ok(()) }
}

#[test]
fn memory_is_not_multiplied_without_privilege() -> Outcome {
    if Who::User.can_run() { round(Who::User) } else { Ok(()) }
}

/// A process that shares its descriptors with its brother, whose parent is theirs.
const BROTHERS: &str = "import ctypes, os, time
if os.fork() == 0:
    # CLONE_FILES, CLONE_PARENT, SIGCHLD
    brother = ctypes.CDLL(None).syscall(56, 0x400 | 0x8000 | 17, 0, 0, 0, 0)
    if brother:
        open('new', 'w').write(str(brother))
        os.rename('new', 'brother')
time.sleep(600)";

#[test]
fn descriptors_shared_with_a_brother_outside_are_refused() -> Outcome {
    // As whoever runs the tests, since python is started by them.
    let who = if Who::Root.can_run() { Who::Root } else { Who::User };
    let place = Place::new(who)?;
    let mut python = Command::new("python3");
    python.args(["-c", BROTHERS]).current_dir(place.dir());
    let mut parent = python.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut guard = Guard::default();
    guard.watch(parent.id());
    let brother = wait_for("the brother", || Ok(std::fs::read_to_string(place.path("brother")).ok()))?;
    let image = place.path("image").to_string_lossy().into_owned();
    let ran = Tool::new(&place).exits(3, ["checkpoint", brother.trim(), "-o", &image, "--json"])?;
    expect!(ran.error("code").as_deref() == Some("unsupported-sharing"), "{}", ran.stdout);
    expect!(ran.error("cause").is_some_and(|cause| cause.contains("outside")), "{}", ran.stdout);
    drop(guard);
    parent.wait()?;
    Ok(())
}
