//! The memory devices that hold no state: `/dev/null`, `zero`, `full`, `random`, `urandom`.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, major, minor};

use super::identity;
use super::rebuild::Check;
use super::{Capture, Kind, Rebuild, SeenFile, State, SupportRow, decode, record, regular, required, state};
use crate::{Code, Result};

/// Memory devices.
#[derive(Debug)]
pub struct Device;

/// Major 1 of Documentation/admin-guide/devices.txt.
const MEMORY: u32 = 1;
/// null, zero, full, random, urandom.
const STATELESS: &[u32] = &[3, 5, 7, 8, 9];

/// Devices that are refused, by name where we have one.
pub(super) fn device_class(rdev: u64, block: bool) -> &'static str {
    if block {
        return "a block device";
    }
    match (major(rdev), minor(rdev)) {
        (1, 1) => "/dev/mem",
        (1, 4) => "/dev/port",
        (1, 11) => "the kernel's log (/dev/kmsg)",
        (5, 2) => "the multiplexer of pseudo-terminals (a master side)",
        (5, 1) => "the system console",
        (10, 200) => "a network tunnel (/dev/net/tun)",
        (10, 229) => "the FUSE device",
        (10, 232) => "/dev/kvm",
        (13, _) => "an input device",
        (14 | 116, _) => "a sound device",
        (29, _) => "a frame buffer",
        (195, _) | (226, _) => "a GPU",
        (231, _) => "an InfiniBand device",
        (128..=135, _) => "the master side of a pseudo-terminal",
        (4 | 136..=143, _) => "a terminal",
        _ => "a character device",
    }
}

impl Kind for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn support(&self) -> &'static [SupportRow] {
        &[SupportRow {
            what: "/dev/null, zero, full, random, urandom",
            state: State::Saved,
            detail: "Found again by path and device number.",
            kernel: "5.6",
            operations: &[
                "drivers/char/mem.c: null_fops",
                "drivers/char/mem.c: zero_fops",
                "drivers/char/mem.c: full_fops",
                "drivers/char/random.c: random_fops",
                "drivers/char/random.c: urandom_fops",
            ],
        }]
    }

    fn recognise(&self, seen: &SeenFile<'_>) -> bool {
        let rdev = seen.stat.st_rdev;
        seen.file_type() == FileType::CharacterDevice
            && major(rdev) == MEMORY
            && STATELESS.contains(&minor(rdev))
    }

    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64> {
        let open = state::open_file(&seen)?;
        let file = regular::named(&seen, ctx)?;
        if open.position != 0 {
            let cause = format!("it is at position {}, where such a device has none", open.position);
            return Err(Box::new(seen.refuse(Code::Unknown, cause)));
        }
        Ok(ctx.objects.add(self.name(), &record::Device { open: Some(open), file: Some(file) }))
    }

    fn check(&self, object: &record::Object, at: &Check<'_>) -> Result<()> {
        let body: record::Device = decode(object)?;
        state::open_flags(&required(object, body.open, "open file")?)?;
        identity::check_matching(at.place, &trusted(object, body.file)?)
    }

    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>> {
        let body: record::Device = decode(object)?;
        let open = required(object, body.open, "open file")?;
        let fd = identity::open_matching(ctx.place, &trusted(object, body.file)?, state::open_flags(&open)?)?;
        state::settle(fd, &open, false).map(Some)
    }
}

/// Opening a device can have effects, so an image may only name those that have none.
fn trusted(object: &record::Object, file: Option<record::FileIdentity>) -> Result<record::FileIdentity> {
    let file = required(object, file, "file")?;
    let character = FileType::from_raw_mode(file.mode) == FileType::CharacterDevice;
    if character && major(file.rdev) == MEMORY && STATELESS.contains(&minor(file.rdev)) {
        return Ok(file);
    }
    Err(super::inconsistent(object, format!("it names device {}", identity::device_number(file.rdev))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{capture_own, link, open, serial, single};
    use crate::kind::{Place, record::FileIdentity};
    use rustix::fs::OFlags;

    #[test]
    fn stateless_devices_come_back() {
        let _serial = serial();
        for name in ["null", "zero", "full", "random", "urandom"] {
            let file = open(format!("/dev/{name}").as_ref(), OFlags::RDWR);
            rustix::io::write(&file, b"x").ok();
            let again = single(capture_own(&[&file]).unwrap().rebuild_here());
            assert_eq!(link(&again), link(&file));
        }
    }

    #[test]
    fn an_image_cannot_make_us_open_another_device() {
        let _serial = serial();
        let mut captured = capture_own(&[&open("/dev/null".as_ref(), OFlags::RDWR)]).unwrap();
        let mut body: record::Device = decode(captured.only("device")).unwrap();
        let file: &mut FileIdentity = body.file.as_mut().unwrap();
        file.path = b"/dev/zero".to_vec();
        captured.objects = vec![record::Object::with_body(1, "device", &body)];
        assert_eq!(captured.rebuild(&Place::default()).unwrap_err().code, Code::FileDiffers);
        body.file.as_mut().unwrap().rdev = rustix::fs::makedev(10, 235);
        captured.objects = vec![record::Object::with_body(1, "device", &body)];
        assert_eq!(captured.rebuild(&Place::default()).unwrap_err().code, Code::ImageInconsistent);
    }
}
