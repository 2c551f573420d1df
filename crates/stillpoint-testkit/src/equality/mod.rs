//! The equality checker: records what the kernel shows of a process tree, and compares two records.
//!
//! A [`Record`] is raw: it holds what `/proc`, `kcmp` and `ptrace` say, times and addresses of the moment included. What
//! may differ between two records of the same state is said by [`Rules`]: each rule has a name and a reason, and
//! rewrites both records before they are compared. What no rule excuses is a [`Difference`].
//!
//! The tree is stopped with `PTRACE_SEIZE` and `PTRACE_INTERRUPT` for the time of the record and let go of afterwards. A
//! task notices this only where Linux itself says that it does: the calls which signal(7) lists as failing with EINTR
//! after a stop (`epoll_wait`, `semop`, `sigtimedwait`, `read` of inotify).
//!
//! What the kernel shows of no task from outside (interval timers, the clear-tid address, restart blocks) is for the
//! workload programs to verify from inside.

mod compare;
mod files;
mod freeze;
mod memory;
mod proc;
mod rules;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

pub use compare::{Difference, compare};
pub use rules::{PIPE_ROOM, RUNNING, Rule, Rules, SHARED_PAGES, TIMER_SIGNALS, TIMER_SLACK};

/// Named values, as the kernel writes them.
pub type Facts = BTreeMap<String, String>;

/// What the kernel shows of a tree at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The root's pid, as the root itself sees it.
    pub root: u32,
    /// Processes, zombies included, by the pid that they see themselves (in the innermost pid namespace).
    pub tasks: BTreeMap<u32, Task>,
}

/// One process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its pid where the record was made.
    pub host_pid: u32,
    /// The innermost pid of its parent, or `outside`.
    pub parent: String,
    /// Innermost pids of its children.
    pub children: BTreeSet<u32>,
    /// `running`, `stopped` (by job control) or `zombie`.
    pub state: String,
    /// Fields of `/proc/PID/stat`, by the names that proc(5) gives them.
    pub stat: Facts,
    /// Single values: personality, cwd, exe, cmdline, environ, ...
    pub attributes: Facts,
    /// `/proc/PID/limits`: soft, hard and unit of each.
    pub limits: Facts,
    /// The auxiliary vector, by type; values in hexadecimal.
    pub auxv: Facts,
    /// Namespaces, as `/proc/PID/ns` shows them.
    pub namespaces: Facts,
    /// POSIX timers, as `/proc/PID/timers` shows them.
    pub timers: Vec<String>,
    /// Signals pending for the whole process, with what the kernel knows of each.
    pub pending: Vec<String>,
    /// Threads by innermost tid.
    pub threads: BTreeMap<u32, Thread>,
    /// Open files by number.
    pub fds: BTreeMap<u32, Fd>,
    /// Areas of memory, by `START-END`.
    pub areas: BTreeMap<String, Area>,
    /// Pages that are not all zero, by address: a hash of their contents.
    pub pages: Facts,
}

/// One thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// `/proc/PID/task/TID/status`.
    pub status: Facts,
    /// Fields of `/proc/PID/task/TID/stat` that belong to a thread.
    pub stat: Facts,
    /// Which other threads of the tree it shares its mm, files, fs and sighand with: the first of them, as `PID.TID`.
    pub shares: Facts,
    /// General registers and segment bases.
    pub registers: Facts,
    /// Extended state by component; a hash, or `init`.
    pub xstate: Facts,
    /// The system call that it waits in.
    pub syscall: Option<i64>,
    /// Signals pending for this thread.
    pub pending: Vec<String>,
    /// Signal mask, rseq registration, robust list and other values that only a tracer sees.
    pub traced: Facts,
}

/// One descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd {
    /// What `/proc/PID/fd/N` links to.
    pub link: String,
    /// `/proc/PID/fdinfo/N`.
    pub info: Facts,
    /// Device, inode, type and mode of the file, and its size where that is part of its state.
    pub file: Facts,
    /// The first descriptor of the tree with the same open file description, as `PID:FD`.
    pub description: String,
}

/// One area of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// `rwxp`.
    pub perms: String,
    /// Offset in the file.
    pub offset: u64,
    /// Device, as `/proc/PID/maps` writes it.
    pub device: String,
    /// Inode.
    pub inode: String,
    /// Path or name.
    pub path: String,
    /// `VmFlags` of smaps.
    pub flags: Vec<String>,
    /// The NUMA policy, as `numa_maps` shows it.
    pub policy: String,
    /// Private pages (anonymous ones, and those of a file that were written to) that are present or swapped.
    pub private_pages: u64,
    /// Why its contents could not be read, if they could not.
    pub unreadable: Option<String>,
}

impl Area {
    fn key(&self) -> String {
        format!("{:012x}-{:012x}", self.start, self.end)
    }
}

/// Records the tree whose root is the process `pid`.
///
/// The tree is stopped meanwhile, and runs on unharmed when this returns, whether or not it succeeds.
///
/// # Errors
///
/// Where a task may not be traced or read, or the tree has ended.
pub fn record(pid: u32) -> io::Result<Record> {
    let frozen = freeze::Frozen::tree(pid)?;
    let mut tasks = BTreeMap::new();
    let mut root = 0;
    for process in frozen.processes() {
        let task = record_task(process)?;
        if process.pid == pid {
            root = process.inner;
        }
        tasks.insert(process.inner, task);
    }
    files::describe(&frozen, &mut tasks)?;
    thread::shares(&frozen, &mut tasks)?;
    for process in frozen.processes() {
        let parent = frozen.processes().find(|other| other.pid == process.parent);
        let Some(parent) = parent.filter(|_| process.pid != pid) else {
            continue;
        };
        if let Some(task) = tasks.get_mut(&parent.inner) {
            task.children.insert(process.inner);
        }
        if let Some(task) = tasks.get_mut(&process.inner) {
            task.parent = parent.inner.to_string();
        }
    }
    Ok(Record { root, tasks })
}

fn record_task(process: &freeze::Process) -> io::Result<Task> {
    let mut task = Task {
        host_pid: process.pid,
        parent: "outside".to_owned(),
        state: process.state().to_owned(),
        stat: proc::stat(&format!("/proc/{}/stat", process.pid))?,
        ..Task::default()
    };
    let Some(live) = process.live() else {
        // Of a zombie the kernel shows its status and exit code only. Its signal actions are past any use.
        let mut status = proc::status(&format!("/proc/{}/status", process.pid))?;
        status.retain(|key, _| key != "SigIgn" && key != "SigCgt");
        task.threads.insert(process.inner, Thread { status, ..Thread::default() });
        return Ok(task);
    };
    let dir = format!("/proc/{}/task/{}", process.pid, live.tid);
    task.attributes = proc::attributes(&dir, process.pid)?;
    task.limits = proc::limits(&format!("{dir}/limits"))?;
    task.auxv = proc::auxv(&format!("{dir}/auxv"))?;
    task.namespaces = proc::links(&format!("{dir}/ns"))?;
    task.timers = proc::timers(process.pid)?;
    task.pending = thread::pending(live.tid, true)?;
    for thread in &process.threads {
        task.threads.insert(thread.inner, thread::record(process.pid, thread)?);
    }
    task.fds = files::descriptors(&dir)?;
    let masks = process.threads.iter().filter_map(|t| thread::rseq_area(t.tid)).collect::<Vec<_>>();
    (task.areas, task.pages) = memory::record(&dir, process.pid, &masks)?;
    Ok(task)
}
