//! `stillpoint inspect FILE [tasks|files|memory|objects]`

mod tables;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use stillpoint_engine::inspect::{self, Depth};

use crate::interrupt::Interrupt;
use crate::option::image::InputImage;
use crate::option::json::Json;
use crate::output::Printer;
use crate::output::json::Found;
use crate::output::progress::Progress;

/// Show what an image holds
///
/// The whole image is verified first; nothing is started and no privilege is needed.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    image: InputImage,
    /// What to show; without it, an overview
    part: Option<Part>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// The tree of processes, their sessions and process groups
    Tasks,
    /// The open files of each process
    Files,
    /// The memory areas of each address space
    Memory,
    /// Every kernel object that was saved
    Objects,
}

impl Inspect {
    pub(crate) fn run(self) -> ExitCode {
        let printer = Printer { json: self.json.lower(), stdout_taken: false };
        let label = self.image.label();
        let read = self.image.lower().and_then(|input| {
            inspect::read(input, Depth::Checksums, &mut Progress::new(Interrupt::install()?, printer.json))
        });
        let image = match read {
            Ok(image) => image,
            Err(error) => return printer.error(&error),
        };
        match self.part {
            None => {
                let content = inspect::overview(&image);
                printer
                    .result(&Found::new("inspect", &label, &content), || tables::overview(&content, &label))
            }
            Some(Part::Tasks) => {
                let content = inspect::tasks(&image);
                printer.result(&Found::new("inspect", &label, &content), || tables::tasks(&content))
            }
            Some(Part::Files) => {
                let content = inspect::files(&image);
                printer.result(&Found::new("inspect", &label, &content), || tables::files(&content))
            }
            Some(Part::Memory) => {
                let content = inspect::memory(&image);
                printer.result(&Found::new("inspect", &label, &content), || tables::memory(&content))
            }
            Some(Part::Objects) => {
                let content = inspect::objects(&image);
                printer.result(&Found::new("inspect", &label, &content), || tables::objects(&content))
            }
        }
    }
}
