//! `stillpoint demo`: the main job in a few seconds, on a bundled workload.

mod counts;
pub(super) mod workload;

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{WaitOptions, getpid, set_child_subreaper};
use stillpoint_engine::checkpoint::checkpoint;
use stillpoint_engine::inspect::{self, Depth};
use stillpoint_engine::options::Input;
use stillpoint_engine::restore::{Restored, restore};
use stillpoint_engine::{
    CheckpointOptions, CheckpointReport, Code, Compression, Error, Fate, Foreground, Output, RestoreOptions,
    Result,
};

use crate::interrupt::Interrupt;
use crate::output::progress::Progress;
use crate::output::{Printer, escape_path, text};
use counts::Counts;

/// How long the workload counts before the checkpoint, stays gone, and counts after the restore.
const WHILE: Duration = Duration::from_millis(400);

/// How long anything that happens at once may take on a machine under load.
const PATIENCE: Duration = Duration::from_secs(20);

/// Show the main job in a few seconds on a bundled program, as root or not
///
/// Starts a small counting program of two processes with two threads each, saves and ends it, brings it back, and
/// checks that no count was lost. Works in a temporary directory and removes it.
#[derive(Debug, Args)]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) fn run(self) -> ExitCode {
        let printer = Printer { json: false, stdout_taken: false };
        match show() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => printer.error(&error),
        }
    }
}

fn show() -> Result<()> {
    let began = Instant::now();
    let interrupt = Interrupt::install()?;
    let scratch = tempfile::Builder::new()
        .prefix("stillpoint-demo-")
        .tempdir()
        .map_err(|error| failed("making a temporary directory", error))?;
    let directory = scratch.path();
    // Orphans of the tree come to us: their pids are free again only when somebody has waited for them.
    set_child_subreaper(Some(getpid())).map_err(|error| failed("becoming the reaper", error))?;

    let demo = Running { directory };
    let pid = demo.start()?;
    let first = demo.counted_past(0, &interrupt)?;
    say(&format!(
        "started   a program that counts, pid {pid}: 2 processes with 2 threads each, 4 open files"
    ));
    pause(WHILE, &interrupt)?;
    let before = demo.counted_past(first, &interrupt)?;
    say(&format!("counting  its threads have come to {}", Counts::of_running(directory)?));

    let image = directory.join("demo.sp");
    let saved = save(pid, &image, &interrupt)?;
    reap()?;
    let gone = Counts::of_stopped(directory)?;
    say(&format!(
        "saved     {}, {} to {}, frozen for {}; ended at {gone}",
        text::population(saved.tasks, saved.threads),
        text::size(saved.image_bytes),
        escape_path(&image),
        text::time(saved.frozen),
    ));
    say(&format!("the image {}", summary(&image, &interrupt)?));

    pause(WHILE, &interrupt)?;
    if Counts::of_stopped(directory)? != gone {
        return Err(wrong("the counts moved while the program was gone"));
    }
    let restored = bring_back(&image, &interrupt)?;
    let report = &restored.report;
    let took = report.phases.iter().map(|phase| phase.time).sum();
    let place = if report.private_pids { "a new pid namespace" } else { "its old pids" };
    say(&format!("restored  in {} with {place}; its root is pid {} here", text::time(took), report.pid));
    let past = demo.counted_past(gone.highest().max(before), &interrupt)?;
    pause(WHILE, &interrupt)?;
    let after = demo.counted_past(past, &interrupt)?;
    say(&format!("counting  on, from where it was, and is past {after}"));

    demo.stop()?;
    let status = restored.wait()?;
    let status = std::os::unix::process::ExitStatusExt::from_raw(status);
    ended_as_it_should(status)?;
    let last = Counts::of_stopped(directory)?;
    say(&format!(
        "checked   {last}: every number is in the files once, in order; exit status {}",
        workload::STATUS
    ));
    say(&format!("done      in {}; nothing is left behind", text::time(began.elapsed())));
    Ok(())
}

/// The workload while it may be running: ended when this goes, however the demo ends.
struct Running<'a> {
    directory: &'a Path,
}

impl Running<'_> {
    fn start(&self) -> Result<u32> {
        let program =
            std::env::current_exe().map_err(|error| failed("finding this program's file", error))?;
        let child = Command::new(program)
            .arg("demo-workload")
            .arg(self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed("starting the demo's workload", error))?;
        Ok(child.id())
    }

    /// Waits until every thread has counted past `mark`; the lowest count then.
    fn counted_past(&self, mark: u64, interrupt: &Interrupt) -> Result<u64> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let lowest = Counts::of_running(self.directory)?.lowest();
            if lowest > mark {
                return Ok(lowest);
            }
            pause(Duration::from_millis(5), interrupt)?;
        }
        Err(wrong("the program does not count on"))
    }

    fn stop(&self) -> Result<()> {
        File::create(self.directory.join(workload::STOP))
            .map(drop)
            .map_err(|error| failed("telling the demo's workload to stop", error))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.stop();
        let _ = reap();
    }
}

fn save(pid: u32, image: &Path, interrupt: &Interrupt) -> Result<CheckpointReport> {
    let options = CheckpointOptions {
        pid,
        output: Output::File { path: image.to_owned(), force: false },
        fate: Fate::End,
        compression: Compression::None,
        externals: Vec::new(),
    };
    checkpoint(options, &mut Progress::new(interrupt.clone(), false))
}

fn bring_back(image: &Path, interrupt: &Interrupt) -> Result<Restored> {
    let options = RestoreOptions {
        input: Input::File(image.to_owned()),
        foreground: Foreground::Attached,
        root: None,
        private_pids: false,
        externals: Vec::new(),
        pid_file: None,
    };
    restore(options, &mut Progress::new(interrupt.clone(), false))
}

fn summary(image: &Path, interrupt: &Interrupt) -> Result<String> {
    let image = inspect::read(
        Input::File(image.to_owned()),
        Depth::Unpack,
        &mut Progress::new(interrupt.clone(), false),
    )?;
    let overview = inspect::overview(&image);
    Ok(format!(
        "is sealed and verified: {} frames, {} objects, {} of memory and file contents",
        overview.frames,
        overview.objects,
        text::size(overview.content_bytes),
    ))
}

/// Waits for every child of ours that has ended or is ending.
fn reap() -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            // No child is left.
            Err(_) => return Ok(()),
        }
    }
    Err(wrong("the program has not ended"))
}

fn ended_as_it_should(status: std::process::ExitStatus) -> Result<()> {
    if status.code() == Some(workload::STATUS.into()) {
        return Ok(());
    }
    Err(Box::new(
        Error::new(Code::Failed, "running the demo")
            .cause(format!("the restored program ended with {status}")),
    ))
}

fn pause(time: Duration, interrupt: &Interrupt) -> Result<()> {
    std::thread::sleep(time);
    if interrupt.is_set() {
        return Err(Box::new(Error::new(Code::Interrupted, "running the demo").cause("interrupted")));
    }
    Ok(())
}

fn say(line: &str) {
    use std::io::Write;
    // Whoever does not read on need not hear of it.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Box<Error> {
    Box::new(Error::new(Code::Failed, doing).cause(error))
}

fn wrong(what: &str) -> Box<Error> {
    Box::new(Error::new(Code::Failed, "running the demo").cause(what))
}
