//! Shared anonymous memory: one object however many tasks map it, at whatever addresses.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use stillpoint_image::records::SharedMemory;
use stillpoint_sys::proc::smaps::Area as Seen;

use super::areas::{PageRange, describe};
use crate::freeze::FrozenTask;
use crate::kind::outside::{self, Mapper};
use crate::kind::{Key, Met, Objects, Source, mapped};
use crate::{Code, Error, Result, TaskName};

/// A view of a shared object: where a task has mapped which part of it.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// The task, in the caller's pid namespace.
    pub pid: u32,
    /// Its addresses.
    pub range: PageRange,
    /// The area that it is part of: start and end.
    pub area: (u64, u64),
    /// The part of the object that starts there.
    pub offset: u64,
}

/// The shared anonymous objects met so far.
#[derive(Debug, Default)]
pub struct SharedAreas {
    views: BTreeMap<u64, Vec<View>>,
    /// Objects of which a view has guard regions, through which nobody can read, with the area.
    guarded: BTreeMap<u64, (TaskName, String)>,
    /// What is mapped shared and has no name, by device and inode, with the area where it was met first.
    watched: BTreeMap<(u64, u64), (TaskName, String)>,
}

impl SharedAreas {
    /// The object behind an area.
    pub fn meet(&mut self, objects: &mut Objects, pid: u32, seen: &Seen) -> u64 {
        let map = &seen.map;
        let device = rustix::fs::makedev(map.dev.0, map.dev.1);
        let id = match objects.meet(Key::SharedMemory(device, map.inode)) {
            Met::Known(id) | Met::New(id) => id,
        };
        let range = PageRange { start: map.start, end: map.end, zero_elided: true, readable: map.perms.read };
        self.views.entry(id).or_default().push(View {
            pid,
            range,
            area: (map.start, map.end),
            offset: map.offset,
        });
        id
    }

    /// Notes that a view of an object has guard regions.
    pub fn guarded(&mut self, object: u64, task: &FrozenTask, seen: &Seen) {
        self.guarded.entry(object).or_insert_with(|| (task.name.clone(), describe(seen)));
    }

    /// Notes an area whose contents nobody outside the tree may share, or the two would part in silence.
    pub fn watch(&mut self, task: &FrozenTask, seen: &Seen) {
        let map = &seen.map;
        let key = (rustix::fs::makedev(map.dev.0, map.dev.1), map.inode);
        self.watched.entry(key).or_insert_with(|| (task.name.clone(), describe(seen)));
    }

    /// Looks for processes outside the tree that map what was noted.
    ///
    /// # Errors
    ///
    /// A refusal that names the process.
    pub fn refuse_outsiders(&self, tree: &[FrozenTask]) -> Result<()> {
        if self.watched.is_empty() {
            return Ok(());
        }
        let found = outside::mapping_holder(|key| self.watched.contains_key(key), tree)?;
        let Some(Mapper { file, pid, comm }) = found else { return Ok(()) };
        let Some((task, area)) = self.watched.get(&file) else { return Ok(()) };
        Err(Error::new(Code::OutsideTree, "saving an area of memory")
            .in_task(task)
            .object(area.clone())
            .cause(format!(
                "it is shared memory that process {pid} ({}) outside the tree maps too",
                comm.escape_ascii()
            ))
            .remedy("save that process too, by a PID further up")
            .into())
    }

    /// Makes the records of all objects, and returns what of each is to be read where: parts that do not overlap.
    ///
    /// # Errors
    ///
    /// A refusal of contents behind a guard region that this user may not look at.
    pub fn finish(self, objects: &mut Objects) -> Result<Vec<(u64, Vec<View>)>> {
        let mut all = Vec::with_capacity(self.views.len());
        for (id, mut views) in self.views {
            views.sort_by_key(|view| (view.offset, !view.range.readable));
            let size =
                views.iter().map(|view| view.offset + (view.range.end - view.range.start)).max().unwrap_or(0);
            objects.put(id, "shared-memory", &SharedMemory { size });
            if let Some((task, area)) = self.guarded.get(&id) {
                let source = behind_guards(&views)
                    .map_err(|error| Box::new((*error).in_task(task).object(area.clone())))?;
                objects.content(id, source);
                continue;
            }
            all.push((id, without_overlap(views).into_iter().flat_map(with_contents).collect()));
        }
        Ok(all)
    }
}

/// The parts of a view that hold anything, as far as the kernel tells: to read a hole costs time, and memory that the
/// task never had. Without CAP_CHECKPOINT_RESTORE nobody may look, and all of it is read.
fn with_contents(view: View) -> Vec<View> {
    let PageRange { start, end, .. } = view.range;
    let last = view.offset + (end - start);
    let mut parts = Vec::new();
    let Some(file) = file_behind(&view) else { return vec![view] };
    let mut at = view.offset;
    while at < last {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) if data < last => data,
            // Past the last contents.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return vec![view],
        };
        let Ok(hole) = rustix::fs::seek(&file, SeekFrom::Hole(data)) else { return vec![view] };
        let hole = hole.min(last);
        let range = PageRange {
            start: start + (data - view.offset),
            end: start + (hole - view.offset),
            ..view.range
        };
        parts.push(View { range, offset: data, ..view });
        at = hole;
    }
    parts
}

/// The contents of an object of which a view has guard regions: read from the kernel's own file.
fn behind_guards(views: &[View]) -> Result<Source> {
    let refused = |cause: String| {
        Error::new(Code::UnsupportedArea, "saving shared memory")
            .cause(cause)
            .remedy("run the checkpoint with CAP_CHECKPOINT_RESTORE, as root has it")
    };
    let fd = views.iter().find_map(file_behind).ok_or_else(|| {
        refused(
            "it has guard regions (MADV_GUARD_INSTALL), and this user may not look behind them".to_owned(),
        )
    })?;
    let extents = mapped::extents(&fd).map_err(|errno| refused(errno.to_string()))?;
    Ok(Source::File { fd, extents, zero_elided: true })
}

/// The kernel's own file behind a view: of the area that the view is part of, whose address names the link.
fn file_behind(view: &View) -> Option<OwnedFd> {
    let (start, end) = view.area;
    let link = format!("/proc/{}/map_files/{start:x}-{end:x}", view.pid);
    rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Cuts views that are ordered by offset so that each part of the object is read once.
fn without_overlap(views: Vec<View>) -> Vec<View> {
    let mut done = 0;
    let mut parts = Vec::with_capacity(views.len());
    for mut view in views {
        let end = view.offset + (view.range.end - view.range.start);
        if end <= done {
            continue;
        }
        if view.offset < done {
            view.range.start += done - view.offset;
            view.offset = done;
        }
        done = end;
        parts.push(view);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_read_once() {
        let view = |start, end, offset| View {
            pid: 1,
            range: PageRange { start, end, zero_elided: true, readable: true },
            area: (start, end),
            offset,
        };
        let parts =
            without_overlap(vec![view(0, 8, 0), view(100, 104, 2), view(200, 210, 4), view(300, 301, 20)]);
        let got: Vec<_> = parts.iter().map(|part| (part.range.start, part.range.end, part.offset)).collect();
        assert_eq!(got, [(0, 8, 0), (204, 210, 8), (300, 301, 20)]);
    }
}
