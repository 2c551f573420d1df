//! Descriptor tables: which descriptor of which task refers to which open file description.
//!
//! Two descriptors share an open file description if dup(2), fork(2) or a socket made one from the other. The kernel
//! tells by kcmp(2), which gives an order: descriptors are grouped by what is cheap (device and inode), and looked
//! up by bisection within a group, so that 5,000 descriptors of one file cost 13 comparisons each and those of
//! different files none.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fstat};
use stillpoint_sys::task::{Shared, duplicate, kcmp, kcmp_file};
use stillpoint_sys::{Result as SysResult, proc};

use super::capture::about;
use super::rebuild::{Check, Contents, Index};
use super::{Capture, Place, Rebuild, Rebuilt, external, inconsistent, locks, record, registry, terminal};
use crate::freeze::FrozenTask;
use crate::{Code, Error, Result};

#[cfg(test)]
mod tests;

/// The kind of the object that a descriptor table is.
pub const TABLE: &str = "descriptor-table";

/// Saves the open files of every task that has not ended. Returns the object of its descriptor table for each, by
/// its pid in the tool's pid namespace; tasks that share a table have the same.
///
/// # Errors
///
/// The first refusal, with the task, the descriptor and the reason.
pub fn capture_tables(ctx: &mut Capture<'_>) -> Result<Vec<(u32, u64)>> {
    let tasks = ctx.tasks;
    let mut files = Descriptions::default();
    // First, so that an open file description is replaced wherever else it is met.
    for asked in std::mem::take(&mut ctx.externals) {
        let task = &tasks[asked.task];
        let fd = duplicate(task.pidfd.as_fd(), asked.fd).map_err(|error| {
            let cause = if error.errno() == Some(libc::EBADF) {
                "there is no such descriptor".to_owned()
            } else {
                error.cause()
            };
            Error::new(Code::Usage, "reading --external")
                .in_task(&task.name)
                .object(format!("fd {}", asked.fd))
                .cause(cause)
        })?;
        let info = proc::fdinfo::read(task.host_pid, asked.fd)?;
        let stat = fstat(&fd).map_err(|errno| super::failed("reading the status of a file", errno))?;
        let group = files.group((stat.st_dev, stat.st_ino));
        let seen = ctx.see(task, asked.fd, fd, stat, info)?;
        ctx.replaced_terminals.extend(terminal::behind(&seen));
        let at = match find(group, task.host_pid, asked.fd)? {
            Ok(at) => at,
            Err(at) => {
                let object = external::capture(&seen, &asked.text, ctx);
                group.insert(at, Description { object, ..Description::of(task, asked.fd) });
                at
            }
        };
        let known = &mut group[at];
        if known.replaced.iter().any(|one| (one.task, one.fd) == (task.host_pid, asked.fd)) {
            let error = Error::new(Code::Usage, "reading --external").in_task(&task.name);
            return Err(error.object(format!("fd {}", asked.fd)).cause("it is named twice").into());
        }
        let same = known.replaced.iter().find(|one| one.by.1 == asked.text).map(|one| one.by.0);
        let object = match same {
            Some(object) => object,
            None if known.replaced.is_empty() => known.object,
            None => external::capture(&seen, &asked.text, ctx),
        };
        known.replaced.push(external::Named { task: task.host_pid, fd: asked.fd, by: (object, asked.text) });
    }
    let mut tables: Vec<(u32, u64)> = Vec::new();
    let mut distinct: Vec<(u32, u64)> = Vec::new();
    for task in tasks.iter().filter(|task| !task.zombie) {
        let place = bisect(&distinct, |&(pid, _)| kcmp(task.host_pid, pid, Shared::Descriptors))?;
        let object = match place {
            Ok(at) => distinct[at].1,
            Err(at) => {
                let object = capture_table(task, ctx, &mut files)?;
                distinct.insert(at, (task.host_pid, object));
                object
            }
        };
        tables.push((task.host_pid, object));
    }
    for kind in registry::KINDS {
        kind.finish(ctx)?;
    }
    Ok(tables)
}

fn capture_table(task: &FrozenTask, ctx: &mut Capture<'_>, files: &mut Descriptions) -> Result<u64> {
    let mut table = record::DescriptorTable::default();
    let directory = proc::fdinfo::Directory::open(task.host_pid)?;
    for number in directory.descriptors()? {
        let on = |error: stillpoint_sys::Error| about(&error, task, format!("fd {number}"));
        let fd = duplicate(task.pidfd.as_fd(), number).map_err(on)?;
        let info = directory.read(number).map_err(on)?;
        let locks = locks::of_process(task, number, &info);
        let close_on_exec = OFlags::from_bits_retain(info.flags).contains(OFlags::CLOEXEC);
        let stat = fstat(&fd).map_err(|errno| super::failed("reading the status of a file", errno))?;
        let group = files.group((stat.st_dev, stat.st_ino));
        let (file, replaced) = match find(group, task.host_pid, number)? {
            Ok(at) => {
                // What a process's own locks are depends on who is looked at, not only on the open file description:
                // the kernel may show here what it did not where the file was met first.
                let known = &group[at];
                if !info.rest.is_empty() && known.replaced.is_empty() {
                    let seen = ctx.see(task, number, fd, stat, info)?;
                    locks::of_description(&seen, &mut record::OpenFile::default())?;
                }
                let chosen = external::choose(&known.replaced, task.host_pid, number);
                (chosen.map_or(known.object, |one| one.by.0), !known.replaced.is_empty())
            }
            Err(at) => {
                let seen = ctx.see(task, number, fd, stat, info)?;
                let object = match registry::recognise(&seen) {
                    Some(kind) => kind.capture(seen, ctx)?,
                    None => return Err(registry::refusal(&seen).into()),
                };
                group.insert(at, Description { object, ..Description::of(task, number) });
                (object, false)
            }
        };
        if !replaced {
            let locks = locks?;
            // Every duplicate shows the same.
            if !locks.is_empty() && !table.descriptors.iter().any(|entry| entry.file == file) {
                table.locks.extend(locks);
            }
        }
        table.descriptors.push(record::Descriptor { number, file, close_on_exec });
    }
    Ok(ctx.objects.add(TABLE, &table))
}

/// Open file descriptions met so far, by device and inode, each group in the kernel's order.
#[derive(Debug, Default)]
struct Descriptions(HashMap<(u64, u64), Vec<Description>>);

/// One, with a descriptor by which it is compared.
#[derive(Debug)]
struct Description {
    pid: u32,
    fd: u32,
    object: u64,
    /// What the user replaced it by, object and text: then nothing of its state matters.
    replaced: Vec<external::Named<(u64, String)>>,
}

impl Description {
    fn of(task: &FrozenTask, fd: u32) -> Self {
        Description { pid: task.host_pid, fd, object: 0, replaced: Vec::new() }
    }
}

impl Descriptions {
    fn group(&mut self, key: (u64, u64)) -> &mut Vec<Description> {
        self.0.entry(key).or_default()
    }
}

fn find(group: &[Description], pid: u32, fd: u32) -> Result<Result<usize, usize>> {
    bisect(group, |other| kcmp_file(pid, fd, other.pid, other.fd))
}

/// Bisection with a comparison that may fail: where it is, or where it belongs.
fn bisect<T>(sorted: &[T], compare: impl Fn(&T) -> SysResult<Ordering>) -> Result<Result<usize, usize>> {
    let (mut low, mut high) = (0, sorted.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(&sorted[middle])? {
            Ordering::Equal => return Ok(Ok(middle)),
            Ordering::Less => high = middle,
            Ordering::Greater => low = middle + 1,
        }
    }
    Ok(Err(low))
}

/// Checks every open file of an image against the place, and touches nothing. Objects that are no open files are
/// passed over.
#[must_use]
pub fn check_all(objects: &[record::Object], place: &Place) -> Vec<Error> {
    let at = Check { place, objects: Index::new(objects) };
    let check = |object: &record::Object| {
        let kind = registry::kind_of(&object.kind)?;
        let result = match place.replacements.get(&object.id) {
            Some(stand_in) if registry::describes_open_file(&object.kind) => {
                external::open_file_of(object).and_then(|open| external::check(stand_in, &open, None))
            }
            _ => kind.check(object, &at),
        };
        result.err().map(|error| *error)
    };
    let mut errors: Vec<_> = objects.iter().filter_map(check).collect();
    errors.extend(
        objects.iter().filter(|object| object.kind == TABLE).filter_map(|table| check_table(table, &at)),
    );
    errors
}

/// A table must have its descriptors in order and refer to open file descriptions.
fn check_table(table: &record::Object, at: &Check<'_>) -> Option<Error> {
    let check = || {
        let body: record::DescriptorTable = super::decode(table)?;
        if !body.descriptors.is_sorted_by(|a, b| a.number < b.number) {
            return Err(inconsistent(table, "its descriptors are not in order"));
        }
        match body.descriptors.iter().find(|entry| !at.objects.is_open_file(entry.file)) {
            Some(entry) => Err(inconsistent(table, format!("descriptor {} is no open file", entry.number))),
            None => locks::check_table(table, &body),
        }
    };
    check().err().map(|error| *error)
}

/// Rebuilds every open file description of an image, in the image's order. Objects that are no open files are passed
/// over. Nothing is left behind when it fails; the terminal is not set yet.
///
/// # Errors
///
/// The first that does not fit or goes wrong.
pub fn rebuild_all<'a>(
    objects: &'a [record::Object],
    place: &'a Place,
    contents: &'a mut Contents<'a>,
) -> Result<Rebuilt> {
    let mut files: HashMap<u64, OwnedFd> = HashMap::new();
    let mut ctx = Rebuild::new(place, objects, contents);
    for object in objects {
        let Some(kind) = registry::kind_of(&object.kind) else { continue };
        let fd = match place.replacements.get(&object.id) {
            Some(stand_in) if registry::describes_open_file(&object.kind) => {
                Some(external::open(stand_in, &external::open_file_of(object)?, None, &mut ctx.opened)?)
            }
            _ => kind.rebuild(object, &mut ctx)?,
        };
        if let Some(fd) = fd
            && files.insert(object.id, fd).is_some()
        {
            return Err(inconsistent(object, "its id is used twice"));
        }
    }
    for object in objects {
        if let Some(kind) = registry::kind_of(&object.kind) {
            kind.settle(object, &mut ctx)?;
        }
    }
    Ok(Rebuilt {
        files,
        inodes: ctx.take_inodes(),
        notes: std::mem::take(&mut ctx.notes),
        terminal: ctx.terminal.take(),
        created: std::mem::take(&mut ctx.opened.created),
    })
}
