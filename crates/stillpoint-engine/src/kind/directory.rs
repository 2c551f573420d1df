//! Directories, with their read position.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use super::identity;
use super::rebuild::Check;
use super::{
    Capture, Kind, Rebuild, SeenFile, State, SupportRow, decode, filesystem, record, regular, required, state,
};
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
                     directory notification.",
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
    let stat = rustix::fs::fstat(found)
        .map_err(|errno| super::failed("reading the status of a directory", errno))?;
    let magic = rustix::fs::fstatfs(found)
        .map_err(|errno| super::failed("reading the status of a file system", errno))
        .map(|status| identity::magic_number(status.f_type))?;
    if (stat.st_ino, magic) == (file.inode, file.filesystem) {
        return Ok(());
    }
    Err(identity::differs(file, "the directory was being read, and it is not the same directory here"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use crate::kind::Place;
    use crate::kind::testing::{Scratch, capture_own, link, open, serial, single};
    use rustix::fs::{OFlags, RawDir, SeekFrom, seek};

    fn read_some(directory: &OwnedFd, count: usize) -> Vec<Vec<u8>> {
        // Room for few names, so that the position stays inside.
        let mut buffer = Vec::with_capacity(96);
        let mut names = Vec::new();
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            names.push(entry.file_name().to_bytes().to_vec());
            if names.len() >= count && entries.is_buffer_empty() {
                break;
            }
        }
        names
    }

    #[test]
    fn a_deleted_directory_is_refused() {
        let _serial = serial();
        let dir = Scratch::new("dir-deleted");
        std::fs::create_dir(dir.path("d")).unwrap();
        let directory = open(&dir.path("d"), OFlags::RDONLY | OFlags::DIRECTORY);
        std::fs::remove_dir(dir.path("d")).unwrap();
        let error = capture_own(&[&directory]).unwrap_err();
        assert_eq!(error.code, Code::UnsupportedFileState);
        assert!(error.cause.unwrap().contains("directory that was deleted"));
        std::fs::create_dir(dir.path("d")).unwrap();
        assert_eq!(capture_own(&[&directory]).unwrap_err().code, Code::UnsupportedFileState);
    }

    #[test]
    fn reading_goes_on_where_it_was() {
        let _serial = serial();
        let dir = Scratch::new("dir");
        for n in 0..50 {
            dir.file(&format!("a-name-of-some-length-{n}"), "");
        }
        let directory = open(&dir.path(""), OFlags::RDONLY | OFlags::DIRECTORY);
        let first = read_some(&directory, 10);
        assert_ne!(seek(&directory, SeekFrom::Current(0)).unwrap(), 0);
        let captured = capture_own(&[&directory]).unwrap();
        let again = single(captured.rebuild_here());
        assert_eq!(link(&again), link(&directory));
        let mut all = [first, read_some(&again, usize::MAX)].concat();
        all.retain(|name| name.starts_with(b"a-"));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 50);
        // At its end, too.
        single(capture_own(&[&again]).unwrap().rebuild_here());
    }

    #[test]
    fn in_mid_reading_it_must_be_the_same() {
        let _serial = serial();
        let dir = Scratch::new("dir-other");
        std::fs::create_dir(dir.path("d")).unwrap();
        for n in 0..50 {
            dir.file(&format!("d/a-name-of-some-length-{n}"), "");
        }
        let directory = open(&dir.path("d"), OFlags::RDONLY | OFlags::DIRECTORY);
        let unread = capture_own(&[&directory]).unwrap();
        read_some(&directory, 10);
        let captured = capture_own(&[&directory]).unwrap();
        std::fs::rename(dir.path("d"), dir.path("e")).unwrap();
        std::fs::create_dir(dir.path("d")).unwrap();
        assert_eq!(captured.rebuild(&Place::default()).unwrap_err().code, Code::FileDiffers);
        assert_eq!(captured.check(&Place::default())[0].code, Code::FileDiffers);
        single(unread.rebuild_here());
    }
}
