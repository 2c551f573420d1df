//! Namespaces: the tree must live in the caller's, except for those that a restore itself makes.

use stillpoint_sys::proc::namespaces;

use crate::freeze::FrozenTask;
use crate::{Code, Error, Result};

/// Refuses a tree in namespaces that cannot be rebuilt. Returns whether its pid namespace is another than the
/// caller's.
///
/// A restore makes user and pid namespaces; a tree may live in such ones.
///
/// # Errors
///
/// A refusal that names the namespace.
pub fn check(tasks: &[FrozenTask]) -> Result<bool> {
    let own = namespaces::read(std::process::id())?;
    let mut alive = tasks.iter().filter(|task| !task.zombie);
    let Some(root) = alive.next() else { return Ok(false) };
    let first = namespaces::read(root.host_pid)?;
    for task in alive {
        if namespaces::read(task.host_pid)? != first {
            return Err(refusal(task).cause(format!("its namespaces are not those of {}", root.name)).into());
        }
    }
    let mut private_pids = false;
    for name in first.differing(&own) {
        match name {
            b"pid" | b"pid_for_children" => private_pids = true,
            // Its ids are compared where credentials are saved: they are what the caller sees.
            b"user" => {}
            _ => {
                return Err(refusal(root)
                    .object(format!("{} namespace", name.escape_ascii()))
                    .cause("it is not the one that stillpoint runs in")
                    .remedy("run stillpoint inside the container; other namespaces are not supported yet")
                    .into());
            }
        }
    }
    if own.get("user") != first.get("user") && !private_pids {
        return Err(refusal(root).cause("it has a user namespace of its own").into());
    }
    Ok(private_pids)
}

fn refusal(task: &FrozenTask) -> Error {
    Error::new(Code::UnsupportedNamespace, "looking at namespaces").in_task(&task.name)
}
