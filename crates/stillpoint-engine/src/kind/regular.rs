//! Regular files that have a name: saved by path and identity, not by contents.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use super::identity::{self, Naming};
use super::rebuild::Check;
use super::{
    Capture, Kind, Rebuild, SeenFile, State, SupportRow, decode, filesystem, record, required, state,
};
use crate::{Code, Error, Result};

#[cfg(test)]
mod tests;

/// Regular files that have a name.
#[derive(Debug)]
pub struct Regular;

impl Kind for Regular {
    fn name(&self) -> &'static str {
        "regular-file"
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "regular files",
            state: State::Partly,
            detail: "Position, access mode, O_APPEND, O_NONBLOCK, O_SYNC, O_DSYNC, O_DIRECT, O_NOATIME, O_NOFOLLOW; \
                     shared across dup, fork and tasks. Found again by path, and only if size and modification time \
                     are as they were. Refused: leases, a SIGIO owner, O_ASYNC; a file whose \
                     name was removed while it has others, was replaced or is mounted over; file systems that are \
                     not known to keep their files (proc, sysfs, FUSE, CIFS, ...).",
            kernel: "5.6",
            operations: &[
                "fs/9p/vfs_file.c: v9fs_file_operations_dotl",
                "fs/btrfs/file.c: btrfs_file_operations",
                "fs/ext4/file.c: ext4_file_operations",
                "fs/f2fs/file.c: f2fs_file_operations",
                "fs/nfs/file.c: nfs_file_operations",
                "fs/nfs/nfs4file.c: nfs4_file_operations",
                "fs/overlayfs/file.c: ovl_file_operations",
                "fs/ramfs/file-mmu.c: ramfs_file_operations",
                "fs/xfs/xfs_file.c: xfs_file_operations",
                "mm/shmem.c: shmem_file_operations",
            ],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        // Those without a mount that is seen from here are memfds and their like: the registry names them.
        seen.file_type() == FileType::RegularFile && seen.stat.st_nlink > 0 && seen.filesystem.is_some()
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        let open = state::open_file(&seen)?;
        filesystem::require_ordinary(&seen)?;
        let file = named(&seen, ctx)?;
        if matches!(seen.filesystem.as_deref(), Some("nfs" | "nfs4")) && is_silly_renamed(&file.path) {
            return Err(Box::new(seen.refuse(
                Code::UnsupportedFileState,
                "it was deleted, and the NFS client removes it for good when the last task closes it",
            )));
        }
        Ok(ctx.objects.add(self.name(), &record::RegularFile { open: Some(open), file: Some(file) }))
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        let body: record::RegularFile = decode(object)?;
        state::open_flags(&required(object, body.open, "open file")?)?;
        identity::check_regular(at.place, &required(object, body.file, "file")?)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let body: record::RegularFile = decode(object)?;
        let open = required(object, body.open, "open file")?;
        let file = required(object, body.file, "file")?;
        let fd = identity::open_regular(ctx.place, &file, state::open_flags(&open)?)?;
        state::settle(fd, &open, true).map(Some)
    }
}

/// The identity of a file that must be found by its path; refused with the reason where it is not.
pub(super) fn named(seen: &SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<record::FileIdentity> {
    let magic = ctx.magic(seen)?;
    let naming = identity::naming(&seen.link, &seen.stat, magic)
        .map_err(|error| Error { object: Some(seen.object()), ..*error }.in_task(&seen.task.name))?;
    match naming {
        Naming::Named(identity) => Ok(identity),
        Naming::Deleted(_) => {
            let what = identity::type_name(seen.file_type());
            let cause = format!("it is a {what} that was deleted, which is not supported yet");
            Err(Box::new(seen.refuse(Code::UnsupportedFileState, cause)))
        }
        Naming::Astray(why) => Err(Box::new(seen.refuse(Code::UnsupportedFileState, why))),
    }
}

/// NFS keeps a file that is deleted while open under such a name until it is closed.
fn is_silly_renamed(path: &[u8]) -> bool {
    path.rsplit(|&byte| byte == b'/').next().is_some_and(|name| name.starts_with(b".nfs"))
}
