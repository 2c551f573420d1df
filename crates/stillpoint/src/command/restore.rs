//! `stillpoint restore FILE|-`

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use clap::Args;
use stillpoint_engine::restore::{dry_run, restore};
use stillpoint_engine::{Class, Foreground, RestoreOptions, Result};

use crate::interrupt::Interrupt;
use crate::option::detach::Detach;
use crate::option::dry_run::DryRun;
use crate::option::external::Externals;
use crate::option::image::InputImage;
use crate::option::json::Json;
use crate::option::pid_file::PidFile;
use crate::option::pidns::Pidns;
use crate::option::root::Root;
use crate::output::progress::Progress;
use crate::output::{self, Printer, json, text};

/// Bring the tree of an image back and let it run
///
/// The whole image is verified before anything is started. Every task runs, or nothing is left behind. As root,
/// tasks get the pids that they had; as an ordinary user, they get them in new user and pid namespaces.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    image: InputImage,
    #[command(flatten)]
    detach: Detach,
    #[command(flatten)]
    pid_file: PidFile,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    pidns: Pidns,
    #[command(flatten)]
    externals: Externals,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    json: Json,
}

impl Restore {
    pub(crate) fn run(self) -> ExitCode {
        let json = self.json.lower();
        let foreground = self.detach.lower();
        let dry = self.dry_run.lower();
        // In the foreground standard output is the tree's, so the lines for people go beside it; the JSON object,
        // which was asked for, goes there before the command waits.
        let stdout_taken = !json && !dry && foreground == Foreground::Attached;
        let printer = Printer { json, stdout_taken };
        let image = self.image.label();
        let done = if dry { self.plan(printer, &image) } else { self.carry_out(printer, &image, foreground) };
        done.unwrap_or_else(|error| printer.error(&error))
    }

    fn plan(self, printer: Printer, image: &str) -> Result<ExitCode> {
        let mut progress = Progress::new(Interrupt::install()?, printer.json);
        let report = dry_run(self.lower()?, &mut progress)?;
        drop(progress);
        let printed = printer.result(&json::DryRun::new(&report, image), || text::dry_run(&report, image));
        Ok(match report.misfits.first() {
            Some(misfit) => output::class_status(misfit.code.class()),
            None => printed,
        })
    }

    fn carry_out(self, printer: Printer, image: &str, foreground: Foreground) -> Result<ExitCode> {
        let options = self.lower()?;
        let mut progress = Progress::new(Interrupt::install()?, printer.json);
        // Once the tree runs, the terminal is its own.
        let before = foreground == Foreground::Attached && !printer.json;
        if before {
            let image = image.to_owned();
            progress.announce(move |report| {
                printer.result(&json::Restore::new(report, &image), || text::restore(report, &image));
            });
        }
        let restored = restore(options, &mut progress)?;
        drop(progress);
        let report = &restored.report;
        let printed = if before {
            ExitCode::SUCCESS
        } else {
            printer.result(&json::Restore::new(report, image), || text::restore(report, image))
        };
        match foreground {
            Foreground::Detached => Ok(printed),
            Foreground::Attached => match restored.wait() {
                Ok(status) => Ok(as_the_root(status)),
                Err(error) if printer.json => {
                    // The one object has been printed: what comes after it is said beside it.
                    Ok(Printer { json: false, ..printer }.error(&error))
                }
                Err(error) => Err(error),
            },
        }
    }

    fn lower(self) -> Result<RestoreOptions> {
        Ok(RestoreOptions {
            foreground: self.detach.lower(),
            root: self.root.lower(),
            private_pids: self.pidns.lower(),
            externals: self.externals.lower()?,
            pid_file: self.pid_file.lower(),
            input: self.image.lower()?,
        })
    }
}

/// The exit status that tells how the root task ended, as a shell tells it.
fn as_the_root(wait_status: i32) -> ExitCode {
    let status = ExitStatus::from_raw(wait_status);
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    match number.and_then(|number| u8::try_from(number).ok()) {
        Some(number) => ExitCode::from(number),
        None => output::class_status(Class::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_as_the_root_does() {
        let same = |a: ExitCode, b: u8| assert_eq!(format!("{a:?}"), format!("{:?}", ExitCode::from(b)));
        same(as_the_root(0), 0);
        same(as_the_root(7 << 8), 7);
        same(as_the_root(9), 137);
        same(as_the_root(0x80 | 11), 139);
    }
}
