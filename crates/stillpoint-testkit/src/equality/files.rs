//! Descriptors, and which of them share an open file description.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::freeze::Frozen;
use super::{Facts, Fd, Task, proc};

/// The descriptors of a process, without their sharing.
pub(super) fn descriptors(dir: &str) -> io::Result<BTreeMap<u32, Fd>> {
    let mut out = BTreeMap::new();
    for number in proc::numbers(&format!("{dir}/fd"))? {
        let path = format!("{dir}/fd/{number}");
        let link = proc::link(&path)?;
        let info = proc::key_values(&proc::read(&format!("{dir}/fdinfo/{number}"))?);
        let mut file = Facts::new();
        // Follows the magic link: works for what has no name too.
        if let Ok(meta) = std::fs::metadata(&path) {
            file.insert("device".to_owned(), format!("{:x}", meta.dev()));
            file.insert("inode".to_owned(), meta.ino().to_string());
            file.insert("mode".to_owned(), format!("{:o}", meta.mode()));
            file.insert("rdev".to_owned(), format!("{:x}", meta.rdev()));
            if meta.is_file() {
                file.insert("size".to_owned(), meta.size().to_string());
                file.insert("links".to_owned(), meta.nlink().to_string());
                file.insert("owner".to_owned(), format!("{}:{}", meta.uid(), meta.gid()));
                if link.ends_with(" (deleted)") {
                    file.insert("contents".to_owned(), contents(&path));
                    file.insert("seals".to_owned(), seals(&path));
                }
            }
        }
        let packets = pipe_queue(&path, &link);
        if let Some(packets) = packets {
            file.insert("queued".to_owned(), packets);
        }
        out.insert(number, Fd { link, info, file, description: String::new() });
    }
    Ok(out)
}

/// A hash of a deleted file, which nothing but the image can bring back.
fn contents(path: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    match std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ())) {
        Ok(()) => hasher.finalize().to_hex()[..32].to_owned(),
        Err(e) => format!("unreadable: {}", e.kind()),
    }
}

/// The seals of a memfd; other files have none.
fn seals(path: &str) -> String {
    use std::os::fd::AsRawFd;
    let Ok(file) = std::fs::File::open(path) else { return "unreadable".to_owned() };
    // SAFETY: F_GET_SEALS takes no argument; the descriptor is open.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 { "none".to_owned() } else { format!("{seals:#x}") }
}

/// What is queued in a pipe, and its capacity, asked of a second opening that is closed at once.
///
/// Opening an end of a pipe anew wakes nobody: readers wait for data and writers for room, and both are held anyway.
/// `tee` copies the contents without taking them out.
fn pipe_queue(path: &str, link: &str) -> Option<String> {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    if !link.starts_with("pipe:") {
        return None;
    }
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let (mut copy, sink) = io::pipe().ok()?;
    let mut queued: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which lives in this frame; the descriptor is open.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD, &raw mut queued) } != 0 {
        return None;
    }
    // SAFETY: F_GETPIPE_SZ takes no argument; F_SETPIPE_SZ takes a number.
    let capacity = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETPIPE_SZ) };
    // SAFETY: as above.
    unsafe { libc::fcntl(sink.as_raw_fd(), libc::F_SETPIPE_SZ, capacity) };
    // SAFETY: tee takes two descriptors, both open here, and numbers.
    let copied =
        unsafe { libc::tee(file.as_raw_fd(), sink.as_raw_fd(), usize::MAX >> 1, libc::SPLICE_F_NONBLOCK) };
    drop(sink);
    let mut bytes = Vec::new();
    if copied > 0 {
        copy.read_to_end(&mut bytes).ok()?;
    }
    let hash = blake3::hash(&bytes).to_hex();
    Some(format!("{queued} of {capacity}, {} hash to {}", bytes.len(), &hash[..16]))
}

const KCMP_FILE: libc::c_int = 0;

/// Whether two processes' descriptors are one open file description (or, for other types, one object).
pub(super) fn same(pids: (u32, u32), kind: libc::c_int, which: (u32, u32)) -> io::Result<bool> {
    // SAFETY: kcmp takes five numbers and touches no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            pids.0,
            pids.1,
            kind,
            libc::c_ulong::from(which.0),
            libc::c_ulong::from(which.1),
        )
    };
    match result {
        0 => Ok(true),
        1..=3 => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Fills in [`Fd::description`] for the whole tree.
pub(super) fn describe(frozen: &Frozen, tasks: &mut BTreeMap<u32, Task>) -> io::Result<()> {
    // Only what is the same file can be the same description: compare within those, with the first of each group.
    type First = (u32, u32, u32);
    let mut firsts: BTreeMap<(String, Option<String>), Vec<First>> = BTreeMap::new();
    let live: BTreeMap<u32, u32> =
        frozen.processes().filter_map(|p| p.live().map(|thread| (p.inner, thread.tid))).collect();
    for (&inner, task) in tasks.iter_mut() {
        let Some(&tid) = live.get(&inner) else {
            continue;
        };
        for (&number, fd) in &mut task.fds {
            let group = firsts.entry((fd.link.clone(), fd.file.get("inode").cloned())).or_default();
            let mut found = None;
            for &(first_inner, first_tid, first_fd) in group.iter() {
                if same((first_tid, tid), KCMP_FILE, (first_fd, number))? {
                    found = Some((first_inner, first_fd));
                    break;
                }
            }
            let (first_inner, first_fd) = found.unwrap_or_else(|| {
                group.push((inner, tid, number));
                (inner, number)
            });
            fd.description = format!("{first_inner}:{first_fd}");
        }
    }
    Ok(())
}
