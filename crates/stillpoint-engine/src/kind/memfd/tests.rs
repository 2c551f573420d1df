use rustix::fs::{SeekFrom, fcntl_get_seals, seek};
use rustix::io::{pread, pwrite};

use super::*;
use crate::kind::Place;
use crate::kind::testing::{Holder, capture, capture_own, link, serial, single};

fn sealable(name: &str) -> OwnedFd {
    memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap()
}

#[test]
fn contents_name_position_and_seals_come_back() {
    let _serial = serial();
    let file = sealable("a name/with (deleted)");
    ftruncate(&file, 10 << 20).unwrap();
    pwrite(&file, b"island", 5 << 20).unwrap();
    seek(&file, SeekFrom::Start(77)).unwrap();
    fchmod(&file, Mode::from_raw_mode(0o640)).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::WRITE).unwrap();
    let captured = capture_own(&[&file]).unwrap();
    let again = single(captured.rebuild_here());
    assert_eq!(link(&again), link(&file));
    let (a, b) = (fstat(&again).unwrap(), fstat(&file).unwrap());
    assert_eq!((a.st_size, a.st_mode, a.st_mtime_nsec), (b.st_size, b.st_mode, b.st_mtime_nsec));
    assert!(a.st_blocks < 100, "holes are filled");
    let mut bytes = [0; 6];
    pread(&again, &mut bytes, 5 << 20).unwrap();
    assert_eq!(&bytes, b"island");
    assert_eq!(seek(&again, SeekFrom::Current(0)).unwrap(), 77);
    assert_eq!(fcntl_get_seals(&again).unwrap(), SealFlags::SHRINK | SealFlags::WRITE);
    assert_eq!(pwrite(&again, b"x", 0), Err(Errno::PERM));
}

#[test]
fn late_seals_wait() {
    let _serial = serial();
    let file = sealable("late");
    fcntl_add_seals(&file, SealFlags::FUTURE_WRITE | SealFlags::SEAL).unwrap();
    let captured = capture_own(&[&file]).unwrap();
    let rebuilt = captured.rebuild_here();
    let inode = rebuilt.inodes.values().next().unwrap();
    assert_eq!(fcntl_get_seals(&inode.writer).unwrap(), SealFlags::empty());
    inode.seal().unwrap();
    assert_eq!(fcntl_get_seals(&inode.writer).unwrap(), SealFlags::FUTURE_WRITE | SealFlags::SEAL);
}

#[test]
fn one_that_an_outsider_holds_is_refused() {
    let _serial = serial();
    let file = sealable("shared");
    let (inside, outside) = (Holder::with(&[&file]), Holder::with(&[&file]));
    drop(file);
    let error = capture(&[inside.task()], &[]).unwrap_err();
    assert_eq!(error.code, Code::OutsideTree);
    assert!(error.cause.unwrap().starts_with("it is a memfd that process "));
    capture(&[inside.task(), outside.task()], &[]).unwrap();
}

#[test]
fn records_that_no_memfd_has_are_refused() {
    let good = record::Memfd { name: b"x".to_vec(), size: 4096, mode: 0o777, ..record::Memfd::default() };
    let object = |body: &record::Memfd| record::Object::with_body(1, INODE, body);
    assert!(checked(&object(&good)).is_ok());
    for bad in [
        record::Memfd { name: vec![b'x'; 250], ..good.clone() },
        record::Memfd { name: b"a\0b".to_vec(), ..good.clone() },
        record::Memfd { size: 1 << 63, ..good.clone() },
        record::Memfd { mode: 0o100_777, ..good.clone() },
        record::Memfd { seals: 0x40, ..good.clone() },
        record::Memfd { huge_page_size: 3 << 20, ..good.clone() },
        record::Memfd { huge_page_size: 2 << 20, ..good.clone() },
        record::Memfd { mtime_nsec: 1_000_000_000, ..good.clone() },
    ] {
        assert!(checked(&object(&bad)).is_err(), "{bad:?}");
    }
    let captured = capture_own(&[&sealable("short")]).unwrap();
    let mut longer = captured;
    longer.contents.push(crate::kind::Content {
        object: longer.only(INODE).id,
        source: Source::Bytes(b"more".to_vec()),
    });
    assert_eq!(longer.rebuild(&Place::default()).unwrap_err().code, Code::ImageInconsistent);
}
