//! Namespaces that a restore makes: a user namespace where privilege is missing, and a pid namespace with an init.

use std::os::fd::{AsFd, OwnedFd};

use stillpoint_sys::clone;

use crate::plan::place::Caller;
use crate::{Code, Error, Result};

/// Keeps the new namespace's init waiting. When this is dropped, or this process ends, the init ends as soon as no
/// task is left in the namespace.
#[derive(Debug)]
pub(super) struct PrivatePids {
    _alive: OwnedFd,
    init: u32,
}

/// Moves this process's future children to a new pid namespace, and this process to a new user namespace if it needs
/// one for that. The ids of the user namespace are those outside: the caller's own, mapped to themselves.
pub(super) fn enter(caller: &Caller) -> Result<PrivatePids> {
    let (uid, gid) = (caller.status.uid[1], caller.status.gid[1]);
    if caller.is_privileged() {
        clone::unshare(libc::CLONE_NEWPID).map_err(|error| lacking(&error, "pid"))?;
    } else {
        clone::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID).map_err(|error| lacking(&error, "user"))?;
        write("setgroups", "deny")?;
        write("uid_map", &format!("{uid} {uid} 1"))?;
        write("gid_map", &format!("{gid} {gid} 1"))?;
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::new(Code::Failed, "making a pipe").cause(errno))?;
    let init = clone::spawn_init(read.as_fd())?;
    Ok(PrivatePids { _alive: write, init })
}

impl PrivatePids {
    /// Reaps the init, should it have ended.
    pub(super) fn reap(&self) {
        // It is no error that it still runs: tasks are left in the namespace.
        drop(clone::wait_child(self.init, true));
    }
}

fn write(file: &str, text: &str) -> Result<()> {
    std::fs::write(format!("/proc/self/{file}"), text).map_err(|error| {
        Error::new(Code::KernelLacks, format!("setting {file} of a user namespace")).cause(error).into()
    })
}

fn lacking(error: &stillpoint_sys::Error, which: &str) -> Box<Error> {
    Box::new(
        Error::new(Code::KernelLacks, format!("entering a new {which} namespace"))
            .cause(error.cause())
            .remedy(
                "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns), or restore as root",
            ),
    )
}
