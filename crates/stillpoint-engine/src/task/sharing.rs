//! What tasks share beside open files: threads share everything of their process; processes may share descriptor tables
//! (CLONE_FILES) and working directories (CLONE_FS).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use stillpoint_sys::Pid;
use stillpoint_sys::proc::tasks::processes;
use stillpoint_sys::task::{Shared, kcmp};

use super::semaphores;
use crate::freeze::FrozenTask;
use crate::{Code, Error, Result, TaskName};

const REFUSED: &[(Shared, &str)] =
    &[(Shared::Memory, "memory (CLONE_VM)"), (Shared::Handlers, "its signal handlers (CLONE_SIGHAND)")];

const SAVED: &[(Shared, &str)] = &[
    (Shared::Descriptors, "its descriptor table (CLONE_FILES)"),
    (Shared::FsContext, "its working directory, root and umask (CLONE_FS)"),
];

/// Refuses processes that share what only threads may so far, or share with a process outside of the tree, and threads
/// that do not share.
///
/// Sharing is an equivalence, and kcmp gives an order: so processes are sorted by it, and only neighbours are
/// compared for equality.
///
/// # Errors
///
/// A refusal that names both tasks and what they share.
pub fn check(tasks: &[FrozenTask]) -> Result<()> {
    let alive: Vec<&FrozenTask> = tasks.iter().filter(|task| !task.zombie).collect();
    for &(what, name) in REFUSED {
        refuse_shared(&alive, what, name)?;
    }
    refuse_outsiders(&alive)?;
    for task in &alive {
        for thread in task.threads.iter().skip(1) {
            for &(what, name) in REFUSED.iter().chain(SAVED) {
                if kcmp(task.host_pid, thread.host_tid, what)? != Ordering::Equal {
                    return Err(refusal(&task.name)
                        .object(format!("thread {}", thread.tid))
                        .cause(format!("it does not share {name} with its process"))
                        .into());
                }
            }
        }
        semaphores::refuse_undo(task)?;
    }
    Ok(())
}

/// The first process of the tree that each one shares its working directory, root and umask with: itself, if none; by
/// their ids here.
///
/// # Errors
///
/// What the kernel answered.
pub fn fs_contexts(tasks: &[FrozenTask]) -> Result<HashMap<Pid, Pid>> {
    let mut sorted: Vec<Pid> = Vec::new();
    let mut first = HashMap::new();
    for task in tasks.iter().filter(|task| !task.zombie) {
        let mut failure = None;
        let place = sorted.binary_search_by(|&other| {
            kcmp(other, task.host_pid, Shared::FsContext).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                Ordering::Equal
            })
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
        let known = match place {
            Ok(at) => sorted.get(at).copied().unwrap_or(task.host_pid),
            Err(at) => {
                sorted.insert(at, task.host_pid);
                task.host_pid
            }
        };
        first.insert(task.host_pid, known);
    }
    Ok(first)
}

/// Refuses what is shared with a process outside of the tree, whoever that is: a restore would part them in silence.
///
/// One that may not be looked at is another user's. What it shares it could only have from a program that has changed
/// its user and has not executed another since.
fn refuse_outsiders(alive: &[&FrozenTask]) -> Result<()> {
    let inside: HashSet<Pid> = alive.iter().map(|task| task.host_pid).collect();
    let outside: Vec<Pid> = processes()?.into_iter().filter(|pid| !inside.contains(pid)).collect();
    for &(what, name) in REFUSED.iter().chain(SAVED) {
        let sorted = sorted(alive, what)?;
        for &pid in &outside {
            let mut unlike = false;
            let found = sorted.binary_search_by(|task| {
                kcmp(task.host_pid, pid, what).unwrap_or_else(|_| {
                    // It has ended, or may not be looked at.
                    unlike = true;
                    Ordering::Equal
                })
            });
            if let (Ok(at), false) = (found, unlike)
                && let Some(task) = sorted.get(at)
            {
                return Err(refusal(&task.name)
                    .cause(format!("it shares {name} with process {pid}, which is outside the tree"))
                    .into());
            }
        }
    }
    Ok(())
}

/// The processes in the order of one of their kernel objects.
fn sorted<'a>(alive: &[&'a FrozenTask], what: Shared) -> Result<Vec<&'a FrozenTask>> {
    let mut failure = None;
    let mut sorted = alive.to_vec();
    sorted.sort_by(|a, b| match a.host_pid == b.host_pid {
        true => Ordering::Equal,
        false => kcmp(a.host_pid, b.host_pid, what).unwrap_or_else(|error| {
            failure.get_or_insert(error);
            Ordering::Equal
        }),
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(sorted),
    }
}

fn refuse_shared(alive: &[&FrozenTask], what: Shared, name: &str) -> Result<()> {
    for pair in sorted(alive, what)?.windows(2) {
        if let [a, b] = pair
            && kcmp(a.host_pid, b.host_pid, what)? == Ordering::Equal
        {
            let (a, b) = (&a.name, &b.name);
            return Err(refusal(a)
                .cause(format!("it shares {name} with {b}, which is no thread of it"))
                .into());
        }
    }
    Ok(())
}

fn refusal(task: &TaskName) -> Error {
    Error::new(Code::UnsupportedSharing, "looking for what tasks share")
        .in_task(task)
        .remedy("not supported yet")
}
