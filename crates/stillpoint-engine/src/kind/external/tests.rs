use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::write;

use std::collections::HashMap;

use super::{StandIn, replacements};
use crate::kind::testing::{Captured, Holder, Scratch, capture, open, serial};
use crate::kind::{Place, record};
use crate::{Code, External, Replacement};

fn external(fd: &OwnedFd, replacement: Replacement) -> External {
    External { pid: None, fd: u32::try_from(fd.as_raw_fd()).unwrap(), replacement }
}

/// A socket that a child holds under the returned number.
fn held() -> (Holder, OwnedFd) {
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = OwnedFd::from(socket);
    (Holder::with(&[&socket]), socket)
}

/// A descriptor as a parent process would have given it.
fn inherited(path: &std::path::Path, flags: OFlags) -> OwnedFd {
    rustix::io::dup(open(path, flags)).unwrap()
}

type Replaced = (HashMap<u64, StandIn>, record::DescriptorTable, Vec<record::Object>);

/// What externals of a restore make of the table of the only task, which has pid 5.
fn replaced(captured: &Captured, externals: &[External]) -> crate::Result<Replaced> {
    let mut objects = captured.objects.clone();
    let table = objects.iter().find(|object| object.id == captured.tables[0].1).unwrap();
    let mut table: record::DescriptorTable = crate::kind::decode(table).unwrap();
    let replacements = replacements(&mut [(5, &mut table)], 5, &mut objects, externals)?;
    Ok((replacements, table, objects))
}

#[test]
fn one_open_file_description_may_get_several() {
    let _serial = serial();
    let dir = Scratch::new("external-several");
    let (_, socket) = held();
    // What a shell gives its jobs: one description under three numbers, or more.
    let (second, third) = (rustix::io::dup(&socket).unwrap(), rustix::io::dup(&socket).unwrap());
    let holder = Holder::with(&[&socket, &second, &third]);
    let path = |name| Replacement::Path(dir.path(name));
    let asked = [external(&socket, path("a")), external(&second, path("b"))];
    let captured = capture(&[holder.task()], &asked).unwrap();
    let id = |fd: &OwnedFd| captured.file(holder.pid(), fd.as_raw_fd());
    assert_ne!(id(&socket), id(&second));
    assert_eq!(id(&socket), id(&third), "the first, where none is named");
    assert_eq!(captured.choices.len(), 2);

    let one = capture(&[holder.task()], &[external(&socket, path("a"))]).unwrap();
    let (replacements, table, objects) = replaced(&one, &asked).unwrap();
    let id = |fd: &OwnedFd| {
        let number = u32::try_from(fd.as_raw_fd()).unwrap();
        table.descriptors.iter().find(|entry| entry.number == number).unwrap().file
    };
    assert_ne!(id(&socket), id(&second));
    assert_eq!(id(&socket), id(&third));
    let rebuilt = Captured { objects, ..one }.rebuild(&Place { replacements, ..Place::default() }).unwrap();
    write(&rebuilt.files[&id(&second)], b"second").unwrap();
    assert_eq!(std::fs::read(dir.path("b")).unwrap(), b"second");
}

#[test]
fn the_same_file_is_shared_and_kept() {
    let _serial = serial();
    let dir = Scratch::new("external-shared");
    let (_, socket) = held();
    let (_, other) = held();
    let holder = Holder::with(&[&socket, &other]);
    let log = dir.file("log", "before ");
    let asked = [&socket, &other].map(|fd| external(fd, Replacement::Path(log.clone())));
    let captured = capture(&[holder.task()], &asked).unwrap();
    let rebuilt = captured.rebuild_here();
    for (fd, text) in [(&socket, "one "), (&other, "two "), (&socket, "three")] {
        write(&rebuilt.files[&captured.file(holder.pid(), fd.as_raw_fd())], text.as_bytes()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "before one two three");
}

#[test]
fn a_file_that_was_made_goes_with_a_failure() {
    let _serial = serial();
    let dir = Scratch::new("external-undo");
    let (holder, socket) = held();
    let log = dir.path("log");
    let captured = capture(&[holder.task()], &[external(&socket, Replacement::Path(log.clone()))]).unwrap();
    let rebuilt = captured.rebuild_here();
    assert!(log.exists());
    drop(rebuilt);
    assert!(!log.exists());
    let mut rebuilt = captured.rebuild_here();
    rebuilt.created.drain(..).for_each(super::Created::keep);
    drop(rebuilt);
    assert!(log.exists());
}

#[test]
fn what_the_image_names_is_below_the_root() {
    let _serial = serial();
    let dir = Scratch::new("external-root");
    let (holder, socket) = held();
    std::os::unix::fs::symlink("/../..", dir.path("out")).unwrap();
    let name = Replacement::Path("/out/log".into());
    let mut captured = capture(&[holder.task()], &[external(&socket, name)]).unwrap();
    captured.objects.retain(|object| object.kind == "external");
    let place = Place::below(&dir.path("")).unwrap();
    assert_eq!(captured.check(&place), []);
    let rebuilt = captured.rebuild(&place).unwrap();
    assert!(dir.path("log").exists());
    drop(rebuilt);
    assert!(!dir.path("log").exists());
}

#[test]
fn what_is_not_there_is_a_usage_error() {
    let _serial = serial();
    let (holder, socket) = held();
    let path = Replacement::Path("/dev/null".into());
    for wrong in [
        External { pid: Some(1), ..external(&socket, path.clone()) },
        External { fd: 999, ..external(&socket, path.clone()) },
    ] {
        assert_eq!(capture(&[holder.task()], &[wrong]).unwrap_err().code, Code::Usage);
    }
    let twice = [external(&socket, path.clone()), external(&socket, path.clone())];
    assert_eq!(capture(&[holder.task()], &twice).unwrap_err().code, Code::Usage);

    let captured = capture(&[holder.task()], &[external(&socket, path.clone())]).unwrap();
    let wrong = External { fd: 999, ..external(&socket, path.clone()) };
    assert_eq!(replaced(&captured, &[wrong]).unwrap_err().code, Code::Usage);
    let wrong = External { pid: Some(6), ..external(&socket, path.clone()) };
    assert_eq!(replaced(&captured, &[wrong]).unwrap_err().code, Code::Usage);
    let twice = [external(&socket, path.clone()), External { pid: Some(5), ..external(&socket, path) }];
    assert_eq!(replaced(&captured, &twice).unwrap_err().code, Code::Usage);
}

#[test]
fn a_file_or_a_descriptor_takes_its_place() {
    let _serial = serial();
    let dir = Scratch::new("external");
    let (holder, socket) = held();
    assert_eq!(capture(&[holder.task()], &[]).unwrap_err().code, Code::UnsupportedFile);
    let log = dir.path("log");
    let captured = capture(&[holder.task()], &[external(&socket, Replacement::Path(log.clone()))]).unwrap();
    let file = captured.file(holder.pid(), socket.as_raw_fd());
    write(&captured.rebuild_here().files[&file], b"made").unwrap();
    assert_eq!(std::fs::read(&log).unwrap(), b"made");

    let replace = |replacement| {
        let externals = [external(&socket, replacement)];
        let replacements = replaced(&captured, &externals).unwrap().0;
        Place { replacements, ..Place::default() }
    };
    let other = inherited(&dir.path("other"), OFlags::RDWR | OFlags::CREATE);
    let place = replace(Replacement::Descriptor(u32::try_from(other.as_raw_fd()).unwrap()));
    assert_eq!(captured.check(&place), []);
    write(&captured.rebuild(&place).unwrap().files[&file], b"taken").unwrap();
    assert_eq!(std::fs::read(dir.path("other")).unwrap(), b"taken");

    let reader = inherited(&log, OFlags::RDONLY);
    let own = open(&log, OFlags::RDWR);
    let wrong = [
        Replacement::Descriptor(u32::try_from(reader.as_raw_fd()).unwrap()),
        Replacement::Descriptor(u32::try_from(own.as_raw_fd()).unwrap()),
        Replacement::Descriptor(9999),
        Replacement::Path(dir.path("no/such")),
    ];
    for wrong in wrong {
        let place = replace(wrong);
        assert_eq!(captured.check(&place)[0].code, Code::Usage);
        assert_eq!(captured.rebuild(&place).unwrap_err().code, Code::Usage);
    }
}

#[test]
fn a_path_that_looks_like_a_descriptor_stays_a_path() {
    let _serial = serial();
    let (holder, socket) = held();
    let captured = capture(&[holder.task()], &[external(&socket, Replacement::Path("fd:3".into()))]).unwrap();
    let body: record::External = crate::kind::decode(captured.only("external")).unwrap();
    assert_eq!(super::parse(&body.replacement), Replacement::Path("./fd:3".into()));
}
