//! Files of memfd_create(2): their contents go into the image, whoever has them open or mapped.
//!
//! An object "memfd" stands for the inode, an object "memfd-description" for each open file description. Seals come
//! last: what forbids writing after the contents are there and before anything is mapped (Linux refuses F_SEAL_WRITE
//! while a mapping may be written), F_SEAL_FUTURE_WRITE and F_SEAL_SEAL after everything is mapped, since mappings of
//! before stay writable. See mm/memfd.c, memfd_add_seals.
//!
//! Whether a file is one is told by its device: Linux keeps all of them on one file system of its own.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    FileType, Gid, MemfdFlags, Mode, OFlags, SealFlags, Timespec, Timestamps, Uid, fchmod, fchown,
    fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, futimens, memfd_create,
};
use rustix::io::Errno;

use super::deleted::{extents, write_at};
use super::mapped::Facts;
use super::outside::{self, First};
use super::rebuild::{Check, Held, Inode};
use super::{Capture, Key, Kind, Met, Objects, Rebuild, SeenFile, Source, State, SupportRow};
use super::{decode, failed, identity, inconsistent, record, required, state};
use crate::{Code, Error, Result};

#[cfg(test)]
mod tests;

/// Files of memfd_create(2).
#[derive(Debug)]
pub struct Memfd;

/// The object of the inode.
pub(super) const INODE: &str = "memfd";

/// What the kernel's link begins with.
const PREFIX: &[u8] = b"/memfd:";
/// NAME_MAX without "memfd:": mm/memfd.c, MFD_NAME_MAX_LEN.
const LONGEST_NAME: usize = 249;
/// F_SEAL_SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE, EXEC.
const KNOWN_SEALS: u32 = 0x3f;
const SEAL: u32 = 0x01;
/// F_SEAL_WRITE.
pub(super) const WRITE: u32 = 0x08;
const FUTURE_WRITE: u32 = 0x10;
const EXEC: u32 = 0x20;
/// f_type of hugetlbfs.
const HUGETLBFS: u64 = 0x9584_58f6;
/// Where memfd_create(2) takes the size of huge pages, as a power of two.
const HUGE_SHIFT: u32 = 26;

const WHAT: &str = "it is a memfd that";

impl Kind for Memfd {
    fn name(&self) -> &'static str {
        "memfd-description"
    }

    fn parts(&self) -> &'static [&'static str] {
        &[INODE]
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "memfd",
            state: State::Partly,
            detail: "Contents (holes stay holes), name, size, owner, mode, times, seals, huge pages; open several times \
                     or mapped only (for that CAP_CHECKPOINT_RESTORE is needed). Refused: one that a process outside the \
                     tree has open or maps, and bytes that were written past the end of the last page.",
            kernel: "5.10",
            operations: &["fs/hugetlbfs/inode.c: hugetlbfs_file_operations"],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        is_memfd(seen)
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        let open = state::open_file(&seen)?;
        let key = (seen.stat.st_dev, seen.stat.st_ino);
        let inode = ctx.objects.meet(Key::DeletedFile(key.0, key.1));
        if let Met::New(id) = inode {
            capture_inode(id, &seen, ctx.objects)?;
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
            // Who else holds it is looked up together with the deleted files.
            ctx.deleted.insert(key, (first, WHAT));
        }
        let body = record::MemfdDescription { open: Some(open), file: inode.id() };
        Ok(ctx.objects.add(self.name(), &body))
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        if object.kind == INODE {
            return checked(object).map(drop);
        }
        let body: record::MemfdDescription = decode(object)?;
        state::open_flags(&required(object, body.open, "open file")?)?;
        at.object(object, body.file, INODE).map(drop)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        if object.kind == INODE {
            rebuild_inode(object, ctx)?;
            return Ok(None);
        }
        let body: record::MemfdDescription = decode(object)?;
        let open = required(object, body.open, "open file")?;
        let Some(Held::Memfd(file)) = ctx.held(body.file) else {
            return Err(inconsistent(
                object,
                format!("its file, object {}, is not there before it", body.file),
            ));
        };
        let fd = identity::reopen(&file.writer, state::open_flags(&open)?)
            .map_err(|errno| failed("opening a memfd", errno))?;
        state::settle(fd, &open, true).map(Some)
    }

    /// Owner, mode, times and the seals that may come before mappings: a file may have been opened before its mode
    /// forbade that.
    fn settle(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<()> {
        if object.kind != INODE {
            return Ok(());
        }
        let body = checked(object)?;
        let Some(Held::Memfd(held)) = ctx.held(object.id) else {
            return Err(inconsistent(object, "it was not rebuilt"));
        };
        let cannot = |errno| cannot_make(&body, errno);
        let stat = fstat(&held.writer).map_err(cannot)?;
        if (stat.st_uid, stat.st_gid) != (body.uid, body.gid) {
            fchown(&held.writer, Some(Uid::from_raw(body.uid)), Some(Gid::from_raw(body.gid)))
                .map_err(cannot)?;
        }
        if stat.st_mode & 0o7777 != body.mode {
            fchmod(&held.writer, Mode::from_raw_mode(body.mode)).map_err(cannot)?;
        }
        let time = |tv_sec, tv_nsec: u32| Timespec { tv_sec, tv_nsec: i64::from(tv_nsec) };
        let times = Timestamps {
            last_access: time(body.atime_sec, body.atime_nsec),
            last_modification: time(body.mtime_sec, body.mtime_nsec),
        };
        futimens(&held.writer, &times).map_err(cannot)?;
        held.late_seals = body.seals & (SEAL | FUTURE_WRITE);
        seal(&held.writer, body.seals & !held.late_seals)
    }
}

/// Whether a file is one.
pub(super) fn is_memfd(seen: &SeenFile<'_>) -> bool {
    seen.file_type() == FileType::RegularFile
        && seen.filesystem.is_none()
        && seen.stat.st_nlink == 0
        && seen.link.starts_with(PREFIX)
}

/// Saves the inode itself, also of one that is only mapped.
pub(super) fn capture_inode(id: u64, seen: &SeenFile<'_>, objects: &mut Objects) -> Result<()> {
    let errno = |doing: &'static str| move |errno| seen.errno(doing, errno);
    let status = rustix::fs::fstatfs(&seen.fd).map_err(errno("reading the status of a file system"))?;
    let huge = match identity::magic_number(status.f_type) {
        HUGETLBFS => u64::try_from(status.f_bsize).unwrap_or(0),
        _ => 0,
    };
    let name = seen.link.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(identity::DELETED));
    // A memfd of the tool's own stands on the same device as all others.
    let probe = make(b"stillpoint", huge, MemfdFlags::empty()).and_then(fstat);
    let probe = probe.map_err(errno("making a memfd to compare with"))?;
    let Some(name) = name.filter(|_| probe.st_dev == seen.stat.st_dev) else {
        return Err(seen.refuse(Code::Unknown, "it looks like a memfd and is none").into());
    };
    let seals = fcntl_get_seals(&seen.fd).map_err(errno("reading the seals of a memfd"))?.bits();
    if seals & !KNOWN_SEALS != 0 {
        return Err(seen
            .refuse(Code::Unknown, format!("it has seals that are not known: {seals:#x}"))
            .into());
    }
    refuse_attributes(seen)?;
    // A descriptor of our own: finding the holes moves the position.
    let own = identity::reopen(&seen.fd, OFlags::RDONLY).map_err(errno("opening a memfd for reading"))?;
    let extents = extents(&own).map_err(errno("finding what of a memfd holds data"))?;
    // To look at a hole through a mapping would fill it.
    let size = u64::try_from(seen.stat.st_size).unwrap_or(0);
    let at_end = extents.last().is_some_and(|last| last.offset + last.length >= size);
    if huge == 0
        && at_end
        && stillpoint_sys::vm::written_past_end(&own).map_err(|error| seen.failed(&error))?
    {
        let cause = "bytes were written past its end through a mapping, which a rebuilt file would lack";
        return Err(seen.refuse(Code::UnsupportedFileState, cause).into());
    }
    let stat = &seen.stat;
    let body = record::Memfd {
        name: name.to_vec(),
        size,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        seals,
        huge_page_size: huge,
        atime_sec: stat.st_atime,
        atime_nsec: u32::try_from(stat.st_atime_nsec).unwrap_or(0),
        mtime_sec: stat.st_mtime,
        mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    objects.put(id, INODE, &body);
    if !extents.is_empty() {
        // Files of huge pages do not tell their holes.
        objects.content(id, Source::File { fd: own, extents, zero_elided: huge != 0 });
    }
    Ok(())
}

fn refuse_attributes(seen: &SeenFile<'_>) -> Result<()> {
    let mut names = vec![0; 1 << 16];
    let names = match rustix::fs::flistxattr(&seen.fd, &mut names) {
        Ok(length) => names[..length].to_vec(),
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(seen.errno("listing extended attributes", errno)),
    };
    let mut set = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    // A security label is given to a new file by the policy, as it was to the old one.
    match set.find(|name| ![&b"security.selinux"[..], b"security.SMACK64"].contains(name)) {
        None => Ok(()),
        Some(name) => {
            let cause = format!("it has the extended attribute {}", identity::show(name));
            Err(seen.refuse(Code::UnsupportedFileState, cause).into())
        }
    }
}

/// A memfd that was made again.
#[derive(Debug)]
pub(super) struct HeldMemfd {
    writer: OwnedFd,
    reader: OwnedFd,
    late_seals: u32,
}

impl HeldMemfd {
    pub(super) fn into_inode(self) -> Inode {
        Inode { writer: self.writer, reader: self.reader, late_seals: self.late_seals }
    }
}

/// Adds seals.
pub(super) fn seal(fd: impl AsFd, seals: u32) -> Result<()> {
    if seals == 0 {
        return Ok(());
    }
    fcntl_add_seals(fd, SealFlags::from_bits_retain(seals)).map_err(|errno| failed("sealing a memfd", errno))
}

/// A record that makes sense.
fn checked(object: &record::Object) -> Result<record::Memfd> {
    let body: record::Memfd = decode(object)?;
    let huge = body.huge_page_size;
    let bad = body.name.len() > LONGEST_NAME
        || body.name.contains(&0)
        || i64::try_from(body.size).is_err()
        || body.mode & !0o7777 != 0
        || body.seals & !KNOWN_SEALS != 0
        || huge != 0
            && (!huge.is_power_of_two() || huge < crate::memory::PAGE || !body.size.is_multiple_of(huge))
        || [body.atime_nsec, body.mtime_nsec].iter().any(|&nsec| nsec >= 1_000_000_000);
    if bad { Err(inconsistent(object, "it is nothing that a memfd can be")) } else { Ok(body) }
}

/// What matters to areas of memory.
pub(super) fn facts(object: &record::Object) -> Result<Facts> {
    checked(object).map(|body| Facts { huge_page_size: body.huge_page_size, seals: body.seals })
}

fn rebuild_inode(object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<()> {
    let body = checked(object)?;
    let cannot = |errno| cannot_make(&body, errno);
    // The sysctl vm.memfd_noexec decides on what is not said.
    let executable = if body.seals & EXEC != 0 && body.mode & 0o111 == 0 {
        MemfdFlags::NOEXEC_SEAL
    } else {
        MemfdFlags::EXEC
    };
    let made = match make(&body.name, body.huge_page_size, executable | MemfdFlags::ALLOW_SEALING) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => make(&body.name, body.huge_page_size, MemfdFlags::ALLOW_SEALING),
        made => made,
    };
    let writer = made.map_err(cannot)?;
    let reader = identity::reopen(&writer, OFlags::RDONLY).map_err(cannot)?;
    ftruncate(&writer, body.size).map_err(cannot)?;
    ctx.contents(object.id, &mut |offset, bytes| {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > body.size) {
            return Err(inconsistent(object, "its contents are longer than its size"));
        }
        if body.huge_page_size == 0 {
            return write_at(&writer, bytes, offset).map_err(cannot);
        }
        stillpoint_sys::vm::write_mapped(&writer, offset, bytes, body.huge_page_size).map_err(|error| {
            let remedy = "free huge pages of that size, or add some: /sys/kernel/mm/hugepages";
            Error::new(Code::LimitTooSmall, "filling a memfd of huge pages")
                .object(identity::show(&body.name))
                .cause(error.cause())
                .remedy(remedy)
                .into()
        })
    })?;
    ctx.hold(object.id, Held::Memfd(HeldMemfd { writer, reader, late_seals: 0 }));
    Ok(())
}

fn make(name: &[u8], huge: u64, flags: MemfdFlags) -> Result<OwnedFd, Errno> {
    let mut flags = flags | MemfdFlags::CLOEXEC;
    if huge != 0 {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(huge.trailing_zeros() << HUGE_SHIFT);
    }
    memfd_create(name, flags)
}

fn cannot_make(body: &record::Memfd, errno: Errno) -> Box<Error> {
    let code = match errno {
        Errno::ACCESS | Errno::PERM => Code::NotPermitted,
        Errno::NODEV | Errno::NOENT => Code::KernelLacks,
        _ => Code::Failed,
    };
    Box::new(Error::new(code, "making a memfd again").object(identity::show(&body.name)).cause(errno))
}
