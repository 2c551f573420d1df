//! The workloads and the checker by themselves, without any checkpoint: what fails here is the test kit's own fault.

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Outcome, Who, Workload, rules_for};

/// Starts, verifies, is recorded while quiet (twice the same), runs on, is recorded while busy, finishes.
fn alone(name: &str, who: Who) -> Outcome {
    if !who.can_run() {
        return Ok(());
    }
    let mut workload = Workload::start(name, who)?;
    workload.progress()?;
    workload.quiet()?;
    let before = workload.settled(&rules_for(name))?;
    workload.equals(&before, &rules_for(name))?;
    workload.wake()?;
    workload.progress()?;
    for _ in 0..10 {
        workload.record()?;
    }
    workload.progress()?;
    workload.finish()
}

/// Holds its thing, verifies, finishes.
fn holds(thing: &str, who: Who) -> Outcome {
    if !who.can_run() {
        return Ok(());
    }
    let Some(mut workload) = Workload::hold(thing, who)? else {
        return Ok(());
    };
    workload.progress()?;
    workload.finish()
}

fn names(command: &str) -> Outcome<Vec<String>> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sp-work")).arg(command).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Runs a case for each name, all of them before it fails.
fn each(names: Vec<String>, case: impl Fn(&str) -> Outcome) -> Outcome {
    let failures =
        names.iter().filter_map(|name| case(name).err().map(|e| format!("{name}: {e}"))).collect::<Vec<_>>();
    expect!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn root_every_state_alone() -> Outcome {
    each(names("list")?, |name| alone(name, Who::Root))
}

#[test]
fn user_every_state_alone() -> Outcome {
    each(names("list")?, |name| alone(name, Who::User))
}

#[test]
fn root_every_hold_alone() -> Outcome {
    each(names("list-holds")?, |name| holds(name, Who::Root))
}

#[test]
fn user_every_hold_alone() -> Outcome {
    each(names("list-holds")?, |name| holds(name, Who::User))
}

#[test]
fn a_failing_workload_is_noticed() -> Outcome {
    let workload = Workload::start("counter", Who::User)?;
    workload.progress()?;
    // Changes one of its cells behind its back.
    let record = workload.record()?;
    let task = &record.tasks[&record.root];
    let cells =
        task.areas.values().filter(|a| a.end - a.start >= 1 << 20 && a.perms == "rw-p" && a.path.is_empty());
    let area = cells
        .max_by_key(|a| a.private_pages)
        .ok_or_else(|| stillpoint_testkit::harness::Failure::new("no area"))?;
    let mem = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", workload.pid()))?;
    std::os::unix::fs::FileExt::write_at(&mem, &[0xee; 8], area.start + 4096 * 8)?;
    let error = workload.progress().err().map(|e| e.to_string()).unwrap_or_default();
    expect!(error.contains("main failed: cell"), "noticed as {error:?}");
    Ok(())
}
