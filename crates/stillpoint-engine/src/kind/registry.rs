//! The registry of kinds, the refusal of everything else, and the support matrix.

use rustix::fs::{FileType, OFlags, major, minor};

use super::identity::{device_number, show, type_name};
use super::support::{SupportRow, table};
use super::{
    Kind, SeenFile, deleted, device, directory, eventfd, external, fifo, memfd, path, pipe, regular, terminal,
};
use crate::{Code, Error};

/// Every kind of open file. Adding one is adding a line here.
pub const KINDS: &[&dyn Kind] = &[
    &regular::Regular,
    &deleted::Deleted,
    &directory::Directory,
    &pipe::Pipe,
    &fifo::Fifo,
    &eventfd::EventFd,
    &memfd::Memfd,
    &path::Path,
    &device::Device,
    &terminal::Terminal,
    &external::Replaced,
];

/// What is known and refused, as rows of the support matrix.
const REFUSED: &[SupportRow] = &[
    SupportRow::refused("sockets", "of every family").operations(&["net/socket.c: socket_file_ops"]),
    SupportRow::refused("epoll", "").operations(&["fs/eventpoll.c: eventpoll_fops"]),
    SupportRow::refused("timerfd", "").operations(&["fs/timerfd.c: timerfd_fops"]),
    SupportRow::refused("signalfd", "").operations(&["fs/signalfd.c: signalfd_fops"]),
    SupportRow::refused("inotify, fanotify, dnotify", "").operations(&[
        "fs/notify/inotify/inotify_user.c: inotify_fops",
        "fs/notify/fanotify/fanotify_user.c: fanotify_fops",
    ]),
    SupportRow::refused("pidfd", "")
        .operations(&["fs/pidfs.c: pidfs_file_operations", "kernel/fork.c: pidfd_fops"]),
    SupportRow::refused("secretmem", "the kernel shows its contents to nobody")
        .operations(&["mm/secretmem.c: secretmem_fops"]),
    SupportRow::refused("io_uring", "").operations(&["io_uring/io_uring.c: io_uring_fops"]),
    SupportRow::refused("userfaultfd", "").operations(&["fs/userfaultfd.c: userfaultfd_fops"]),
    SupportRow::refused("performance counters, BPF objects", "")
        .operations(&["kernel/events/core.c: perf_fops", "kernel/bpf/syscall.c: bpf_map_fops"]),
    SupportRow::refused("namespaces held open", "").operations(&["fs/nsfs.c: ns_file_operations"]),
    SupportRow::refused("pseudo-terminal masters, other terminals, other devices", "by device number"),
    SupportRow::refused("SIGIO owners, O_ASYNC", "not yet"),
    SupportRow::refused("files of proc, sysfs, cgroup and their like", "the kernel makes up their contents"),
    SupportRow::refused("deleted directories and FIFOs", "not yet"),
];

/// The kind that stands for a file.
pub(super) fn recognise(seen: &SeenFile<'_>) -> Option<&'static dyn Kind> {
    candidates(seen).next()
}

/// The kinds that say that a file is theirs. What was opened with O_PATH is of a kind of its own, whatever it names.
pub(super) fn candidates(seen: &SeenFile<'_>) -> impl Iterator<Item = &'static dyn Kind> {
    let path = seen.flags().contains(OFlags::PATH);
    KINDS.iter().copied().filter(move |kind| (kind.name() == path::NAME) == path && kind.recognise(seen))
}

/// The kind that an object of an image belongs to; none for objects that are no open files.
#[must_use]
pub fn kind_of(object: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == object || kind.parts().contains(&object))
}

/// Whether objects of a kind are open file descriptions.
#[must_use]
pub fn describes_open_file(object: &str) -> bool {
    KINDS.iter().any(|kind| kind.name() == object)
}

/// The refusal of a file that no kind recognises. It says what it is as far as that can be told.
pub(super) fn refusal(seen: &SeenFile<'_>) -> Error {
    let (what, known) = describe(seen);
    if known {
        let cause = format!("it is {what}, which is not supported yet");
        return seen.refuse(Code::UnsupportedFile, cause).remedy("close it before the checkpoint");
    }
    let filesystem = seen.filesystem.as_deref().unwrap_or("a file system that is not mounted here");
    seen.refuse(
        Code::Unknown,
        format!(
            "it is of no kind that is known: {what}, mode {:#o}, device {}, on {filesystem}",
            seen.stat.st_mode,
            device_number(seen.stat.st_rdev)
        ),
    )
}

/// What a file is, and whether we know that.
fn describe(seen: &SeenFile<'_>) -> (String, bool) {
    let link = &seen.link[..];
    let known = |what: &str| (what.to_owned(), true);
    if let Some(name) = link.strip_prefix(b"anon_inode:") {
        let name = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name);
        return match name {
            b"eventpoll" => known("an epoll instance"),
            b"timerfd" => known("a timerfd"),
            b"signalfd" => known("a signalfd"),
            b"inotify" | b"inotify_fd" => known("an inotify instance"),
            b"fanotify" => known("a fanotify group"),
            b"pidfd" => known("a pidfd"),
            b"io_uring" => known("an io_uring instance"),
            b"userfaultfd" => known("a userfaultfd"),
            b"perf_event" => known("a performance counter"),
            b"seccomp notify" => known("a seccomp listener"),
            b"landlock-ruleset" => known("a Landlock rule set"),
            b"fscontext" => known("a file system context (fsopen)"),
            name if name.starts_with(b"bpf") || name.starts_with(b"btf") => known("a BPF object"),
            name if name.starts_with(b"kvm") => known("a virtual machine (KVM)"),
            name => (format!("an anonymous file of the kernel ({})", show(name)), false),
        };
    }
    match seen.file_type() {
        FileType::Socket => known("a socket"),
        FileType::RegularFile | FileType::Directory if seen.filesystem.is_none() => {
            if link.starts_with(b"/secretmem") {
                known("secret memory")
            } else if link.starts_with(b"/dev/zero (deleted)") {
                known("a shared mapping of /dev/zero")
            } else if link.starts_with(b"/SYSV") {
                known("System V shared memory")
            } else if [
                &b"net:["[..],
                b"mnt:[",
                b"pid:[",
                b"uts:[",
                b"ipc:[",
                b"user:[",
                b"time:[",
                b"cgroup:[",
            ]
            .iter()
            .any(|prefix| link.starts_with(prefix))
            {
                known("a namespace")
            } else if link.starts_with(b"pidfd:") {
                known("a pidfd")
            } else {
                ("a file whose file system is not mounted where this process sees it".to_owned(), false)
            }
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
            let block = kind == FileType::BlockDevice;
            let class = device::device_class(seen.stat.st_rdev, block);
            (format!("{class}, device {}:{}", major(seen.stat.st_rdev), minor(seen.stat.st_rdev)), true)
        }
        kind => (format!("a {}", type_name(kind)), false),
    }
}

/// The support matrix, generated from the code: `SUPPORT.md`.
#[must_use]
pub fn support_markdown() -> String {
    let files: Vec<SupportRow> = KINDS
        .iter()
        .flat_map(|kind| kind.support())
        .chain(super::locks::SUPPORT)
        .chain(REFUSED)
        .copied()
        .collect();
    format!(
        "<!-- Generated by `UPDATE_SUPPORT=1 cargo test -p stillpoint-engine support`. Do not edit. -->\n\
         # What is saved, and what is refused\n\n\
         A task is saved whole or refused with a reason. What is not listed here as saved is refused: a file that no \
         kind recognises, a memory area or flag that is not known, a state that the kernel shows and this version \
         does not understand.\n\n\
         *saved*: saved and rebuilt. *partly*: saved within the limits that are named, and refused beyond them. \
         *refused*: refused by name. *kernel*: the oldest that it works on.\n\n\
         ## Open files\n\n{}\n## Tasks and threads\n\n{}\n## Memory\n\n{}",
        table(&files),
        table(crate::task::SUPPORT),
        table(crate::memory::SUPPORT),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn support_md_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../SUPPORT.md");
        let want = support_markdown();
        if std::env::var_os("UPDATE_SUPPORT").is_some() {
            std::fs::write(&path, &want).unwrap();
        }
        let have = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            have == want,
            "SUPPORT.md is out of date: UPDATE_SUPPORT=1 cargo test -p stillpoint-engine support"
        );
    }

    #[test]
    fn names_of_objects_are_unique() {
        let mut names: Vec<_> = KINDS
            .iter()
            .flat_map(|kind| std::iter::once(kind.name()).chain(kind.parts().iter().copied()))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(kind_of("pipe").is_some_and(|kind| kind.name() == "pipe-end"));
        assert!(kind_of("mm").is_none());
        assert!(describes_open_file("pipe-end") && !describes_open_file("pipe"));
    }
}
