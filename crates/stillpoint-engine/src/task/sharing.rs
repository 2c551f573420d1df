//! What tasks share beside open files: threads share everything of their process; processes may share descriptor tables
//! (CLONE_FILES) and working directories (CLONE_FS).

use std::cmp::Ordering;
use std::collections::HashMap;

use stillpoint_sys::Pid;
use stillpoint_sys::proc::stat;
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
    refuse_parent(tasks)?;
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

/// What is shared is inherited: the one outside that a tree may share with is the parent of its root.
fn refuse_parent(tasks: &[FrozenTask]) -> Result<()> {
    let Some(root) = tasks.first() else { return Ok(()) };
    let parent = stat::read(root.host_pid)?.ppid;
    for &(what, name) in REFUSED.iter().chain(SAVED) {
        // One that may not be looked at is another user's, and made by exec of a program that gives up what was shared.
        if parent != 0 && kcmp(root.host_pid, parent, what).is_ok_and(|order| order == Ordering::Equal) {
            return Err(refusal(&root.name)
                .cause(format!("it shares {name} with process {parent}, which is outside the tree"))
                .into());
        }
    }
    Ok(())
}

fn refuse_shared(alive: &[&FrozenTask], what: Shared, name: &str) -> Result<()> {
    let mut failure = None;
    let mut sorted: Vec<&FrozenTask> = alive.to_vec();
    let mut compare = |a: Pid, b: Pid| {
        kcmp(a, b, what).unwrap_or_else(|error| {
            failure.get_or_insert(error);
            Ordering::Equal
        })
    };
    sorted.sort_by(
        |a, b| if a.host_pid == b.host_pid { Ordering::Equal } else { compare(a.host_pid, b.host_pid) },
    );
    let twins = sorted.windows(2).find_map(|pair| match pair {
        [a, b] if compare(a.host_pid, b.host_pid) == Ordering::Equal => Some((&a.name, &b.name)),
        _ => None,
    });
    if let Some(error) = failure {
        return Err(error.into());
    }
    match twins {
        None => Ok(()),
        Some((a, b)) => {
            Err(refusal(a).cause(format!("it shares {name} with {b}, which is no thread of it")).into())
        }
    }
}

fn refusal(task: &TaskName) -> Error {
    Error::new(Code::UnsupportedSharing, "looking for what tasks share")
        .in_task(task)
        .remedy("not supported yet")
}
