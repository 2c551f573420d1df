//! The terminal and session that a tree joins when it was led from outside.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::plan::Model;
use crate::{Code, Error, Foreground, Result};

/// What a tree joins.
#[derive(Debug)]
pub(super) struct Joined {
    foreground: Foreground,
    session: bool,
    group: bool,
    /// The root leads a group of its own, which becomes the terminal's foreground group.
    takes_terminal: bool,
}

impl Joined {
    pub(super) fn plan(model: &Model, foreground: Foreground) -> Self {
        let root = model.processes.first();
        let session = root.is_some_and(|root| root.task.session == 0);
        let group = root.is_some_and(|root| root.task.process_group == 0);
        let was_foreground = model.header.foreign.is_some_and(|foreign| foreign.foreground);
        let takes_terminal = foreground == Foreground::Attached && session && !group && was_foreground;
        Joined { foreground, session, group, takes_terminal }
    }

    /// What the user should know.
    pub(super) fn notes(&self) -> Vec<String> {
        let text = match (self.session, self.foreground) {
            (false, _) => return Vec::new(),
            (true, Foreground::Detached) => "the tree has a session of its own, led by its root",
            (true, Foreground::Attached) if self.group => {
                "the tree joins the session and process group of restore"
            }
            (true, Foreground::Attached) => "the tree joins the session of restore, in its own process group",
        };
        vec![text.to_owned()]
    }

    /// Whether keys on the terminal reach the tree's root without help.
    pub(super) fn shares_group(&self) -> bool {
        self.foreground == Foreground::Attached && self.session && self.group
    }

    /// Makes the root's group the foreground group of the terminal, as a shell would.
    pub(super) fn give_terminal(&self, root: u32) -> Result<()> {
        match (self.takes_terminal, own()) {
            (true, Some(terminal)) => set_foreground(&terminal, root.cast_signed()),
            _ => Ok(()),
        }
    }

    /// Takes the terminal back. SIGTTOU must be blocked.
    pub(super) fn take_back(&self) {
        if let (true, Some(terminal)) = (self.takes_terminal, own()) {
            // The terminal may be gone; then nothing is to be taken back.
            drop(set_foreground(&terminal, rustix::process::getpgrp().as_raw_nonzero().get()));
        }
    }
}

fn set_foreground(terminal: &OwnedFd, group: i32) -> Result<()> {
    let Some(group) = Pid::from_raw(group) else { return Ok(()) };
    rustix::termios::tcsetpgrp(terminal.as_fd(), group)
        .map_err(|errno| Error::new(Code::Failed, "giving the terminal to the tree").cause(errno).into())
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
