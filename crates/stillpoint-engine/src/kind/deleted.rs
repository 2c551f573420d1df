//! Regular files that were deleted while open: their contents go into the image.
//!
//! An object "deleted-file" stands for the inode, shared by all that have it open; an object
//! "deleted-file-description" for each open file description. On restore the file is made again in the same
//! directory, under its own name if that is free, so that the kernel shows the same path, and deleted at once,
//! before it is filled: nothing is left behind, whatever happens. All its open file descriptions are opened while it
//! has its name, since O_NOFOLLOW, which stays visible in F_GETFL, does not go through /proc.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, SeekFrom, StatxFlags, Timespec, Timestamps, Uid,
    fchmod, fchown, fstat, ftruncate, futimens, openat, seek, statat, statx, unlinkat,
};
use rustix::io::Errno;

use super::identity::{self, Naming, cannot_open, differs, show};
use super::outside::{self, First};
use super::rebuild::{Check, Held};
use super::state::TMPFILE;
use super::{Capture, Key, Kind, Met, Objects, Rebuild, SeenFile, Source, State, SupportRow};
use super::{decode, filesystem, inconsistent, record, required, state};
use crate::{Code, Error, Result};

#[cfg(test)]
mod tests;

/// Deleted regular files.
#[derive(Debug)]
pub struct Deleted;

/// The object of the inode.
pub(super) const INODE: &str = "deleted-file";
const DESCRIPTION: &str = "deleted-file-description";

impl Kind for Deleted {
    fn name(&self) -> &'static str {
        DESCRIPTION
    }

    fn parts(&self) -> &'static [&'static str] {
        &[INODE]
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "deleted regular files",
            state: State::Partly,
            detail: "Contents (holes stay holes), size, owner, mode, times; as regular files otherwise. Refused: a \
                     file whose directory is gone too, that a process outside the tree has open, or that has \
                     extended attributes.",
            kernel: "5.6",
            operations: &[],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        // Those without a mount that is seen from here are memfds and their like: the registry names them.
        seen.file_type() == FileType::RegularFile && seen.stat.st_nlink == 0 && seen.filesystem.is_some()
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        let open = state::open_file(&seen)?;
        filesystem::require_ordinary(&seen)?;
        let key = (seen.stat.st_dev, seen.stat.st_ino);
        let inode = ctx.objects.meet(Key::DeletedFile(key.0, key.1));
        if let Met::New(id) = inode {
            let magic = ctx.magic(&seen)?;
            capture_inode(id, &seen, magic, ctx.objects)?;
            let first = First {
                task: seen.task.name.clone(),
                pid: seen.task.pid,
                number: seen.number,
                object: seen.object(),
            };
            if let Some(&fd) = ctx.own.get(&key) {
                let me = outside::Holder { pid: std::process::id(), comm: Vec::new(), fd };
                return Err(outside::refusal(&first, WHAT, Some(&me)));
            }
            ctx.deleted.insert(key, (first, WHAT));
        }
        let body = record::DeletedFileDescription { open: Some(open), file: inode.id() };
        Ok(ctx.objects.add(self.name(), &body))
    }

    fn finish(&self, ctx: &mut Capture<'_>) -> Result<()> {
        if ctx.deleted.is_empty() {
            return Ok(());
        }
        let files: HashSet<_> = ctx.deleted.keys().copied().collect();
        match outside::file_holder(&files, FileType::RegularFile, ctx.tasks)? {
            Some((key, holder)) => match ctx.deleted.get(&key) {
                Some((first, what)) => Err(outside::refusal(first, what, Some(&holder))),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        if object.kind == INODE {
            let body: record::DeletedFile = decode(object)?;
            let file = required(object, body.file, "file")?;
            let parent = Parent::find(at.place, &file)?;
            return rustix::fs::accessat(
                &parent.directory,
                c".",
                Access::WRITE_OK | Access::EXEC_OK,
                AtFlags::EACCESS,
            )
            .map_err(|errno| cannot_make(&file, errno));
        }
        let body: record::DeletedFileDescription = decode(object)?;
        state::open_flags(&required(object, body.open, "open file")?)?;
        at.object(object, body.file, INODE).map(drop)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        if object.kind == INODE {
            rebuild_inode(object, ctx)?;
            return Ok(None);
        }
        let body: record::DeletedFileDescription = decode(object)?;
        let open = required(object, body.open, "open file")?;
        let Some(Held::DeletedFile(file)) = ctx.held(body.file) else {
            return Err(inconsistent(
                object,
                format!("its file, object {}, is not there before it", body.file),
            ));
        };
        let Some(fd) = file.descriptions.remove(&object.id) else {
            return Err(inconsistent(object, "it comes twice"));
        };
        state::settle(fd, &open, true).map(Some)
    }

    /// Owner, mode and times come last: a file may have been opened before its mode forbade that.
    fn settle(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<()> {
        if object.kind != INODE {
            return Ok(());
        }
        let body: record::DeletedFile = decode(object)?;
        let file = required(object, body.file, "file")?;
        let Some(Held::DeletedFile(held)) = ctx.held(object.id) else {
            return Err(inconsistent(object, "it was not rebuilt"));
        };
        let stat = fstat(&held.fd).map_err(|errno| cannot_make(&file, errno))?;
        if (stat.st_uid, stat.st_gid) != (file.uid, file.gid) {
            fchown(&held.fd, Some(Uid::from_raw(file.uid)), Some(Gid::from_raw(file.gid)))
                .map_err(|errno| cannot_make(&file, errno))?;
        }
        fchmod(&held.fd, Mode::from_raw_mode(file.mode)).map_err(|errno| cannot_make(&file, errno))?;
        let time = |tv_sec, tv_nsec: u32| Timespec { tv_sec, tv_nsec: i64::from(tv_nsec) };
        let times = Timestamps {
            last_access: time(body.atime_sec, body.atime_nsec),
            last_modification: time(file.mtime_sec, file.mtime_nsec),
        };
        futimens(&held.fd, &times).map_err(|errno| cannot_make(&file, errno))
    }
}

const WHAT: &str = "it is a deleted file that";

/// Saves the inode itself, also of one that is only mapped.
pub(super) fn capture_inode(id: u64, seen: &SeenFile<'_>, magic: u64, objects: &mut Objects) -> Result<()> {
    let refuse = |cause: String| -> Result<()> { Err(seen.refuse(Code::UnsupportedFileState, cause).into()) };
    let file = match identity::naming(&seen.link, &seen.stat, magic)? {
        Naming::Deleted(file) => file,
        Naming::Named(_) => return refuse("it has no links and yet a name".to_owned()),
        Naming::Astray(why) => return refuse(why.to_string()),
    };
    let (directory, name) = split(&file.path);
    match statat(CWD, directory, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && !name.is_empty() => {}
        Ok(_) => return refuse(format!("it was deleted, and {} is no directory now", show(directory))),
        Err(errno) => {
            return refuse(format!("it was deleted, and its directory {}: {errno}", show(directory)));
        }
    }
    refuse_attributes(seen)?;
    // A descriptor of our own: finding the holes moves the position, and the task's may be open for writing only.
    let own = identity::reopen(&seen.fd, OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK)
        .or_else(|errno| match errno {
            Errno::PERM => identity::reopen(&seen.fd, OFlags::RDONLY | OFlags::NONBLOCK),
            errno => Err(errno),
        })
        .map_err(|errno| seen.errno("opening a deleted file for reading", errno))?;
    let extents =
        extents(&own).map_err(|errno| seen.errno("finding what of a deleted file holds data", errno))?;
    let body = record::DeletedFile {
        file: Some(file),
        extents: extents.clone(),
        atime_sec: seen.stat.st_atime,
        atime_nsec: u32::try_from(seen.stat.st_atime_nsec).unwrap_or(0),
    };
    objects.put(id, INODE, &body);
    if !extents.is_empty() {
        objects.content(id, Source::File { fd: own, extents, zero_elided: false });
    }
    Ok(())
}

/// What an inode can have beside what we save.
fn refuse_attributes(seen: &SeenFile<'_>) -> Result<()> {
    let refuse = |cause: String| -> Result<()> { Err(seen.refuse(Code::UnsupportedFileState, cause).into()) };
    let mut names = vec![0; 1 << 16];
    match rustix::fs::flistxattr(&seen.fd, &mut names) {
        Ok(length) => {
            // A security label is given to a new file by the policy, as it was to the old one.
            let labels: [&[u8]; 2] = [b"security.selinux", b"security.SMACK64"];
            let mut set = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
            if let Some(name) = set.find(|name| !labels.contains(name)) {
                return refuse(format!("it was deleted and has the extended attribute {}", show(name)));
            }
        }
        Err(Errno::NOTSUP) => {}
        Err(errno) => return Err(seen.errno("listing extended attributes", errno)),
    }
    let flags = statx(&seen.fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map_err(|errno| seen.errno("reading the attributes of a file", errno))?
        .stx_attributes
        .bits();
    // STATX_ATTR_IMMUTABLE, APPEND, ENCRYPTED, VERITY of include/uapi/linux/stat.h.
    let special = flags & (0x10 | 0x20 | 0x800 | 0x10_0000);
    if special != 0 {
        return refuse(format!(
            "it was deleted and is immutable, append-only, encrypted or sealed ({special:#x})"
        ));
    }
    Ok(())
}

/// What of a file holds data.
///
/// # Errors
///
/// What lseek(2) answers. The position of the descriptor moves.
pub fn extents(fd: &OwnedFd) -> Result<Vec<record::Extent>, Errno> {
    let mut extents = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(extents),
            Err(errno) => return Err(errno),
        };
        let end = seek(fd, SeekFrom::Hole(start))?;
        extents.push(record::Extent { offset: start, length: end - start });
        at = end;
    }
}

/// The directory and the name of an absolute path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) | None => (b"/", path.strip_prefix(b"/").unwrap_or(path)),
        Some(at) => (&path[..at], &path[at + 1..]),
    }
}

/// A deleted file that was made again.
#[derive(Debug)]
pub(super) struct HeldFile {
    /// A descriptor of the restore's own, open for writing.
    pub(super) fd: OwnedFd,
    /// One that is open for reading alone, for mappings.
    pub(super) reader: OwnedFd,
    /// The open file descriptions, by object, until they are taken.
    descriptions: HashMap<u64, OwnedFd>,
}

/// Where a deleted file is made again.
struct Parent {
    directory: OwnedFd,
    name: Vec<u8>,
}

impl Parent {
    fn find(place: &super::Place, file: &record::FileIdentity) -> Result<Self> {
        let (directory, name) = split(&file.path);
        let is_regular = FileType::from_raw_mode(file.mode) == FileType::RegularFile;
        if !is_regular || name.is_empty() || name == b"." || name == b".." || name.contains(&0) {
            let error = Error::new(Code::ImageInconsistent, "reading a deleted file of the image");
            return Err(error.object(show(&file.path)).cause("it is no file that can be made").into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = identity::lookup(place, directory, flags).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => {
                let mut error =
                    differs(file, format!("a deleted file is made again in its directory: {errno}"));
                error.remedy = Some(format!("make the directory {}", show(directory)));
                error
            }
            errno => cannot_open(file, errno),
        })?;
        Ok(Parent { directory, name: name.to_vec() })
    }

    fn create(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory, name, flags, PRIVATE)
    }

    fn tmpfile(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat(&self.directory, c".", flags | OFlags::TMPFILE | OFlags::CLOEXEC, PRIVATE)
    }
}

/// Nobody else opens the file while it has a name.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// An open file description of the image that is to be opened.
#[derive(Debug)]
pub(super) struct Wanted {
    id: u64,
    flags: OFlags,
}

fn rebuild_inode(object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<()> {
    let body: record::DeletedFile = decode(object)?;
    let file = required(object, body.file, "file")?;
    if ctx.deleted.is_none() {
        ctx.deleted = Some(descriptions(ctx.objects)?);
    }
    let wanted = ctx.deleted.as_mut().and_then(|deleted| deleted.remove(&object.id)).unwrap_or_default();
    let parent = Parent::find(ctx.place, &file)?;
    let held = make(&parent, &wanted, &mut ctx.notes, &file).map_err(|errno| cannot_make(&file, errno))?;
    ftruncate(&held.fd, file.size).map_err(|errno| cannot_make(&file, errno))?;
    ctx.contents(object.id, &mut |offset, bytes| {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > file.size) {
            return Err(inconsistent(object, "its contents are longer than its size"));
        }
        write_at(&held.fd, bytes, offset).map_err(|errno| cannot_make(&file, errno))
    })?;
    ctx.hold(object.id, Held::DeletedFile(held));
    Ok(())
}

/// The open file descriptions of each deleted file of an image.
fn descriptions(objects: &[record::Object]) -> Result<HashMap<u64, Vec<Wanted>>> {
    let mut wanted: HashMap<u64, Vec<Wanted>> = HashMap::new();
    for object in objects.iter().filter(|object| object.kind == DESCRIPTION) {
        let body: record::DeletedFileDescription = decode(object)?;
        let flags = state::open_flags(&required(object, body.open, "open file")?)?;
        wanted.entry(body.file).or_default().push(Wanted { id: object.id, flags });
    }
    Ok(wanted)
}

fn make(
    parent: &Parent,
    wanted: &[Wanted],
    notes: &mut Vec<String>,
    file: &record::FileIdentity,
) -> Result<HeldFile, Errno> {
    // A file of O_TMPFILE never had a name. The one description that made it keeps that flag.
    let nameless = wanted.iter().any(|wanted| wanted.flags.contains(TMPFILE));
    if nameless {
        return make_nameless(parent, wanted);
    }
    match parent.create(&parent.name) {
        Ok(fd) => open_named(parent, &parent.name, fd, wanted),
        Err(Errno::EXIST) => {
            notes.push(format!(
                "{}: a deleted file of this name was made again under another, since a file has its name now",
                show(&file.path)
            ));
            if !wanted.iter().any(|wanted| wanted.flags.contains(OFlags::NOFOLLOW)) {
                match make_nameless(parent, wanted) {
                    Err(Errno::NOTSUP | Errno::ISDIR) => {}
                    made => return made,
                }
            }
            for attempt in 0..100 {
                let name = format!(".stillpoint-{}-{attempt}", std::process::id()).into_bytes();
                match parent.create(&name) {
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                    Ok(fd) => return open_named(parent, &name, fd, wanted),
                }
            }
            Err(Errno::EXIST)
        }
        Err(errno) => Err(errno),
    }
}

/// Opens every description while the file has its name, and takes the name away, also on failure.
fn open_named(parent: &Parent, name: &[u8], fd: OwnedFd, wanted: &[Wanted]) -> Result<HeldFile, Errno> {
    let opened = wanted
        .iter()
        .map(|wanted| {
            let flags = wanted.flags | OFlags::CLOEXEC | OFlags::NOCTTY;
            let opened = openat(&parent.directory, name, flags, Mode::empty())?;
            if same(&opened, &fd)? { Ok((wanted.id, opened)) } else { Err(Errno::STALE) }
        })
        .collect::<Result<HashMap<_, _>, _>>();
    let there = statat(&parent.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let ours = fstat(&fd)?;
    if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) {
        return Err(Errno::STALE);
    }
    unlinkat(&parent.directory, name, AtFlags::empty())?;
    let reader = identity::reopen(&fd, OFlags::RDONLY)?;
    Ok(HeldFile { fd, reader, descriptions: opened? })
}

fn make_nameless(parent: &Parent, wanted: &[Wanted]) -> Result<HeldFile, Errno> {
    let maker = wanted.iter().find(|wanted| wanted.flags.contains(TMPFILE));
    let mut descriptions = HashMap::new();
    let fd = match maker {
        Some(wanted) => {
            // O_DIRECT would forbid to fill it with whatever the image's chunks are; it is set when it is filled.
            let made = parent.tmpfile(wanted.flags.difference(OFlags::DIRECT | OFlags::APPEND))?;
            let own = identity::reopen(&made, OFlags::RDWR)?;
            rustix::fs::fcntl_setfl(&made, wanted.flags.intersection(state::CHANGEABLE))?;
            descriptions.insert(wanted.id, made);
            own
        }
        None => parent.tmpfile(OFlags::RDWR)?,
    };
    for wanted in wanted.iter().filter(|wanted| !wanted.flags.contains(TMPFILE)) {
        descriptions.insert(wanted.id, identity::reopen(&fd, wanted.flags | OFlags::NOCTTY)?);
    }
    let reader = identity::reopen(&fd, OFlags::RDONLY)?;
    Ok(HeldFile { fd, reader, descriptions })
}

fn same(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Errno> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

pub(super) fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn cannot_make(file: &record::FileIdentity, errno: Errno) -> Box<Error> {
    let code = match errno {
        Errno::ACCESS | Errno::PERM => Code::NotPermitted,
        Errno::ROFS | Errno::NOENT => Code::FileDiffers,
        _ => Code::Failed,
    };
    let error = Error::new(code, "making a deleted file again").object(show(&file.path)).cause(errno);
    Box::new(error.remedy("its directory must be there and writable, with room for its contents"))
}
