//! A hunt for races: a tree that changes all the time is saved again and again. Each image restores to a tree that
//! verifies itself, or the checkpoint was refused and says why.
//!
//! `SP_RACES=1000` says how often.

use std::collections::BTreeMap;

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Failure, Outcome, Who, Workload, note};

fn races(name: &str, who: Who) -> Outcome {
    if !who.can_run() {
        return Ok(());
    }
    let rounds = std::env::var("SP_RACES").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let mut workload = Workload::start(name, who)?;
    workload.progress()?;
    let mut refused: BTreeMap<String, u32> = BTreeMap::new();
    let mut restored = 0;
    for n in 0..rounds {
        let at = |error: Failure| Failure::new(format!("round {n} of {name}: {error}"));
        // Every other one goes on, and the image is thrown away; else it is the image that goes on.
        let leave = n % 2 == 1;
        let options: &[&str] = if leave { &["--json", "--leave-running"] } else { &["--json"] };
        let ran = workload.checkpoint("image", options).map_err(at)?;
        let image = workload.place().path("image");
        match ran.code() {
            0 if leave => {}
            0 => {
                workload.reap().map_err(at)?;
                workload.restore("image", &[]).map_err(at)?;
                restored += 1;
            }
            _ => {
                let said = |member| ran.error(member).unwrap_or_default();
                expect!(!said("cause").is_empty(), "round {n}: no reason: {} {}", ran.stdout, ran.stderr);
                expect!(!image.exists(), "round {n}: a refused checkpoint left an image");
                *refused
                    .entry(format!("{}: {}: {}", said("code"), said("doing"), said("cause")))
                    .or_default() += 1;
            }
        }
        let _ = std::fs::remove_file(&image);
        workload.progress().map_err(at)?;
    }
    note(&format!("{rounds} rounds, {restored} restored, refused: {refused:?}"));
    // What it does is all supported: what changed under the freeze is for the tool to look at again.
    expect!(refused.is_empty(), "refused: {refused:#?}");
    workload.finish()
}

#[test]
fn root_a_tree_that_changes_all_the_time() -> Outcome {
    races("race", Who::Root)
}

#[test]
fn user_a_tree_that_changes_all_the_time() -> Outcome {
    races("race", Who::User)
}

#[test]
fn user_threads_and_processes_that_come_and_go() -> Outcome {
    races("churn", Who::User)
}
