use rustix::fs::{FlockOperation, flock};
use stillpoint_sys::file::{self, Lease};
use stillpoint_sys::program::Program;

use super::*;
use crate::kind::decode;
use crate::kind::testing::{Holder, Scratch, capture, capture_own, open, serial};

const EOF: u64 = RecordLock::EOF;

fn lock(exclusive: bool, start: u64, end: u64) -> RecordLock {
    RecordLock { exclusive, start, end }
}

fn saved(exclusive: bool, start: u64, end: u64, descriptor: u32) -> record::RecordLock {
    record::RecordLock { exclusive, start, end, descriptor }
}

fn info(flags: u32, lines: &[&str]) -> FdInfo {
    let rest = lines.iter().map(|line| (KEY.to_vec(), line.as_bytes().to_vec())).collect();
    FdInfo { flags, rest, ..FdInfo::default() }
}

#[test]
fn leases_and_what_is_not_known_are_refused() {
    let _serial = serial();
    let dir = Scratch::new("locks-refused");
    let path = dir.file("f", "hello");
    let held = open(&path, OFlags::RDONLY);
    file::set_lease(&held, Lease::Read).unwrap();
    let error = capture_own(&[&held]).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedFileState);
    assert!(error.cause.unwrap().contains("a lease"));
}

#[test]
fn locks_of_an_open_file_description_are_saved_with_it() {
    let _serial = serial();
    let dir = Scratch::new("locks-description");
    let path = dir.file("f", "hello");
    let (one, two) = (open(&path, OFlags::RDWR), open(&path, OFlags::RDWR));
    lock::set(&one, Owner::Description, &lock(true, 0, 4)).unwrap();
    lock::set(&one, Owner::Description, &lock(false, 10, EOF)).unwrap();
    flock(&two, FlockOperation::LockShared).unwrap();
    // Of the process, not of the description.
    lock::set(&two, Owner::Process, &lock(true, 7, 7)).unwrap();
    let captured = capture_own(&[&one, &two]).unwrap();
    let open = |n: usize| decode::<record::RegularFile>(&captured.objects[n]).unwrap().open.unwrap();
    assert_eq!((open(0).locks, open(0).flock), (vec![saved(true, 0, 4, 0), saved(false, 10, EOF, 0)], 0));
    assert_eq!((open(1).locks, open(1).flock), (Vec::new(), SHARED));
    assert_eq!(captured.check(&Place::default()), []);
}

#[test]
fn a_child_does_not_have_the_locks_of_its_parent() {
    let _serial = serial();
    let dir = Scratch::new("locks-child");
    let path = dir.file("f", "hello");
    let mine = open(&path, OFlags::RDWR);
    lock::set(&mine, Owner::Process, &lock(true, 0, EOF)).unwrap();
    let holder = Holder::with(&[&mine]);
    let captured = capture(&[holder.task()], &[]).unwrap();
    let table: record::DescriptorTable = decode(captured.only("descriptor-table")).unwrap();
    assert_eq!(table.locks, []);
}

#[test]
fn a_process_sets_its_own_locks() {
    let task = crate::kind::testing::frozen(std::process::id());
    let pid = task.host_pid;
    let line =
        |mode: &str, pid: u32, range: &str| format!("1: POSIX  ADVISORY  {mode} {pid} fe:00:7 {range}");
    let (write, read) = (line("WRITE", pid, "0 9"), line("READ", pid, "20 EOF"));
    let flock = format!("3: FLOCK  ADVISORY  WRITE {} fe:00:7 0 EOF", pid + 1);
    let both = info(0o2, &[&write, &read, &flock]);
    assert_eq!(of_process(&task, 5, &both).unwrap(), [saved(true, 0, 9, 5), saved(false, 20, EOF, 5)]);
    // Set by another process that had the same table.
    let other = of_process(&task, 5, &info(0o2, &[&line("WRITE", pid + 1, "0 9")])).unwrap_err();
    assert_eq!(other.code, Code::UnsupportedFileState);
    assert!(other.object.unwrap().starts_with("fd 5: 1: POSIX"));
    // Read-only and write-only descriptors.
    assert_eq!(of_process(&task, 5, &info(0o0, &[&write])).unwrap_err().code, Code::Unknown);
    assert_eq!(of_process(&task, 5, &info(0o1, &[&read])).unwrap_err().code, Code::Unknown);
}

fn object(id: u64, open: record::OpenFile) -> record::Object {
    let body = record::RegularFile { open: Some(open), file: Some(record::FileIdentity::default()) };
    record::Object::with_body(id, "regular-file", &body)
}

fn table(entries: &[(u32, u64)], locks: Vec<record::RecordLock>) -> record::DescriptorTable {
    let entry = |&(number, file)| record::Descriptor { number, file, close_on_exec: false };
    record::DescriptorTable { descriptors: entries.iter().map(entry).collect(), locks }
}

#[test]
fn each_lock_is_set_once_and_where_it_belongs() {
    let locked = record::OpenFile {
        locks: vec![saved(true, 0, 4, 0)],
        flock: EXCLUSIVE,
        ..record::OpenFile::default()
    };
    let objects = [object(1, locked.clone()), object(2, record::OpenFile::default()), object(3, locked)];
    let parent = table(&[(0, 2), (4, 1), (5, 1)], vec![saved(true, 7, 7, 0)]);
    let child = table(&[(4, 1), (6, 3), (9, 2)], vec![saved(false, 8, EOF, 9)]);
    let plan = |replaced: u64| {
        Locks::of_tables([(0, &parent), (2, &child)].into_iter(), &objects, |file| file == replaced).unwrap()
    };
    let record = |descriptor, file, owner, lock| Wanted { descriptor, file, how: How::Record(owner, lock) };
    let whole = |descriptor, file| Wanted { descriptor, file, how: How::Whole(EXCLUSIVE) };
    let all = plan(0);
    assert_eq!(
        all.by_process[&0],
        [
            record(4, 1, Owner::Description, lock(true, 0, 4)),
            whole(4, 1),
            record(0, 2, Owner::Process, lock(true, 7, 7)),
        ]
    );
    assert_eq!(
        all.by_process[&2],
        [
            record(6, 3, Owner::Description, lock(true, 0, 4)),
            whole(6, 3),
            record(9, 2, Owner::Process, lock(false, 8, EOF)),
        ]
    );
    // Nobody asked for locks on what stands in for a file.
    assert_eq!(plan(2).by_process[&0].len(), 2);
    assert_eq!(plan(1).by_process[&0].len(), 1);
    let mut sequence = Sequence::new();
    all.set(&mut sequence, 2, &HashMap::new());
    let lines: Vec<_> = sequence.into_programs().iter().flat_map(Program::lines).collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0]
            .starts_with("setting a file lock, write lock on bytes 0 to 4 of fd 6: syscall 72(0x6, 0x25, ")
    );
    assert!(lines[1].starts_with("setting a file lock, flock of fd 6: syscall 73(0x6, 0x6, "));
}

#[test]
fn locks_of_nonsense_do_not_pass_the_check() {
    let check = |table: &record::DescriptorTable| {
        check_table(&record::Object::with_body(1, "descriptor-table", table), table)
    };
    assert_eq!(check(&table(&[(3, 1)], vec![saved(true, 0, EOF, 3)])), Ok(()));
    for bad in [saved(true, 0, 1, 4), saved(true, 1, 0, 3), saved(true, 0, EOF + 1, 3)] {
        assert_eq!(check(&table(&[(3, 1)], vec![bad])).unwrap_err().code, Code::ImageInconsistent);
    }
    let description = |lock, flock| {
        check_description(&record::OpenFile { locks: vec![lock], flock, ..record::OpenFile::default() })
    };
    assert_eq!(description(saved(true, 0, 0, 0), EXCLUSIVE), Ok(()));
    for (lock, flock) in [(saved(true, 0, 0, 1), 0), (saved(true, 1, 0, 0), 0), (saved(true, 0, 0, 0), 3)] {
        assert!(description(lock, flock).is_err());
    }
}

#[test]
fn a_lock_of_somebody_else_is_named() {
    let dir = Scratch::new("locks-held");
    let path = dir.file("f", "hello");
    let (mine, theirs) = (open(&path, OFlags::RDWR), open(&path, OFlags::RDWR));
    let objects = [object(1, record::OpenFile::default())];
    let table = table(&[(3, 1)], vec![saved(false, 5, 9, 3)]);
    let locks = Locks::of_tables([(0, &table)].into_iter(), &objects, |_| false).unwrap();
    let files = HashMap::from([(1, mine)]);
    assert_eq!(locks.look_for_holders(&files), Ok(()));
    // A read lock does not mind another.
    lock::set(&theirs, Owner::Process, &lock(false, 0, EOF)).unwrap();
    assert_eq!(locks.look_for_holders(&files), Ok(()));
    lock::set(&theirs, Owner::Process, &lock(true, 9, 12)).unwrap();
    let error = locks.look_for_holders(&files).unwrap_err();
    assert_eq!(error.code, Code::FileDiffers);
    let text = error.to_string();
    assert!(text.contains(&format!("read lock on bytes 5 to 9 of {}", path.display())), "{text}");
    assert!(text.contains(&format!("process {} (", std::process::id())), "{text}");
    assert!(text.contains("holds a write lock on bytes 9 to 12"), "{text}");
}

#[test]
fn only_a_lock_that_is_in_the_way_is_taken_for_one() {
    let error =
        |doing: &str, errno| stillpoint_sys::Error::Errno { doing: doing.to_owned(), pid: Some(7), errno };
    let refused_with = |doing: &str, errno| refused(&error(doing, errno)).map(|error| error.code);
    assert_eq!(refused_with("setting a file lock, flock of /f", libc::EAGAIN), Some(Code::FileDiffers));
    assert_eq!(refused_with("setting a file lock, flock of /f", libc::ENOLCK), None);
    assert_eq!(refused_with("locking area 1-2", libc::EAGAIN), None);
}
