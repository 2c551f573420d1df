//! What every workload is put through.

use super::{Failure, Outcome, Who, Workload};
use crate::equality::{PIPE_ROOM, RUNNING, Rules, SHARED_PAGES, TIMER_SIGNALS, TIMER_SLACK};
use crate::expect;

/// Workloads that write to files which the image refers to by name, at their end.
const WRITES_FILES: [&str; 2] = ["files", "shared-map"];

/// What may differ for a workload beyond what may differ for all.
#[must_use]
pub fn rules_for(name: &str) -> Rules {
    let rules = if Who::are_root() {
        Rules::standard()
    } else {
        Rules::standard().with(TIMER_SLACK).with(SHARED_PAGES)
    };
    match name {
        // Its timers go on while it is quiet.
        "itimers" => rules.with(TIMER_SIGNALS),
        "pipe-full" => rules.with(PIPE_ROOM),
        // Its threads are never quiet: that they are inside their waits is the point.
        "restart" | "busy" => rules.with(RUNNING),
        _ => rules,
    }
}

/// Saved while quiet, restored, and equal in every respect; then it runs on to a good end.
///
/// # Errors
///
/// Where anything is not as it was.
pub fn round_trip(name: &str, who: Who) -> Outcome {
    let rules = rules_for(name);
    let mut workload = Workload::start(name, who)?;
    workload.progress()?;
    workload.quiet()?;
    let before = workload.settled(&rules)?;
    workload.checkpoint_and_end("image")?;
    let image = workload.place().path("image").to_string_lossy().into_owned();
    workload.tool().exits(0, ["verify", &image])?;
    workload.restore("image", &[])?;
    workload.equals(&before, &rules)?;
    workload.wake()?;
    workload.progress()?;
    workload.finish()
}

/// Saved in the middle of its work and restored.
///
/// # Errors
///
/// Where the workload notices.
pub fn busy_round(name: &str, who: Who) -> Outcome {
    rounds(name, who, 1)
}

/// The same twice in a row: what was restored is saved again.
///
/// # Errors
///
/// Where the workload notices.
pub fn two_rounds(name: &str, who: Who) -> Outcome {
    rounds(name, who, 2)
}

fn rounds(name: &str, who: Who, count: usize) -> Outcome {
    let mut workload = Workload::start(name, who)?;
    workload.progress()?;
    for round in 0..count {
        let image = format!("image-{round}");
        workload.checkpoint_and_end(&image)?;
        workload.restore(&image, &[])?;
        workload.progress()?;
    }
    workload.finish()
}

/// Saved with `--leave-running`: the original notices nothing, and what was saved is good as well.
///
/// # Errors
///
/// Where either notices.
pub fn leave_running(name: &str, who: Who) -> Outcome {
    let mut workload = Workload::start(name, who)?;
    workload.progress()?;
    let pid = workload.pid();
    workload.checkpoint("image", &["--leave-running"])?.exits(0)?;
    expect!(super::running(pid), "the original is gone");
    workload.progress()?;
    workload.finish()?;
    if WRITES_FILES.contains(&name) {
        // A strict restore rightly refuses: the original went on writing.
        let image = workload.place().path("image").to_string_lossy().into_owned();
        workload.tool().exits(5, ["restore", "--detach", &image])?;
        return Ok(());
    }
    workload.rewind();
    workload.restore("image", &[])?;
    workload.progress()?;
    workload.finish()
}

/// A checkpoint is refused, says why by one of these codes, leaves no image, and the holder is unharmed.
///
/// # Errors
///
/// Where it is not refused, or for another reason, or does harm.
pub fn refused(thing: &str, codes: &[&str], who: Who) -> Outcome {
    let Some(mut workload) = Workload::hold(thing, who)? else {
        return Ok(());
    };
    workload.progress()?;
    let rules = Rules::of_running_tree();
    // What is traced already cannot be recorded; every other tree must look the same afterwards.
    let before = workload.record().ok();
    let ran = workload.checkpoint("image", &["--json"])?.exits(3)?;
    let code = ran.error("code").ok_or_else(|| Failure::new(format!("no error code: {}", ran.stdout)))?;
    expect!(codes.contains(&code.as_str()), "refused as {code}, not as {codes:?}: {}", ran.stdout);
    for member in ["doing", "task", "cause"] {
        let said = ran.error(member).filter(|text| !text.is_empty() && text != "null");
        expect!(said.is_some(), "the error does not say its {member}: {}", ran.stdout);
    }
    expect!(!workload.place().path("image").exists(), "a refused checkpoint left a file");
    let left = std::fs::read_dir(workload.place().dir())?.flatten().map(|e| e.file_name());
    let left = left.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.contains("image"));
    expect!(left.count() == 0, "a refused checkpoint left a part of a file");
    if let Some(before) = before {
        workload.equals(&before, &rules)?;
    }
    workload.progress()?;
    workload.finish()
}
