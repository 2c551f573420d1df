//! The terminal and session that a tree joins when it was led from outside.
//!
//! A tree that was led from outside becomes a job of the shell that `restore` was typed in, and `restore` stands
//! between the two as a parent that the shell knows. Where the root leads a process group of its own, that group has
//! to be the terminal's foreground group while `restore` is in the foreground, and no longer.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, getpgid, getpgrp, getppid};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use stillpoint_sys::file::{self, Termios2};

use crate::kind::terminal::Settings;
use crate::plan::Model;
use crate::{Code, Error, Foreground, Result};

/// What a tree joins.
#[derive(Debug)]
pub(super) struct Joined {
    foreground: Foreground,
    session: bool,
    group: bool,
    had_terminal: bool,
    /// The group of the tree that had the terminal: by its leader's id in the image, 0: none, or the one that it joins.
    holder: u32,
    terminal: Option<Terminal>,
}

/// The terminal of this process.
#[derive(Debug)]
struct Terminal {
    fd: OwnedFd,
    /// How it was set before the tree came.
    before: Termios2,
    /// The tree's group that is to have it, if not this process's own.
    group: Option<Pid>,
    /// How the tree had set it; gone once it is set.
    settings: Option<Settings>,
    /// Whether that group has it.
    given: bool,
}

impl Joined {
    pub(super) fn plan(model: &Model, foreground: Foreground) -> Self {
        let root = model.processes.first().map(|root| &root.task);
        let foreign = model.header.foreign.unwrap_or_default();
        let session = root.is_some_and(|root| root.session == 0);
        let group = root.is_some_and(|root| root.process_group == 0);
        let holder = match root {
            Some(_) if foreign.foreground_group != 0 => foreign.foreground_group,
            // In the background it was a shell's job all the same, and becomes one of the foreground.
            Some(root) if session => root.process_group,
            _ => 0,
        };
        let terminal = if foreground == Foreground::Attached && session { Terminal::find() } else { None };
        Joined { foreground, session, group, had_terminal: foreign.terminal, holder, terminal }
    }

    /// What the user should know.
    pub(super) fn notes(&self) -> Vec<String> {
        if !self.session {
            return Vec::new();
        }
        let mut text = match self.foreground {
            Foreground::Detached => "the tree has a session of its own, led by its root",
            Foreground::Attached if self.group => "the tree joins the session and process group of restore",
            Foreground::Attached => "the tree joins the session of restore, in its own process group",
        }
        .to_owned();
        if self.had_terminal && self.terminal.is_none() {
            text.push_str("; it had a controlling terminal and has none now");
        }
        vec![text]
    }

    /// The group of the tree that is to have the terminal, by its leader's id in the image.
    pub(super) fn holder(&self) -> u32 {
        self.holder
    }

    /// Whether keys on the terminal reach the tree's root without help.
    pub(super) fn shares_group(&self) -> bool {
        self.foreground == Foreground::Attached && self.session && self.group
    }

    /// Whether a shell may be waiting for this process to stop with the tree.
    pub(super) fn is_a_job(&self) -> bool {
        self.terminal.is_some()
    }

    /// Says which group is to have the terminal, and how it is to be set.
    pub(super) fn prepare(&mut self, group: Option<u32>, settings: Option<Settings>) {
        if let Some(terminal) = &mut self.terminal {
            terminal.group = group.and_then(|pid| Pid::from_raw(pid.cast_signed()));
            terminal.settings = settings;
        }
    }

    /// Whether this process is in the foreground, and the tree does not have the terminal for it.
    pub(super) fn in_foreground(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::is_ours)
    }

    /// Sets the terminal as the tree had it and gives it to the tree's group, as a shell would. In the background
    /// it does nothing: the terminal is another job's. SIGTTOU must be blocked.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        let Some(terminal) = self.terminal.as_mut() else { return Ok(()) };
        terminal.given = false;
        if !terminal.is_ours() {
            return Ok(());
        }
        if let Some(settings) = terminal.settings.take() {
            settings.apply()?;
        }
        if let Some(group) = terminal.group {
            tcsetpgrp(&terminal.fd, group)
                .map_err(|errno| Error::new(Code::Failed, "giving the terminal to the tree").cause(errno))?;
            terminal.given = true;
        }
        Ok(())
    }

    /// Takes the terminal back, if the tree still has it. SIGTTOU must be blocked.
    pub(super) fn take_back(&mut self) {
        let Some(terminal) = self.terminal.as_mut().filter(|terminal| terminal.given) else { return };
        terminal.given = false;
        // A shell that has taken it meanwhile, since this process was stopped, keeps it.
        let shell = getppid().and_then(|parent| getpgid(Some(parent)).ok());
        if tcgetpgrp(&terminal.fd).is_ok_and(|now| Some(now) != shell) {
            // The terminal may be gone; then nothing is to be taken back.
            let _ = tcsetpgrp(&terminal.fd, getpgrp());
        }
    }

    /// Sets the terminal as it was before the tree came: nothing was restored, or the tree was killed and could not do
    /// it itself. A shell does so too when a job that it started is killed, but this process exits by itself.
    pub(super) fn reset(&self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|terminal| terminal.is_ours()) {
            drop(file::set_termios(&terminal.fd, &terminal.before));
        }
    }
}

impl Terminal {
    fn find() -> Option<Self> {
        let fd = own()?;
        let before = file::termios(&fd).ok()?;
        Some(Terminal { fd, before, group: None, settings: None, given: false })
    }

    fn is_ours(&self) -> bool {
        tcgetpgrp(self.fd.as_fd()).is_ok_and(|group| group == getpgrp())
    }
}

/// The controlling terminal of this process, if it has one: by its own name where a standard stream tells it.
pub(super) fn own() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let controlling = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()?;
    let session = rustix::termios::tcgetsid(&controlling).ok()?;
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let named = streams.into_iter().find_map(|stream| {
        let same = rustix::termios::tcgetsid(stream).is_ok_and(|other| other == session);
        let name = if same { rustix::termios::ttyname(stream, Vec::new()).ok()? } else { return None };
        rustix::fs::open(name.as_c_str(), flags, Mode::empty()).ok()
    });
    Some(named.unwrap_or(controlling))
}
