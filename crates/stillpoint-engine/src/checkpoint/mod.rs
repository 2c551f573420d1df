//! Checkpoint: freeze, collect, copy, seal, release.
//!
//! The transaction: nothing of a task is altered for longer than a visit to it takes; the image gets its name only
//! when it is sealed and synced; tasks are ended only after that. On every other way out they run on.

mod header;
mod output;
mod relations;
mod write;

use std::collections::HashMap;

use stillpoint_image::ImageError;
use stillpoint_image::records::{FsContext, Object, Task, Thread};

use crate::freeze::{self, FrozenTree};
use crate::kind::{Capture, Content, Objects, descriptors, identity};
use crate::memory::areas::Areas;
use crate::memory::shared::{SharedAreas, View};
use crate::memory::{self, CapturedMm};
use crate::plan::Lineage;
use crate::task::{self, Gadgets, leftover, namespaces, sharing};
use crate::{
    CheckpointOptions, CheckpointReport, Code, Compression, Error, External, Fate, Observer, Phase, Result,
};

use crate::stopwatch::Stopwatch;
use output::Destination;
use write::{Written, write};

/// Saves the tree under `options.pid` to one sealed image.
///
/// # Errors
///
/// On any error the tasks run on unharmed and no partial image is left.
pub fn checkpoint(options: CheckpointOptions, observer: &mut dyn Observer) -> Result<CheckpointReport> {
    let CheckpointOptions { pid, output, fate, compression, externals } = options;
    let destination = Destination::open(output)?;
    let mut watch = Stopwatch::default();
    observer.phase(Phase::Freeze, None);
    let mut tree = watch.time(Phase::Freeze, || freeze::freeze(pid, observer))?;
    let since = tree.since;
    let saved = save(&mut tree, destination, compression, &externals, observer, &mut watch);
    let saved = saved.map_err(|error| tree.killed().map_or(error, Box::new));
    let mut report = match saved {
        // All that is needed of the tasks has been read: they need not wait until the image is on disk.
        Ok(saved) if fate == Fate::LeaveRunning => {
            let released = release(tree, fate, observer, &mut watch);
            let frozen = since.elapsed();
            let report = seal(saved, observer, &mut watch)?;
            released?;
            CheckpointReport { frozen, ..report }
        }
        saved => {
            let sealed = saved.and_then(|saved| seal(saved, observer, &mut watch));
            let fate = if sealed.is_ok() { fate } else { Fate::LeaveRunning };
            let released = release(tree, fate, observer, &mut watch);
            let report = sealed?;
            released?;
            CheckpointReport { frozen: since.elapsed(), ..report }
        }
    };
    report.phases = watch.into_phases();
    Ok(report)
}

fn release(tree: FrozenTree, fate: Fate, observer: &mut dyn Observer, watch: &mut Stopwatch) -> Result<()> {
    observer.phase(Phase::Release, None);
    watch.time(Phase::Release, || match fate {
        Fate::LeaveRunning => tree.release(),
        Fate::LeaveStopped => tree.release_stopped(),
        Fate::End => tree.end(),
    })
}

/// Everything that goes into the image, read but for memory.
struct Collected {
    objects: Vec<Object>,
    tasks: Vec<(Task, Vec<Thread>)>,
    contents: Vec<Content>,
    memory: Vec<CapturedMm>,
    shared: Vec<(u64, Vec<View>)>,
    header: stillpoint_image::records::Header,
    notes: Vec<String>,
    files: u64,
}

fn save(
    tree: &mut FrozenTree,
    destination: Destination,
    compression: Compression,
    externals: &[External],
    observer: &mut dyn Observer,
    watch: &mut Stopwatch,
) -> Result<(CheckpointReport, Written)> {
    observer.phase(Phase::Collect, None);
    let collected = watch.time(Phase::Collect, || collect(tree, externals))?;
    check_interrupt(observer)?;
    let total = collected.content_bytes();
    observer.phase(Phase::Pages, Some(total));
    let threads = collected.tasks.iter().map(|(_, threads)| threads.len() as u64).sum();
    let mut report = CheckpointReport {
        tasks: collected.tasks.len() as u64,
        threads,
        files: collected.files,
        notes: collected.notes.clone(),
        ..CheckpointReport::default()
    };
    let written = watch.time(Phase::Pages, || write(&collected, destination, compression, observer));
    // A write that a signal ended is an interruption, whatever it says itself.
    check_interrupt(observer)?;
    let written = written?;
    report.content_bytes = written.content_bytes;
    Ok((report, written))
}

/// Makes an image of what was written: under its final name, and on disk.
fn seal(
    (report, written): (CheckpointReport, Written),
    observer: &mut dyn Observer,
    watch: &mut Stopwatch,
) -> Result<CheckpointReport> {
    check_interrupt(observer)?;
    observer.phase(Phase::Seal, None);
    let image_bytes = watch.time(Phase::Seal, || -> Result<u64> {
        let (sink, sealed) = written.writer.seal().map_err(|error| output_error(&error))?;
        sink.into_inner().map_err(|error| output::failed("writing the image", error.error()))?.commit()?;
        Ok(sealed.bytes)
    })?;
    Ok(CheckpointReport { image_bytes, ..report })
}

fn collect(tree: &mut FrozenTree, externals: &[External]) -> Result<Collected> {
    let private_pids = namespaces::check(&tree.tasks)?;
    sharing::check(&tree.tasks)?;
    let fs_contexts = sharing::fs_contexts(&tree.tasks)?;
    let mut fs_objects: HashMap<u32, u64> = HashMap::new();
    let relations = relations::Relations::read(&tree.tasks)?;
    let mut objects = Objects::new();
    let mut capture = Capture::new(&tree.tasks, externals, &mut objects)?;
    let tables = descriptors::capture_tables(&mut capture)?;
    let mut notes = std::mem::take(&mut capture.notes);
    let choices = std::mem::take(&mut capture.choices);
    drop(capture);
    notes.extend(relations.notes());
    let files = objects.descriptions();
    let mut shared = SharedAreas::default();
    let mut tasks = Vec::with_capacity(tree.tasks.len());
    let mut memory = Vec::with_capacity(tree.tasks.len());
    let mut memory_of = HashMap::new();
    let mut vdso = Vec::new();
    let mut gadgets = Gadgets::default();
    for frozen in &mut tree.tasks {
        if frozen.zombie {
            let captured = task::capture_zombie(frozen)?;
            tasks.push((relations.complete(captured.task), Vec::new()));
            continue;
        }
        let mut areas = Areas::read(frozen)?;
        if leftover::remove(frozen, areas.maps(), &mut gadgets)? {
            areas = Areas::read(frozen)?;
        }
        let captured = task::capture(frozen, &areas, &mut gadgets)?;
        notes.extend(captured.notes);
        let Some(attributes) = captured.attributes else { continue };
        let parent = relations.parent(captured.task.pid).and_then(|parent| memory_of.get(&parent));
        let parent = parent.and_then(|&at: &usize| memory.get(at));
        let mm = memory::capture(frozen, &areas, &attributes, parent, &mut objects, &mut shared)?;
        memory_of.insert(captured.task.pid, memory.len());
        let handlers = objects.add("signal-handlers", &captured.handlers);
        let first = fs_contexts.get(&frozen.host_pid).copied().unwrap_or(frozen.host_pid);
        let fs = match fs_objects.get(&first) {
            Some(&known) => known,
            None => objects.add("fs-context", &fs_context(frozen, captured.umask)?),
        };
        fs_objects.insert(first, fs);
        let table = tables.iter().find(|(pid, _)| *pid == frozen.host_pid).map_or(0, |(_, table)| *table);
        let task = Task { mm: mm.object, descriptors: table, fs, handlers, ..captured.task };
        memory.push(mm);
        vdso = captured.vdso;
        tasks.push((relations.complete(task), captured.threads));
    }
    shared.refuse_outsiders(&tree.tasks)?;
    let shared = shared.finish(&mut objects)?;
    let (objects, contents) = objects.into_parts();
    // What could not be born again is not ended.
    Lineage::check(tasks.iter().map(|(task, _)| task))?;
    let header = header::header(&tasks, choices, private_pids, relations.foreign(), vdso)?;
    Ok(Collected { objects, tasks, contents, memory, shared, header, notes, files })
}

fn fs_context(frozen: &freeze::FrozenTask, umask: u32) -> Result<FsContext> {
    let identify = |what: &str| {
        let path = format!("/proc/{}/{what}", frozen.host_pid);
        identity::identify(path.as_ref()).map_err(|error| {
            let doing =
                if what == "cwd" { "saving the working directory" } else { "saving the root directory" };
            Box::new(Error { doing: doing.to_owned(), ..*error }.in_task(&frozen.name))
        })
    };
    Ok(FsContext { cwd: Some(identify("cwd")?), root: Some(identify("root")?), umask })
}

impl Collected {
    fn content_bytes(&self) -> u64 {
        let ranges = self.memory.iter().flat_map(|mm| &mm.ranges).map(|range| range.end - range.start);
        let views =
            self.shared.iter().flat_map(|(_, views)| views).map(|view| view.range.end - view.range.start);
        ranges.sum::<u64>() + views.sum::<u64>() + self.contents.iter().map(Content::length).sum::<u64>()
    }
}

fn check_interrupt(observer: &dyn Observer) -> Result<()> {
    if observer.interrupted() {
        return Err(Error::new(Code::Interrupted, "saving the tree")
            .cause("interrupted by a signal; the tasks run on and no image was made")
            .into());
    }
    Ok(())
}

fn output_error(error: &ImageError) -> Box<Error> {
    Box::new(
        Error::new(Code::Output, "writing the image")
            .cause(error)
            .remedy("make room or choose another place for the image; the tasks run on"),
    )
}
