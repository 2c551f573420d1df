use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use super::poll_now;
use crate::kind::testing::{Captured, Holder, capture, capture_own, serial};
use crate::kind::{Rebuilt, decode, identity, record, state};
use crate::{Code, External, Replacement};
use rustix::event::PollFlags;

fn pipe(flags: PipeFlags) -> (OwnedFd, OwnedFd) {
    pipe_with(flags | PipeFlags::CLOEXEC).unwrap()
}

/// The ends of a rebuild, in the order of the capture.
fn ends(captured: &Captured, mut rebuilt: Rebuilt) -> Vec<OwnedFd> {
    let ids = captured.objects.iter().filter(|object| object.kind == "pipe-end").map(|object| object.id);
    ids.map(|id| rebuilt.files.remove(&id).unwrap()).collect()
}

fn drain(fd: &OwnedFd) -> Vec<u8> {
    fcntl_setfl(fd, OFlags::NONBLOCK).unwrap();
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match read(fd, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => return all,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn packets_come_back() {
    let _serial = serial();
    // Each write, whether it is a packet, and how long what a read of 2 bytes then gives is.
    let cases: [&[(&[u8], bool)]; 6] = [
        &[(b"x", true)],
        &[(b"hello", true)],
        &[(b"one", true), (b"t", true), (b"three", true)],
        &[(b"bytes", false), (b"p", true)],
        &[(b"b", false), (b"packet", true), (b"more bytes", false), (b"q", true)],
        &[(&[7; 4096], true), (&[8; 4096], true), (b"z", false)],
    ];
    for writes in cases {
        let (read, write_end) = pipe(PipeFlags::empty());
        for (bytes, packet) in writes {
            fcntl_setfl(&write_end, if *packet { OFlags::DIRECT } else { OFlags::empty() }).unwrap();
            write(&write_end, bytes).unwrap();
        }
        let captured = capture_own(&[&read, &write_end]).unwrap();
        let rebuilt = captured.rebuild_here();
        let again = rebuilt.files.values().find(|fd| !super::writes(state::status_flags(fd).unwrap()));
        let (again, mut left) = (again.unwrap(), writes.iter().map(|(bytes, _)| bytes.len()).sum::<usize>());
        while left > 0 {
            let (mut a, mut b) = ([0; 2], [0; 2]);
            let lengths =
                (rustix::io::read(&read, &mut a).unwrap(), rustix::io::read(again, &mut b).unwrap());
            assert_eq!((lengths.0, a), (lengths.1, b), "{writes:?}");
            let now = [&read, again].map(|fd| rustix::io::ioctl_fionread(fd).unwrap());
            assert_eq!(now[0], now[1], "{writes:?}");
            left = usize::try_from(now[0]).unwrap();
        }
    }
}

#[test]
fn an_end_outside_the_tree_is_refused_by_name() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::empty());
    let inside = Holder::with(&[&write_end]);
    let outside = Holder::with(&[&read]);

    let error = capture(&[inside.task()], &[]).unwrap_err();
    assert_eq!(error.code, Code::OutsideTree);
    assert!(error.cause.unwrap().contains("this process itself"));
    drop(read);
    drop(write_end);

    let error = capture(&[inside.task()], &[]).unwrap_err();
    assert_eq!(error.code, Code::OutsideTree);
    assert!(error.cause.unwrap().contains(&format!("process {} (sleep)", outside.pid())));
    assert!(error.remedy.unwrap().contains("--external"));
    assert!(capture(&[inside.task(), outside.task()], &[]).is_ok());
}

#[test]
fn a_second_holder_outside_is_refused_though_both_ends_are_inside() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::empty());
    let inside = Holder::with(&[&read, &write_end]);
    let outside = Holder::with(&[&write_end]);
    drop((read, write_end));
    assert_eq!(capture(&[inside.task()], &[]).unwrap_err().code, Code::OutsideTree);
    drop(outside);
    assert!(capture(&[inside.task()], &[]).is_ok());
}

#[test]
fn an_external_makes_the_outside_somebody_elses() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::empty());
    let number = std::os::fd::AsRawFd::as_raw_fd(&write_end);
    let inside = Holder::with(&[&write_end]);
    drop(write_end);
    let external = External {
        pid: None,
        fd: u32::try_from(number).unwrap(),
        replacement: Replacement::Path("/dev/null".into()),
    };
    let captured = capture(&[inside.task()], &[external]).unwrap();
    let body: record::External = decode(captured.only("external")).unwrap();
    assert!(body.seen.starts_with(b"pipe:["));
    assert_eq!(body.replacement, "/dev/null");
    assert_eq!(captured.choices[0].0, "--external");
    let rebuilt = captured.rebuild_here();
    write(&rebuilt.files[&captured.file(inside.pid(), number)], b"x").unwrap();
    drop(read);
}

#[test]
fn what_is_queued_is_saved_and_not_consumed() {
    let _serial = serial();
    let pattern: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
    for length in [0, 1, 2, 4096, 5000, pattern.len()] {
        let (read, write_end) = pipe(PipeFlags::empty());
        fcntl_setpipe_size(&write_end, 1 << 18).unwrap();
        write(&write_end, &pattern[..length]).unwrap();
        let captured = capture_own(&[&read, &write_end]).unwrap();
        assert_eq!(drain(&read), &pattern[..length], "it was consumed");
        let body: record::Pipe = decode(captured.only("pipe")).unwrap();
        assert_eq!((body.queued, body.capacity), (length as u64, 1 << 18));
        let again = ends(&captured, captured.rebuild_here());
        assert_eq!(fcntl_getpipe_size(&again[0]).unwrap(), 1 << 18);
        write(&again[1], b"more").unwrap();
        assert_eq!(drain(&again[0]), [&pattern[..length], b"more"].concat());
    }
}

#[test]
fn a_full_pipe_of_single_bytes_is_saved() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::NONBLOCK);
    let full = vec![7; 1 << 16];
    assert_eq!(write(&write_end, &full).unwrap(), full.len());
    let captured = capture_own(&[&write_end, &read]).unwrap();
    let again = ends(&captured, captured.rebuild_here());
    assert_eq!(write(&again[0], b"x"), Err(Errno::AGAIN));
    assert_eq!(drain(&again[1]), full);
}

#[test]
fn flags_and_further_ends_come_back() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::empty());
    fcntl_setfl(&read, OFlags::NONBLOCK).unwrap();
    fcntl_setfl(&write_end, OFlags::DIRECT).unwrap();
    let second = identity::reopen(&write_end, OFlags::WRONLY | OFlags::NONBLOCK).unwrap();
    let both = identity::reopen(&read, OFlags::RDWR).unwrap();
    let all = [&both, &second, &read, &write_end];
    let captured = capture_own(&all).unwrap();
    let again = ends(&captured, captured.rebuild_here());
    for (before, after) in all.iter().zip(&again) {
        assert_eq!(state::status_flags(before).unwrap(), state::status_flags(after).unwrap());
    }
    fcntl_setfl(&again[3], OFlags::empty()).unwrap();
    for (fd, text) in [(&again[0], b"a"), (&again[1], b"b"), (&again[3], b"c")] {
        write(fd, text).unwrap();
    }
    assert_eq!(drain(&again[2]), b"abc");
    drop(again);
}

#[test]
fn one_end_alone_is_saved_when_the_other_is_closed() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::empty());
    write(&write_end, b"rest").unwrap();
    drop(write_end);
    let captured = capture_own(&[&read]).unwrap();
    let again = ends(&captured, captured.rebuild_here());
    assert!(poll_now(&again[0]).unwrap().contains(PollFlags::HUP));
    assert_eq!(drain(&again[0]), b"rest");

    let (read, write_end) = pipe(PipeFlags::empty());
    write(&write_end, b"rest").unwrap();
    drop(read);
    let captured = capture_own(&[&write_end]).unwrap();
    let again = ends(&captured, captured.rebuild_here());
    assert!(poll_now(&again[0]).unwrap().contains(PollFlags::ERR));
    let reader = identity::reopen(&again[0], OFlags::RDONLY | OFlags::NONBLOCK).unwrap();
    assert_eq!(drain(&reader), b"rest");
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::empty());
    write(&write_end, b"hello").unwrap();
    let mut captured = capture_own(&[&read, &write_end]).unwrap();
    captured.objects.reverse();
    assert_eq!(captured.rebuild(&crate::kind::Place::default()).unwrap_err().code, Code::ImageInconsistent);
    captured.objects.reverse();
    captured.contents.clear();
    assert_eq!(captured.rebuild(&crate::kind::Place::default()).unwrap_err().code, Code::ImageInconsistent);
    captured.objects.retain(|object| object.kind != "pipe");
    assert_eq!(captured.check(&crate::kind::Place::default())[0].code, Code::ImageInconsistent);
}

#[test]
fn the_owner_of_a_pipe_comes_back() {
    let _serial = serial();
    let (read, write_end) = pipe(PipeFlags::empty());
    let root = rustix::process::geteuid().is_root();
    if root {
        let (user, group) = (rustix::fs::Uid::from_raw(12), rustix::fs::Gid::from_raw(34));
        rustix::fs::fchown(&read, Some(user), Some(group)).unwrap();
    }
    rustix::fs::fchmod(&read, rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
    let captured = capture_own(&[&read, &write_end]).unwrap();
    let again = ends(&captured, captured.rebuild_here());
    let (before, after) = (rustix::fs::fstat(&read).unwrap(), rustix::fs::fstat(&again[1]).unwrap());
    assert_eq!((before.st_uid, before.st_gid, before.st_mode), (after.st_uid, after.st_gid, after.st_mode));
    assert!(!root || after.st_uid == 12);
}
