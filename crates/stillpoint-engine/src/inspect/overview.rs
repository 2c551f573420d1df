//! An image at a glance.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Saved, content_bytes, printable};

/// What an image holds, in numbers, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// What wrote it: "stillpoint 0.1.0".
    pub tool: String,
    /// When, in nanoseconds since 1970.
    pub created_unix_ns: u64,
    /// The user who wrote it.
    pub creator_uid: u32,
    /// The machine's architecture.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's name.
    pub host: String,
    /// The CPU's model.
    pub cpu: String,
    /// The root of the tree, as the tree sees it.
    pub root_pid: u32,
    /// Processes, zombies included.
    pub tasks: u64,
    /// Threads.
    pub threads: u64,
    /// Kernel objects.
    pub objects: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// Bytes of memory and file contents, uncompressed.
    pub content_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Frames of the image.
    pub frames: u64,
    /// The BLAKE3 root that seals it, in hexadecimal.
    pub root: String,
    /// The session that was led from outside the tree.
    pub outside_session: Option<u32>,
    /// The root's process group, if that was led from outside the tree.
    pub outside_process_group: Option<u32>,
    /// Whether that session had a terminal.
    pub outside_terminal: bool,
    /// Whether the tree lived in a pid namespace of its own.
    pub private_pids: bool,
    /// What the user chose to lose or replace.
    pub choices: Vec<Choice>,
}

/// One thing that the user chose by option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The option.
    pub option: String,
    /// What was chosen.
    pub text: String,
}

/// What [`read`](super::read) has checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Integrity {
    /// What wrote it.
    pub tool: String,
    /// Processes, zombies included.
    pub tasks: u64,
    /// Threads.
    pub threads: u64,
    /// Frames of the image.
    pub frames: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// The BLAKE3 root that seals it, in hexadecimal: two images with one root are the same.
    pub root: String,
}

/// What an image holds, in numbers, and where it comes from.
#[must_use]
pub fn overview<S>(image: &Saved<S>) -> Overview {
    let Integrity { tool, tasks, threads, frames, image_bytes, root } = integrity(image);
    let header = image.header();
    let machine = header.machine.clone().unwrap_or_default();
    let foreign = header.foreign.unwrap_or_default();
    let mut kinds = BTreeMap::new();
    for object in image.objects() {
        *kinds.entry(printable(object.kind.as_bytes())).or_default() += 1;
    }
    let some = |id: u32| (id != 0).then_some(id);
    Overview {
        tool,
        created_unix_ns: header.created_unix_ns,
        creator_uid: header.creator_uid,
        arch: printable(machine.arch.as_bytes()),
        kernel: printable(&machine.kernel_release),
        host: printable(&machine.hostname),
        cpu: header.cpu.as_ref().map(|cpu| printable(&cpu.model)).unwrap_or_default(),
        root_pid: header.root_pid,
        tasks,
        threads,
        objects: image.objects().len() as u64,
        kinds,
        content_bytes: image
            .objects()
            .iter()
            .fold(0, |sum, object| sum.saturating_add(content_bytes(image, object.id))),
        image_bytes,
        frames,
        root,
        outside_session: some(foreign.session),
        outside_process_group: some(foreign.process_group),
        outside_terminal: foreign.terminal,
        private_pids: header.private_pids,
        choices: header
            .choices
            .iter()
            .map(|choice| Choice {
                option: printable(choice.option.as_bytes()),
                text: printable(choice.text.as_bytes()),
            })
            .collect(),
    }
}

/// What was checked of an image.
#[must_use]
pub fn integrity<S>(image: &Saved<S>) -> Integrity {
    let sealed = image.sealed();
    Integrity {
        tool: printable(image.header().tool.as_bytes()),
        tasks: image.tasks().len() as u64,
        threads: image.tasks().iter().map(|task| task.threads.len() as u64).sum(),
        frames: sealed.frames,
        image_bytes: sealed.bytes,
        root: sealed.root.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::{image, verified};

    #[test]
    fn numbers_add_up() {
        let overview = overview(&verified());
        assert_eq!((overview.tasks, overview.threads, overview.objects), (3, 3, 9));
        assert_eq!(overview.content_bytes, 5 + 0x1800);
        assert_eq!(overview.image_bytes, image().len() as u64);
        assert_eq!((overview.kinds["descriptor-table"], overview.kinds["from-the-future"]), (2, 1));
        assert_eq!((overview.outside_session, overview.outside_terminal), (Some(4), true));
        assert_eq!(overview.root.len(), 64);
    }
}
