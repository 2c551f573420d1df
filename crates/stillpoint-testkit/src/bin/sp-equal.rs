//! `sp-equal`: the equality checker by hand.
//!
//! ```text
//! sp-equal record PID            the record of a tree, as JSON
//! sp-equal compare BEFORE AFTER  what differs between two such files; exit status 1 if anything does
//! sp-equal rules                 what is not compared, and why
//! ```

use std::process::ExitCode;

use stillpoint_testkit::equality::{self, Record, Rules};

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sp-equal: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[&str]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match args {
        ["record", pid] => println!("{}", serde_json::to_string_pretty(&equality::record(pid.parse()?)?)?),
        ["compare", before, after] => {
            let load = |path: &str| -> Result<Record, Box<dyn std::error::Error>> {
                Ok(serde_json::from_slice(&std::fs::read(path)?)?)
            };
            let differences = equality::compare(&load(before)?, &load(after)?, &Rules::standard());
            for difference in &differences {
                println!("{difference}");
            }
            return Ok(ExitCode::from(u8::from(!differences.is_empty())));
        }
        ["rules"] => Rules::standard().iter().for_each(|rule| println!("{rule:?}")),
        _ => return Err("usage: sp-equal record PID | compare BEFORE AFTER | rules".into()),
    }
    Ok(ExitCode::SUCCESS)
}
