//! File locks that are in the way: a restore neither weakens a lock nor goes on without it.

use std::fs::File;
use std::os::fd::AsRawFd;

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Outcome, Who, Workload};

/// Files of the workload `locks`, and how somebody else locks them.
type Take = fn(&File) -> i32;

/// A write lock on everything: of this process, or of the open file description.
fn record(file: &File, command: i32) -> i32 {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: both commands read one struct flock, a local that outlives the call.
    unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) }
}

const TAKEN: [(&str, Take); 4] = [
    ("process", |file| record(file, libc::F_SETLK)),
    ("description", |file| record(file, libc::F_OFD_SETLK)),
    // SAFETY: flock takes a descriptor and a number.
    ("exclusive", |file| unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH) }),
    // SAFETY: as above.
    ("shared", |file| unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }),
];

fn held_by_another(who: Who) -> Outcome {
    if !who.can_run() {
        return Ok(());
    }
    let mut workload = Workload::start("locks", who)?;
    workload.progress()?;
    workload.checkpoint_and_end("image")?;
    let image = workload.place().path("image").to_string_lossy().into_owned();
    for (name, take) in TAKEN {
        let path = workload.place().path(name);
        let file = File::options().read(true).write(true).open(&path)?;
        expect!(take(&file) == 0, "{name} is still locked after the end of the tree");
        let ran = workload.tool().exits(5, ["restore", "--detach", "--json", &image])?;
        expect!(ran.error("code").as_deref() == Some("file-differs"), "{}", ran.stdout);
        let said = |member: &str| ran.error(member).unwrap_or_default();
        expect!(said("object").contains(&*path.to_string_lossy()), "the file is not named: {}", ran.stdout);
        if name == "process" {
            // Those of an open file description belong to no process.
            let me = format!("process {} ", std::process::id());
            expect!(said("cause").contains(&me), "the holder is not named: {}", ran.stdout);
        }
        expect!(!said("remedy").is_empty(), "no remedy: {}", ran.stdout);
        // Nothing is left that holds a lock: the next one can be taken.
    }
    workload.restore("image", &[])?;
    workload.progress()?;
    workload.finish()
}

#[test]
fn root_a_lock_of_somebody_else_is_in_the_way() -> Outcome {
    held_by_another(Who::Root)
}

#[test]
fn user_a_lock_of_somebody_else_is_in_the_way() -> Outcome {
    held_by_another(Who::User)
}

/// The copy would hold locks that the original holds.
#[test]
fn a_copy_beside_the_original_is_refused() -> Outcome {
    let mut workload = Workload::start("locks", Who::User)?;
    workload.progress()?;
    workload.checkpoint("image", &["--leave-running"])?.exits(0)?;
    let image = workload.place().path("image").to_string_lossy().into_owned();
    let ran = workload.tool().exits(5, ["restore", "--detach", "--pidns", "--json", &image])?;
    expect!(ran.error("code").as_deref() == Some("file-differs"), "{}", ran.stdout);
    workload.progress()?;
    workload.finish()
}
