//! `stillpoint checkpoint PID -o FILE|-`

use std::process::ExitCode;

use clap::Args;
use stillpoint_engine::checkpoint::checkpoint;
use stillpoint_engine::{CheckpointOptions, Result};

use crate::interrupt::Interrupt;
use crate::option::compress::Compress;
use crate::option::external::Externals;
use crate::option::fate::FateOption;
use crate::option::force::Force;
use crate::option::image::OutputImage;
use crate::option::json::Json;
use crate::option::pid::Pid;
use crate::output::progress::Progress;
use crate::output::{Printer, json, text};

/// Save a running process tree to one sealed image
///
/// All threads of all descendants of PID are frozen, saved and, once the image is sealed, ended. If anything that
/// they hold cannot be saved, the checkpoint is refused with the reason and they run on unharmed. Ctrl-C, too,
/// leaves them running and no FILE.
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    pid: Pid,
    #[command(flatten)]
    output: OutputImage,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    fate: FateOption,
    #[command(flatten)]
    compress: Compress,
    #[command(flatten)]
    externals: Externals,
    #[command(flatten)]
    json: Json,
}

impl Checkpoint {
    pub(crate) fn run(self) -> ExitCode {
        let printer = Printer { json: self.json.lower(), stdout_taken: self.output.is_stdout() };
        let image = self.output.label();
        let fate = self.fate.lower();
        let report = self.lower().and_then(|options| {
            let mut progress = Progress::new(Interrupt::install()?, printer.json);
            checkpoint(options, &mut progress)
        });
        match report {
            Ok(report) => {
                let object = json::Checkpoint::new(&report, &image, fate);
                printer.result(&object, || text::checkpoint(&report, &image, fate))
            }
            Err(error) => printer.error(&error),
        }
    }

    fn lower(self) -> Result<CheckpointOptions> {
        Ok(CheckpointOptions {
            pid: self.pid.lower(),
            fate: self.fate.lower(),
            compression: self.compress.lower(),
            externals: self.externals.lower()?,
            output: self.output.lower(self.force.lower())?,
        })
    }
}
