//! File systems whose files keep their contents and names from one open to the next.
//!
//! A file system that is not listed is refused: files of proc or sysfs are made up by the kernel at each read, and
//! of an unknown one nobody has thought.

use super::SeenFile;
use crate::{Code, Error};

/// Types, as `/proc/PID/mountinfo` names them.
const ORDINARY: &[&str] = &[
    "9p", "bcachefs", "btrfs", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660",
    "jfs", "nfs", "nfs4", "overlay", "ramfs", "rootfs", "squashfs", "tmpfs", "udf", "vfat", "virtiofs",
    "xfs", "zfs",
];

/// Types whose files the kernel makes up, with what an error says.
const MADE_UP: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// Whether files of that file system can be saved by name.
pub(super) fn is_ordinary(filesystem: &str) -> bool {
    ORDINARY.contains(&filesystem)
}

/// Refuses a file whose file system is not known to keep its files.
pub(super) fn require_ordinary(seen: &SeenFile<'_>) -> crate::Result<()> {
    let refusal = |cause: String| -> crate::Result<()> {
        Err(Box::<Error>::from(
            seen.refuse(Code::UnsupportedFile, cause).remedy("close it before the checkpoint"),
        ))
    };
    match seen.filesystem.as_deref() {
        Some(name) if is_ordinary(name) => Ok(()),
        Some(name) if MADE_UP.contains(&name) => refusal(format!(
            "it is a file of {name}, whose contents the kernel makes up when it is read; not supported yet"
        )),
        Some("hugetlbfs") => refusal("files of hugetlbfs are not supported yet".to_owned()),
        Some(name) => {
            refusal(format!("whether files of a file system of type {name} can be saved is not known"))
        }
        None => refusal("its file system is not mounted anywhere that this process can see".to_owned()),
    }
}
