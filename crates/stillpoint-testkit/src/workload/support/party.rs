//! A party: a process or thread that verifies and reports.

use std::ffi::CString;

use super::{Check, pause_ms};

/// Where a workload keeps its files.
pub(crate) struct Ctx {
    dir: String,
}

impl Ctx {
    pub(crate) fn new(dir: &str) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// A path in the workload's directory.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// The same for libc.
    pub(crate) fn cpath(&self, name: &str) -> CString {
        cstring(&self.path(name))
    }

    /// A party of this workload.
    pub(crate) fn party(&self, tag: &str) -> Party {
        Party::new(&self.dir, tag)
    }

    /// Says that the state is set up, and which parties report.
    pub(crate) fn ready(&self, tags: &[&str]) -> Check {
        put(&self.dir, "ready", &tags.join(" "))
    }

    /// Says that everything went well to the end.
    pub(crate) fn finished(&self) -> Check {
        put(&self.dir, "finished", "ok")
    }

    /// The common case: one party, `main`.
    pub(crate) fn verify(&self, check: impl FnMut(u64) -> Check) -> Check {
        self.ready(&["main"])?;
        self.party("main").run(check)
    }
}

pub(super) fn cstring(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Makes the link DIR/NAME -> text, in place of any before.
fn put(dir: &str, name: &str, text: &str) -> Check {
    // A restored image may find the temporary link gone or there already: try until the new one stands.
    let (target, path) = (cstring(text), cstring(&format!("{dir}/{name}")));
    let temporary = cstring(&format!("{dir}/{name}.new"));
    let mut last = String::new();
    for _ in 0..100 {
        let made = sys!(libc::symlink(target.as_ptr(), temporary.as_ptr()))
            .and_then(|_| sys!(libc::rename(temporary.as_ptr(), path.as_ptr())));
        match made {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
        let _ = sys!(libc::unlink(temporary.as_ptr()));
    }
    Err(format!("reporting {name}: {last}"))
}

/// Reports a failure of a party that has no [`Party`] at hand.
pub(crate) fn report_failure(dir: &str, tag: &str, error: &str) {
    let short = error.chars().take(1000).collect::<String>();
    let _ = put(dir, &format!("status/{tag}.fail"), &short);
}

/// A process or thread that verifies and reports.
pub(crate) struct Party {
    dir: String,
    tag: String,
    status: String,
    quiet: CString,
    finish: CString,
    wake: CString,
}

impl Party {
    fn new(dir: &str, tag: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            tag: tag.to_owned(),
            status: format!("status/{tag}"),
            quiet: cstring(&format!("{dir}/quiet")),
            finish: cstring(&format!("{dir}/finish")),
            wake: cstring(&format!("{dir}/wake")),
        }
    }

    /// Verifies until told to finish; ends the process on the first failure.
    pub(crate) fn run(&self, check: impl FnMut(u64) -> Check) -> Check {
        self.run_with(check, |_| Ok(()))
    }

    /// The same, calling `hush(true)` before it goes quiet and `hush(false)` afterwards.
    pub(crate) fn run_with(
        &self,
        mut check: impl FnMut(u64) -> Check,
        mut hush: impl FnMut(bool) -> Check,
    ) -> Check {
        for round in 0.. {
            let finishing = exists(&self.finish);
            if let Err(error) = check(round) {
                self.fail(&error);
            }
            if finishing {
                return put(&self.dir, &self.status, &format!("done {round}"));
            }
            put(&self.dir, &self.status, &format!("ok {round}"))?;
            if exists(&self.quiet) {
                hush(true)?;
                put(&self.dir, &self.status, &format!("quiet {round}"))?;
                while exists(&self.quiet) {
                    // Nobody holds the other end open: this waits until the harness opens it.
                    if let Ok(fd) = sys!(libc::open(self.wake.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)) {
                        sys!(libc::close(fd))?;
                    }
                }
                hush(false)?;
            }
            pause_ms(30);
        }
        Ok(())
    }

    /// Reports a failure and ends the process.
    pub(crate) fn fail(&self, error: &str) -> ! {
        report_failure(&self.dir, &self.tag, error);
        std::process::exit(1)
    }
}

fn exists(path: &CString) -> bool {
    sys!(libc::access(path.as_ptr(), libc::F_OK)).is_ok()
}
