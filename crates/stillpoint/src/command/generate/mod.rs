//! `stillpoint generate ...`: everything that is made from the program's own definitions, for packagers and for
//! the tests that keep the committed copies up to date.

mod errors;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;
use stillpoint_engine::kind::registry;
use stillpoint_engine::{Code, Error};

use super::CommandLine;
use crate::output::Printer;

/// Print what is generated from the program's own definitions
#[derive(Debug, Args)]
pub(crate) struct Generate {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write man pages, one for each subcommand, into a directory
    Man {
        /// The directory, which exists
        directory: PathBuf,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the table of error codes, docs/errors.md
    Errors,
    /// Print what is saved and what is refused, SUPPORT.md
    Support,
}

impl Generate {
    pub(crate) fn run(self) -> ExitCode {
        let printer = Printer { json: false, stdout_taken: false };
        match self.what {
            What::Man { directory } => match clap_mangen::generate_to(CommandLine::command(), &directory) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => printer.error(
                    &Error::new(Code::Output, "writing man pages")
                        .object(crate::output::escape_path(&directory))
                        .cause(error),
                ),
            },
            What::Completions { shell } => {
                // clap_complete panics where it cannot write; a Vec takes everything.
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut CommandLine::command(), "stillpoint", &mut script);
                print(printer, &script)
            }
            What::Errors => print(printer, errors::markdown().as_bytes()),
            What::Support => print(printer, registry::support_markdown().as_bytes()),
        }
    }
}

fn print(printer: Printer, text: &[u8]) -> ExitCode {
    match io::Write::write_all(&mut io::stdout(), text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => printer.error(&Error::new(Code::Output, "writing to standard output").cause(error)),
    }
}
