//! The tree of processes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use stillpoint_image::SavedTask;
use stillpoint_image::records::Task;

use super::body::{self, Body};
use super::{Saved, printable};

/// The processes of an image, each after its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskTree {
    /// The processes, depth first, children by pid.
    pub tasks: Vec<TreeTask>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeTask {
    /// Its id, as the tree sees it.
    pub pid: u32,
    /// Its parent; none for the root.
    pub parent: Option<u32>,
    /// How many ancestors it has in the tree.
    pub depth: u32,
    /// Its process group; none where that was led from outside the tree.
    pub process_group: Option<u32>,
    /// Its session; none where that was led from outside the tree.
    pub session: Option<u32>,
    /// Its name, as of `/proc/PID/comm`.
    pub name: String,
    /// What it executes; none of a zombie.
    pub executable: Option<String>,
    /// Its real user; none of a zombie.
    pub uid: Option<u32>,
    /// The wait status of a zombie, as of wait(2); none of one that lives.
    pub zombie: Option<u32>,
    /// Its threads, the leader first.
    pub threads: Vec<TreeThread>,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeThread {
    /// Its id, as the tree sees it.
    pub tid: u32,
    /// Its name.
    pub name: String,
}

/// The tree of processes.
#[must_use]
pub fn tasks<S>(image: &Saved<S>) -> TaskTree {
    let mut children: BTreeMap<u32, Vec<&SavedTask>> = BTreeMap::new();
    let pids: BTreeSet<u32> = image.tasks().iter().map(|saved| saved.task.pid).collect();
    let mut pending = Vec::new();
    for saved in image.tasks() {
        // The root has none, and a parent that is not in the image must not hide its child.
        match pids.contains(&saved.task.parent) && saved.task.parent != saved.task.pid {
            true => children.entry(saved.task.parent).or_default().push(saved),
            false => pending.push((0, saved)),
        }
    }
    let by_pid = |saved: &&SavedTask| std::cmp::Reverse(saved.task.pid);
    pending.sort_by_key(|(_, saved)| by_pid(saved));
    let mut out = Vec::with_capacity(image.tasks().len());
    // Children are taken out, so that a cycle of parents ends; what it hides is shown after it.
    loop {
        while let Some((depth, saved)) = pending.pop() {
            out.push(tree_task(image, saved, depth));
            let mut own = children.remove(&saved.task.pid).unwrap_or_default();
            own.sort_by_key(by_pid);
            pending.extend(own.into_iter().map(|child| (depth.saturating_add(1), child)));
        }
        let Some((_, cycle)) = children.pop_first() else { break };
        pending.extend(cycle.into_iter().map(|saved| (0, saved)));
    }
    TaskTree { tasks: out }
}

fn tree_task<S>(image: &Saved<S>, saved: &SavedTask, depth: u32) -> TreeTask {
    let SavedTask { task, threads } = saved;
    let some = |id: u32| (id != 0).then_some(id);
    TreeTask {
        pid: task.pid,
        parent: some(task.parent),
        depth,
        process_group: some(task.process_group),
        session: some(task.session),
        name: printable(&task.name),
        executable: executable(image, task),
        uid: threads.first().and_then(|leader| leader.credentials.as_ref()?.uids.first().copied()),
        zombie: task.zombie.then_some(task.exit_code),
        threads: threads
            .iter()
            .map(|thread| TreeThread { tid: thread.tid, name: printable(&thread.name) })
            .collect(),
    }
}

/// The executable of a task's address space.
pub(super) fn executable<S>(image: &Saved<S>, task: &Task) -> Option<String> {
    match image.object(task.mm).map(Body::of) {
        Some(Body::Mm(mm)) => Some(body::referred(image, mm.executable)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::verified;

    #[test]
    fn parents_come_first() {
        let tree = tasks(&verified());
        let shape: Vec<_> =
            tree.tasks.iter().map(|task| (task.pid, task.depth, task.threads.len())).collect();
        assert_eq!(shape, [(10, 0, 2), (12, 1, 1), (13, 2, 0)]);
        let [root, child, zombie] = &tree.tasks[..] else { panic!("three tasks") };
        assert_eq!((root.session, root.name.as_str()), (None, "count\\n"));
        assert_eq!(root.executable.as_deref(), Some("/usr/bin/count"));
        assert_eq!((child.session, child.zombie), (Some(10), None));
        assert_eq!((zombie.zombie, zombie.executable.as_deref()), (Some(0x100), None));
    }

    #[test]
    fn no_task_is_hidden_by_a_cycle_or_a_missing_parent() {
        use stillpoint_image::records::{Header, Thread};
        let mut writer = stillpoint_image::Writer::new(Vec::new()).unwrap();
        writer.header(&Header { root_pid: 1, tasks: 4, threads: 4, ..Header::default() }).unwrap();
        for (pid, parent) in [(1, 2), (2, 1), (3, 3), (4, 99)] {
            writer.task(&Task { pid, parent, ..Task::default() }).unwrap();
            writer.thread(&Thread { pid, tid: pid, ..Thread::default() }).unwrap();
        }
        let image = stillpoint_image::Image::verify(writer.seal().unwrap().0).unwrap();
        let mut pids: Vec<_> = tasks(&image).tasks.iter().map(|task| task.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [1, 2, 3, 4]);
    }
}
