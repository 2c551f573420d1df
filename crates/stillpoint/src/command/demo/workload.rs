//! `stillpoint demo-workload DIR`: the program that the demo saves. It knows nothing of checkpoints.
//!
//! A parent with two threads and a child with two threads. Each thread counts in memory and writes each number as
//! a line to a file that it holds open, at the descriptor's own position: a lost or repeated step of either shows
//! as a gap or a double. The parent waits for its child across the checkpoint.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;

/// The files that the four threads count into.
pub(super) const COUNTERS: [&str; 4] = ["parent-1", "parent-2", "child-1", "child-2"];

/// The file whose appearance ends the workload.
pub(super) const STOP: &str = "stop";

/// The exit status of the workload's root, which `restore` must report.
pub(super) const STATUS: u8 = 7;

const STEP: Duration = Duration::from_millis(2);

/// Counted in steps, not in time, so that the pause in the image does not count: about a minute.
const LAST: u64 = 30_000;

/// Count into files of a directory; what `demo` saves and restores
#[derive(Debug, Args)]
pub(crate) struct Workload {
    /// The directory
    directory: PathBuf,
    /// Be the child
    #[arg(long)]
    child: bool,
}

impl Workload {
    pub(crate) fn run(self) -> ExitCode {
        let done = if self.child { self.count(&COUNTERS[2..]) } else { self.parent() };
        match done {
            Ok(()) => ExitCode::from(STATUS),
            Err(_) => ExitCode::FAILURE,
        }
    }

    fn parent(&self) -> std::io::Result<()> {
        // A session of its own: the demo's terminal is none of its business. Fails where it leads one already.
        let _ = rustix::process::setsid();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("demo-workload")
            .arg("--child")
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.count(&COUNTERS[..2])?;
        let status = child.wait()?;
        if status.code() == Some(STATUS.into()) { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) }
    }

    fn count(&self, names: &[&str]) -> std::io::Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> =
                names.iter().map(|name| scope.spawn(|| count(&self.directory, name))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| std::io::ErrorKind::Other)?)
        })
    }
}

fn count(directory: &Path, name: &str) -> std::io::Result<()> {
    let stop = directory.join(STOP);
    let mut file = File::create_new(directory.join(name))?;
    for n in 1..=LAST {
        // One write for the whole line: what is in the file is a count or is not there.
        file.write_all(format!("{n}\n").as_bytes())?;
        if stop.exists() {
            break;
        }
        thread::sleep(STEP);
    }
    Ok(())
}
