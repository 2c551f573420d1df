use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{OFlags, SeekFrom, seek};

use crate::Code;
use crate::kind::testing::{Holder, Scratch, capture, capture_own, open, serial};
use crate::kind::{Place, decode, record};

#[test]
fn what_no_kind_recognises_is_refused_by_name() {
    let _serial = serial();
    let owned = |fd: OwnedFd| fd;
    let cases = [
        (owned(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()), "a socket"),
        (
            rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap(),
            "an epoll instance",
        ),
        (stillpoint_sys::task::pidfd(std::process::id()).unwrap(), "a pidfd"),
        (open("/proc/self/ns/net".as_ref(), OFlags::RDONLY), "a namespace"),
        (
            rustix::time::timerfd_create(
                rustix::time::TimerfdClockId::Monotonic,
                rustix::time::TimerfdFlags::CLOEXEC,
            )
            .unwrap(),
            "a timerfd",
        ),
        (
            rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap(),
            "an inotify instance",
        ),
    ];
    for (fd, what) in cases {
        let error = capture_own(&[&fd]).unwrap_err();
        assert_eq!(error.code, Code::UnsupportedFile, "{what}");
        assert!(error.cause.as_ref().unwrap().contains(what), "{error}");
        assert!(error.task.is_some() && error.object.is_some());
    }
    if let Ok(kmsg) =
        rustix::fs::open("/dev/kmsg", OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
    {
        assert!(capture_own(&[&kmsg]).unwrap_err().cause.unwrap().contains("device 1:11"));
    }
}

#[test]
fn an_open_file_description_is_saved_once_and_only_if_it_is_one() {
    let _serial = serial();
    let dir = Scratch::new("shared");
    let path = dir.file("f", "hello");
    let file = open(&path, OFlags::RDONLY);
    let duplicate = rustix::io::fcntl_dupfd_cloexec(&file, 0).unwrap();
    let other = open(&path, OFlags::RDONLY);
    let (a, b) = (Holder::with(&[&file, &duplicate, &other]), Holder::with(&[&duplicate]));
    let captured = capture(&[a.task(), b.task()], &[]).unwrap();
    let id = captured.file(a.pid(), file.as_raw_fd());
    assert_eq!(captured.file(a.pid(), duplicate.as_raw_fd()), id);
    assert_eq!(captured.file(b.pid(), duplicate.as_raw_fd()), id);
    assert_ne!(captured.file(a.pid(), other.as_raw_fd()), id);
    // 0, 1 and 2 of each are one description of /dev/null per Stdio::null().
    let regular = captured.objects.iter().filter(|object| object.kind == "regular-file").count();
    assert_eq!(regular, 2);
    let rebuilt = captured.rebuild_here();
    seek(&rebuilt.files[&id], SeekFrom::Start(2)).unwrap();
    assert_eq!(
        seek(&rebuilt.files[&captured.file(a.pid(), other.as_raw_fd())], SeekFrom::Current(0)).unwrap(),
        0
    );
}

#[test]
fn tables_say_what_is_closed_on_exec() {
    let _serial = serial();
    let holder = Holder::with(&[]);
    let captured = capture(&[holder.task()], &[]).unwrap();
    let table: record::DescriptorTable = decode(captured.only("descriptor-table")).unwrap();
    assert_eq!(table.descriptors.iter().map(|entry| entry.number).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(table.descriptors.iter().all(|entry| !entry.close_on_exec));
}

#[test]
fn a_table_of_nonsense_does_not_pass_the_check() {
    let _serial = serial();
    let holder = Holder::with(&[]);
    let mut captured = capture(&[holder.task()], &[]).unwrap();
    captured.objects.retain(|object| object.kind == "descriptor-table");
    assert_eq!(captured.check(&Place::default())[0].code, Code::ImageInconsistent);
}

/// Not a timed test: it fails when the work grows with the square of the number of files.
#[test]
fn thousands_of_files_are_no_matter() {
    let _serial = serial();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let count = limit.current.unwrap_or(4096).min(12_000) / 4;
    let dir = Scratch::new("thousands");
    let files: Vec<_> = (0..count)
        .map(|n| open(&dir.path(&format!("{}", n % (count / 2).max(1))), OFlags::RDWR | OFlags::CREATE))
        .collect();
    let holder = Holder::with(&files.iter().collect::<Vec<_>>());
    drop(files);
    let start = Instant::now();
    let captured = capture(&[holder.task()], &[]).unwrap();
    let captured_in = start.elapsed();
    let start = Instant::now();
    let rebuilt = captured.rebuild(&Place::default()).unwrap();
    assert!(rebuilt.files.len() as u64 >= count);
    println!("{count} files: captured in {captured_in:?}, rebuilt in {:?}", start.elapsed());
}
