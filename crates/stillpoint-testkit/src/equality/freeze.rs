//! Stops a tree for the time of a record.
//!
//! Every thread is seized and interrupted; the tree is then listed again, until a listing finds nothing new: a task that
//! was created before its parent stopped is found in the next round. Letting go is in `Drop`, so that an error on the
//! way lets go too. One OS thread does all of this, as ptrace demands.

use std::collections::BTreeMap;
use std::io;

use super::proc;

/// A stopped tree.
pub(super) struct Frozen {
    processes: BTreeMap<u32, Process>,
}

/// One process of it.
pub(super) struct Process {
    /// Pid where the recorder runs.
    pub(super) pid: u32,
    /// Pid that the process sees.
    pub(super) inner: u32,
    /// The parent's pid where the recorder runs.
    pub(super) parent: u32,
    /// Threads that have not ended; empty for a zombie.
    pub(super) threads: Vec<Stopped>,
}

/// One stopped thread.
pub(super) struct Stopped {
    /// Tid where the recorder runs.
    pub(super) tid: u32,
    /// Tid that the thread sees.
    pub(super) inner: u32,
    /// Whether it was stopped by job control before.
    group_stop: bool,
}

impl Process {
    /// Any thread that still has an mm and files.
    pub(super) fn live(&self) -> Option<&Stopped> {
        self.threads.first()
    }

    pub(super) fn state(&self) -> &'static str {
        match self.threads.first() {
            None => "zombie",
            Some(thread) if thread.group_stop => "stopped",
            Some(_) => "running",
        }
    }
}

impl Frozen {
    pub(super) fn tree(root: u32) -> io::Result<Self> {
        let mut frozen = Frozen { processes: BTreeMap::new() };
        loop {
            let parents = parents()?;
            let mut news = false;
            for (&pid, &parent) in &parents {
                if pid == root || descends(pid, root, &parents) {
                    news |= frozen.add(pid, parent)?;
                }
            }
            if !news {
                break;
            }
        }
        if frozen.processes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no process {root}")));
        }
        Ok(frozen)
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Stops what is new of a process; says whether anything was.
    fn add(&mut self, pid: u32, parent: u32) -> io::Result<bool> {
        let mut news = false;
        let process = self.processes.entry(pid).or_insert_with(|| {
            news = true;
            Process { pid, inner: pid, parent, threads: Vec::new() }
        });
        process.parent = parent;
        let Ok(tids) = proc::numbers(&format!("/proc/{pid}/task")) else {
            // Reaped between the listing and now.
            self.processes.remove(&pid);
            return Ok(false);
        };
        for tid in tids {
            if process.threads.iter().any(|t| t.tid == tid) {
                continue;
            }
            let Ok(status) = proc::status(&format!("/proc/{pid}/task/{tid}/status")) else {
                continue;
            };
            let inner = proc::innermost(&status, "NSpid").ok_or_else(|| proc::bad("NSpid of status"))?;
            if tid == pid {
                process.inner = inner;
            }
            if status.get("State").is_some_and(|s| s.starts_with(['Z', 'X'])) {
                continue;
            }
            refuse_unstoppable(pid, tid)?;
            if let Some(group_stop) = stop(tid)? {
                process.threads.push(Stopped { tid, inner, group_stop });
                news = true;
            }
        }
        Ok(news)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for thread in self.processes.values().flat_map(|p| &p.threads) {
            let _ = ptrace(libc::PTRACE_DETACH, thread.tid, 0, 0);
        }
    }
}

/// A thread in a wait that nothing interrupts (that of vfork(2), say) could neither be stopped nor let go of again.
fn refuse_unstoppable(pid: u32, tid: u32) -> io::Result<()> {
    let file = format!("/proc/{pid}/task/{tid}/status");
    for _ in 0..200 {
        match proc::status(&file) {
            Ok(status) if status.get("State").is_some_and(|state| state.starts_with('D')) => {}
            _ => return Ok(()),
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("thread {tid} waits and cannot be stopped")))
}

/// Seizes and interrupts a thread. `None`: it has ended. Else whether it was stopped by job control.
fn stop(tid: u32) -> io::Result<Option<bool>> {
    match ptrace(libc::PTRACE_SEIZE, tid, 0, 0) {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        // EPERM is also what the kernel says of one that is about to end (kernel/ptrace.c, ptrace_attach).
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && ends_soon(tid) => return Ok(None),
        Err(e) => return Err(io::Error::new(e.kind(), format!("tracing {tid}: {e}"))),
    }
    ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, which lives in this frame.
        let got = unsafe { libc::waitpid(tid.cast_signed(), &raw mut status, libc::__WALL) };
        if got < 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::ECHILD) => return Ok(None),
                _ => return Err(error),
            }
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(None);
        }
        let signal = libc::WSTOPSIG(status);
        if status >> 16 == libc::PTRACE_EVENT_STOP {
            return Ok(Some(signal != libc::SIGTRAP));
        }
        // A signal came first: it is the task's own and is handed on; the interrupt follows.
        ptrace(libc::PTRACE_CONT, tid, 0, usize::try_from(signal).unwrap_or_default())?;
    }
}

/// Whether a thread has ended, or does within a moment.
fn ends_soon(tid: u32) -> bool {
    for _ in 0..50 {
        match proc::status(&format!("/proc/{tid}/status")) {
            Ok(status) if status.get("State").is_some_and(|state| !state.starts_with(['Z', 'X'])) => {}
            _ => return true,
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    false
}

/// One ptrace request with plain numbers as arguments.
pub(super) fn ptrace(request: libc::c_uint, tid: u32, addr: usize, data: usize) -> io::Result<libc::c_long> {
    // SAFETY: `addr` and `data` are numbers or, for requests that write to us, addresses of buffers which the callers
    // keep alive across this call and whose sizes they pass as the request defines.
    let result = unsafe { libc::ptrace(request, tid.cast_signed(), addr, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Every process and its parent.
fn parents() -> io::Result<BTreeMap<u32, u32>> {
    let mut out = BTreeMap::new();
    for pid in proc::numbers("/proc")? {
        // One that ends meanwhile is not in the tree any more.
        if let Ok(stat) = proc::stat(&format!("/proc/{pid}/stat")) {
            out.insert(pid, stat.get("ppid").and_then(|s| s.parse().ok()).unwrap_or(0));
        }
    }
    Ok(out)
}

fn descends(pid: u32, root: u32, parents: &BTreeMap<u32, u32>) -> bool {
    let mut at = pid;
    // Bounded: a listing that is not one moment's could hold a cycle.
    for _ in 0..parents.len() {
        match parents.get(&at) {
            Some(&parent) if parent == root => return true,
            Some(&parent) if parent != 0 => at = parent,
            _ => return false,
        }
    }
    false
}
