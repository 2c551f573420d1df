//! Where an image is written: nothing has its final name before it is sealed and on disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{Code, Error, Output, Result};

/// An image while it is written. Dropped without [`Destination::commit`], it leaves nothing.
#[derive(Debug)]
pub(super) struct Destination {
    file: File,
    name: Name,
    /// A pipe may be full for long; a signal must end the wait.
    is_pipe: bool,
}

#[derive(Debug)]
enum Name {
    /// A stream has none.
    Stream,
    /// The file has no name yet: it disappears with its descriptor, whatever happens to this process.
    Nameless { path: PathBuf, force: bool },
    /// On file systems without O_TMPFILE: a hidden name beside the final one.
    Hidden { hidden: PathBuf, path: PathBuf, force: bool },
}

impl Destination {
    /// Opens it, before anything is done to any task.
    pub(super) fn open(output: Output) -> Result<Self> {
        match output {
            Output::Stream(fd) => {
                Ok(Destination { is_pipe: is_pipe(&fd), file: fd.into(), name: Name::Stream })
            }
            Output::File { path, force } => {
                if !force && path.symlink_metadata().is_ok() {
                    return Err(exists(&path));
                }
                let mode = Mode::RUSR | Mode::WUSR;
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                match rustix::fs::open(directory_of(&path), flags, mode) {
                    Ok(fd) => Ok(Destination {
                        file: fd.into(),
                        is_pipe: false,
                        name: Name::Nameless { path, force },
                    }),
                    Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::hidden(path, force, mode),
                    Err(errno) => Err(cannot_create(&path, errno)),
                }
            }
        }
    }

    fn hidden(path: PathBuf, force: bool, mode: Mode) -> Result<Self> {
        let hidden = hidden_name(&path);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(&hidden, flags, mode).map_err(|errno| cannot_create(&path, errno))?;
        Ok(Destination { file: fd.into(), is_pipe: false, name: Name::Hidden { hidden, path, force } })
    }

    /// Makes the sealed image durable and gives it its name.
    pub(super) fn commit(mut self) -> Result<()> {
        let name = std::mem::replace(&mut self.name, Name::Stream);
        let path = match &name {
            Name::Stream => return self.file.flush().map_err(|error| failed("writing the image", &error)),
            Name::Nameless { path, .. } | Name::Hidden { path, .. } => path.clone(),
        };
        let done = self.sync().and_then(|()| self.publish(&name));
        if let (Err(_), Name::Hidden { hidden, .. }) = (&done, &name) {
            // It is ours alone; should this fail too, the first error tells more.
            let _ = rustix::fs::unlink(hidden);
        }
        done?;
        // Without this the name could be lost in a crash though the contents are not.
        let directory = File::open(directory_of(&path)).and_then(|directory| directory.sync_all());
        directory.map_err(|error| failed("syncing the image's directory", &error))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| failed("syncing the image", &error))
    }

    fn publish(&self, name: &Name) -> Result<()> {
        match name {
            Name::Stream => Ok(()),
            Name::Nameless { path, force } => {
                let target = if *force { hidden_name(path) } else { path.clone() };
                let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                match rustix::fs::linkat(CWD, own.as_str(), CWD, &target, AtFlags::SYMLINK_FOLLOW) {
                    Ok(()) if *force => rename(&target, path),
                    Ok(()) => Ok(()),
                    Err(Errno::EXIST) => Err(exists(path)),
                    Err(errno) => Err(failed("naming the image", &errno.into())),
                }
            }
            Name::Hidden { hidden, path, force: true } => rename(hidden, path),
            Name::Hidden { hidden, path, force: false } => {
                match rustix::fs::renameat_with(CWD, hidden, CWD, path, rustix::fs::RenameFlags::NOREPLACE) {
                    Ok(()) => Ok(()),
                    Err(Errno::EXIST) => Err(exists(path)),
                    Err(errno) => Err(failed("naming the image", &errno.into())),
                }
            }
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Name::Hidden { hidden, .. } = &self.name {
            // Nothing can be done about a failure here, and the name says whose it is.
            let _ = rustix::fs::unlink(hidden);
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_pipe {
            return self.file.write(bytes);
        }
        self.wait_for_room()?;
        self.file.write(bytes.get(..PIPE_STEP).unwrap_or(bytes))
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        if !self.is_pipe {
            return self.file.write_vectored(parts);
        }
        self.write(parts.iter().find(|part| !part.is_empty()).map_or(&[], |part| part))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What a pipe that is ready takes without blocking: PIPE_BUF of pipe(7).
const PIPE_STEP: usize = 4096;

impl Destination {
    /// Waits for a full pipe. A signal ends the wait with an error: whether it was meant to interrupt is for the
    /// caller to ask its observer, and any other is not expected in this process.
    fn wait_for_room(&self) -> io::Result<()> {
        let mut ready = [PollFd::new(&self.file, PollFlags::OUT)];
        match rustix::event::poll(&mut ready, None) {
            Ok(_) => Ok(()),
            Err(Errno::INTR) => Err(io::Error::other("interrupted by a signal")),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn is_pipe(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::rename(from, to).map_err(|errno| {
        let _ = rustix::fs::unlink(from);
        failed("naming the image", &errno.into())
    })
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn hidden_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(40).collect();
    path.with_file_name(format!(".{short}.stillpoint-{}", std::process::id()))
}

fn exists(path: &Path) -> Box<Error> {
    Box::new(
        Error::new(Code::OutputExists, "creating the image")
            .object(path.display().to_string())
            .cause("it exists already")
            .remedy("choose another name, or replace it with --force"),
    )
}

fn cannot_create(path: &Path, errno: Errno) -> Box<Error> {
    Box::new(Error::new(Code::Output, "creating the image").object(path.display().to_string()).cause(errno))
}

/// An output error.
pub(super) fn failed(doing: &str, error: &io::Error) -> Box<Error> {
    Box::new(
        Error::new(Code::Output, doing)
            .cause(error)
            .remedy("make room or choose another place for the image; the tasks run on"),
    )
}
