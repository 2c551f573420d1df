//! Processes of a case: finding them and ending them.

use std::collections::BTreeSet;
use std::fs;

/// Whether a process is there and not a zombie.
#[must_use]
pub fn running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// State and parent.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The parent of a process.
#[must_use]
pub fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

/// A process and all below it.
#[must_use]
pub fn tree_of(root: u32) -> BTreeSet<u32> {
    let mut tree = BTreeSet::from([root]);
    let parents = all().into_iter().filter_map(|pid| Some((pid, stat(pid)?.1))).collect::<Vec<_>>();
    loop {
        let before = tree.len();
        tree.extend(
            parents
                .iter()
                .filter(|(_, parent)| tree.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if tree.len() == before {
            return tree;
        }
    }
}

/// The first process of the innermost pid namespace that a process is in, if that is not ours.
fn namespace_init(pid: u32) -> Option<u32> {
    let depth = |pid: u32| -> Option<usize> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(status.lines().find(|line| line.starts_with("NSpid:"))?.split_whitespace().count() - 1)
    };
    let ours = depth(std::process::id())?;
    let mut at = pid;
    let mut init = None;
    while depth(at)? > ours {
        init = Some(at);
        at = parent_of(at)?;
    }
    init
}

/// Kills a process, all below it, and the pid namespace that it is in, if that is not ours.
pub fn kill_tree(root: u32) {
    if root < 2 {
        return;
    }
    // Before anything is killed: children of one that has ended are another's.
    let tree = tree_of(root);
    if let Some(init) = namespace_init(root) {
        kill(init);
    }
    tree.into_iter().for_each(kill);
    // A child may have been born meanwhile.
    tree_of(root).into_iter().for_each(kill);
}

/// Every process whose command line holds this text, ascending.
#[must_use]
pub fn naming(text: &str) -> Vec<u32> {
    let mut pids = all();
    pids.retain(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && String::from_utf8_lossy(&line).contains(text)
    });
    pids.sort_unstable();
    pids
}

/// Kills every process whose command line holds this text.
pub(super) fn kill_naming(text: &str) {
    naming(text).into_iter().for_each(kill);
}

fn kill(pid: u32) {
    // SAFETY: takes two numbers.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}

/// Kills trees when a case ends, however it ends.
#[derive(Debug, Default)]
pub struct Guard {
    roots: Vec<(u32, Option<String>)>,
}

impl Guard {
    /// Watches a tree.
    pub fn watch(&mut self, root: u32) {
        self.roots.push((root, start_time(root)));
    }
}

/// Tells a process from a later one of the same number.
fn start_time(pid: u32) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

impl Drop for Guard {
    fn drop(&mut self) {
        for (root, started) in self.roots.drain(..) {
            if started.is_some() && start_time(root) == started {
                kill_tree(root);
            }
        }
    }
}

/// Whether a process ends; waits for it.
///
/// # Errors
///
/// When it stays.
pub fn ends(pid: u32) -> super::Outcome {
    super::wait_for(&format!("the end of process {pid}"), || Ok((!running(pid)).then_some(())))
}
