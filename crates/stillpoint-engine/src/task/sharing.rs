//! What tasks share beside open files: threads share everything of their process, processes nothing.

use std::cmp::Ordering;

use stillpoint_sys::Pid;
use stillpoint_sys::task::{Shared, kcmp};

use super::semaphores;
use crate::freeze::FrozenTask;
use crate::{Code, Error, Result, TaskName};

const ALL: &[(Shared, &str)] = &[
    (Shared::Memory, "memory (CLONE_VM)"),
    (Shared::Descriptors, "its descriptor table (CLONE_FILES)"),
    (Shared::FsContext, "its working directory, root and umask (CLONE_FS)"),
    (Shared::Handlers, "its signal handlers (CLONE_SIGHAND)"),
];

/// Refuses processes that share what only threads should, and threads that do not.
///
/// Sharing is an equivalence, and kcmp gives an order: so processes are sorted by it, and only neighbours are
/// compared for equality.
///
/// # Errors
///
/// A refusal that names both tasks and what they share.
pub fn check(tasks: &[FrozenTask]) -> Result<()> {
    let alive: Vec<&FrozenTask> = tasks.iter().filter(|task| !task.zombie).collect();
    for &(what, name) in ALL {
        refuse_shared(&alive, what, name)?;
    }
    for task in &alive {
        for thread in task.threads.iter().skip(1) {
            for &(what, name) in ALL {
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
