//! `-o FILE|-` of a checkpoint, and FILE|- of what reads an image.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::Args;
use stillpoint_engine::options::Input;
use stillpoint_engine::{Code, Error, Output, Result};

#[derive(Debug, Args)]
pub(crate) struct OutputImage {
    /// Where the image goes: a file that does not exist yet, or - for standard output
    ///
    /// A file is written beside its final name, synced, sealed and renamed: an error leaves nothing. With -
    /// nothing else is written to standard output; what is reported (with --json too) goes to standard error.
    #[arg(long = "output", short = 'o', value_name = "FILE|-")]
    output: PathBuf,
}

impl OutputImage {
    /// Whether the image takes standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        is_dash(&self.output)
    }

    /// How messages call it.
    pub(crate) fn label(&self) -> String {
        label(&self.output, "standard output")
    }

    pub(crate) fn lower(self, force: bool) -> Result<Output> {
        if !self.is_stdout() {
            return Ok(Output::File { path: self.output, force });
        }
        let stdout = io::stdout();
        if rustix::termios::isatty(&stdout) {
            return Err(Box::new(
                Error::new(Code::Usage, "writing the image to standard output")
                    .cause("it is a terminal")
                    .remedy("pipe it to another command, or name a file"),
            ));
        }
        Ok(Output::Stream(duplicate(stdout.as_fd())?))
    }
}

#[derive(Debug, Args)]
pub(crate) struct InputImage {
    /// The image: a file, or - for standard input
    #[arg(value_name = "FILE|-")]
    image: PathBuf,
}

impl InputImage {
    /// How messages call it.
    pub(crate) fn label(&self) -> String {
        label(&self.image, "standard input")
    }

    pub(crate) fn lower(self) -> Result<Input> {
        if !is_dash(&self.image) {
            return Ok(Input::File(self.image));
        }
        let stdin = io::stdin();
        if rustix::termios::isatty(&stdin) {
            return Err(Box::new(
                Error::new(Code::Usage, "reading an image from standard input")
                    .cause("it is a terminal")
                    .remedy("pipe an image in, or name a file"),
            ));
        }
        Ok(Input::Stream(duplicate(stdin.as_fd())?))
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == OsStr::new("-")
}

fn label(path: &Path, stream: &str) -> String {
    if is_dash(path) { stream.to_owned() } else { crate::output::escape_path(path) }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
        .map_err(|error| Box::new(Error::new(Code::Failed, "duplicating a descriptor").cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn output_is_required_and_a_dash_is_a_stream() {
        assert!(testing::parse::<OutputImage>(&[]).is_err());
        let file: OutputImage = testing::parse(&["-o", "a.sp"]).expect("parses");
        assert!(!file.is_stdout());
        assert!(
            matches!(file.lower(true), Ok(Output::File { path, force: true }) if path == Path::new("a.sp"))
        );
        assert!(testing::parse::<OutputImage>(&["--output", "-"]).expect("parses").is_stdout());
        assert!(testing::parse::<OutputImage>(&["-o-"]).expect("parses").is_stdout());
        assert!(!testing::parse::<OutputImage>(&["-o", "./-"]).expect("parses").is_stdout());
    }

    #[test]
    fn input_is_required() {
        assert!(testing::parse::<InputImage>(&[]).is_err());
        let file: InputImage = testing::parse(&["a\n.sp"]).expect("parses");
        assert_eq!(file.label(), "a\\n.sp");
        assert!(matches!(file.lower(), Ok(Input::File(path)) if path == Path::new("a\n.sp")));
        assert_eq!(testing::parse::<InputImage>(&["-"]).expect("parses").label(), "standard input");
    }
}
