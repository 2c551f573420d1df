//! The command line: one file per subcommand.

mod checkpoint;
mod demo;
mod generate;
mod inspect;
mod restore;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use stillpoint_engine::Class;

use crate::option;
use crate::output::{self, Printer, json};

/// Checkpoint a running process tree to one file, and bring it back
///
/// A tree is either saved whole or refused with a reason; the programs in it need not cooperate.
#[derive(Debug, Parser)]
#[command(name = "stillpoint", version, max_term_width = 100, after_help = EXIT_STATUSES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUSES: &str = "\
Exit status: 0 done; 1 failed; 2 wrong usage; 3 refused, because the tree holds something that cannot be saved or \
rebuilt; 4 the image is damaged or not ours; 5 the place does not fit (a file differs, a pid is taken, the CPU or \
kernel lacks something). `restore` without --detach exits as the restored root task does.";

#[derive(Debug, Subcommand)]
enum Command {
    Checkpoint(checkpoint::Checkpoint),
    Restore(restore::Restore),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Demo(demo::Demo),
    #[command(hide = true)]
    DemoWorkload(demo::workload::Workload),
    #[command(hide = true)]
    Generate(generate::Generate),
}

/// Parses the command line and carries it out.
pub(crate) fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let line = match CommandLine::try_parse_from(&words) {
        Ok(line) => line,
        Err(error) => return not_parsed(&error, &words),
    };
    match line.command {
        Command::Checkpoint(command) => command.run(),
        Command::Restore(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::DemoWorkload(command) => command.run(),
        Command::Generate(command) => command.run(),
    }
}

/// Help and version, or a usage error in clap's words.
fn not_parsed(error: &clap::Error, words: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => output::class_status(Class::Failed),
        };
    }
    if option::json::asked_for(words) {
        // Where the image was to go to standard output, a program reads it as an image.
        let stdout_taken =
            words.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "-")
                || words.iter().any(|word| word == "-o-" || word == "--output=-");
        return Printer { json: true, stdout_taken }.error(&json::usage_error(&error.to_string()));
    }
    let _ = error.print();
    output::class_status(Class::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_option_and_subcommand_has_help() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&CommandLine::command());
    }
}
