//! Mutates real texts of `/proc` and hands them to the parsers, for a number of seconds: none may panic or take long.
//!
//! ```text
//! cargo run -p stillpoint-sys --example fuzz_proc -- --seconds 20 [--seed N]
//! ```
//!
//! Without `--release` arithmetic overflow is a panic too. The corpus is `fuzz/corpus/proc` and the fixtures of the
//! unit tests; a file belongs to the parser that its name begins with. An input that fails is written to the
//! corpus, where it stays as a regression test, and the exit status is 1. Stable Rust has no coverage feedback:
//! inputs that a parser still understands take the place of it and become seeds themselves.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use stillpoint_sys::proc::{PARSERS, fuzz_one};

/// No text that a mutation makes is longer.
const LONGEST: usize = 64 * 1024;

/// An input that takes longer than this hangs, for all that a checkpoint cares.
const SLOW: Duration = Duration::from_secs(2);

/// Texts that parsers look for, and numbers at the edges.
const TOKENS: [&[u8]; 32] = [
    b"\n",
    b" ",
    b"\t",
    b":",
    b"-",
    b"(",
    b")",
    b"/",
    b"\\",
    b"\\012",
    b"\\134",
    b"\\777",
    b"0x",
    b"kB",
    b"0",
    b"-1",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"ffffffffffffffff",
    b"unlimited",
    b" - ",
    b"VmFlags: ",
    b"Size: ",
    b"Name:\t",
    b"\0",
    b"\xff",
    b"[",
    b"]",
];

fn main() -> ExitCode {
    let (seconds, seed) = match arguments() {
        Ok(arguments) => arguments,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let mut seeds = match seeds() {
        Ok(seeds) => seeds,
        Err(e) => {
            eprintln!("reading the corpus: {e}");
            return ExitCode::from(2);
        }
    };
    let mut random = Random(seed);
    let (mut runs, mut understood) = (0_u64, 0_u64);
    let mut kept: HashMap<u8, usize> = HashMap::new();
    let begin = Instant::now();
    println!("{} seeds, {} parsers, seed {seed}", seeds.len(), PARSERS.len());
    while begin.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..500 {
            let (selector, mut input) = seeds[random.below(seeds.len())].clone();
            let (_, other) = &seeds[random.below(seeds.len())];
            for _ in 0..=random.below(4) {
                mutate(&mut input, other, &mut random);
            }
            let started = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| fuzz_one(selector, &input)));
            runs += 1;
            match outcome {
                Ok(ok) if started.elapsed() < SLOW => {
                    understood += u64::from(ok);
                    let kept = kept.entry(selector).or_default();
                    if ok && *kept < 200 {
                        *kept += 1;
                        seeds.push((selector, input));
                    }
                }
                outcome => {
                    let how = if outcome.is_err() { "panic" } else { "slow" };
                    return failed(how, selector, &input);
                }
            }
        }
    }
    println!("{runs} inputs, {understood} of them understood, no panic");
    ExitCode::SUCCESS
}

/// Seconds and seed.
fn arguments() -> Result<(u64, u64), String> {
    let (mut seconds, mut seed) = (20, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--seconds", Some(value)) => seconds = value,
            // Xorshift stays at zero.
            ("--seed", Some(value)) if value != 0 => seed = value,
            _ => return Err("usage: fuzz_proc [--seconds N] [--seed N]".into()),
        }
    }
    Ok((seconds, seed))
}

fn directories() -> [PathBuf; 2] {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [crate_root.join("../../fuzz/corpus/proc"), crate_root.join("src/proc/testdata")]
}

/// The corpus, each input with the number of its parser.
fn seeds() -> std::io::Result<Vec<(u8, Vec<u8>)>> {
    let mut paths = Vec::new();
    for directory in directories() {
        for entry in std::fs::read_dir(directory)? {
            paths.push(entry?.path());
        }
    }
    // A seed of the generator gives the same run wherever the files lie.
    paths.sort();
    let mut seeds = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let selector =
            (0_u8..).zip(PARSERS).filter(|(_, (parser, _))| name.starts_with(&format!("{parser}-")));
        let Some((selector, _)) = selector.max_by_key(|(_, (parser, _))| parser.len()) else {
            return Err(std::io::Error::other(format!("no parser for {name}")));
        };
        seeds.push((selector, std::fs::read(path)?));
    }
    Ok(seeds)
}

fn failed(how: &str, selector: u8, input: &[u8]) -> ExitCode {
    let (parser, _) = PARSERS[usize::from(selector)];
    // FNV-1a: only to name the file.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = directories()[0].join(format!("{parser}-{how}-{hash:016x}"));
    match std::fs::write(&path, input) {
        Ok(()) => eprintln!("{how}: {}", path.display()),
        Err(e) => eprintln!("{how}, and the input could not be written to {}: {e}", path.display()),
    }
    ExitCode::FAILURE
}

/// Changes an input in one way.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let span = |random: &mut Random, of: usize| -> std::ops::Range<usize> {
        let start = random.below(of + 1);
        start..start + random.below((of - start).min(64) + 1)
    };
    match random.below(9) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.byte();
            }
        }
        2 => input.insert(at, random.byte()),
        3 => drop(input.drain(span(random, input.len()))),
        4 => input.truncate(at),
        5 => {
            let token = TOKENS[random.below(TOKENS.len())];
            input.splice(at..at, token.iter().copied());
        }
        6 => {
            let token = TOKENS[random.below(TOKENS.len())];
            input.splice(span(random, input.len()), token.iter().copied());
        }
        7 => {
            let piece = input[span(random, input.len())].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            let piece = other[span(random, other.len())].to_vec();
            input.splice(at..at, piece);
        }
    }
    input.truncate(LONGEST);
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which is not zero. The bias does not matter here.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}
