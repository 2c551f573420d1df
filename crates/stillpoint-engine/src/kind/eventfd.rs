//! Event counters: eventfd(2).
//!
//! Each call makes one open file description, which nothing can open anew: value and mode are its own. Linux shows
//! both in fdinfo, the mode from 6.5 on. Before that a read would tell, but it would take the value out, and a tool that
//! is killed at that moment could not put it back: then an eventfd is refused.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;

use super::outside::{self, First};
use super::rebuild::Check;
use super::{Capture, Kind, Rebuild, SeenFile, State, SupportRow};
use super::{decode, failed, inconsistent, record, required, state};
use crate::{Code, Result};

/// Event counters.
#[derive(Debug)]
pub struct EventFd;

/// What the kernel's link says of one.
pub(super) const LINK: &[u8] = b"anon_inode:[eventfd]";
/// The line of fdinfo that tells one from another (Linux 5.2): fs/eventfd.c, eventfd_show_fdinfo.
pub(super) const ID: &[u8] = b"eventfd-id";
const COUNT: &[u8] = b"eventfd-count";
const SEMAPHORE: &[u8] = b"eventfd-semaphore";

/// The largest value that a write leaves: one more is what the kernel itself overflows to.
const LARGEST: u64 = u64::MAX - 1;

impl Kind for EventFd {
    fn name(&self) -> &'static str {
        "eventfd"
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "eventfd",
            state: State::Partly,
            detail: "Value, semaphore mode, O_NONBLOCK; shared across dup, fork and tasks. Refused: one that a process \
                     outside the tree holds too, and one that the kernel made overflow.",
            kernel: "6.5",
            operations: &["fs/eventfd.c: eventfd_fops"],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        seen.link == LINK
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        let open = state::open_file_with(&seen, &[COUNT, ID, SEMAPHORE])?;
        let refuse = |code, cause: String| Err(seen.refuse(code, cause).into());
        let value = seen.info.value(COUNT).and_then(|text| number(text, 16));
        let (Some(value), Some(id)) = (value, seen.info.value(ID)) else {
            return refuse(Code::Unknown, "its fdinfo does not say its value".to_owned());
        };
        let semaphore = match seen.info.value(SEMAPHORE) {
            Some(b"0") => false,
            Some(b"1") => true,
            Some(_) => return refuse(Code::Unknown, "its fdinfo shows a mode that is not known".to_owned()),
            None => {
                let cause = "whether it is a semaphore (EFD_SEMAPHORE) is shown from Linux 6.5 on";
                return refuse(Code::UnsupportedFileState, cause.to_owned());
            }
        };
        if value > LARGEST {
            return refuse(Code::UnsupportedFileState, "the kernel has made its value overflow".to_owned());
        }
        let first = First {
            task: seen.task.name.clone(),
            pid: seen.task.pid,
            number: seen.number,
            object: seen.object(),
        };
        ctx.eventfds.insert(id.to_vec(), first);
        Ok(ctx.objects.add(self.name(), &record::EventFd { open: Some(open), value, semaphore }))
    }

    fn finish(&self, ctx: &mut Capture<'_>) -> Result<()> {
        let met: HashMap<Vec<u8>, First> = std::mem::take(&mut ctx.eventfds);
        if met.is_empty() {
            return Ok(());
        }
        let holder = outside::eventfd_holder(|id| met.contains_key(id), ctx.tasks)?;
        match holder.and_then(|(id, holder)| Some((met.get(&id)?, holder))) {
            Some((first, holder)) => {
                Err(outside::refusal(first, "it is an event counter that", Some(&holder)))
            }
            None => Ok(()),
        }
    }

    fn check(&self, object: &record::Object, _: &Check<'_>) -> Result<()> {
        read(object).map(drop)
    }

    fn rebuild(&self, object: &record::Object, _: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let (open, body) = read(object)?;
        let mode = if body.semaphore { EventfdFlags::SEMAPHORE } else { EventfdFlags::empty() };
        // Not to wait, should the value not fit; the flag is set as it was below.
        let fd = eventfd(0, mode | EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("making an eventfd", errno))?;
        if body.value > 0 {
            rustix::io::retry_on_intr(|| rustix::io::write(&fd, &body.value.to_ne_bytes()))
                .map_err(|errno| failed("setting the value of an eventfd", errno))?;
        }
        state::change_flags(&fd, state::open_flags(&open)?)?;
        state::settle(fd, &open, false).map(Some)
    }
}

/// A record that makes sense.
fn read(object: &record::Object) -> Result<(record::OpenFile, record::EventFd)> {
    let mut body: record::EventFd = decode(object)?;
    let open = required(object, body.open.take(), "open file")?;
    // What eventfd2(2) and F_SETFL can give.
    let flags = state::open_flags(&open)?.difference(OFlags::NONBLOCK | OFlags::APPEND | OFlags::NOATIME);
    if body.value > LARGEST || flags != OFlags::RDWR || open.position != 0 {
        return Err(inconsistent(object, "it is nothing that an eventfd can be"));
    }
    Ok((open, body))
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Holder, capture, capture_own, serial, single};

    fn value(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn value_mode_and_flags_come_back() {
        let _serial = serial();
        for (value_set, flags, read) in [
            (0, EventfdFlags::NONBLOCK, None),
            (5, EventfdFlags::empty(), Some(5)),
            (LARGEST, EventfdFlags::NONBLOCK, Some(LARGEST)),
            (5, EventfdFlags::SEMAPHORE, Some(1)),
        ] {
            let fd = eventfd(0, flags | EventfdFlags::CLOEXEC).unwrap();
            rustix::io::write(&fd, &u64::to_ne_bytes(value_set)).unwrap();
            let again = single(capture_own(&[&fd]).unwrap().rebuild_here());
            assert_eq!(state::status_flags(&again).unwrap(), state::status_flags(&fd).unwrap());
            match read {
                Some(read) => assert_eq!((value(&again), value(&fd)), (read, read)),
                None => {
                    assert_eq!(rustix::io::read(&again, &mut [0; 8]), Err(rustix::io::Errno::AGAIN));
                }
            }
        }
    }

    #[test]
    fn one_that_an_outsider_holds_is_refused() {
        let _serial = serial();
        let fd = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        let (inside, outside) = (Holder::with(&[&fd]), Holder::with(&[&fd]));
        drop(fd);
        let error = capture(&[inside.task()], &[]).unwrap_err();
        assert_eq!(error.code, Code::OutsideTree);
        assert!(error.cause.unwrap().contains(&format!("process {} ", outside.pid())));
        capture(&[inside.task(), outside.task()], &[]).unwrap();
    }

    #[test]
    fn records_that_no_eventfd_has_are_refused() {
        let open = record::OpenFile { flags: 2, ..record::OpenFile::default() };
        let good = record::EventFd { open: Some(open.clone()), value: 3, semaphore: false };
        let object = |body: &record::EventFd| record::Object::with_body(1, "eventfd", body);
        assert!(read(&object(&good)).is_ok());
        let with = |flags| Some(record::OpenFile { flags, ..open.clone() });
        for bad in [
            record::EventFd { value: u64::MAX, ..good.clone() },
            record::EventFd { open: None, ..good.clone() },
            record::EventFd { open: with(0), ..good.clone() },
            record::EventFd { open: with(0o40002), ..good.clone() },
            record::EventFd { open: Some(record::OpenFile { position: 1, ..open.clone() }), ..good.clone() },
        ] {
            assert!(read(&object(&bad)).is_err(), "{bad:?}");
        }
    }
}
