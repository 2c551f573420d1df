//! Who is whose parent, in which session and process group, in terms of the tree.

use std::collections::BTreeMap;

use stillpoint_image::records::{Foreign, Task};
use stillpoint_sys::proc::stat::{self, Stat};
use stillpoint_sys::proc::status;
use stillpoint_sys::proc::tasks::processes;

use crate::freeze::FrozenTask;
use crate::{Code, Error, Result};

/// The relations of a tree. Ids that are led from outside become 0.
pub(super) struct Relations {
    by_pid: BTreeMap<u32, Entry>,
    foreign: Option<Foreign>,
}

struct Entry {
    parent: u32,
    process_group: u32,
    session: u32,
}

impl Relations {
    /// Reads them.
    ///
    /// The root's session and group may be led from outside: by the shell that started it. Any other must be the tree's
    /// alone; its leader may have ended.
    pub(super) fn read(tasks: &[FrozenTask]) -> Result<Self> {
        let inside: BTreeMap<u32, u32> = tasks.iter().map(|task| (task.host_pid, task.pid)).collect();
        let mut stats = Vec::with_capacity(tasks.len());
        for task in tasks {
            stats.push(stat::read(task.host_pid)?);
        }
        let Some(root) = stats.first() else {
            return Err(Error::new(Code::NoSuchTask, "reading relations").into());
        };
        let (session, group) = (root.session, root.pgrp);
        let departed = departed(tasks, &stats, &inside)?;
        let lookup = |id: i32| {
            u32::try_from(id).ok().and_then(|id| inside.get(&id).or_else(|| departed.get(&id))).copied()
        };
        let foreign = (lookup(session).is_none() || lookup(group).is_none()).then(|| foreign(root, &lookup));
        let mut by_pid = BTreeMap::new();
        for (n, (task, stat)) in tasks.iter().zip(&stats).enumerate() {
            let resolve = |id: i32, of_root: i32, what: &str| match lookup(id) {
                Some(pid) => Ok(pid),
                None if id == of_root => Ok(0),
                None => Err(Box::new(
                    Error::new(Code::UnsupportedState, "reading relations")
                        .in_task(&task.name)
                        .cause(format!("its {what} {id} is led from outside the tree"))
                        .remedy("save the tree of that process too, by a PID further up"),
                )),
            };
            let parent = if n == 0 { 0 } else { lookup(stat.ppid.cast_signed()).unwrap_or(0) };
            let entry = Entry {
                parent,
                process_group: resolve(stat.pgrp, group, "process group")?,
                session: resolve(stat.session, session, "session")?,
            };
            by_pid.insert(task.pid, entry);
        }
        Ok(Relations { by_pid, foreign })
    }

    /// Fills a task's relations in.
    pub(super) fn complete(&self, task: Task) -> Task {
        match self.by_pid.get(&task.pid) {
            Some(entry) => Task {
                parent: entry.parent,
                process_group: entry.process_group,
                session: entry.session,
                ..task
            },
            None => task,
        }
    }

    /// The parent of a process; none of the root.
    pub(super) fn parent(&self, pid: u32) -> Option<u32> {
        self.by_pid.get(&pid).map(|entry| entry.parent).filter(|&parent| parent != 0)
    }

    /// What is led from outside, for the image's header.
    pub(super) fn foreign(&self) -> Option<Foreign> {
        self.foreign
    }

    /// What the user should know.
    pub(super) fn notes(&self) -> Vec<String> {
        let Some(foreign) = &self.foreign else { return Vec::new() };
        let mut led = Vec::new();
        if foreign.session != 0 {
            led.push(format!("session {}", foreign.session));
        }
        if foreign.process_group != 0 {
            led.push(format!("process group {}", foreign.process_group));
        }
        match led.is_empty() {
            true => Vec::new(),
            false => vec![format!(
                "{} led from outside the tree; restored in the foreground, the tree joins those of restore, detached it \
                 gets its own",
                led.join(" and ") + if led.len() == 1 { " is" } else { " are" }
            )],
        }
    }
}

/// Leaders of sessions and groups that have ended, by their ids here: with the ids that the tree sees. Those of the root
/// are not among them.
fn departed(tasks: &[FrozenTask], stats: &[Stat], inside: &BTreeMap<u32, u32>) -> Result<BTreeMap<u32, u32>> {
    let mut found = BTreeMap::new();
    let Some(root) = stats.first() else { return Ok(found) };
    for (task, stat) in tasks.iter().zip(stats) {
        let own = [root.session, root.pgrp];
        let ids = [stat.session, stat.pgrp].map(|id| (id, u32::try_from(id).unwrap_or(0)));
        if ids.iter().all(|(id, host)| own.contains(id) || inside.contains_key(host)) {
            continue;
        }
        let status = status::read(task.host_pid)?;
        for ((id, host), seen) in ids.into_iter().zip([&status.ns_sid, &status.ns_pgid]) {
            // 0: led from outside of the pid namespace.
            let seen = seen.last().copied().unwrap_or(host);
            if !own.contains(&id) && !inside.contains_key(&host) && host != 0 && seen != 0 {
                found.insert(host, seen);
            }
        }
    }
    // One that others are members of as well is not the tree's to rebuild, and its id would not be free.
    if !found.is_empty() {
        for pid in processes()?.into_iter().filter(|pid| !inside.contains_key(pid)) {
            found.remove(&pid);
            if let Ok(stat) = stat::read(pid) {
                found.remove(&stat.session.unsigned_abs());
                found.remove(&stat.pgrp.unsigned_abs());
            }
        }
    }
    Ok(found)
}

fn foreign(root: &Stat, lookup: &dyn Fn(i32) -> Option<u32>) -> Foreign {
    let outside = |id: i32| if lookup(id).is_some() { 0 } else { id.unsigned_abs() };
    Foreign {
        session: outside(root.session),
        process_group: outside(root.pgrp),
        terminal: root.tty_nr != 0,
        foreground: root.tty_nr != 0 && root.tpgid == root.pgrp,
        foreground_group: if root.tty_nr != 0 && root.tpgid > 0 {
            lookup(root.tpgid).unwrap_or(0)
        } else {
            0
        },
    }
}
