//! `stillpoint verify FILE`

use std::process::ExitCode;

use clap::Args;
use stillpoint_engine::inspect::{self, Depth};

use crate::interrupt::Interrupt;
use crate::option::image::InputImage;
use crate::option::json::Json;
use crate::output::json::Found;
use crate::output::progress::Progress;
use crate::output::{Printer, text};

/// Check an image's integrity
///
/// Every frame's checksum, the order of the records and the seal over the whole. Nothing is started, no privilege
/// is needed. The exit status is 0 for a whole image, 4 for one that is damaged or not ours.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    image: InputImage,
    #[command(flatten)]
    json: Json,
}

impl Verify {
    pub(crate) fn run(self) -> ExitCode {
        let printer = Printer { json: self.json.lower(), stdout_taken: false };
        let label = self.image.label();
        let read = self.image.lower().and_then(|input| {
            inspect::read(input, Depth::Unpack, &mut Progress::new(Interrupt::install()?, printer.json))
        });
        match read {
            Ok(image) => {
                let summary = inspect::integrity(&image);
                printer.result(&Found::new("verify", &label, &summary), || {
                    format!(
                        "{label} is whole: {}, {} in {}, made by {}",
                        text::population(summary.tasks, summary.threads),
                        text::size(summary.image_bytes),
                        text::count(summary.frames, "frame"),
                        text::escape(&summary.tool),
                    )
                })
            }
            Err(error) => printer.error(&error),
        }
    }
}
