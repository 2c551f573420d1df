use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::{read, write};

use crate::Code;
use crate::kind::testing::{Holder, Scratch, capture, capture_own, link, open, serial};
use crate::kind::{Place, state};

fn fifo(dir: &Scratch) -> std::path::PathBuf {
    let path = dir.path("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    path
}

fn both(path: &std::path::Path, more: OFlags) -> (OwnedFd, OwnedFd) {
    let reader = open(path, OFlags::RDONLY | OFlags::NONBLOCK | more);
    (reader, open(path, OFlags::WRONLY))
}

#[test]
fn outsiders_and_readers_at_odds_are_refused() {
    let _serial = serial();
    let dir = Scratch::new("fifo-refused");
    let path = fifo(&dir);
    // One reader has seen a writer go, the other has not seen one.
    let (reader, writer) = both(&path, OFlags::empty());
    drop(writer);
    let second = open(&path, OFlags::RDONLY | OFlags::NONBLOCK);
    let error = capture_own(&[&reader, &second]).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedFileState);
    assert!(error.cause.unwrap().contains("others not"));
    drop((reader, second));

    let (reader, writer) = both(&path, OFlags::empty());
    let (inside, outside) = (Holder::with(&[&reader, &writer]), Holder::with(&[&reader]));
    drop((reader, writer));
    let error = capture(&[inside.task()], &[]).unwrap_err();
    assert_eq!(error.code, Code::OutsideTree);
    assert!(error.cause.unwrap().contains(&format!("process {}", outside.pid())));
    assert!(capture(&[inside.task(), outside.task()], &[]).is_ok());
}

#[test]
fn contents_flags_and_path_come_back() {
    let _serial = serial();
    let dir = Scratch::new("fifo");
    let path = fifo(&dir);
    let (reader, writer) = both(&path, OFlags::NOFOLLOW);
    write(&writer, b"hello").unwrap();
    let captured = capture_own(&[&reader, &writer]).unwrap();

    // The original is still there: it is in use.
    let error = captured.rebuild(&Place::default()).unwrap_err();
    assert_eq!(error.code, Code::FileDiffers);
    assert!(error.cause.unwrap().contains("reads it"));
    let flags = [&reader, &writer].map(|end| state::status_flags(end).unwrap());
    let name = link(&reader);
    drop((reader, writer));

    let rebuilt = captured.rebuild_here();
    let ids: Vec<_> = captured.objects.iter().filter(|o| o.kind == "fifo-end").map(|o| o.id).collect();
    let (reader, writer) = (&rebuilt.files[&ids[0]], &rebuilt.files[&ids[1]]);
    assert_eq!([reader, writer].map(|end| state::status_flags(end).unwrap()), flags);
    assert_eq!(link(reader), name);
    write(writer, b" world").unwrap();
    let mut bytes = [0; 20];
    assert_eq!(read(reader, &mut bytes).unwrap(), 11);
    assert_eq!(&bytes[..11], b"hello world");
}

#[test]
fn a_fifo_in_use_does_not_fit() {
    let _serial = serial();
    let dir = Scratch::new("fifo-use");
    let path = fifo(&dir);
    let (reader, writer) = both(&path, OFlags::empty());
    let captured = capture_own(&[&reader, &writer]).unwrap();
    let other = Holder::with(&[&reader]);
    drop((reader, writer));
    let errors = captured.check(&Place::default());
    assert_eq!(errors.len(), 1);
    assert!(errors[0].cause.as_ref().unwrap().contains(&format!("process {}", other.pid())));
    drop(other);

    let writer = open(&path, OFlags::RDWR | OFlags::NONBLOCK);
    assert_eq!(captured.rebuild(&Place::default()).unwrap_err().code, Code::FileDiffers);
    drop(writer);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert_eq!(captured.rebuild(&Place::default()).unwrap_err().code, Code::FileDiffers);
}

#[test]
fn a_reader_that_waits_for_its_first_writer_goes_on_waiting() {
    let _serial = serial();
    let dir = Scratch::new("fifo-unwritten");
    let path = fifo(&dir);
    let (reader, second) = (open(&path, OFlags::RDONLY | OFlags::NONBLOCK), identity_reader(&path));
    rustix::fs::fcntl_setfl(&second, OFlags::empty()).unwrap();
    let captured = capture_own(&[&reader, &second]).unwrap();
    drop((reader, second));
    let rebuilt = captured.rebuild_here();
    for fd in rebuilt.files.values() {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        assert_eq!(fds[0].revents(), PollFlags::empty());
    }
    let writer = open(&path, OFlags::WRONLY);
    write(&writer, b"x").unwrap();
    assert_eq!(read(rebuilt.files.values().next().unwrap(), &mut [0]).unwrap(), 1);

    // One that has seen its writers go shows that.
    drop(rebuilt);
    drop(writer);
    let (reader, writer) = both(&path, OFlags::empty());
    drop(writer);
    let captured = capture_own(&[&reader]).unwrap();
    drop(reader);
    let reader = crate::kind::testing::single(captured.rebuild_here());
    let mut fds = [PollFd::new(&reader, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    assert!(fds[0].revents().contains(PollFlags::HUP));
}

fn identity_reader(path: &std::path::Path) -> OwnedFd {
    open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)
}
