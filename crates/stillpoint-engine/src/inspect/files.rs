//! The open files of each process.

use std::collections::BTreeMap;

use serde::Serialize;
use stillpoint_image::records::{DescriptorTable, Object};

use super::body::Body;
use super::{Saved, printable};

/// The open files of an image's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Files {
    /// By pid; a zombie has none and is not here.
    pub tasks: Vec<TaskFiles>,
}

/// The open files of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskFiles {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its descriptor table, an object.
    pub table: u64,
    /// Other processes that use the same table.
    pub table_shared_with: Vec<u32>,
    /// Its descriptors, by number.
    pub descriptors: Vec<OpenDescriptor>,
}

/// One descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenDescriptor {
    /// Its number.
    pub number: u32,
    /// The open file description, an object.
    pub file: u64,
    /// The kind of that object.
    pub kind: String,
    /// What it is; for a file, its path.
    pub what: String,
    /// Access mode and flags, by their names: "write append".
    pub flags: String,
    /// The position; none where the file has no position.
    pub position: Option<i64>,
    /// Whether it is closed on exec.
    pub close_on_exec: bool,
    /// Other descriptors of the same open file description: "PID:NUMBER".
    pub shared_with: Vec<String>,
}

/// The open files of each process.
#[must_use]
pub fn files<S>(image: &Saved<S>) -> Files {
    let mut tables: BTreeMap<u64, (DescriptorTable, Vec<u32>)> = BTreeMap::new();
    for saved in image.tasks().iter().filter(|saved| saved.task.descriptors != 0) {
        let table = saved.task.descriptors;
        let entry = tables.entry(table).or_insert_with(|| (decode(image.object(table)), Vec::new()));
        entry.1.push(saved.task.pid);
    }
    // All names of each open file description. A shared table is named by the first of its processes.
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (table, pids) in tables.values() {
        let pid = pids.iter().min().copied().unwrap_or_default();
        for descriptor in &table.descriptors {
            names.entry(descriptor.file).or_default().push(format!("{pid}:{}", descriptor.number));
        }
    }
    let mut tasks: Vec<_> = image
        .tasks()
        .iter()
        .filter_map(|saved| {
            let (table, pids) = tables.get(&saved.task.descriptors)?;
            let lead = pids.iter().min().copied().unwrap_or_default();
            Some(TaskFiles {
                pid: saved.task.pid,
                name: printable(&saved.task.name),
                table: saved.task.descriptors,
                table_shared_with: pids.iter().copied().filter(|&pid| pid != saved.task.pid).collect(),
                descriptors: table
                    .descriptors
                    .iter()
                    .map(|descriptor| {
                        let own = format!("{lead}:{}", descriptor.number);
                        let all = names.get(&descriptor.file).map(Vec::as_slice).unwrap_or_default();
                        OpenDescriptor {
                            number: descriptor.number,
                            close_on_exec: descriptor.close_on_exec,
                            shared_with: all.iter().filter(|&name| *name != own).cloned().collect(),
                            ..describe(image, descriptor.file)
                        }
                    })
                    .collect(),
            })
        })
        .collect();
    tasks.sort_by_key(|task| task.pid);
    Files { tasks }
}

/// A table that cannot be understood shows no descriptors here; `objects` says so.
fn decode(object: Option<&Object>) -> DescriptorTable {
    match object.map(Body::of) {
        Some(Body::DescriptorTable(table)) => table,
        _ => DescriptorTable::default(),
    }
}

fn describe<S>(image: &Saved<S>, file: u64) -> OpenDescriptor {
    let (kind, what, flags, position) = match image.object(file) {
        None => ("?".to_owned(), format!("missing object {file}"), String::new(), None),
        Some(object) => {
            let body = Body::of(object);
            let kind = printable(object.kind.as_bytes());
            // Pipes and terminals keep a position that means nothing.
            let positioned = matches!(
                body,
                Body::RegularFile(_)
                    | Body::DeletedFileDescription(_)
                    | Body::Directory(_)
                    | Body::MemfdDescription(_)
            );
            let flags = body.open().map(|open| flag_names(open.flags)).unwrap_or_default();
            let position = body.open().filter(|_| positioned).map(|open| open.position);
            (kind, body.describe(image), flags, position)
        }
    };
    OpenDescriptor {
        number: 0,
        file,
        kind,
        what,
        flags,
        position,
        close_on_exec: false,
        shared_with: Vec::new(),
    }
}

/// Flags of `F_GETFL` by their names; one without a name by its number. The values are those that the x86 kernel uses;
/// they are written out because an image may be looked at on another machine than its own.
fn flag_names(flags: u32) -> String {
    const NAMES: [(u32, &str); 10] = [
        (0o2000, "append"),
        (0o4000, "nonblock"),
        (0o4010000, "sync"),
        (0o10000, "dsync"),
        (0o20000, "async"),
        (0o40000, "direct"),
        (0o100000, "largefile"),
        (0o200000, "directory"),
        (0o1000000, "noatime"),
        (0o10000000, "path"),
    ];
    const NOFOLLOW: u32 = 0o400000;
    let mut out = vec![match flags & 3 {
        0 => "read".to_owned(),
        1 => "write".to_owned(),
        2 => "read-write".to_owned(),
        _ => "ioctl-only".to_owned(),
    }];
    // Every 64-bit open has O_LARGEFILE, and O_NOFOLLOW means nothing once the file is open.
    let mut rest = flags & !3 & !NOFOLLOW;
    for (bits, name) in NAMES {
        if rest & bits == bits {
            rest &= !bits;
            if name != "largefile" {
                out.push(name.to_owned());
            }
        }
    }
    if rest != 0 {
        out.push(format!("{rest:#o}"));
    }
    out.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::verified;

    #[test]
    fn sharing_is_shown_from_both_sides() {
        let files = files(&verified());
        let pids: Vec<_> = files.tasks.iter().map(|task| task.pid).collect();
        assert_eq!(pids, [10, 12]);
        let [pipe, log, twin] = &files.tasks[0].descriptors[..] else { panic!("three descriptors") };
        assert_eq!((pipe.kind.as_str(), pipe.what.as_str(), pipe.position), ("pipe-end", "pipe:[3]", None));
        assert_eq!(
            (log.what.as_str(), log.flags.as_str(), log.position),
            ("/tmp/\\x1b[31mlog", "write append", Some(5))
        );
        assert_eq!(log.shared_with, ["10:7", "12:1"]);
        assert_eq!(
            (twin.number, twin.close_on_exec, &twin.shared_with[..]),
            (7, true, &["10:1".to_owned(), "12:1".to_owned()][..])
        );
        assert_eq!(files.tasks[1].descriptors[0].shared_with, ["10:1", "10:7"]);
    }

    #[test]
    fn flags_have_names() {
        assert_eq!(flag_names(0o100002), "read-write");
        assert_eq!(flag_names(0o4010001), "write sync");
        assert_eq!(flag_names(0o10001), "write dsync");
        assert_eq!(flag_names(0o200000), "read directory");
        assert_eq!(flag_names(1 << 30), "read 0o10000000000");
    }
}
