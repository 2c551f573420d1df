use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::write;

use super::replacements;
use crate::kind::testing::{Holder, Scratch, capture, open, serial};
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
    let tables = [(5, captured.tables[0].1)];
    let wrong = External { fd: 999, ..external(&socket, path.clone()) };
    assert_eq!(replacements(&tables, 5, &captured.objects, &[wrong]).unwrap_err().code, Code::Usage);
    let wrong = External { pid: Some(6), ..external(&socket, path) };
    assert_eq!(replacements(&tables, 5, &captured.objects, &[wrong]).unwrap_err().code, Code::Usage);
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

    let tables = [(5, captured.tables[0].1)];
    let replace = |replacement| {
        let externals = [external(&socket, replacement)];
        let replacements = replacements(&tables, 5, &captured.objects, &externals).unwrap();
        Place { replacements, ..Place::default() }
    };
    let other = open(&dir.path("other"), OFlags::RDWR | OFlags::CREATE);
    let place = replace(Replacement::Descriptor(u32::try_from(other.as_raw_fd()).unwrap()));
    assert_eq!(captured.check(&place), []);
    write(&captured.rebuild(&place).unwrap().files[&file], b"taken").unwrap();
    assert_eq!(std::fs::read(dir.path("other")).unwrap(), b"taken");

    let reader = open(&log, OFlags::RDONLY);
    let wrong = [
        Replacement::Descriptor(u32::try_from(reader.as_raw_fd()).unwrap()),
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
