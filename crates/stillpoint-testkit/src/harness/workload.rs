//! A workload program under way.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};

use super::process::{Guard, ends, running};
use super::{Failure, Outcome, Place, Ran, Tool, Who, wait_for};
use crate::equality::{self, Record, Rules};
use crate::expect;

/// A tree that was started, and may since have been ended and restored.
#[derive(Debug)]
pub struct Workload {
    // Dropped in this order: the processes go before their directory.
    guard: Guard,
    /// The root, as long as it is our child.
    child: Option<Child>,
    /// The root's pid, here.
    pid: u32,
    place: std::sync::Arc<Place>,
}

impl Workload {
    /// Starts a workload by name and waits until its state is set up.
    ///
    /// # Errors
    ///
    /// Where it cannot be started or fails at once.
    pub fn start(name: &str, who: Who) -> Outcome<Self> {
        Self::with(&[name], who)
    }

    /// Starts a holder of something that cannot be saved. `None`: this machine does not have it.
    ///
    /// # Errors
    ///
    /// Where it cannot be started or fails at once.
    pub fn hold(thing: &str, who: Who) -> Outcome<Option<Self>> {
        let workload = Self::with(&["hold", thing], who)?;
        if let Some(why) = workload.place.link("ready").filter(|ready| ready.starts_with("unavailable:")) {
            super::skip(&format!("{thing} is {why}"));
            return Ok(None);
        }
        Ok(Some(workload))
    }

    fn with(args: &[&str], who: Who) -> Outcome<Self> {
        let place = Place::new(who)?;
        let mut command = place.command("sp-work")?;
        command.args(args).arg(place.dir());
        let workload = Self::spawn(place, command)?;
        wait_for("the workload to be ready", || {
            workload.healthy()?;
            Ok(workload.place.link("ready"))
        })?;
        Ok(workload)
    }

    /// Starts any command in a session of its own.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn spawn(place: Place, mut command: Command) -> Outcome<Self> {
        // SAFETY: setsid is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            });
        }
        let child = command.spawn().map_err(|e| Failure::new(format!("{command:?}: {e}")))?;
        let pid = child.id();
        let mut guard = Guard::default();
        guard.watch(pid);
        Ok(Self { guard, child: Some(child), pid, place: place.into() })
    }

    /// Its directory.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its directory, to be kept when its processes are not needed any more.
    #[must_use]
    pub fn into_place(self) -> std::sync::Arc<Place> {
        std::sync::Arc::clone(&self.place)
    }

    /// The root's pid, here.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The command, run as the workload's user.
    #[must_use]
    pub fn tool(&self) -> Tool<'_> {
        Tool::new(&self.place)
    }

    /// Fails if a party reported a failure, or the root is gone before its time.
    ///
    /// # Errors
    ///
    /// With what was reported.
    pub fn healthy(&self) -> Outcome {
        // Before the links are looked at: it makes the last one and then goes.
        let alive = running(self.pid);
        for entry in fs::read_dir(self.place.path("status"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(tag) = name.strip_suffix(".fail") {
                let reason = self.place.link(&format!("status/{name}")).unwrap_or_default();
                return Err(Failure::new(format!("the workload's party {tag} failed: {reason}")));
            }
        }
        let over = self.place.link("finished").is_some()
            || self.place.link("ready").is_some_and(|ready| ready.starts_with("unavailable"));
        if !over && !alive {
            // It may have said why while we looked.
            return match self.place.link("status/main.fail") {
                Some(reason) => Err(Failure::new(format!("the workload failed: {reason}"))),
                None => Err(Failure::new(format!("the workload's root {} is gone", self.pid))),
            };
        }
        Ok(())
    }

    /// Each party and what it last reported.
    fn reports(&self) -> Outcome<Vec<(String, String)>> {
        self.healthy()?;
        let tags = self.place.link("ready").unwrap_or_default();
        let report = |tag: &str| self.place.link(&format!("status/{tag}")).unwrap_or_default();
        Ok(tags.split_whitespace().map(|tag| (tag.to_owned(), report(tag))).collect())
    }

    /// Waits until every party has verified twice more from start to end.
    ///
    /// # Errors
    ///
    /// Where one fails or hangs.
    pub fn progress(&self) -> Outcome {
        // Three reports: the first may be of a verification that began before.
        let mut before = self.reports()?;
        for _ in 0..3 {
            let seen = before.clone();
            wait_for(&format!("every party to verify ({seen:?})"), || {
                let now = self.reports()?;
                let moved = |((_, now), (_, before)): (&(String, String), &(String, String))| {
                    !now.is_empty() && now != before || now.starts_with("done")
                };
                before.clone_from(&now);
                Ok(now.iter().zip(&seen).all(moved).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Lets every party come to rest: it changes nothing until [`Workload::wake`].
    ///
    /// # Errors
    ///
    /// Where one fails or hangs.
    pub fn quiet(&self) -> Outcome {
        self.place.mark("quiet")?;
        wait_for("every party to be quiet", || {
            Ok(self.reports()?.iter().all(|(_, report)| report.starts_with("quiet")).then_some(()))
        })
    }

    /// Lets them go on.
    ///
    /// # Errors
    ///
    /// Where one fails or hangs.
    pub fn wake(&self) -> Outcome {
        self.place.unmark("quiet");
        wait_for("every party to wake up", || {
            // ENXIO: nobody waits at this moment. Opening wakes all who do.
            let end =
                OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(self.place.path("wake"));
            drop(end);
            Ok(self.reports()?.iter().all(|(_, report)| !report.starts_with("quiet")).then_some(()))
        })
    }

    /// A record of the tree.
    ///
    /// # Errors
    ///
    /// Where it cannot be traced or read.
    pub fn record(&self) -> Outcome<Record> {
        Ok(equality::record(self.pid)?)
    }

    /// A record of the quiet tree, once two in a row are equal: threads may still be on their way into their waits.
    ///
    /// # Errors
    ///
    /// Where it never comes to rest.
    pub fn settled(&self, rules: &Rules) -> Outcome<Record> {
        let mut before = self.record()?;
        let mut last = Vec::new();
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let after = self.record()?;
            last = equality::compare(&before, &after, rules);
            if last.is_empty() {
                return Ok(after);
            }
            before = after;
        }
        Err(Failure::new(format!("the quiet tree does not come to rest:\n{}", list(&last))))
    }

    /// Expects the quiet tree to be equal to a record, as soon as its threads are back in their waits.
    ///
    /// # Errors
    ///
    /// With what differs; both records stay in the case's directory if that is kept.
    pub fn equals(&self, before: &Record, rules: &Rules) -> Outcome {
        let mut after = self.record()?;
        let mut differences = equality::compare(before, &after, rules);
        for _ in 0..100 {
            if differences.is_empty() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            after = self.record()?;
            differences = equality::compare(before, &after, rules);
        }
        for (name, record) in [("before.json", before), ("after.json", &after)] {
            fs::write(self.place.path(name), serde_json::to_vec_pretty(record)?)?;
        }
        // The workload may know more about it than a comparison shows.
        let inside =
            self.wake().and_then(|()| self.progress()).err().map(|e| format!("and from inside: {e}"));
        let inside = inside.unwrap_or_else(|| "the workload itself has noticed nothing".to_owned());
        Err(Failure::new(format!("the restored tree is not as it was:\n{}{inside}", list(&differences))))
    }

    /// `stillpoint checkpoint PID -o NAME` with further options; the image is in the case's directory.
    ///
    /// # Errors
    ///
    /// Where the command cannot be run.
    pub fn checkpoint(&self, image: &str, options: &[&str]) -> Outcome<Ran> {
        let path = self.place.path(image).to_string_lossy().into_owned();
        let pid = self.pid.to_string();
        let args = ["checkpoint", &pid, "-o", &path].into_iter().chain(options.iter().copied());
        self.tool().run(args)
    }

    /// Checkpoints, expects that to work, and expects every task to be gone afterwards.
    ///
    /// # Errors
    ///
    /// Where it does not.
    pub fn checkpoint_and_end(&mut self, image: &str) -> Outcome {
        let tasks = super::tree_of(self.pid);
        self.checkpoint(image, &[])?.exits(0)?;
        expect!(self.place.path(image).is_file(), "there is no image");
        for pid in tasks.into_iter().filter(|pid| *pid != self.pid) {
            ends(pid)?;
        }
        self.reap()
    }

    /// Waits for the end of a root that a checkpoint ended, so that its pid is free.
    ///
    /// # Errors
    ///
    /// When it does not end, or exits by itself.
    pub fn reap(&mut self) -> Outcome {
        match self.child.take() {
            Some(mut child) => {
                let status = wait_for("the root to be ended", || Ok(child.try_wait()?))?;
                expect!(
                    status.signal().is_some(),
                    "the checkpoint's root was not ended but exited: {status}"
                );
                Ok(())
            }
            // Whoever is its parent reaps it.
            None => {
                let gone =
                    || Ok((!std::path::Path::new(&format!("/proc/{}", self.pid)).exists()).then_some(()));
                wait_for("the root to be reaped", gone)
            }
        }
    }

    /// `stillpoint restore --detach`, which has to work; from then on this is the restored tree.
    ///
    /// # Errors
    ///
    /// Where it does not.
    pub fn restore(&mut self, image: &str, options: &[&str]) -> Outcome {
        let pid_file = self.place.path("pid");
        let _ = fs::remove_file(&pid_file);
        let (image, file) = (self.place.path(image), pid_file.to_string_lossy().into_owned());
        let image = image.to_string_lossy().into_owned();
        let args = ["restore", "--detach", "--pid-file", &file].into_iter().chain(options.iter().copied());
        let ran = self.tool().run(args.chain([image.as_str()]))?;
        // Watched before anything is asserted.
        let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid {
            self.guard.watch(pid);
            self.pid = pid;
        }
        ran.exits(0)?;
        // The root that was our child was ended by its checkpoint; the one that took its place is not ours.
        if let Some(child) = &mut self.child
            && child.try_wait()?.is_some()
        {
            self.child = None;
        }
        expect!(pid.is_some(), "restore wrote no pid file");
        Ok(())
    }

    /// Takes a tree that somebody has restored for this one.
    pub fn adopt(&mut self, root: u32) {
        self.guard.watch(root);
        self.pid = root;
    }

    /// Takes marks of an earlier run away, so that an older image can be restored.
    pub fn rewind(&self) {
        for name in ["finish", "finished", "quiet"] {
            self.place.unmark(name);
        }
        for entry in fs::read_dir(self.place.path("status")).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Lets it verify once more, take everything down and exit; all of that has to go well.
    ///
    /// # Errors
    ///
    /// Where it does not.
    pub fn finish(&mut self) -> Outcome {
        self.place.mark("finish")?;
        wait_for("the workload to finish", || {
            self.healthy()?;
            Ok(self.place.link("finished"))
        })?;
        for (tag, report) in self.reports()? {
            expect!(report.starts_with("done"), "party {tag} did not finish: {report:?}");
        }
        match self.child.take() {
            Some(mut child) => {
                let status = wait_for("the root to exit", || Ok(child.try_wait()?))?;
                expect!(status.success(), "the workload exited with {status}");
                Ok(())
            }
            None => ends(self.pid),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        drop(std::mem::take(&mut self.guard));
        // Orphans, and what a restore set up around the tree: their command lines name this case's directory.
        super::process::kill_naming(&self.place.dir().to_string_lossy());
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// Differences, one a line, not too many.
fn list(differences: &[equality::Difference]) -> String {
    let mut text = differences.iter().take(40).map(|d| format!("  {d}\n")).collect::<String>();
    if differences.len() > 40 {
        text.push_str(&format!("  and {} more\n", differences.len() - 40));
    }
    text
}
