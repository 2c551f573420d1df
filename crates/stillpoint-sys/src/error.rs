//! The error of a system call: what was being done, to which task, what the kernel answered.

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong at the kernel boundary.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel answered with an errno.
    #[error("{doing}: {}", describe(*errno))]
    Errno {
        /// What was being done, as a gerund.
        doing: String,
        /// The task concerned, in the caller's pid namespace.
        pid: Option<crate::Pid>,
        /// The errno.
        errno: i32,
    },
    /// The kernel's text was not of a form that we know; nothing may be guessed from it.
    #[error("{doing}: the kernel's answer is not understood: {what}")]
    Parse {
        /// What was being done.
        doing: String,
        /// The task concerned.
        pid: Option<crate::Pid>,
        /// What was not understood.
        what: String,
    },
    /// The task ended while it was worked on.
    #[error("{doing}: {}", how_it_ended(*status))]
    Gone {
        /// What was being done.
        doing: String,
        /// The task concerned.
        pid: Option<crate::Pid>,
        /// Its wait status, as of wait(2).
        status: i32,
    },
    /// The task did something other than what a trace stop should show.
    #[error("{doing}: {what}")]
    Unexpected {
        /// What was being done.
        doing: String,
        /// The task concerned.
        pid: Option<crate::Pid>,
        /// What happened instead.
        what: String,
    },
}

impl Error {
    /// The calling thread's `errno` as an error.
    #[must_use]
    pub fn last(doing: impl Into<String>, pid: Option<crate::Pid>) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Error::Errno { doing: doing.into(), pid, errno }
    }

    /// An I/O error of the standard library.
    #[must_use]
    pub fn io(doing: impl Into<String>, pid: Option<crate::Pid>, error: &std::io::Error) -> Self {
        Error::Errno { doing: doing.into(), pid, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    /// A text that was not understood.
    #[must_use]
    pub fn parse(doing: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Parse { doing: doing.into(), pid: None, what: what.into() }
    }

    /// The same error, about a task.
    #[must_use]
    pub fn of(mut self, task: crate::Pid) -> Self {
        match &mut self {
            Error::Errno { pid, .. }
            | Error::Parse { pid, .. }
            | Error::Gone { pid, .. }
            | Error::Unexpected { pid, .. } => {
                pid.get_or_insert(task);
            }
        }
        self
    }

    /// The errno, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Errno { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// The task concerned.
    #[must_use]
    pub fn pid(&self) -> Option<crate::Pid> {
        match self {
            Error::Errno { pid, .. }
            | Error::Parse { pid, .. }
            | Error::Gone { pid, .. }
            | Error::Unexpected { pid, .. } => *pid,
        }
    }

    /// What was being done.
    #[must_use]
    pub fn doing(&self) -> &str {
        match self {
            Error::Errno { doing, .. }
            | Error::Parse { doing, .. }
            | Error::Gone { doing, .. }
            | Error::Unexpected { doing, .. } => doing,
        }
    }

    /// What the kernel answered, without what was being done.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Error::Errno { errno, .. } => describe(*errno),
            Error::Parse { what, .. } => format!("the kernel's answer is not understood: {what}"),
            Error::Gone { status, .. } => how_it_ended(*status),
            Error::Unexpected { what, .. } => what.clone(),
        }
    }
}

fn how_it_ended(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("it was killed by signal {}", libc::WTERMSIG(status))
    } else {
        format!("it exited with status {}", libc::WEXITSTATUS(status))
    }
}

fn describe(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
