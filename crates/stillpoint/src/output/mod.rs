//! What is printed: plain lines for people, one JSON object for programs.

pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod text;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use stillpoint_engine::{Class, Error};

pub(crate) use text::escape_bytes;

/// How a subcommand answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    /// One JSON object instead of lines.
    pub(crate) json: bool,
    /// Standard output belongs to the image: everything is said on standard error.
    pub(crate) stdout_taken: bool,
}

impl Printer {
    /// Prints a result: the object, or the lines. Standard output that cannot be written to is a failure.
    pub(crate) fn result(&self, object: &impl Serialize, lines: impl FnOnce() -> String) -> ExitCode {
        let text = if self.json { json::object(object) } else { lines() };
        let written =
            if self.stdout_taken { write(&mut io::stderr(), &text) } else { write(&mut io::stdout(), &text) };
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Whoever closed the pipe (`stillpoint inspect x | head`) needs no message.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    let _ = writeln!(io::stderr(), "stillpoint: writing the result: {error}");
                }
                class_status(Class::Failed)
            }
        }
    }

    /// Prints an error and gives the exit status that its code stands for.
    pub(crate) fn error(&self, error: &Error) -> ExitCode {
        if self.json {
            let _ = self.result(&json::Failure::new(error), String::new);
        } else {
            let _ = write(&mut io::stderr(), &text::error(error));
        }
        class_status(error.code.class())
    }
}

/// The exit status of a class of errors.
pub(crate) fn class_status(class: Class) -> ExitCode {
    ExitCode::from(class as u8)
}

fn write(stream: &mut impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        stream.write_all(b"\n")?;
    }
    stream.flush()
}

/// A path for a line of output: bytes that a terminal might obey are escaped.
pub(crate) fn escape_path(path: &Path) -> String {
    escape_bytes(path.as_os_str().as_encoded_bytes())
}
