//! The directory of a case, and the programs that it runs.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Failure, Outcome, USER, Who};

/// A directory that is removed when the case ends.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    who: Who,
}

impl Place {
    /// A new directory, in which anybody may make files.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn new(who: Who) -> Outcome<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("sp-case-{}-{n}-", std::process::id()));
        fs::create_dir(&dir)?;
        let place = Self { dir, who };
        for dir in [place.dir.clone(), place.path("status"), place.path("bin")] {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, Permissions::from_mode(0o777))?;
        }
        let wake = place.path("wake");
        let name = CString::new(wake.as_os_str().as_bytes()).map_err(Failure::new)?;
        // SAFETY: a terminated string that lives across the call.
        if unsafe { libc::mkfifo(name.as_ptr(), 0o666) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        fs::set_permissions(&wake, Permissions::from_mode(0o666))?;
        Ok(place)
    }

    /// As whom the case runs.
    #[must_use]
    pub fn who(&self) -> Who {
        self.who
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The target of a link in it.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<String> {
        fs::read_link(self.path(name)).ok().map(|target| target.to_string_lossy().into_owned())
    }

    /// Makes an empty marker, as a link to nowhere: it needs no open file.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn mark(&self, name: &str) -> Outcome {
        // access(2) follows links: point at something that is there.
        symlink(&self.dir, self.path(name))?;
        Ok(())
    }

    /// Removes a marker, if it is there.
    pub fn unmark(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
    }

    /// A command that runs one of our programs, or one of the system's, as the case's user: in `/`, with nothing of ours but `PATH` and
    /// a temporary directory, and no standard streams.
    ///
    /// # Errors
    ///
    /// Where our program is not built.
    pub fn command(&self, name: &str) -> Outcome<Command> {
        let mut command = Command::new(self.program(name)?);
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").env("LANG", "C.UTF-8");
        command.env("TMPDIR", &self.dir).env("HOME", &self.dir).env("RUST_BACKTRACE", "1");
        if self.who == Who::User && Who::are_root() {
            // The standard library clears the supplementary groups as well.
            command.gid(USER).uid(USER);
        }
        // What leaked into the test runner would be held by the workload too, with its other end outside the tree.
        // SAFETY: close_range is one system call, and async-signal-safe; it only sets close-on-exec.
        unsafe {
            command.pre_exec(|| {
                let flag = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or_default();
                libc::close_range(3, libc::c_uint::MAX, flag);
                Ok(())
            });
        }
        Ok(command)
    }

    /// Where a program is, in a form that the case's user can execute.
    ///
    /// # Errors
    ///
    /// Where our program is not built.
    pub fn program(&self, name: &str) -> Outcome<PathBuf> {
        let Some(path) = program(name)? else {
            return Ok(name.into());
        };
        let open_to_all = path
            .ancestors()
            .all(|p| fs::metadata(p).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0));
        if self.who == Who::Root || open_to_all || !Who::are_root() {
            return Ok(path);
        }
        let copy = self.path("bin").join(name);
        if !copy.exists() {
            fs::copy(&path, &copy)?;
            fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        }
        Ok(copy)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::env::var_os("SP_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Where one of our programs is; none: it is not one of ours.
///
/// # Errors
///
/// Where it is not built.
pub fn program(name: &str) -> Outcome<Option<PathBuf>> {
    if !matches!(name, "stillpoint" | "sp-work" | "sp-equal") {
        return Ok(None);
    }
    if name == "stillpoint"
        && let Some(path) = std::env::var_os("STILLPOINT_BIN")
    {
        return Ok(Some(path.into()));
    }
    // Tests are in TARGET/PROFILE/deps, binaries beside that directory.
    let own = std::env::current_exe()?;
    let path = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    path.map(Some).ok_or_else(|| {
        Failure::new(format!("{name} is not built beside {}: `cargo build --workspace` first", own.display()))
    })
}
