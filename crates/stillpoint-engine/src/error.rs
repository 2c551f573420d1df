//! What can go wrong, said in a way that a person and a program can both use.

use std::fmt;

/// The result of everything that the engine does.
pub type Result<T, E = Box<Error>> = std::result::Result<T, E>;

/// What a caller should make of an error. The numbers are the exit statuses of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Something failed that should have worked (1).
    Failed = 1,
    /// The request itself is wrong (2).
    Usage = 2,
    /// Something that the tree holds cannot be saved or rebuilt (3).
    Refused = 3,
    /// The image is damaged or not ours (4).
    Image = 4,
    /// The place does not fit: a file differs, a pid is taken, the CPU or kernel lacks something (5).
    Place = 5,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $class:ident;)+) => {
        /// Stable error codes. A code, once released, keeps its meaning for ever.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The name that `--json` and the documentation use.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            /// What a caller should make of it.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Code::$name => Class::$class,)+ }
            }

            /// One sentence on what it means.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc, " "),+).trim(),)+ }
            }
        }
    };
}

codes! {
    /// A system call or an operation failed that was expected to work.
    Failed = "failed", Failed;
    /// The user interrupted the work; everything was undone.
    Interrupted = "interrupted", Failed;
    /// There is no such process, or it ended meanwhile.
    NoSuchTask = "no-such-task", Failed;
    /// The kernel does not let this user trace the task or read its state.
    NotPermitted = "not-permitted", Failed;
    /// A task did not stop, or kept changing, for longer than we wait.
    WouldNotFreeze = "would-not-freeze", Refused;
    /// The output could not be written.
    Output = "output", Failed;
    /// The output exists already and is not replaced without `--force`.
    OutputExists = "output-exists", Usage;
    /// An option is wrong or does not go with another.
    Usage = "usage", Usage;
    /// An open file of a kind that nothing here can save.
    UnsupportedFile = "unsupported-file", Refused;
    /// An open file of a kind that is supported, in a state that is not.
    UnsupportedFileState = "unsupported-file-state", Refused;
    /// The other end of a pipe, FIFO or terminal is outside the tree.
    OutsideTree = "outside-tree", Refused;
    /// An area of memory that cannot be saved or rebuilt.
    UnsupportedArea = "unsupported-area", Refused;
    /// A state of a task or thread that cannot be saved or rebuilt.
    UnsupportedState = "unsupported-state", Refused;
    /// Tasks share something in a way that cannot be rebuilt.
    UnsupportedSharing = "unsupported-sharing", Refused;
    /// The task is in a namespace that cannot be rebuilt.
    UnsupportedNamespace = "unsupported-namespace", Refused;
    /// The kernel showed something that this version does not know, so it cannot know what would be lost.
    Unknown = "unknown", Refused;
    /// The image is cut, altered or not an image.
    ImageDamaged = "image-damaged", Image;
    /// The image holds a record that this version does not know.
    ImageUnknown = "image-unknown", Image;
    /// The image's records contradict each other or name what is not there.
    ImageInconsistent = "image-inconsistent", Image;
    /// A file that the tree needs is missing, is not the one it had, or is locked by somebody else.
    FileDiffers = "file-differs", Place;
    /// A process id that the tree needs is taken.
    PidTaken = "pid-taken", Place;
    /// The CPU lacks something that the tree uses.
    CpuLacks = "cpu-lacks", Place;
    /// The kernel or the caller's privileges lack something that the restore needs.
    KernelLacks = "kernel-lacks", Place;
    /// A limit of this place is too small for the tree.
    LimitTooSmall = "limit-too-small", Place;
    /// The tree had a terminal and there is none here.
    NoTerminal = "no-terminal", Place;
    /// A clock of this machine is behind the image's, and the tree would see time run backwards.
    ClockBehind = "clock-behind", Place;
}

/// A task, as an error names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskName {
    /// Process id, in the caller's pid namespace where that is known, else the tree's.
    pub pid: u32,
    /// Thread id, where one thread is meant.
    pub tid: Option<u32>,
    /// The name of `/proc/PID/comm`.
    pub name: String,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.pid)?;
        if let Some(tid) = self.tid.filter(|&tid| tid != self.pid) {
            write!(f, " thread {tid}")?;
        }
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        Ok(())
    }
}

/// An error: what was being done, to which task and object, what the kernel answered, what the user can do.
///
/// ```
/// use stillpoint_engine::{Code, Error};
/// let error = Error::new(Code::UnsupportedFile, "saving an open file")
///     .task(42, "redis")
///     .object("fd 7 -> socket:[99]")
///     .cause("sockets are not supported yet")
///     .remedy("close it before the checkpoint");
/// assert_eq!(error.code.as_str(), "unsupported-file");
/// assert!(error.to_string().contains("fd 7"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The stable code.
    pub code: Code,
    /// What was being done, as a gerund: "reading the memory map".
    pub doing: String,
    /// The task concerned.
    pub task: Option<TaskName>,
    /// The object concerned: "fd 7 -> /path", "area 7f00-7f01 rw-p".
    pub object: Option<String>,
    /// What the kernel answered, or what was found.
    pub cause: Option<String>,
    /// What the user can do about it.
    pub remedy: Option<String>,
    /// Further errors of the same attempt, where it pays to list them all (files that differ).
    pub others: Vec<Error>,
}

impl Error {
    /// An error with a code and what was being done.
    #[must_use]
    pub fn new(code: Code, doing: impl Into<String>) -> Self {
        Error {
            code,
            doing: doing.into(),
            task: None,
            object: None,
            cause: None,
            remedy: None,
            others: Vec::new(),
        }
    }

    /// Names the task.
    #[must_use]
    pub fn task(mut self, pid: u32, name: impl Into<String>) -> Self {
        self.task = Some(TaskName { pid, tid: None, name: name.into() });
        self
    }

    /// Names the task, unless one is named already.
    #[must_use]
    pub fn in_task(mut self, task: &TaskName) -> Self {
        self.task.get_or_insert_with(|| task.clone());
        self
    }

    /// Names the object.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// Says what the kernel answered or what was found.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Says what the user can do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        if let Some(task) = &self.task {
            write!(f, ", {task}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ", {object}")?;
        }
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<stillpoint_sys::Error> for Box<Error> {
    fn from(error: stillpoint_sys::Error) -> Self {
        let code = match error.errno() {
            Some(libc::EPERM | libc::EACCES) => Code::NotPermitted,
            Some(libc::ESRCH) => Code::NoSuchTask,
            _ => Code::Failed,
        };
        let mut out = Error::new(code, error.doing()).cause(error.cause());
        if let Some(pid) = error.pid() {
            out = out.task(pid, "");
        }
        Box::new(out)
    }
}
