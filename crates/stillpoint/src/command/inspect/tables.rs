//! What `inspect` shows people. All names come escaped from the engine.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};
use stillpoint_engine::inspect::{Files, MemoryMap, ObjectTable, Overview, TaskTree};

use crate::output::text;

pub(super) fn overview(overview: &Overview, label: &str) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row(
        "image",
        format!("{label}, {} in {}", text::size(overview.image_bytes), text::count(overview.frames, "frame")),
    );
    row(
        "written by",
        format!(
            "{}, user {}, at {} s of Unix time",
            overview.tool,
            overview.creator_uid,
            overview.created_unix_ns / 1_000_000_000
        ),
    );
    row("on", format!("{}, Linux {} {}, {}", overview.host, overview.kernel, overview.arch, overview.cpu));
    row(
        "tree",
        format!("{}, root pid {}", text::population(overview.tasks, overview.threads), overview.root_pid),
    );
    row("contents", format!("{} of memory and files", text::size(overview.content_bytes)));
    let kinds: Vec<_> = overview.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    row("objects", format!("{}: {}", overview.objects, kinds.join(", ")));
    if let Some(session) = overview.outside_session {
        let terminal = if overview.outside_terminal { ", with a terminal" } else { "" };
        row("session", format!("{session}, led from outside the tree{terminal}"));
    }
    if overview.private_pids {
        row("pids", "of a pid namespace of its own".to_owned());
    }
    for choice in &overview.choices {
        row("chosen", format!("{} {}", choice.option, choice.text));
    }
    row("seal", overview.root.clone());
    table.trim_fmt()
}

pub(super) fn tasks(tree: &TaskTree) -> String {
    let mut table = with_header(
        &["pid", "session", "group", "user", "threads", "state", "name", "program"],
        &[0, 1, 2, 3, 4],
    );
    for task in &tree.tasks {
        let id = |id: Option<u32>| id.map_or_else(|| "outside".to_owned(), |id| id.to_string());
        table.add_row([
            task.pid.to_string(),
            id(task.session),
            id(task.process_group),
            task.uid.map(|uid| uid.to_string()).unwrap_or_default(),
            task.threads.len().to_string(),
            task.zombie.map_or_else(|| "alive".to_owned(), |status| format!("zombie, status {status:#06x}")),
            format!("{}{}", indent(task.depth), task.name),
            task.executable.clone().unwrap_or_default(),
        ]);
        // The leader's name is the task's.
        for thread in task.threads.iter().skip(1) {
            let name = format!("{}{{{}}}", indent(task.depth.saturating_add(1)), thread.name);
            let tid = thread.tid.to_string();
            table.add_row([tid.as_str(), "", "", "", "", "thread", name.as_str(), ""]);
        }
    }
    table.trim_fmt()
}

/// A hostile image can nest tasks as deep as it has tasks; a screen cannot.
fn indent(depth: u32) -> String {
    "  ".repeat(depth.min(20) as usize)
}

pub(super) fn files(files: &Files) -> String {
    let mut out = String::new();
    for task in &files.tasks {
        // Writing to a String does not fail.
        let _ = write!(out, "task {} ({})", task.pid, task.name);
        if !task.table_shared_with.is_empty() {
            let _ = write!(out, ", table shared with {}", list(&task.table_shared_with));
        }
        out.push('\n');
        let mut table =
            with_header(&["fd", "object", "kind", "what", "flags", "position", "shared with"], &[0, 1, 5]);
        for descriptor in &task.descriptors {
            let on_exec = if descriptor.close_on_exec { ", cloexec" } else { "" };
            table.add_row([
                descriptor.number.to_string(),
                descriptor.file.to_string(),
                descriptor.kind.clone(),
                descriptor.what.clone(),
                format!("{}{on_exec}", descriptor.flags),
                descriptor.position.map(|position| position.to_string()).unwrap_or_default(),
                list(&descriptor.shared_with),
            ]);
        }
        let _ = writeln!(out, "{}\n", table.trim_fmt());
    }
    out.truncate(out.trim_end().len());
    out
}

pub(super) fn memory(map: &MemoryMap) -> String {
    let mut out = String::new();
    for space in &map.spaces {
        let _ = writeln!(
            out,
            "address space {}, task {}, {}: {} saved",
            space.object,
            list(&space.tasks),
            space.executable,
            text::size(space.saved_bytes),
        );
        let mut table = with_header(
            &["range", "prot", "backing", "size", "saved", "offset", "what", "flags"],
            &[3, 4, 5],
        );
        for area in &space.areas {
            let what = match (&area.file, area.name.is_empty()) {
                (Some(file), _) => file.clone(),
                (None, false) => format!("[{}]", area.name),
                (None, true) => String::new(),
            };
            table.add_row([
                format!("{:x}-{:x}", area.start, area.end),
                area.protection.clone(),
                area.backing.to_owned(),
                text::size(area.end.saturating_sub(area.start)),
                if area.saved_bytes == 0 { String::new() } else { text::size(area.saved_bytes) },
                if area.file.is_some() { format!("{:x}", area.offset) } else { String::new() },
                what,
                area.flags.clone(),
            ]);
        }
        let _ = writeln!(out, "{}\n", table.trim_fmt());
    }
    out.truncate(out.trim_end().len());
    out
}

pub(super) fn objects(objects: &ObjectTable) -> String {
    let mut table = with_header(&["id", "kind", "contents", "what"], &[0, 2]);
    for object in &objects.objects {
        let contents =
            if object.content_bytes == 0 { String::new() } else { text::size(object.content_bytes) };
        table.add_row([object.id.to_string(), object.kind.clone(), contents, object.what.clone()]);
    }
    table.trim_fmt()
}

/// A table without lines, whose columns of numbers are aligned to the right. No column is wrapped: the lines are for
/// `grep`, too.
fn with_header(names: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let cells = names.iter().enumerate().map(|(index, name)| {
        let alignment = if numbers.contains(&index) { CellAlignment::Right } else { CellAlignment::Left };
        Cell::new(name.to_uppercase()).set_alignment(alignment)
    });
    table.set_header(cells);
    for &index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillpoint_engine::inspect::{SavedObject, TreeTask, TreeThread};

    fn task(pid: u32, depth: u32) -> TreeTask {
        TreeTask {
            pid,
            parent: None,
            depth,
            process_group: Some(pid),
            session: None,
            name: "count".to_owned(),
            executable: Some("/usr/bin/count".to_owned()),
            uid: Some(0),
            zombie: None,
            threads: vec![TreeThread { tid: pid, name: "count".to_owned() }],
        }
    }

    #[test]
    fn a_tree_is_indented_and_each_task_is_a_line() {
        let mut root = task(10, 0);
        root.threads.push(TreeThread { tid: 11, name: "worker".to_owned() });
        let mut deep = task(12, u32::MAX);
        deep.zombie = Some(9);
        let text = tasks(&TaskTree { tasks: vec![root, deep] });
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(lines[1], ["10", "outside", "10", "0", "2", "alive", "count", "/usr/bin/count"]);
        assert_eq!(lines[2], ["11", "thread", "{worker}"]);
        assert_eq!(lines[3][5..8], ["zombie,", "status", "0x0009"]);
        assert!(text.lines().all(|line| line.len() < 200), "{text}");
    }

    #[test]
    fn objects_are_lines() {
        let object =
            SavedObject { id: 7, kind: "pipe".into(), what: "5 bytes in it".into(), content_bytes: 5 };
        let text = objects(&ObjectTable { objects: vec![object] });
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("5 bytes in it"));
    }
}
