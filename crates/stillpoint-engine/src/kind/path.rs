//! Descriptors of O_PATH: they name a file of any type and open nothing, so any type can be saved.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, RawMode, fstat, readlinkat};

use super::rebuild::Check;
use super::{Capture, Kind, Place, Rebuild, SeenFile, State, SupportRow};
use super::{decode, filesystem, identity, inconsistent, record, regular, required, state};
use crate::{Code, Result};

/// Descriptors of O_PATH.
#[derive(Debug)]
pub struct Path;

pub(super) const NAME: &str = "path";

/// Flags that open(2) keeps beside O_PATH: fs/open.c, O_PATH_FLAGS.
const KNOWN: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

impl Kind for Path {
    fn name(&self) -> &'static str {
        NAME
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "O_PATH descriptors",
            state: State::Partly,
            detail: "Of files of any type, symbolic links among them. Found again by path and identity. Refused: deleted \
                     files, files of proc, sysfs and their like.",
            kernel: "5.10",
            operations: &[],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        seen.flags().contains(OFlags::PATH)
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        filesystem::require_ordinary(&seen)?;
        let flags = seen.flags();
        let unknown = flags.difference(KNOWN);
        if !unknown.is_empty() || !seen.info.rest.is_empty() || seen.info.pos != 0 {
            let cause = format!("it has flags or a state that O_PATH does not have: {:#o}", flags.bits());
            return Err(seen.refuse(Code::Unknown, cause).into());
        }
        let file = regular::named(&seen, ctx)?;
        let target = if seen.file_type() == FileType::Symlink {
            if !flags.contains(OFlags::NOFOLLOW) {
                let cause = "it is a symbolic link that was not opened by open(2)";
                return Err(seen.refuse(Code::UnsupportedFileState, cause).into());
            }
            let read = readlinkat(&seen.fd, c"", Vec::new());
            read.map_err(|errno| seen.errno("reading a symbolic link", errno))?.into_bytes()
        } else {
            Vec::new()
        };
        let open = record::OpenFile { flags: flags.bits(), ..record::OpenFile::default() };
        Ok(ctx.objects.add(NAME, &record::PathFile { open: Some(open), file: Some(file), target }))
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        open(object, at.place).map(drop)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let (fd, open) = open(object, ctx.place)?;
        state::settle(fd, &open, false).map(Some)
    }
}

fn open(object: &record::Object, place: &Place) -> Result<(OwnedFd, record::OpenFile)> {
    let body: record::PathFile = decode(object)?;
    let open = required(object, body.open, "open file")?;
    let file = required(object, body.file, "file")?;
    let flags = OFlags::from_bits_retain(open.flags);
    let plain = open.position == 0 && open.owner.is_none() && open.locks.is_empty() && open.flock == 0;
    if !flags.contains(OFlags::PATH) || !KNOWN.contains(flags) || !plain {
        return Err(inconsistent(object, "it is nothing that O_PATH can give"));
    }
    let fd = identity::lookup(place, &file.path, flags | OFlags::CLOEXEC)
        .map_err(|errno| identity::cannot_open(&file, errno))?;
    let failed = |errno| super::failed("reading the status of a file", errno);
    if let Some(misfit) = identity::misfit(&file, &fstat(&fd).map_err(failed)?) {
        return Err(identity::differs(&file, misfit));
    }
    if FileType::from_raw_mode(file.mode as RawMode) == FileType::Symlink {
        let target = readlinkat(&fd, c"", Vec::new()).map_err(failed)?.into_bytes();
        if target != body.target {
            let cause = format!(
                "it led to {} and leads to {}",
                identity::show(&body.target),
                identity::show(&target)
            );
            return Err(identity::differs(&file, cause));
        }
    }
    Ok((fd, open))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Scratch, capture_own, link, open, serial, single};

    #[test]
    fn files_of_every_type_come_back() {
        let _serial = serial();
        let dir = Scratch::new("path");
        dir.file("file", "x");
        std::os::unix::fs::symlink("nowhere", dir.path("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path("socket")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path("fifo"), rustix::fs::Mode::RWXU).unwrap();
        let paths = ["file", "link", "socket", "fifo", ""].map(|name| dir.path(name));
        for path in paths.iter().map(AsRef::as_ref).chain([std::path::Path::new("/dev/null")]) {
            for flags in [OFlags::PATH | OFlags::NOFOLLOW, OFlags::PATH] {
                if flags == OFlags::PATH && path.is_symlink() {
                    continue;
                }
                let file = open(path, flags);
                let again = single(capture_own(&[&file]).unwrap().rebuild_here());
                assert_eq!(link(&again), link(&file));
                assert_eq!(state::status_flags(&again).unwrap(), state::status_flags(&file).unwrap());
            }
        }
    }

    #[test]
    fn another_link_is_not_taken_for_it() {
        let _serial = serial();
        let dir = Scratch::new("path-other");
        std::os::unix::fs::symlink("a", dir.path("link")).unwrap();
        let captured = capture_own(&[&open(&dir.path("link"), OFlags::PATH | OFlags::NOFOLLOW)]).unwrap();
        std::fs::remove_file(dir.path("link")).unwrap();
        std::os::unix::fs::symlink("b", dir.path("link")).unwrap();
        assert_eq!(captured.check(&Place::default())[0].code, Code::FileDiffers);
        dir.file("x", "");
        std::fs::rename(dir.path("x"), dir.path("link")).unwrap();
        assert_eq!(captured.rebuild(&Place::default()).unwrap_err().code, Code::FileDiffers);
    }

    #[test]
    fn an_image_cannot_make_us_open_it_really() {
        let record_open = record::OpenFile { flags: 0, ..record::OpenFile::default() };
        let body = record::PathFile {
            open: Some(record_open),
            file: Some(record::FileIdentity::default()),
            target: vec![],
        };
        let object = record::Object::with_body(1, NAME, &body);
        assert_eq!(super::open(&object, &Place::default()).unwrap_err().code, Code::ImageInconsistent);
    }
}
