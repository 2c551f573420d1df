//! Many cycles of checkpoint and restore: nothing is lost, nothing happens twice, nothing piles up.
//!
//! `SP_CYCLES=1000` says how many of the mixed workloads, `SP_PARALLEL=30` how many counting programs at once.

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Failure, Outcome, Who, Workload};

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn cycles(name: &str, who: Who, count: u32) -> Outcome {
    let mut workload = Workload::start(name, who)?;
    workload.progress()?;
    for n in 0..count {
        let at = |error: Failure| Failure::new(format!("cycle {n} of {name}: {error}"));
        workload.checkpoint_and_end("image").map_err(at)?;
        workload.restore("image", &[]).map_err(at)?;
        std::fs::remove_file(workload.place().path("image"))?;
        workload.progress().map_err(at)?;
    }
    let left = std::fs::read_dir(workload.place().dir())?.flatten().map(|entry| entry.file_name());
    let left = left.filter(|name| name.to_string_lossy().contains("stillpoint")).count();
    expect!(left == 0, "{left} hidden files are left after {count} cycles of {name}");
    workload.finish()
}

/// A tree of mixed workloads, one below the other: the last of them starts the rest.
#[test]
fn user_mixed_workloads_for_many_cycles() -> Outcome {
    let names = ["busy", "tree", "threads", "pipes", "waits", "futex", "signals", "anon", "race", "restart"];
    let count = number("SP_CYCLES", 10);
    let each = count / names.len() as u32;
    names.iter().try_for_each(|name| cycles(name, Who::User, each.max(1)))
}

#[test]
fn user_a_counting_program_in_series() -> Outcome {
    cycles("counter", Who::User, number("SP_SERIES", 5))
}

#[test]
fn user_counting_programs_in_parallel() -> Outcome {
    let threads: Vec<_> = (0..number("SP_PARALLEL", 4))
        .map(|_| std::thread::spawn(|| cycles("counter", Who::User, 1)))
        .collect();
    for thread in threads {
        thread.join().map_err(|_| Failure::new("a cycle panicked"))??;
    }
    Ok(())
}
