//! What the command takes, as a table: `cargo bench -p stillpoint-testkit -- [ROUNDS] [ROW...] [--phases]`
//!
//! Each row is a tree of one shape. A round starts it, saves it once and leaves it running (that tells the freeze:
//! how long no task of the tree ran), saves it again and ends it, restores it, and kills it. What is shown is the
//! time from the start of the command to its exit, as whoever waits for it sees it, the median of the rounds and the
//! least; the processor time that the command took, user and system together; and the most memory that it had.
//! With `--phases` each round is shown with what the command says of its phases.
//!
//! A floor is what a program takes that does nothing but what nobody can leave out, measured once in each round.
//!
//! Nothing here is asserted: these are measurements, and a machine with other work on it gives others.

mod floor;
mod run;
mod shape;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use run::{Floors, Sample};
use shape::Shape;

/// How often each row is measured unless the command line says otherwise.
const ROUNDS: usize = 7;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.is_empty()).collect();
    let done = match args[..] {
        ["shape", name, dir] => shape::run(name, Path::new(dir)),
        ["floor", name, image] => floor::run(name, Path::new(image)),
        // `cargo test` runs a benchmark too if it is asked for one by name; only `cargo bench` says so.
        _ if !args.contains(&"--bench") => Ok(()),
        _ => table(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("table: {error}");
            ExitCode::FAILURE
        }
    }
}

fn table(args: &[&str]) -> Result<(), String> {
    let words: Vec<&str> = args.iter().copied().filter(|arg| !arg.starts_with("--")).collect();
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(ROUNDS).max(1);
    let wanted: Vec<&str> = words.into_iter().filter(|word| word.parse::<usize>().is_err()).collect();
    if let Some(unknown) = wanted.iter().find(|name| shape::ALL.iter().all(|shape| shape.name != **name)) {
        let names: Vec<&str> = shape::ALL.iter().map(|shape| shape.name).collect();
        return Err(format!("no row is named {unknown}; there are: {}", names.join(" ")));
    }
    let tool = build()?;
    let place = Directory::new()?;
    run::prepare()?;
    println!("{rounds} rounds; times in ms: median (least); cpu is user + system of the command");
    println!(
        "{:<34} {:<10} {:>17} {:>9} {:>17} {:>9} {:>6} {:>8}",
        "tree", "command", "wall", "cpu", "floor", "ratio", "freeze", "peak"
    );
    for shape in shape::ALL.iter().filter(|shape| wanted.is_empty() || wanted.contains(&shape.name)) {
        row(shape, rounds, &tool, &place.0, args.contains(&"--phases"))?;
    }
    Ok(())
}

fn row(shape: &Shape, rounds: usize, tool: &Path, place: &Path, phases: bool) -> Result<(), String> {
    let mut checkpoints = Vec::with_capacity(rounds);
    let mut restores = Vec::with_capacity(rounds);
    let mut floors = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let round = again_if_taken(|| run::round(shape, tool, place))?;
        for (name, sample) in [("checkpoint", &round.checkpoint), ("restore", &round.restore)] {
            if phases {
                println!("{:>17} {name:<10} {:>8} {}", "", ms(sample.wall), sample.phases);
            }
        }
        checkpoints.push(round.checkpoint);
        restores.push(round.restore);
        floors.extend(round.floors);
    }
    print(shape.title, "checkpoint", &checkpoints, &floor_of(&floors, |floors| floors.checkpoint));
    print("", "restore", &restores, &floor_of(&floors, |floors| floors.restore));
    Ok(())
}

/// Elsewhere on the machine somebody may take an id of the tree before it is restored: that round does not count.
fn again_if_taken<T>(mut round: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    for _ in 0..10 {
        match round() {
            Err(error) if error.contains("pid-taken") => {}
            done => return done,
        }
    }
    round()
}

fn floor_of(floors: &[Floors], which: impl Fn(&Floors) -> Duration) -> Vec<Duration> {
    floors.iter().map(which).collect()
}

fn print(title: &str, command: &str, samples: &[Sample], floor: &[Duration]) {
    let wall: Vec<Duration> = samples.iter().map(|sample| sample.wall).collect();
    let cpu: Vec<Duration> = samples.iter().map(|sample| sample.cpu).collect();
    let frozen: Vec<Duration> = samples.iter().filter_map(|sample| sample.frozen).collect();
    let peak = samples.iter().map(|sample| sample.peak_kib).max().unwrap_or(0);
    let both = |times: &[Duration]| match times {
        [] => String::new(),
        times => format!("{} ({})", ms(median(times)), ms(least(times))),
    };
    let ratio = match floor {
        [] => String::new(),
        floor => format!("{:.2}x", median(&wall).as_secs_f64() / median(floor).as_secs_f64()),
    };
    let frozen = if frozen.is_empty() { String::new() } else { ms(median(&frozen)) };
    println!(
        "{title:<34} {command:<10} {:>17} {:>9} {:>17} {ratio:>9} {frozen:>6} {:>6.1} M",
        both(&wall),
        ms(median(&cpu)),
        both(floor),
        f64::from(u32::try_from(peak).unwrap_or(u32::MAX)) / 1024.0
    );
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn least(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap_or_default()
}

/// Builds the release command, so that what is measured is what the sources say, and returns where it is.
fn build() -> Result<PathBuf, String> {
    let Some(cargo) = std::env::var_os("CARGO") else {
        return Err("run this by `cargo bench -p stillpoint-testkit`, which says where cargo is".into());
    };
    let status = std::process::Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "stillpoint"])
        .status()
        .map_err(|error| format!("building the command: {error}"))?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    // Benchmarks are in TARGET/release/deps, binaries beside that directory.
    match own.ancestors().nth(2).map(|dir| dir.join("stillpoint")).filter(|path| path.is_file()) {
        Some(path) if status.success() => Ok(path),
        _ => Err("the command could not be built".into()),
    }
}

/// A directory on tmpfs, removed in the end: for images, and for the files that trees have open.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, String> {
        let path = Path::new("/dev/shm").join(format!("stillpoint-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
