use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use rustix::fs::{OFlags, SeekFrom, fcntl_setfl, seek};
use stillpoint_sys::file::{self, Lease, Owner};

use crate::kind::testing::{Scratch, capture_own, link, open, serial, single};
use crate::kind::{Place, state};
use crate::{Code, Error};

fn refused(file: &OwnedFd) -> Error {
    *capture_own(&[file]).unwrap_err()
}

#[test]
fn leases_and_owners_are_refused() {
    let _serial = serial();
    let dir = Scratch::new("refused");
    let path = dir.file("f", "hello");

    let file = open(&path, OFlags::RDONLY);
    file::set_lease(&file, Lease::Read).unwrap();
    assert!(refused(&file).cause.unwrap().contains("lease"));
    file::set_lease(&file, Lease::None).unwrap();
    let me = Owner { kind: 1, pid: i32::try_from(std::process::id()).unwrap() };
    file::set_owner(&file, me).unwrap();
    assert!(refused(&file).cause.unwrap().contains("F_SETOWN"));
    file::set_owner(&file, Owner { kind: 1, pid: 0 }).unwrap();
    file::set_signal(&file, libc::SIGUSR1).unwrap();
    assert_eq!(refused(&file).code, Code::UnsupportedFileState);
    drop(file);

    // Regular files do not take the flag.
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    fcntl_setfl(&read, OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned())).unwrap();
    assert!(capture_own(&[&read, &write]).unwrap_err().cause.unwrap().contains("O_ASYNC"));
}

#[test]
fn made_up_files_are_refused_by_name() {
    let _serial = serial();
    let error = refused(&open("/proc/self/status".as_ref(), OFlags::RDONLY));
    assert_eq!(error.code, Code::UnsupportedFile);
    assert!(error.cause.unwrap().contains("proc"));
    assert!(error.object.unwrap().contains("/status"));
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let _serial = serial();
    let dir = Scratch::new("elsewhere");
    let path = dir.file("f", "hello");
    let file = open(&path, OFlags::RDONLY);
    fs::rename(dir.file("g", "world"), &path).unwrap();
    // Now deleted: its only name was replaced. That is the other kind's, and saved there.
    assert!(capture_own(&[&file]).is_ok());

    let path = dir.file("h", "hello");
    let file = open(&path, OFlags::RDONLY);
    fs::hard_link(&path, dir.path("other name")).unwrap();
    fs::remove_file(&path).unwrap();
    let error = refused(&file);
    assert_eq!(error.code, Code::UnsupportedFileState);
    assert!(error.cause.unwrap().contains("another"));
    // Nor does another file of that name, with or without the kernel's suffix, pass for it.
    dir.file("h", "hello");
    dir.file("h (deleted)", "hello");
    assert!(refused(&file).cause.unwrap().contains("another"));
}

#[test]
fn a_name_that_only_looks_deleted_is_saved() {
    let _serial = serial();
    let dir = Scratch::new("looks");
    let path = dir.file("f (deleted)", "hello");
    let file = open(&path, OFlags::RDONLY);
    let captured = capture_own(&[&file]).unwrap();
    captured.only("regular-file");
    assert_eq!(link(&single(captured.rebuild_here())), link(&file));
}

#[test]
fn flags_and_position_come_back() {
    let _serial = serial();
    let dir = Scratch::new("flags");
    let path = dir.file("f", "hello world");
    let sets = [
        OFlags::RDONLY,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME,
        OFlags::WRONLY | OFlags::APPEND,
        OFlags::RDWR | OFlags::SYNC | OFlags::NONBLOCK,
        OFlags::RDWR | OFlags::DSYNC | OFlags::NOFOLLOW,
    ];
    for flags in sets {
        let file = open(&path, flags);
        seek(&file, SeekFrom::Start(6)).unwrap();
        let captured = capture_own(&[&file]).unwrap();
        let again = single(captured.rebuild_here());
        assert_eq!(state::status_flags(&again).unwrap(), state::status_flags(&file).unwrap());
        assert_eq!(seek(&again, SeekFrom::Current(0)).unwrap(), 6);
        assert_eq!(seek(&file, SeekFrom::Current(0)).unwrap(), 6);
        assert_eq!(link(&again), link(&file));
    }
}

#[test]
fn only_the_same_file_is_opened() {
    let _serial = serial();
    let dir = Scratch::new("same");
    let path = dir.file("f", "hello");
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    let captured = capture_own(&[&open(&path, OFlags::RDWR)]).unwrap();
    let set_mtime = |time: SystemTime| {
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    let misfit = |what: &str| {
        let checked = captured.check(&Place::default());
        assert_eq!(checked.len(), 1, "{what}");
        let error = captured.rebuild(&Place::default()).unwrap_err();
        assert_eq!(error.code, Code::FileDiffers, "{what}");
        assert_eq!(checked[0], *error);
        assert!(error.remedy.is_some());
        error.cause.unwrap()
    };

    dir.file("f", "hello!");
    assert!(misfit("size").contains("had 5 bytes and has 6"));
    dir.file("f", "hello");
    set_mtime(mtime + Duration::from_nanos(1000));
    assert!(misfit("time").contains("last written"));
    fs::remove_file(&path).unwrap();
    misfit("missing");
    fs::create_dir(&path).unwrap();
    assert!(misfit("directory").contains("regular file and is a directory"));
    fs::remove_dir(&path).unwrap();

    // Another inode with the same contents and time is the same file: a copy of the file system has such.
    dir.file("f", "hello");
    set_mtime(mtime);
    single(captured.rebuild_here());
}

#[test]
fn below_a_root_no_link_leads_out() {
    let _serial = serial();
    let dir = Scratch::new("root");
    let path = dir.file("f", "hello");
    let captured = capture_own(&[&open(&path, OFlags::RDONLY)]).unwrap();
    let copy = Scratch::new("root-copy");
    let below = copy.path(path.strip_prefix("/").unwrap().to_str().unwrap());
    fs::create_dir_all(below.parent().unwrap()).unwrap();
    let place = Place::below(&copy.path("")).unwrap();
    assert_eq!(captured.rebuild(&place).unwrap_err().code, Code::FileDiffers);
    // The link's target is looked up below the root as well, where it is the link itself.
    symlink(&path, &below).unwrap();
    assert_eq!(captured.rebuild(&place).unwrap_err().code, Code::FileDiffers);
    fs::remove_file(&below).unwrap();
    fs::copy(&path, &below).unwrap();
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::File::options().write(true).open(&below).unwrap().set_modified(time).unwrap();
    let file = single(captured.rebuild(&place).unwrap());
    assert_eq!(link(&file), below.as_os_str().as_encoded_bytes());
}
