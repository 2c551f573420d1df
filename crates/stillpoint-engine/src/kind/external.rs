//! `--external`: what stands in for an open file description that reaches outside the tree.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use stillpoint_sys::{proc, task};

use super::rebuild::Check;
use super::{Capture, Kind, Rebuild, SeenFile, State, SupportRow};
use super::{decode, identity, pipe, record, required};
use crate::freeze::FrozenTask;
use crate::{Code, Error, External, Replacement, Result};

#[cfg(test)]
mod tests;

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
            detail: "Of any kind, saved or not. On restore a file, opened with the same access mode (and O_APPEND), \
                     or a descriptor of the process that restores. What was in it is not saved.",
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

    fn check(&self, object: &record::Object, _: &Check<'_>) -> Result<()> {
        let body: record::External = decode(object)?;
        let replacement = parse(&body.replacement);
        check(&replacement, &required(object, body.open, "open file")?)
    }

    fn rebuild(&self, object: &record::Object, _: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let body: record::External = decode(object)?;
        let replacement = parse(&body.replacement);
        open(&replacement, &required(object, body.open, "open file")?).map(Some)
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
    let body = record::External { open: Some(open), seen: seen.link.clone(), replacement: text.to_owned() };
    ctx.objects.add(EXTERNAL, &body)
}

/// Which objects the externals of a restore replace. `tables` gives the descriptor table of each task by its pid as
/// the tree sees it; `root` is the pid that an external without one means.
///
/// # Errors
///
/// [`Code::Usage`] when there is no such task or descriptor in the image.
pub fn replacements(
    tables: &[(u32, u64)],
    root: u32,
    objects: &[record::Object],
    externals: &[External],
) -> Result<HashMap<u64, Replacement>> {
    let mut out = HashMap::new();
    for external in externals {
        let pid = external.pid.unwrap_or(root);
        let table = tables.iter().find(|(task, _)| *task == pid).map(|(_, table)| *table);
        let table = table.and_then(|table| objects.iter().find(|object| object.id == table));
        let Some(table) = table else {
            return Err(usage(external, format!("the image has no task {pid}")));
        };
        let body: record::DescriptorTable = decode(table)?;
        let Some(entry) = body.descriptors.iter().find(|entry| entry.number == external.fd) else {
            return Err(usage(
                external,
                format!("task {pid} of the image has no descriptor {}", external.fd),
            ));
        };
        out.insert(entry.file, external.replacement.clone());
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

/// Whether a replacement can be had. Touches nothing.
pub(super) fn check(replacement: &Replacement, like: &record::OpenFile) -> Result<()> {
    let flags = OFlags::from_bits_retain(like.flags);
    match replacement {
        Replacement::Descriptor(number) => check_descriptor(*number, flags),
        Replacement::Path(path) => {
            match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(_) => Ok(()),
                Err(Errno::NOENT) if pipe::writes(flags) => {
                    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                    rustix::fs::stat(parent.unwrap_or(Path::new(".")))
                        .map(drop)
                        .map_err(|errno| cannot(path, errno))
                }
                Err(errno) => Err(cannot(path, errno)),
            }
        }
    }
}

/// Opens a replacement in place of an open file description.
pub(super) fn open(replacement: &Replacement, like: &record::OpenFile) -> Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(like.flags);
    match replacement {
        Replacement::Path(path) => {
            let mut how = flags.intersection(OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK);
            if pipe::writes(flags) {
                how |= OFlags::CREATE;
            }
            let how = how | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::LARGEFILE;
            rustix::io::retry_on_intr(|| rustix::fs::open(path, how, Mode::from_raw_mode(0o666)))
                .map_err(|errno| cannot(path, errno))
        }
        Replacement::Descriptor(number) => {
            check_descriptor(*number, flags)?;
            // A duplicate by number, checked by the kernel: a plain dup would need an unsafe borrow of the number.
            let me = task::pidfd(std::process::id())?;
            Ok(task::duplicate(me.as_fd(), *number)?)
        }
    }
}

fn check_descriptor(number: u32, want: OFlags) -> Result<()> {
    let doing = "taking a descriptor of this process";
    let have = proc::fdinfo::read(std::process::id(), number).map_err(|error| {
        Box::new(Error::new(Code::Usage, doing).object(format!("fd:{number}")).cause(error.cause()))
    })?;
    let have = OFlags::from_bits_retain(have.flags);
    if (pipe::reads(want) && !pipe::reads(have)) || (pipe::writes(want) && !pipe::writes(have)) {
        let cause = "it is not open for what the task's descriptor was open for";
        return Err(Error::new(Code::Usage, doing).object(format!("fd:{number}")).cause(cause).into());
    }
    Ok(())
}

fn cannot(path: &Path, errno: Errno) -> Box<Error> {
    let code = match errno {
        Errno::ACCESS | Errno::PERM => Code::NotPermitted,
        Errno::NOENT | Errno::NOTDIR | Errno::ISDIR => Code::Usage,
        _ => Code::Failed,
    };
    Box::new(Error::new(code, "opening a replacement").object(path.display().to_string()).cause(errno))
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
