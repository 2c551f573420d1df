//! The terminal that the tree was started from: on restore it is the one that `restore` runs on.
//!
//! That terminal is the controlling terminal of a session that is led from outside the tree. What is typed ahead and
//! what is shown on it belong to it and are not saved; its settings are.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, major, minor};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcgetwinsize};
use stillpoint_sys::file;

use super::identity::{device_number, show};
use super::rebuild::Check;
use super::{Capture, Kind, Place, Rebuild, SeenFile, State, SupportRow};
use super::{decode, failed, identity, inconsistent, record, regular, required, state};
use crate::freeze::FrozenTask;
use crate::{Code, Error, Result};

#[cfg(test)]
mod tests;

/// Terminals.
#[derive(Debug)]
pub struct Terminal;

/// Virtual consoles and serial lines.
const TTY: u32 = 4;
/// /dev/tty, /dev/console, /dev/ptmx.
const TTYAUX: u32 = 5;
/// Slave sides of Unix98 pseudo-terminals.
const PTS: std::ops::RangeInclusive<u32> = 136..=143;

impl Kind for Terminal {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "the terminal that the tree was started from",
            state: State::Partly,
            detail: "Settings (termios), flags, /dev/tty. On restore it becomes the terminal of `restore`; without \
                     one, --external says what it is. Refused: the controlling terminal of a session led from inside \
                     the tree, other terminals, the master side of a pseudo-terminal, exclusive mode, line \
                     disciplines other than the usual.",
            kernel: "5.6",
            operations: &["drivers/tty/tty_io.c: tty_fops"],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        let (major, minor) = (major(seen.stat.st_rdev), minor(seen.stat.st_rdev));
        seen.file_type() == FileType::CharacterDevice
            && (major == TTY || (major, minor) == (TTYAUX, 0) || PTS.contains(&major))
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        let open = record::OpenFile { position: 0, ..state::open_file(&seen)? };
        let query = |error: stillpoint_sys::Error| match error.errno() {
            Some(libc::EIO) => {
                Box::new(seen.refuse(Code::UnsupportedFileState, "it is a terminal that was hung up"))
            }
            _ => seen.failed(&error),
        };
        // /dev/tty has a device number of its own; this is that of the terminal behind it.
        let device = u64::from(file::terminal_device(&seen.fd).map_err(query)?);
        let file = regular::named(&seen, ctx)?;
        let terminals = ctx.terminals()?;
        if terminals.inside.contains(&device) {
            let cause = "it is the controlling terminal of a session that is led from inside the tree, which is not \
                         supported yet";
            return Err(seen.refuse(Code::UnsupportedFileState, cause).into());
        }
        if !terminals.outside.contains(&device) {
            let cause = format!(
                "it is terminal {}, which is not the one that the tree was started from",
                device_number(device)
            );
            let remedy = format!(
                "say what the descriptor is given on restore: --external {}:{}=PATH, or =fd:N",
                seen.task.pid, seen.number
            );
            return Err(seen.refuse(Code::OutsideTree, cause).remedy(remedy).into());
        }
        let discipline = file::line_discipline(&seen.fd).map_err(query)?;
        if discipline != 0 {
            let cause = format!("it is a terminal with line discipline {discipline}, not the usual 0");
            return Err(seen.refuse(Code::UnsupportedFileState, cause).into());
        }
        if file::terminal_exclusive(&seen.fd).map_err(query)? {
            let cause = "it is a terminal in exclusive mode (TIOCEXCL), which is not supported yet";
            return Err(seen.refuse(Code::UnsupportedFileState, cause).into());
        }
        let size =
            tcgetwinsize(&seen.fd).map_err(|errno| seen.errno("reading the size of a terminal", errno))?;
        let body = record::Terminal {
            open: Some(open),
            dev_tty: major(file.rdev) == TTYAUX,
            file: Some(file),
            termios: file::termios(&seen.fd).map_err(query)?.to_vec(),
            rows: u32::from(size.ws_row),
            columns: u32::from(size.ws_col),
        };
        Ok(ctx.objects.add(self.name(), &body))
    }

    /// A session that is led from inside the tree would lose its controlling terminal, also where no descriptor of
    /// it is open. Whoever gives its descriptors another end has chosen that.
    fn finish(&self, ctx: &mut Capture<'_>) -> Result<()> {
        let mut lost = Vec::new();
        for &device in &ctx.terminals()?.inside {
            let of = |task: &&FrozenTask| {
                stillpoint_sys::proc::stat::read(task.host_pid)
                    .is_ok_and(|stat| u64::from(stat.tty_nr.cast_unsigned()) == device)
            };
            let Some(task) = ctx.tasks.iter().find(of) else { continue };
            let terminal = device_number(device);
            if !ctx.replaced_terminals.contains(&device) {
                return Err(Error::new(Code::UnsupportedState, "saving sessions")
                    .in_task(&task.name)
                    .object(format!("terminal {terminal}"))
                    .cause("it controls a session that is led from inside the tree, which is not supported yet")
                    .remedy(
                        "save the tree of a program that was started from that terminal; or say what the descriptors \
                         of the terminal are given on restore, --external FD=PATH: then the session loses it",
                    )
                    .into());
            }
            lost.push(format!("the session of task {} loses its controlling terminal {terminal}", task.pid));
        }
        ctx.notes.extend(lost);
        Ok(())
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        let body: record::Terminal = decode(object)?;
        state::open_flags(&required(object, body.open, "open file")?)?;
        settings(object, &body.termios)?;
        terminal_of(at.place, body.file.as_ref()).map(drop)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let body: record::Terminal = decode(object)?;
        let open = required(object, body.open, "open file")?;
        let flags = state::open_flags(&open)? | OFlags::NOCTTY;
        let here = terminal_of(ctx.place, body.file.as_ref())?;
        let fd = if body.dev_tty {
            rustix::fs::open(c"/dev/tty", flags | OFlags::CLOEXEC, Mode::empty()).map_err(
                |errno| match errno {
                    Errno::NXIO => no_terminal(body.file.as_ref()),
                    errno => failed("opening /dev/tty", errno),
                },
            )?
        } else if flags.contains(OFlags::NOFOLLOW) {
            let name = rustix::termios::ttyname(here, Vec::new())
                .map_err(|errno| failed("finding the name of the terminal", errno))?;
            rustix::fs::open(name, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| failed("opening the terminal", errno))?
        } else {
            identity::reopen(here, flags).map_err(|errno| failed("opening the terminal", errno))?
        };
        if ctx.terminal.is_none() {
            let own = identity::reopen(here, OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK)
                .map_err(|errno| failed("opening the terminal", errno))?;
            let now = file::termios(&own)?;
            let size =
                tcgetwinsize(&own).map_err(|errno| failed("reading the size of the terminal", errno))?;
            ctx.terminal = Some(Settings {
                terminal: own,
                wanted: settings(object, &body.termios)?,
                before: now,
                resized: (u32::from(size.ws_row), u32::from(size.ws_col)) != (body.rows, body.columns),
            });
        }
        state::settle(fd, &open, false).map(Some)
    }
}

/// The device number of the terminal that a file is, if it is one.
pub(super) fn behind(seen: &SeenFile<'_>) -> Option<u64> {
    if !Terminal.recognise(seen) {
        return None;
    }
    file::terminal_device(&seen.fd).ok().map(u64::from)
}

fn settings(object: &record::Object, bytes: &[u8]) -> Result<file::Termios2> {
    bytes.try_into().map_err(|_| inconsistent(object, "its terminal settings have another size"))
}

fn terminal_of<'a>(place: &'a Place, seen: Option<&record::FileIdentity>) -> Result<&'a OwnedFd> {
    place.terminal.as_ref().ok_or_else(|| no_terminal(seen))
}

fn no_terminal(seen: Option<&record::FileIdentity>) -> Box<Error> {
    Box::new(
        Error::new(Code::NoTerminal, "opening the terminal")
            .object(seen.map_or_else(String::new, |file| show(&file.path)))
            .cause("the tree was started from a terminal, and there is none for it here")
            .remedy("restore in the foreground on a terminal, or say what its descriptors become: --external FD=PATH"),
    )
}

/// How the tree had set its terminal, against how it is set now.
#[derive(Debug)]
pub struct Settings {
    terminal: OwnedFd,
    wanted: file::Termios2,
    before: file::Termios2,
    resized: bool,
}

impl Settings {
    /// Sets the terminal as the tree had it. A step of the commit: what fails before it leaves the terminal alone.
    ///
    /// # Errors
    ///
    /// When the terminal was hung up.
    pub fn apply(&self) -> Result<()> {
        Ok(file::set_termios(&self.terminal, &self.wanted)?)
    }

    /// Sets the terminal as it was before [`Settings::apply`].
    ///
    /// # Errors
    ///
    /// When the terminal was hung up.
    pub fn undo(&self) -> Result<()> {
        Ok(file::set_termios(&self.terminal, &self.before)?)
    }

    /// Whether the terminal has another size than the tree's had: its foreground group is owed a SIGWINCH.
    #[must_use]
    pub fn resized(&self) -> bool {
        self.resized
    }

    /// The size that the terminal has now.
    ///
    /// # Errors
    ///
    /// When the terminal was hung up.
    pub fn size(&self) -> Result<Winsize> {
        tcgetwinsize(&self.terminal).map_err(|errno| failed("reading the size of the terminal", errno))
    }
}
