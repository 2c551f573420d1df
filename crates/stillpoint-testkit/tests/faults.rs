//! Failures that are brought about: no room at every step of the image, no memory, signals to everybody.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Failure, Job, Outcome, Ran, Who, Workload, kill_tree, tree_of, wait_for};

/// Names in the case's directory that look like an image or a part of one.
fn images(workload: &Workload) -> Outcome<Vec<String>> {
    let all = fs::read_dir(workload.place().dir())?.flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.contains("image") || name.contains("stillpoint-")).collect())
}

/// Runs the command under a limit of its own.
fn limited(workload: &Workload, args: &[&str], limit: u32, value: u64) -> Outcome<Ran> {
    let mut command = workload.tool().command(args)?;
    // SAFETY: setrlimit and signal are async-signal-safe, and get a live object and numbers.
    unsafe {
        command.pre_exec(move || {
            let both = libc::rlimit { rlim_cur: value, rlim_max: value };
            libc::setrlimit(limit, &raw const both);
            // Else the kernel ends whoever writes past the limit, which is a case of its own.
            libc::signal(libc::SIGXFSZ, if value.is_multiple_of(2) { libc::SIG_IGN } else { libc::SIG_DFL });
            Ok(())
        });
    }
    Job::start(workload.place(), command)?.wait()
}

#[test]
fn user_no_room_at_any_step_of_the_image() -> Outcome {
    let mut workload = Workload::start("busy", Who::User)?;
    workload.progress()?;
    let pid = workload.pid().to_string();
    let image = workload.place().path("image").to_string_lossy().into_owned();
    let args = ["checkpoint", &pid, "-o", &image, "--leave-running"];
    workload.tool().exits(0, args)?;
    let whole = fs::metadata(&image)?.len();
    fs::remove_file(&image)?;
    for step in 0..16 {
        // Both with SIGXFSZ ignored and with what it does by default.
        let room = whole * step / 16 + step % 2;
        let ran = limited(&workload, &args, libc::RLIMIT_FSIZE, room)?;
        expect!(ran.code() != 0, "an image of {whole} bytes fits {room}");
        // Files that take what it says are limited as well.
        expect!(images(&workload)?.is_empty(), "room for {room} bytes: {:?} is left", images(&workload)?);
        workload.progress().map_err(|e| Failure::new(format!("room for {room} bytes: {e}")))?;
    }
    workload.tool().exits(0, args)?;
    workload.finish()
}

#[test]
fn user_a_device_without_room() -> Outcome {
    let mut workload = Workload::start("busy", Who::User)?;
    workload.progress()?;
    let mut command = workload.tool().command(["checkpoint", &workload.pid().to_string(), "-o", "-"])?;
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full")?).stderr(Stdio::null());
    let status = command.status()?;
    expect!(status.code() == Some(1), "it ended with {status}");
    workload.progress()?;
    workload.finish()
}

#[test]
fn root_no_memory_for_the_tool() -> Outcome {
    if !Who::Root.can_run() {
        return Ok(());
    }
    let mut workload = Workload::start("busy", Who::Root)?;
    workload.progress()?;
    let pid = workload.pid().to_string();
    let image = workload.place().path("image").to_string_lossy().into_owned();
    let args = ["checkpoint", &pid, "-o", &image, "--leave-running"];
    let mut ended = Vec::new();
    for mebibytes in [8, 12, 16, 20, 24, 32, 48, 64, 512] {
        let ran = limited(&workload, &args, libc::RLIMIT_AS, mebibytes << 20)?;
        ended.push((mebibytes, ran.code()));
        if ran.code() == 0 {
            workload.tool().exits(0, ["verify", &image])?;
            fs::remove_file(&image)?;
        }
        expect!(images(&workload)?.is_empty(), "{mebibytes} MiB: {:?} is left", images(&workload)?);
        workload.progress().map_err(|e| Failure::new(format!("{mebibytes} MiB: {e}")))?;
    }
    expect!(ended.last().is_some_and(|(_, code)| *code == 0), "never enough: {ended:?}");
    // And the other way: whatever fails, nothing of the tree is left.
    let tasks = tree_of(workload.pid());
    workload.checkpoint_and_end("image")?;
    for mebibytes in [8, 12, 16, 20, 24, 32, 48, 64] {
        let ran = limited(&workload, &["restore", "--detach", &image], libc::RLIMIT_AS, mebibytes << 20)?;
        if ran.code() == 0 {
            let root = workload.pid();
            workload.adopt(root);
            workload.progress().map_err(|e| Failure::new(format!("{mebibytes} MiB: {e}")))?;
            kill_tree(workload.pid());
        }
        let gone = || tasks.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
        wait_for(&format!("nothing to be left with {mebibytes} MiB"), || Ok(gone().then_some(())))?;
    }
    workload.rewind();
    workload.restore("image", &[])?;
    workload.progress()?;
    workload.finish()
}

/// Sends signals that do no harm to processes, over and over, while something is done.
fn in_a_storm<T>(pids: impl Fn() -> Vec<u32> + Sync, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for pid in pids() {
                    for signal in [libc::SIGWINCH, libc::SIGURG, libc::SIGCHLD, libc::SIGCONT] {
                        // SAFETY: takes two numbers.
                        unsafe { libc::kill(pid.cast_signed(), signal) };
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let done = work();
        over.store(true, Ordering::SeqCst);
        done
    })
}

#[test]
fn root_a_storm_of_signals() -> Outcome {
    if !Who::Root.can_run() {
        return Ok(());
    }
    let mut workload = Workload::start("busy", Who::Root)?;
    workload.progress()?;
    for n in 0..4 {
        let at = |error: Failure| Failure::new(format!("round {n}: {error}"));
        let tasks: Vec<u32> = tree_of(workload.pid()).into_iter().collect();
        let job = workload.tool().start([
            "checkpoint",
            &workload.pid().to_string(),
            "-o",
            &workload.place().path("image").to_string_lossy(),
        ])?;
        let tool = job.pid();
        in_a_storm(|| tasks.iter().copied().chain([tool]).collect(), || job.wait()?.exits(0)).map_err(at)?;
        workload.reap().map_err(at)?;
        let pid_file = workload.place().path("pid").to_string_lossy().into_owned();
        let image = workload.place().path("image").to_string_lossy().into_owned();
        let job = workload.tool().start(["restore", "--detach", "--pid-file", &pid_file, &image])?;
        let tool = job.pid();
        in_a_storm(|| vec![tool], || job.wait()?.exits(0)).map_err(at)?;
        let root = workload.pid();
        workload.adopt(root);
        fs::remove_file(&pid_file)?;
        fs::remove_file(&image)?;
        workload.progress().map_err(at)?;
    }
    workload.finish()
}

#[test]
fn user_interrupted_at_any_moment() -> Outcome {
    let mut workload = Workload::start("busy", Who::User)?;
    workload.progress()?;
    let pid = workload.pid().to_string();
    let image = workload.place().path("image").to_string_lossy().into_owned();
    for n in 0..12 {
        let job = workload.tool().start(["checkpoint", &pid, "-o", &image, "--leave-running"])?;
        std::thread::sleep(Duration::from_millis(n * 2));
        // SAFETY: takes two numbers; the child is ours and not reaped.
        unsafe { libc::kill(job.pid().cast_signed(), libc::SIGINT) };
        let ran = job.wait()?;
        if ran.code() == 0 {
            fs::remove_file(&image)?;
        }
        expect!(images(&workload)?.is_empty(), "exit {}: {:?} is left", ran.code(), images(&workload)?);
        workload.progress().map_err(|e| Failure::new(format!("interrupted after {} ms: {e}", n * 2)))?;
    }
    workload.finish()
}
