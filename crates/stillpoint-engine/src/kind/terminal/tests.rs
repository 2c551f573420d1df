use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{OFlags, fstat};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use stillpoint_sys::file;

use crate::Code;
use crate::kind::testing::{capture_own, capture_own_with, link, open, serial, single};
use crate::kind::{Place, capture::Terminals, state};

/// Both sides of a new pseudo-terminal; nothing where there are none.
fn pty() -> Option<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).ok()?;
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = open(Path::new(name.to_str().unwrap()), OFlags::RDWR | OFlags::NOCTTY);
    Some((master, slave))
}

fn started_from(terminal: &OwnedFd) -> Terminals {
    Terminals { outside: [fstat(terminal).unwrap().st_rdev].into(), ..Terminals::default() }
}

#[test]
fn masters_and_other_terminals_are_refused() {
    let _serial = serial();
    let Some((master, slave)) = pty() else { return };
    let error = capture_own(&[&master]).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedFile);
    assert!(error.cause.unwrap().contains("master"));
    let error = capture_own_with(&[&slave], |ctx| ctx.set_terminals(Terminals::default())).unwrap_err();
    assert_eq!(error.code, Code::OutsideTree);
    assert!(error.remedy.unwrap().contains("--external"));
    let inside = Terminals { inside: [fstat(&slave).unwrap().st_rdev].into(), ..started_from(&slave) };
    let error = capture_own_with(&[&slave], |ctx| ctx.set_terminals(inside)).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedFileState);
    drop(master);
    let error = capture_own_with(&[&slave], |ctx| ctx.set_terminals(started_from(&slave))).unwrap_err();
    assert!(error.cause.unwrap().contains("hung up"));
}

#[test]
fn the_terminal_of_the_restore_takes_its_place() {
    let _serial = serial();
    let Some((_master, slave)) = pty() else { return };
    let append = open(
        Path::new(std::str::from_utf8(&link(&slave)).unwrap()),
        OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY,
    );
    let mut settings = file::termios(&slave).unwrap();
    settings[0] ^= 1; // IGNBRK
    file::set_termios(&slave, &settings).unwrap();
    let captured = capture_own_with(&[&append], |ctx| ctx.set_terminals(started_from(&slave))).unwrap();

    let error = captured.rebuild(&Place::default()).unwrap_err();
    assert_eq!(error.code, Code::NoTerminal);
    assert!(error.remedy.is_some());
    assert_eq!(captured.check(&Place::default()), [*error]);

    let (_other_master, other) = pty().unwrap();
    let place = Place {
        terminal: Some(open(
            Path::new(std::str::from_utf8(&link(&other)).unwrap()),
            OFlags::RDWR | OFlags::NOCTTY,
        )),
        ..Place::default()
    };
    assert_eq!(captured.check(&place), []);
    let before = file::termios(&other).unwrap();
    let mut rebuilt = captured.rebuild(&place).unwrap();
    assert_eq!(file::termios(&other).unwrap(), before, "set before the commit");
    let terminal = rebuilt.terminal.take().unwrap();
    terminal.apply().unwrap();
    assert_eq!(file::termios(&other).unwrap(), settings);
    terminal.undo().unwrap();
    assert_eq!(file::termios(&other).unwrap(), before);
    let fd = single(rebuilt);
    assert_eq!(link(&fd), link(&other));
    assert_eq!(state::status_flags(&fd).unwrap(), state::status_flags(&append).unwrap());
}
