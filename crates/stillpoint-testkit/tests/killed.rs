//! The tool is killed, every process of it at once, at instants that nobody has chosen: a checkpoint harms no task and
//! leaves no part of an image, a restore leaves nothing or a complete tree.
//!
//! `SP_KILLS=1000` says how often; `SP_SEED` repeats a run's instants.

use std::fs;
use std::os::unix::process::CommandExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{
    Failure, Job, Outcome, Who, Workload, kill_tree, naming, note, parent_of, tree_of, wait_for,
};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn kills(few: u64) -> u64 {
    number("SP_KILLS").unwrap_or(few)
}

/// Instants, from a seed that a failure names.
struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    fn new() -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
        let seed = number("SP_SEED").unwrap_or(clock) | 1;
        Dice { seed, state: seed }
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        Duration::from_nanos(self.state % (limit.as_nanos() as u64).max(1))
    }
}

/// Starts the command in a process group of its own and kills that after a time; returns whether it had ended before.
fn killed_after(workload: &Workload, args: &[&str], after: Duration) -> Outcome<bool> {
    let mut command = workload.tool().command(args)?;
    command.process_group(0);
    let mut job = Job::start(workload.place(), command)?;
    let start = Instant::now();
    while start.elapsed() < after {
        std::hint::spin_loop();
    }
    let over = job.child.try_wait()?.is_some();
    // SAFETY: takes two numbers; the group is the one that was just made.
    unsafe { libc::kill(-job.pid().cast_signed(), libc::SIGKILL) };
    job.wait()?;
    Ok(over)
}

/// How long the command takes when nobody kills it.
fn duration(work: impl Fn() -> Outcome, undo: impl Fn() -> Outcome) -> Outcome<Duration> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed());
        undo()?;
    }
    times.sort_unstable();
    // Not the longest: on a busy machine most kills would come too late.
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}

/// Names in the case's directory, but for those of the harness itself.
fn names(workload: &Workload) -> Outcome<Vec<String>> {
    let all = fs::read_dir(workload.place().dir())?.flatten();
    let mut names: Vec<String> = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with("out-") && !name.starts_with("err-") && name != "status");
    names.sort();
    Ok(names)
}

/// One case at a time: instants are chosen by how long the command takes alone.
static ALONE: Mutex<()> = Mutex::new(());

fn checkpoints(who: Who) -> Outcome {
    if !who.can_run() {
        return Ok(());
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut workload = Workload::start("busy", who)?;
    workload.progress()?;
    let image = workload.place().path("image").to_string_lossy().into_owned();
    let pid = workload.pid().to_string();
    let args = ["checkpoint", &pid, "-o", &image, "--leave-running"];
    let longest = duration(|| workload.tool().exits(0, args).map(drop), || Ok(fs::remove_file(&image)?))?;
    let before = names(&workload)?;
    let mut dice = Dice::new();
    let seed = dice.seed;
    let (mut complete, mut none) = (0, 0);
    for n in 0..kills(25) {
        let after = dice.below(longest);
        let at = |error: Failure| Failure::new(format!("kill {n} after {after:?}, seed {seed}: {error}"));
        killed_after(&workload, &args, after).map_err(at)?;
        workload.progress().map_err(at)?;
        if workload.place().path("image").exists() {
            workload.tool().exits(0, ["verify", &image]).map_err(at)?;
            fs::remove_file(&image)?;
            complete += 1;
        } else {
            none += 1;
        }
        expect!(
            names(&workload)? == before,
            "kill {n} after {after:?}, seed {seed}: it left {:?}",
            names(&workload)?
        );
        if n % 10 == 9 {
            workload.tool().exits(0, args).map_err(at)?;
            fs::remove_file(&image)?;
        }
    }
    note(&format!("{complete} complete images, {none} times none, within {longest:?}, seed {seed}"));
    // What the last of them left is cleared up and not saved.
    workload.checkpoint_and_end("image")?;
    workload.restore("image", &[])?;
    workload.progress()?;
    workload.finish()
}

#[test]
fn root_a_killed_checkpoint_harms_no_task() -> Outcome {
    checkpoints(Who::Root)
}

#[test]
fn user_a_killed_checkpoint_harms_no_task() -> Outcome {
    checkpoints(Who::User)
}

fn restores(who: Who) -> Outcome {
    if !who.can_run() {
        return Ok(());
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut workload = Workload::start("busy", who)?;
    workload.progress()?;
    let tasks = tree_of(workload.pid());
    let count = tasks.len();
    workload.checkpoint_and_end("image")?;
    let dir = workload.place().dir().to_string_lossy().into_owned();
    let image = workload.place().path("image").to_string_lossy().into_owned();
    let pid_file = workload.place().path("pid").to_string_lossy().into_owned();
    let args = ["restore", "--detach", "--pid-file", &pid_file, &image];
    // The tree, the command, and what the command makes: all name the directory.
    // Ids are free only when somebody has reaped the tasks, which the command would wait for.
    // In a namespace of its own the tree has others here, and these are soon somebody else's.
    let there = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let reaped = || who == Who::User || !tasks.iter().any(there);
    let gone = || wait_for("nothing to be left", || Ok((naming(&dir).is_empty() && reaped()).then_some(())));
    let undo = || {
        naming(&dir).first().into_iter().for_each(|root| kill_tree(*root));
        gone()?;
        Ok(fs::remove_file(&pid_file)?)
    };
    let longest = duration(|| workload.tool().exits(0, args).map(drop), undo)?;
    workload.rewind();
    let before = names(&workload)?;
    let mut dice = Dice::new();
    let seed = dice.seed;
    let (mut complete, mut none) = (0, 0);
    for n in 0..kills(10) {
        let after = dice.below(longest);
        let at = |error: Failure| Failure::new(format!("kill {n} after {after:?}, seed {seed}: {error}"));
        killed_after(&workload, &args, after).map_err(at)?;
        // Tasks that die with the tool do so in a moment. What is left of a namespace takes until somebody has reaped them.
        let settled = Instant::now();
        let there = wait_for("nothing or a complete tree", || {
            let all = naming(&dir);
            let tree: Vec<u32> = all.iter().copied().filter(|pid| executes(*pid, "sp-work")).collect();
            let stays = settled.elapsed() > Duration::from_millis(300) && tree.len() == count;
            Ok((all.is_empty() || stays).then_some(tree))
        });
        let there = there.map_err(at)?;
        if there.is_empty() {
            let left = names(&workload)?;
            expect!(left == before, "kill {n} after {after:?}, seed {seed}: it left {left:?}");
            gone().map_err(at)?;
            none += 1;
            continue;
        }
        let root = there.iter().find(|&&pid| parent_of(pid).is_none_or(|parent| !there.contains(&parent)));
        let root = *root.ok_or_else(|| at(Failure::new("no root")))?;
        workload.adopt(root);
        workload.progress().map_err(at)?;
        kill_tree(root);
        gone().map_err(at)?;
        let _ = fs::remove_file(&pid_file);
        workload.rewind();
        complete += 1;
    }
    note(&format!("{complete} complete trees, {none} times nothing, within {longest:?}, seed {seed}"));
    workload.restore("image", &[])?;
    workload.progress()?;
    workload.finish()
}

fn executes(pid: u32, program: &str) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.to_string_lossy().contains(program))
}

#[test]
fn root_a_killed_restore_leaves_nothing_or_everything() -> Outcome {
    restores(Who::Root)
}

#[test]
fn user_a_killed_restore_leaves_nothing_or_everything() -> Outcome {
    restores(Who::User)
}
