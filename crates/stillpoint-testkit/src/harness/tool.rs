//! Runs the `stillpoint` command.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::{Failure, Outcome, PATIENCE, Place};

/// The command, run for one case.
#[derive(Debug, Clone, Copy)]
pub struct Tool<'a> {
    place: &'a Place,
}

/// What a run of a command came to.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it said on stdout.
    pub stdout: String,
    /// What it said on stderr.
    pub stderr: String,
}

impl Ran {
    /// The exit status; a signal counts as 128 and its number.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Expects an exit status.
    ///
    /// # Errors
    ///
    /// With everything that the command said.
    pub fn exits(self, code: i32) -> Outcome<Self> {
        status_is(&self, code)?;
        Ok(self)
    }

    /// The JSON object on stdout.
    ///
    /// # Errors
    ///
    /// Where stdout holds anything but one object.
    pub fn json(&self) -> Outcome<Value> {
        let value: Value = serde_json::from_str(&self.stdout).map_err(|e| {
            Failure::new(format!("{}: not one JSON object ({e}): {:?}", self.line, self.stdout))
        })?;
        if value.is_object() {
            Ok(value)
        } else {
            Err(Failure::new(format!("{}: not an object: {value}", self.line)))
        }
    }

    /// The error object of `--json`, by member.
    #[must_use]
    pub fn error(&self, member: &str) -> Option<String> {
        let value = self.json().ok()?;
        let member = value.get("error")?.get(member)?;
        Some(member.as_str().map_or_else(|| member.to_string(), str::to_owned))
    }
}

/// Expects an exit status, and tells all if it is another.
fn status_is(ran: &Ran, code: i32) -> Outcome {
    if ran.code() == code {
        return Ok(());
    }
    let Ran { line, stdout, stderr, .. } = ran;
    Err(Failure::new(format!(
        "{line}\nexited with {}, not {code}\nstdout: {stdout}\nstderr: {stderr}",
        ran.code()
    )))
}

/// A command that runs.
#[derive(Debug)]
pub struct Job {
    /// The process.
    pub child: Child,
    line: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Job {
    /// Starts a command. Its output goes to files: pipes could fill, and could be inherited by what the command leaves behind.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn start(place: &Place, mut command: Command) -> Outcome<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::SeqCst);
        let (stdout, stderr) = (place.path(&format!("out-{n}")), place.path(&format!("err-{n}")));
        command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let line = format!("{command:?}");
        let child = command.spawn().map_err(|e| Failure::new(format!("{line}: {e}")))?;
        Ok(Self { child, line, stdout, stderr })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on stdout so far.
    #[must_use]
    pub fn said(&self) -> String {
        read(&self.stdout)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not end; it is killed then.
    pub fn wait(mut self) -> Outcome<Ran> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let said = read(&self.stderr);
                return Err(Failure::new(format!("{}: does not end; stderr: {said}", self.line)));
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        Ok(Ran { line: self.line.clone(), status, stdout, stderr })
    }
}

fn read(path: &PathBuf) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl<'a> Tool<'a> {
    /// The command for a case.
    #[must_use]
    pub fn new(place: &'a Place) -> Self {
        Self { place }
    }

    /// The command with these arguments, not yet started.
    ///
    /// # Errors
    ///
    /// Where it is not built.
    pub fn command<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Outcome<Command> {
        let mut command = self.place.command("stillpoint")?;
        command.args(args);
        Ok(command)
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn start<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Outcome<Job> {
        Job::start(self.place, self.command(args)?)
    }

    /// Runs it to its end, which may be any.
    ///
    /// # Errors
    ///
    /// Where it cannot be started or does not end.
    pub fn run<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Outcome<Ran> {
        self.start(args)?.wait()
    }

    /// Runs it and expects this exit status.
    ///
    /// # Errors
    ///
    /// Where it exits with another.
    pub fn exits<S: AsRef<OsStr>>(self, code: i32, args: impl IntoIterator<Item = S>) -> Outcome<Ran> {
        self.run(args)?.exits(code)
    }
}
