//! Memory that processes have in common by copy on write is saved once, and is in memory once after a restore.

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Failure, Outcome, Who, Workload, tree_of};

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
