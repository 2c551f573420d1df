//! The file with the root's pid: written before the commit, so that whatever can fail does so early, and named after it,
//! so that no file is left of a restore that was killed.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{Code, Error, Result};

/// A pid file. Dropped without [`PidFile::publish`], it leaves nothing.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    text: String,
    /// Without a name; none where the file system cannot do that, or the name is taken: the file is written afterwards.
    nameless: Option<File>,
}

impl PidFile {
    pub(super) fn write(path: &Path, pid: u32) -> Result<Self> {
        let text = format!("{pid}\n");
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let nameless = match rustix::fs::open(directory, flags, mode) {
            Ok(fd) => {
                let mut file = File::from(fd);
                file.write_all(text.as_bytes()).map_err(|error| failed(path, &error))?;
                Some(file)
            }
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => None,
            Err(errno) => return Err(failed(path, &errno.into())),
        };
        // What is there already is written to, as ever; whether it may be is found out now.
        if path.exists() {
            File::options().write(true).open(path).map_err(|error| failed(path, &error))?;
        }
        Ok(PidFile { path: path.to_owned(), text, nameless })
    }

    /// Gives it its name.
    pub(super) fn publish(self) -> Result<()> {
        if let Some(file) = &self.nameless {
            let own = format!("/proc/self/fd/{}", file.as_raw_fd());
            if rustix::fs::linkat(CWD, own.as_str(), CWD, &self.path, AtFlags::SYMLINK_FOLLOW).is_ok() {
                return Ok(());
            }
        }
        std::fs::write(&self.path, &self.text).map_err(|error| {
            let error = failed(&self.path, &error);
            Box::new((*error).remedy("the tree runs all the same"))
        })
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Box<Error> {
    Box::new(Error::new(Code::Output, "writing the pid file").object(path.display().to_string()).cause(error))
}
