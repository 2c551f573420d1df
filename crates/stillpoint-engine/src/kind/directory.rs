//! Directories, with their read position.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use super::identity;
use super::rebuild::Check;
use super::{Capture, Kind, Rebuild, SeenFile, State, SupportRow, decode, filesystem, record, regular, required, state};
use crate::Result;

/// Directories.
#[derive(Debug)]
pub struct Directory;

impl Kind for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "directories",
            state: State::Partly,
            detail: "Read position and flags. Found again by path. In mid-reading it must be the same directory of \
                     the same file system, since positions mean nothing elsewhere. Refused: deleted directories, \
                     directory notification, O_PATH.",
            kernel: "5.6",
            operations: &[
                "fs/9p/vfs_dir.c: v9fs_dir_operations_dotl",
                "fs/btrfs/inode.c: btrfs_dir_file_operations",
                "fs/ext4/dir.c: ext4_dir_operations",
                "fs/f2fs/dir.c: f2fs_dir_operations",
                "fs/libfs.c: simple_dir_operations",
                "fs/libfs.c: simple_offset_dir_operations",
                "fs/nfs/dir.c: nfs_dir_operations",
                "fs/overlayfs/readdir.c: ovl_dir_operations",
                "fs/xfs/xfs_file.c: xfs_dir_file_operations",
            ],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        seen.file_type() == FileType::Directory
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        let open = state::open_file(&seen)?;
        filesystem::require_ordinary(&seen)?;
        let file = regular::named(&seen, ctx)?;
        Ok(ctx.objects.add(self.name(), &record::Directory { open: Some(open), file: Some(file) }))
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        let body: record::Directory = decode(object)?;
        let open = required(object, body.open, "open file")?;
        state::open_flags(&open)?;
        let file = required(object, body.file, "file")?;
        let found = identity::open_matching(at.place, &file, rustix::fs::OFlags::PATH)?;
        position_fits(&open, &file, &found)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let body: record::Directory = decode(object)?;
        let open = required(object, body.open, "open file")?;
        let file = required(object, body.file, "file")?;
        let fd = identity::open_matching(ctx.place, &file, state::open_flags(&open)?)?;
        position_fits(&open, &file, &fd)?;
        state::settle(fd, &open, true).map(Some)
    }
}

/// A position in a directory is a cookie of its file system: elsewhere it would skip or repeat names silently.
fn position_fits(open: &record::OpenFile, file: &record::FileIdentity, found: &OwnedFd) -> Result<()> {
    if open.position == 0 {
        return Ok(());
    }
    let stat = rustix::fs::fstat(found).map_err(|errno| super::failed("reading the status of a directory", errno))?;
    let magic = rustix::fs::fstatfs(found)
        .map_err(|errno| super::failed("reading the status of a file system", errno))
        .map(|status| identity::magic_number(status.f_type))?;
    if (stat.st_ino, magic) == (file.inode, file.filesystem) {
        return Ok(());
    }
    Err(identity::differs(file, "the directory was being read, and it is not the same directory here"))
}
