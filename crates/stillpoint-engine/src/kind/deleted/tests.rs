use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{OFlags, SeekFrom, fstat, ftruncate, seek};
use rustix::io::{pread, pwrite};

use crate::kind::testing::{Holder, Scratch, capture, capture_own, link, open, serial, single};
use crate::kind::{Place, decode, record, state};
use crate::{Code, Error};

fn deleted(dir: &Scratch, name: &str, contents: &[u8], flags: OFlags) -> OwnedFd {
    let path = dir.file(name, contents);
    let file = open(&path, flags);
    fs::remove_file(&path).unwrap();
    file
}

fn contents(file: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let count = pread(file, &mut bytes, 0).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn a_file_whose_directory_is_gone_is_refused() {
    let _serial = serial();
    let dir = Scratch::new("gone");
    fs::create_dir(dir.path("d")).unwrap();
    let file = deleted(&dir, "d/f", b"hello", OFlags::RDWR);
    fs::remove_dir(dir.path("d")).unwrap();
    let error = capture_own(&[&file]).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedFileState);
    assert!(error.cause.unwrap().contains("directory"));
}

#[test]
fn extended_attributes_are_refused() {
    let _serial = serial();
    let dir = Scratch::new("xattr");
    let file = deleted(&dir, "f", b"hello", OFlags::RDWR);
    if rustix::fs::fsetxattr(&file, "user.note", b"x", rustix::fs::XattrFlags::empty()).is_err() {
        return; // The file system has none.
    }
    assert!(capture_own(&[&file]).unwrap_err().cause.unwrap().contains("user.note"));
}

#[test]
fn a_file_that_an_outsider_has_open_is_refused() {
    let _serial = serial();
    let dir = Scratch::new("outsider");
    let file = deleted(&dir, "f", b"hello", OFlags::RDWR);
    let (inside, outside) = (Holder::with(&[&file]), Holder::with(&[&file]));
    // This process has it open too.
    let error = capture(&[inside.task()], &[]).unwrap_err();
    assert_eq!(error.code, Code::OutsideTree);
    assert!(error.cause.unwrap().contains("this process itself"));
    drop(file);
    let error = capture(&[inside.task()], &[]).unwrap_err();
    assert_eq!(error.code, Code::OutsideTree);
    assert!(error.cause.unwrap().contains(&format!("process {} (sleep)", outside.pid())));
    assert!(error.remedy.unwrap().contains("--external"));
    assert!(capture(&[inside.task(), outside.task()], &[]).is_ok());
}

#[test]
fn contents_holes_flags_and_path_come_back() {
    let _serial = serial();
    let dir = Scratch::new("contents");
    let file = deleted(&dir, "f", b"", OFlags::RDWR | OFlags::NOFOLLOW);
    pwrite(&file, b"hello", 0).unwrap();
    pwrite(&file, b"world", 8 << 20).unwrap();
    ftruncate(&file, 16 << 20).unwrap();
    seek(&file, SeekFrom::Start(3)).unwrap();
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o4640)).unwrap();
    let before = fstat(&file).unwrap();
    let captured = capture_own(&[&file]).unwrap();
    let body: record::DeletedFile = decode(captured.only("deleted-file")).unwrap();
    assert!(body.extents.iter().map(|extent| extent.length).sum::<u64>() < 1 << 20, "the holes were read");
    assert_eq!(seek(&file, SeekFrom::Current(0)).unwrap(), 3, "the task's position was moved");

    let again = single(captured.rebuild_here());
    let after = fstat(&again).unwrap();
    assert_eq!((after.st_size, after.st_nlink, after.st_mode), (16 << 20, 0, before.st_mode));
    assert_eq!((after.st_mtime, after.st_mtime_nsec), (before.st_mtime, before.st_mtime_nsec));
    assert!(after.st_blocks <= before.st_blocks + 64, "the holes were filled");
    let mut bytes = [0; 5];
    pread(&again, &mut bytes, 8 << 20).unwrap();
    assert_eq!(&bytes, b"world");
    assert_eq!(seek(&again, SeekFrom::Current(0)).unwrap(), 3);
    assert_eq!(link(&again), link(&file));
    assert_eq!(state::status_flags(&again).unwrap(), state::status_flags(&file).unwrap());
    assert_eq!(dir.names(), Vec::<String>::new());
}

#[test]
fn all_openers_share_the_file_whatever_its_mode() {
    let _serial = serial();
    let dir = Scratch::new("openers");
    let path = dir.file("f", "hello");
    let (reader, writer) = (open(&path, OFlags::RDONLY), open(&path, OFlags::WRONLY | OFlags::APPEND));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    fs::remove_file(&path).unwrap();
    let captured = capture_own(&[&writer, &reader]).unwrap();
    captured.only("deleted-file");
    let rebuilt = captured.rebuild_here();
    let ids: Vec<_> =
        captured.objects.iter().filter(|o| o.kind == "deleted-file-description").map(|o| o.id).collect();
    let (writer, reader) = (&rebuilt.files[&ids[0]], &rebuilt.files[&ids[1]]);
    rustix::io::write(writer, b" world").unwrap();
    assert_eq!(contents(reader), b"hello world");
    assert_eq!(fstat(reader).unwrap().st_mode & 0o777, 0o400);
}

#[test]
fn a_file_of_o_tmpfile_keeps_its_flag() {
    let _serial = serial();
    let dir = Scratch::new("tmpfile");
    let Ok(file) = rustix::fs::open(
        dir.path(""),
        OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        rustix::fs::Mode::RUSR,
    ) else {
        return; // The file system has none.
    };
    rustix::io::write(&file, b"hello").unwrap();
    let again = single(capture_own(&[&file]).unwrap().rebuild_here());
    assert_eq!(state::status_flags(&again).unwrap(), state::status_flags(&file).unwrap());
    assert_eq!(contents(&again), b"hello");
    assert_eq!(seek(&again, SeekFrom::Current(0)).unwrap(), 5);
}

#[test]
fn a_taken_name_is_left_alone() {
    let _serial = serial();
    let dir = Scratch::new("taken");
    for flags in [OFlags::RDWR, OFlags::RDWR | OFlags::NOFOLLOW] {
        let file = deleted(&dir, "f", b"hello", flags);
        let captured = capture_own(&[&file]).unwrap();
        dir.file("f", "another");
        let rebuilt = captured.rebuild_here();
        assert_eq!(rebuilt.notes.len(), 1);
        assert_eq!(contents(&single(rebuilt)), b"hello");
        assert_eq!(fs::read(dir.path("f")).unwrap(), b"another");
        assert_eq!(dir.names(), ["f"]);
    }
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let _serial = serial();
    let dir = Scratch::new("failure");
    let file = deleted(&dir, "f", b"hello", OFlags::RDWR);
    let captured = capture_own(&[&file]).unwrap();
    let broken = crate::kind::descriptors::rebuild_all(&captured.objects, &Place::default(), &mut |_, _| {
        assert_eq!(dir.names(), Vec::<String>::new(), "it has a name while it is filled");
        Err(Error::new(Code::ImageDamaged, "reading").into())
    });
    assert_eq!(broken.unwrap_err().code, Code::ImageDamaged);
    assert_eq!(dir.names(), Vec::<String>::new());

    fs::remove_dir(dir.path("")).unwrap();
    let error = captured.rebuild(&Place::default()).unwrap_err();
    assert_eq!(error.code, Code::FileDiffers);
    assert!(error.remedy.as_ref().unwrap().contains("make the directory"));
    assert_eq!(captured.check(&Place::default()), [*error]);
}
