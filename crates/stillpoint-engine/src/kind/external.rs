//! `--external`: what stands in for an open file description that reaches outside the tree.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::rebuild::Check;
use super::{Capture, Kind, Rebuild, SeenFile, State, SupportRow};
use super::{decode, identity, record, required};
use crate::freeze::FrozenTask;
use crate::{Code, Error, External, Replacement, Result};

mod stand_in;
#[cfg(test)]
mod tests;

pub use stand_in::{Created, StandIn};
pub(super) use stand_in::{Opened, check, open};

/// Replaced files.
#[derive(Debug)]
pub struct Replaced;

/// The kind's name in the image.
pub(super) const EXTERNAL: &str = "external";

impl Kind for Replaced {
    fn name(&self) -> &'static str {
        EXTERNAL
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "descriptors that --external names",
            state: State::Saved,
            detail: "Of any kind, saved or not. On restore a file, opened with the same access mode, O_APPEND and \
                     O_NONBLOCK, and written to from its end on; or a descriptor of the process that restores. \
                     Descriptors that are given the same file share it. What was in it is not saved.",
            kernel: "5.6",
            operations: &[],
        }]
    }

    fn recognise(&self, _: &SeenFile<'_>) -> bool {
        false // Asked for by the user, before the registry is asked.
    }

    fn capture(&self, seen: SeenFile<'_>, _: &mut Capture<'_>) -> Result<u64> {
        Err(seen.refuse(Code::Failed, "it was not asked to be replaced").into())
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        let body: record::External = decode(object)?;
        let open = required(object, body.open, "open file")?;
        let stand_in = StandIn { replacement: parse(&body.replacement), descriptor: body.descriptor };
        // What the image names is looked up where the image's paths are.
        check(&stand_in, &open, at.place.root.as_ref())
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let body: record::External = decode(object)?;
        let like = required(object, body.open, "open file")?;
        let stand_in = StandIn { replacement: parse(&body.replacement), descriptor: body.descriptor };
        open(&stand_in, &like, ctx.place.root.as_ref(), &mut ctx.opened).map(Some)
    }
}

/// An `--external` whose task was found.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Index of the task.
    pub(super) task: usize,
    pub(super) fd: u32,
    pub(super) text: String,
}

/// Finds the tasks that externals name.
pub(super) fn resolve(tasks: &[FrozenTask], externals: &[External]) -> Result<Vec<Asked>> {
    externals
        .iter()
        .map(|external| {
            let task = match external.pid {
                None => Some(0),
                Some(pid) => tasks.iter().position(|task| task.pid == pid),
            };
            let Some(task) = task.filter(|&task| task < tasks.len()) else {
                let cause = format!("the tree has no task {}", external.pid.unwrap_or(0));
                return Err(usage(external, cause));
            };
            Ok(Asked { task, fd: external.fd, text: text(external)? })
        })
        .collect()
}

/// Saves what the user asked to replace.
pub(super) fn capture(seen: &SeenFile<'_>, text: &str, ctx: &mut Capture<'_>) -> u64 {
    let open = record::OpenFile { flags: seen.flags().bits(), ..record::OpenFile::default() };
    ctx.choices.push((
        "--external".to_owned(),
        format!("{}:{}={text} replaces {}", seen.task.pid, seen.number, identity::show(&seen.link)),
    ));
    let body = record::External {
        open: Some(open),
        seen: seen.link.clone(),
        replacement: text.to_owned(),
        descriptor: seen.number,
    };
    ctx.objects.add(EXTERNAL, &body)
}

/// A descriptor that the user named, and what stands in for it.
#[derive(Debug)]
pub(super) struct Named<T> {
    pub(super) task: u32,
    pub(super) fd: u32,
    pub(super) by: T,
}

/// Which of the stand-ins for one open file description a descriptor gets: its own, else that of another task's
/// descriptor of the same number (a child's standard output is its parent's), else the first. A terminal is often one
/// open file description under 0, 1 and 2, and yet gets three stand-ins.
pub(super) fn choose<T>(named: &[Named<T>], task: u32, fd: u32) -> Option<&Named<T>> {
    let same = |one: &&Named<T>| one.fd == fd;
    named.iter().filter(same).find(|one| one.task == task).or(named.iter().find(same)).or(named.first())
}

/// Which objects the externals of a restore replace. `tables` are the descriptor tables of each task by its pid as
/// the tree sees it; `root` is the pid that an external without one means. An open file description that gets
/// several stand-ins is split: objects are added, and the tables refer to them.
///
/// # Errors
///
/// [`Code::Usage`] when there is no such task or descriptor in the image, or one is named twice.
pub fn replacements(
    tables: &mut [(u32, &mut record::DescriptorTable)],
    root: u32,
    objects: &mut Vec<record::Object>,
    externals: &[External],
) -> Result<HashMap<u64, StandIn>> {
    let mut by_object: BTreeMap<u64, Vec<Named<&Replacement>>> = BTreeMap::new();
    for external in externals {
        let pid = external.pid.unwrap_or(root);
        let Some((_, table)) = tables.iter().find(|(task, _)| *task == pid) else {
            return Err(usage(external, format!("the image has no task {pid}")));
        };
        let Some(entry) = table.descriptors.iter().find(|entry| entry.number == external.fd) else {
            return Err(usage(
                external,
                format!("task {pid} of the image has no descriptor {}", external.fd),
            ));
        };
        let named = by_object.entry(entry.file).or_default();
        if named.iter().any(|one| (one.task, one.fd) == (pid, external.fd)) {
            return Err(usage(external, "it is named twice"));
        }
        named.push(Named { task: pid, fd: external.fd, by: &external.replacement });
    }
    let mut out = HashMap::new();
    let mut fresh = u64::MAX;
    for (file, named) in by_object {
        let mut split: Vec<(u64, &Replacement)> = Vec::new();
        for one in &named {
            if split.iter().any(|(_, replacement)| *replacement == one.by) {
                continue;
            }
            let mut id = file;
            if !split.is_empty() {
                while objects.iter().any(|object| object.id == fresh) {
                    fresh -= 1;
                }
                id = fresh;
                fresh -= 1;
                let like = objects.iter().find(|object| object.id == file);
                let open = like.map(open_file_of).transpose()?;
                let body = record::External { open, ..record::External::default() };
                objects.push(record::Object::with_body(id, EXTERNAL, &body));
            }
            split.push((id, one.by));
            out.insert(id, StandIn { replacement: one.by.clone(), descriptor: one.fd });
        }
        for (pid, table) in tables.iter_mut() {
            for entry in table.descriptors.iter_mut().filter(|entry| entry.file == file) {
                let by = choose(&named, *pid, entry.number).map(|one| one.by);
                if let Some((id, _)) = split.iter().find(|(_, replacement)| Some(*replacement) == by) {
                    entry.file = *id;
                }
            }
        }
    }
    Ok(out)
}

/// The first field of the message of every open file description.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyOpenFile {
    #[prost(message, optional, tag = "1")]
    open: Option<record::OpenFile>,
}

/// The common state of an open file description of any kind.
pub(super) fn open_file_of(object: &record::Object) -> Result<record::OpenFile> {
    let body = <AnyOpenFile as prost::Message>::decode(object.body.as_slice())
        .map_err(|error| super::inconsistent(object, error))?;
    required(object, body.open, "open file")
}

fn usage(external: &External, cause: impl std::fmt::Display) -> Box<Error> {
    let pid = external.pid.map_or_else(String::new, |pid| format!("{pid}:"));
    Box::new(
        Error::new(Code::Usage, "reading --external").object(format!("{pid}{}", external.fd)).cause(cause),
    )
}

/// The text that the image keeps: `PATH` or `fd:N`.
fn text(external: &External) -> Result<String> {
    match &external.replacement {
        Replacement::Descriptor(number) => Ok(format!("fd:{number}")),
        Replacement::Path(path) => match path.to_str() {
            None => {
                Err(usage(external, format!("{} is not UTF-8", path.as_os_str().as_bytes().escape_ascii())))
            }
            Some(path) if path.starts_with("fd:") => Ok(format!("./{path}")),
            Some(path) => Ok(path.to_owned()),
        },
    }
}

fn parse(text: &str) -> Replacement {
    match text.strip_prefix("fd:").and_then(|number| number.parse().ok()) {
        Some(number) => Replacement::Descriptor(number),
        None => Replacement::Path(PathBuf::from(text)),
    }
}
