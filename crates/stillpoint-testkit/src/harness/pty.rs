//! A pseudo-terminal with an interactive shell on it: keys go in, a screen comes out.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::Instant;

use super::{Failure, Guard, Outcome, PATIENCE, Place};

/// What the shell says when it waits for a command. Typed text never holds it: the screen echoes what is typed.
const PROMPT: &str = "ready:";

/// A terminal, and the shell whose session it controls.
#[derive(Debug)]
pub struct Pty {
    // Dropped first: the processes go before the terminal.
    guard: Guard,
    shell: Child,
    master: File,
    name: PathBuf,
    /// Everything that was shown since the last [`Pty::clear`].
    screen: String,
}

fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

/// A new pseudo-terminal: its master side, and the name of the other.
fn open() -> Outcome<(File, PathBuf)> {
    // SAFETY: takes flags only.
    let master = check(unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) })?;
    // SAFETY: the descriptor was just made, and nothing else owns it.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    let mut name = [0u8; 64];
    // SAFETY: the descriptor is open; the buffer is as long as is said.
    unsafe {
        check(libc::unlockpt(master.as_raw_fd()))?;
        check(libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), name.len()))?;
    }
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let name = String::from_utf8_lossy(&name[..end]).into_owned();
    Ok((File::from(master), name.into()))
}

impl Pty {
    /// An interactive bash, run as the case's user, that leads the session of a new terminal.
    ///
    /// # Errors
    ///
    /// Where there are no pseudo-terminals, or no bash.
    pub fn shell(place: &Place) -> Outcome<Self> {
        let (master, name) = open()?;
        Self::on(master, name, place)
    }

    fn on(master: File, name: PathBuf, place: &Place) -> Outcome<Self> {
        let slave = File::options().read(true).write(true).open(&name)?;
        if place.who() == super::Who::User && super::Who::are_root() {
            std::os::unix::fs::chown(&name, Some(super::USER), None)?;
        }
        let mut command = place.command("bash")?;
        command.args(["--norc", "--noprofile", "--noediting", "-i"]);
        command.env("PS1", format!("{PROMPT} ")).env("HISTFILE", "").env("TERM", "dumb");
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        // SAFETY: setsid, ioctl and signal are async-signal-safe; standard input is the terminal.
        unsafe {
            command.pre_exec(|| {
                check(libc::setsid())?;
                check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                // Tests that run in the background ignore what a key sends, and a shell cannot change that.
                for number in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                    libc::signal(number, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        let shell = command.spawn().map_err(|e| Failure::new(format!("{command:?}: {e}")))?;
        // The command holds the slave side open: it must go, or the end of the shell would not be seen.
        drop(command);
        let mut guard = Guard::default();
        guard.watch(shell.id());
        // SAFETY: takes a descriptor, a command and flags.
        unsafe { check(libc::fcntl(master.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK))? };
        let mut pty = Self { guard, shell, master, name, screen: String::new() };
        pty.shows(PROMPT)?;
        pty.clear();
        Ok(pty)
    }

    /// The terminal's name below `/dev/pts`.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    /// The shell's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shell.id()
    }

    /// Watches another tree, which is killed with the terminal.
    pub fn watch(&mut self, root: u32) {
        self.guard.watch(root);
    }

    /// Types keys.
    ///
    /// # Errors
    ///
    /// Where the terminal does not take them.
    pub fn keys(&mut self, keys: &str) -> Outcome {
        let mut rest = keys.as_bytes();
        let start = Instant::now();
        while !rest.is_empty() {
            match self.master.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {
                    // What is shown has to be read, or nothing more can be typed.
                    self.look()?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Types a line.
    ///
    /// # Errors
    ///
    /// Where the terminal does not take it.
    pub fn line(&mut self, line: &str) -> Outcome {
        self.keys(line)?;
        self.keys("\n")
    }

    /// Forgets what was shown so far.
    pub fn clear(&mut self) {
        self.screen.clear();
    }

    /// What was shown since the last [`Pty::clear`].
    ///
    /// # Errors
    ///
    /// Where the terminal cannot be read.
    pub fn screen(&mut self) -> Outcome<&str> {
        self.look()?;
        Ok(&self.screen)
    }

    fn look(&mut self) -> Outcome {
        let mut bytes = [0; 4096];
        loop {
            match self.master.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(n) => self.screen.push_str(&String::from_utf8_lossy(&bytes[..n])),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    return Ok(());
                }
                // Nobody has the other side open.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits until the screen shows a text, and forgets everything up to it. Returns what stood before it.
    ///
    /// # Errors
    ///
    /// With what is shown instead.
    pub fn shows(&mut self, text: &str) -> Outcome<String> {
        let start = Instant::now();
        loop {
            self.look()?;
            if let Some(at) = self.screen.find(text) {
                let before = self.screen[..at].to_owned();
                self.screen.drain(..at + text.len());
                return Ok(before);
            }
            if start.elapsed() > PATIENCE {
                let screen = &self.screen;
                return Err(Failure::new(format!(
                    "waited in vain for {text:?}; the terminal shows {screen:?}"
                )));
            }
        }
    }

    /// Waits for the shell's prompt. Returns what was shown before it.
    ///
    /// # Errors
    ///
    /// With what is shown instead.
    pub fn prompt(&mut self) -> Outcome<String> {
        self.shows(PROMPT)
    }

    /// Types a command line and waits for the prompt after it. Returns what the command showed, its echo included.
    ///
    /// # Errors
    ///
    /// Where the prompt does not come back.
    pub fn run(&mut self, line: &str) -> Outcome<String> {
        self.clear();
        self.line(line)?;
        self.prompt()
    }

    /// The exit status of the last command, as the shell tells it.
    ///
    /// # Errors
    ///
    /// Where the shell does not answer.
    pub fn status(&mut self) -> Outcome<i32> {
        let said = self.run("echo \"status=$?.\"")?;
        let number = said.rsplit("status=").next().and_then(|rest| rest.split('.').next());
        number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| Failure::new(format!("no exit status in {said:?}")))
    }

    /// Gives the terminal another size, as a window manager does.
    ///
    /// # Errors
    ///
    /// Where the kernel does not take it.
    pub fn resize(&self, rows: u16, columns: u16) -> Outcome {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel reads one struct winsize that outlives the call.
        check(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
        Ok(())
    }

    /// The terminal's local modes: ICANON, ECHO, ...
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell.
    pub fn local_modes(&self) -> Outcome<libc::tcflag_t> {
        // SAFETY: plain data, for which zeroes are a value; tcgetattr writes one struct termios to it.
        let mut modes: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the descriptor is open.
        check(unsafe { libc::tcgetattr(self.master.as_raw_fd(), &raw mut modes) })?;
        Ok(modes.c_lflag)
    }

    /// The process group that keys on the terminal reach.
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell.
    pub fn foreground(&self) -> Outcome<u32> {
        // SAFETY: takes a descriptor.
        let group = check(unsafe { libc::tcgetpgrp(self.master.as_raw_fd()) })?;
        Ok(group.cast_unsigned())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(std::mem::take(&mut self.guard));
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
