//! The command's contract: exit statuses, `--json`, and that no error and no interruption leaves anything behind.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{
    Guard, Job, Outcome, Place, Who, Workload, ends, running, skip, tree_of, wait_for,
};

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A counting workload under way.
fn counter() -> Outcome<Workload> {
    let workload = Workload::start("counter", Who::User)?;
    workload.progress()?;
    Ok(workload)
}

/// Names in the case's directory that look like an image or a part of one.
fn images(place: &Place) -> Outcome<Vec<String>> {
    let names =
        fs::read_dir(place.dir())?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.contains("image")).collect())
}

#[test]
fn wrong_usage_exits_with_2() -> Outcome {
    let place = Place::new(Who::User)?;
    let tool = stillpoint_testkit::harness::Tool::new(&place);
    for args in [
        &["checkpoint"][..],
        &["checkpoint", "1"],
        &["checkpoint", "no number", "-o", "x"],
        &["restore"],
        &["restore", "x", "--no-such-option"],
        &["no-such-command"],
        &["checkpoint", "1", "-o", "x", "--leave-running", "--leave-stopped"],
        &["checkpoint", "1", "-o", "x", "--compress", "zip"],
    ] {
        tool.exits(2, args)?;
    }
    Ok(())
}

#[test]
fn no_such_process_exits_with_1() -> Outcome {
    let place = Place::new(Who::User)?;
    let image = text(&place.path("image"));
    // Above any pid_max.
    let ran = stillpoint_testkit::harness::Tool::new(&place)
        .exits(1, ["checkpoint", "2147483647", "-o", &image, "--json"])?;
    expect!(ran.error("code").as_deref() == Some("no-such-task"), "{}", ran.stdout);
    expect!(images(&place)?.is_empty(), "an image was left");
    Ok(())
}

#[test]
fn what_is_no_image_exits_with_4() -> Outcome {
    let place = Place::new(Who::User)?;
    let image = place.path("image");
    for contents in [&b""[..], b"#!/bin/sh\n", &[0; 100_000]] {
        fs::write(&image, contents)?;
        for command in ["verify", "inspect", "restore"] {
            let ran =
                stillpoint_testkit::harness::Tool::new(&place).run([command, &text(&image)])?.exits(4)?;
            expect!(!ran.stderr.is_empty(), "{command} says nothing");
        }
    }
    Ok(())
}

#[test]
fn json_is_one_object_with_figures() -> Outcome {
    let workload = counter()?;
    let ran = workload.checkpoint("image", &["--leave-running", "--json"])?.exits(0)?;
    let json = ran.json()?;
    for member in ["result", "tasks", "threads", "phases_ms", "frozen_ms", "image_bytes"] {
        expect!(json.get(member).is_some(), "no {member}: {json}");
    }
    let image = text(&workload.place().path("image"));
    for args in [&["verify", "--json"][..], &["inspect", "--json"], &["restore", "--dry-run", "--json"]] {
        // The original still has its pid: a dry run says so, and is no failure.
        let ran = workload.tool().run(args.iter().copied().chain([image.as_str()]))?;
        ran.json()?;
    }
    for part in ["tasks", "files", "memory", "objects"] {
        workload.tool().exits(0, ["inspect", &image, part, "--json"])?.json()?;
        workload.tool().exits(0, ["inspect", &image, part])?;
    }
    Ok(())
}

#[test]
fn an_existing_file_is_kept_without_force() -> Outcome {
    let mut workload = counter()?;
    let image = workload.place().path("image");
    fs::write(&image, "precious")?;
    fs::set_permissions(&image, fs::Permissions::from_mode(0o666))?;
    let ran = workload.checkpoint("image", &["--leave-running", "--json"])?.exits(2)?;
    expect!(ran.error("code").as_deref() == Some("output-exists"), "{}", ran.stdout);
    expect!(fs::read(&image)? == b"precious", "the file was replaced");
    workload.progress()?;
    workload.checkpoint("image", &["--leave-running", "--force"])?.exits(0)?;
    workload.tool().exits(0, ["verify", &text(&image)])?;
    expect!(images(workload.place())?.len() == 1, "something was left beside the image");
    workload.finish()
}

#[test]
fn a_directory_that_is_not_there_leaves_the_tasks_running() -> Outcome {
    let mut workload = counter()?;
    workload.checkpoint("nowhere/image", &[])?.exits(1)?;
    workload.progress()?;
    workload.finish()
}

#[test]
fn every_compression_comes_back() -> Outcome {
    for method in ["none", "lz4", "zstd", "zstd=19"] {
        let mut workload = counter()?;
        let pid = workload.pid();
        workload.checkpoint("image", &["--compress", method])?.exits(0)?;
        ends(pid)?;
        workload.restore("image", &[])?;
        workload.progress()?;
        workload.finish()?;
    }
    Ok(())
}

/// A file system of 2 MiB, unmounted when the case ends.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Outcome<Self> {
        fs::create_dir(at)?;
        let args = ["-t", "tmpfs", "-o", "size=2m,mode=777", "none"];
        let status = std::process::Command::new("mount").args(args).arg(at).status()?;
        expect!(status.success(), "mounting a small file system failed");
        Ok(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn root_a_full_disk_is_said_and_the_tasks_run_on() -> Outcome {
    if !Who::Root.can_run() {
        return Ok(());
    }
    // Its random contents do not compress.
    let mut workload = Workload::start("anon", Who::Root)?;
    workload.progress()?;
    let at = workload.place().path("small");
    let small = Small::mount(&at)?;
    let ran = workload.checkpoint("small/image", &["--json"])?.exits(1)?;
    expect!(ran.error("code").as_deref() == Some("output"), "{}", ran.stdout);
    expect!(fs::read_dir(&at)?.count() == 0, "a part of an image was left");
    drop(small);
    workload.progress()?;
    workload.finish()
}

/// Sends a signal to the command while it checkpoints; whatever it hits, the tasks run on or the image is whole.
fn interrupted(signal: i32) -> Outcome {
    // A pipe that nobody reads: the checkpoint stands still in its middle, with the tasks held.
    let mut workload = Workload::start("anon", Who::User)?;
    workload.progress()?;
    let pid = workload.pid().to_string();
    let mut command = workload.tool().command(["checkpoint", &pid, "-o", "-"])?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut guard = Guard::default();
    guard.watch(child.id());
    let stdout = child.stdout.take();
    // It has begun to write, and 64 KiB do not hold the image.
    let full = || -> Outcome<Option<()>> {
        let mut queued: libc::c_int = 0;
        if let Some(pipe) = &stdout {
            // SAFETY: FIONREAD writes one int, which lives in this frame; the descriptor is open.
            unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(pipe), libc::FIONREAD, &raw mut queued) };
        }
        Ok((queued > 32_000).then_some(()))
    };
    wait_for("the checkpoint to fill its pipe", full)?;
    // SAFETY: takes two numbers; the child is ours and not reaped.
    unsafe { libc::kill(child.id().cast_signed(), signal) };
    let status = wait_for("the checkpoint to give up", || Ok(child.try_wait()?))?;
    expect!(!status.success(), "an interrupted checkpoint says that it succeeded");
    workload.progress()?;
    workload.finish()
}

#[test]
fn ctrl_c_leaves_the_tasks_running() -> Outcome {
    interrupted(libc::SIGINT)
}

#[test]
fn sigterm_leaves_the_tasks_running() -> Outcome {
    interrupted(libc::SIGTERM)
}

#[test]
fn a_reader_that_goes_away_leaves_the_tasks_running() -> Outcome {
    let mut workload = Workload::start("anon", Who::User)?;
    workload.progress()?;
    let mut command = workload.tool().command(["checkpoint", &workload.pid().to_string(), "-o", "-"])?;
    command.stdout(Stdio::piped());
    let mut child = command.spawn()?;
    drop(child.stdout.take());
    let status = wait_for("the checkpoint to give up", || Ok(child.try_wait()?))?;
    expect!(status.code() == Some(1), "a checkpoint without a reader ends with {status}");
    workload.progress()?;
    workload.finish()
}

#[test]
fn an_image_streams_from_one_command_to_the_other() -> Outcome {
    let workload = counter()?;
    let root = workload.pid();
    let pid_file = text(&workload.place().path("streamed pid"));
    let mut save = workload.tool().command(["checkpoint", &root.to_string(), "-o", "-"])?;
    let mut save = save.stdout(Stdio::piped()).spawn()?;
    let mut load = workload.tool().command(["restore", "--detach", "--pid-file", &pid_file, "-"])?;
    // As `ssh` would: all of it first, then onwards, for the pid is free only when the original has gone.
    let mut image = Vec::new();
    if let Some(mut stdout) = save.stdout.take() {
        std::io::Read::read_to_end(&mut stdout, &mut image)?;
    }
    let status = save.wait()?;
    expect!(status.success(), "the streaming checkpoint ended with {status}");
    ends(root)?;
    // The root was our child, and a zombie still has its pid: reap it.
    // SAFETY: waits for a child of this process by number and writes nothing.
    unsafe { libc::waitpid(root.cast_signed(), std::ptr::null_mut(), 0) };
    let mut load = load.stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = load.stdin.take() {
        stdin.write_all(&image)?;
    }
    let status = load.wait()?;
    let restored: u32 = fs::read_to_string(&pid_file).unwrap_or_default().trim().parse().unwrap_or(0);
    let mut guard = Guard::default();
    guard.watch(restored);
    expect!(status.success(), "the streaming restore ended with {status}");
    let report = || workload.place().link("status/main");
    let before = report();
    wait_for("the streamed tree to go on", || Ok((report() != before).then_some(())))?;
    workload.place().mark("finish")?;
    wait_for("the streamed tree to finish", || Ok(workload.place().link("finished")))?;
    Ok(())
}

#[test]
fn a_dry_run_touches_nothing() -> Outcome {
    let mut workload = counter()?;
    workload.checkpoint_and_end("image")?;
    let image = text(&workload.place().path("image"));
    let before = workload.place().link("status/main");
    let ran = workload.tool().exits(0, ["restore", "--dry-run", "--json", &image])?;
    let json = ran.json()?;
    let steps = json.get("steps").and_then(|steps| steps.as_array()).map_or(0, Vec::len);
    expect!(steps > 0, "a dry run has no steps: {json}");
    expect!(workload.place().link("status/main") == before, "a dry run ran the tree");
    let children = tree_of(std::process::id()).len();
    workload.tool().exits(0, ["restore", "--dry-run", &image])?;
    expect!(tree_of(std::process::id()).len() <= children + 8, "a dry run left processes");
    workload.restore("image", &[])?;
    workload.progress()?;
    workload.finish()
}

#[test]
fn root_a_taken_pid_is_named_and_pidns_is_the_way_out() -> Outcome {
    if !Who::Root.can_run() {
        return Ok(());
    }
    let mut workload = Workload::start("tree", Who::Root)?;
    workload.progress()?;
    let pid = workload.pid();
    workload.checkpoint("image", &["--leave-running"])?.exits(0)?;
    let image = text(&workload.place().path("image"));
    let ran = workload.tool().exits(5, ["restore", "--detach", "--json", &image])?;
    expect!(ran.error("code").as_deref() == Some("pid-taken"), "{}", ran.stdout);
    expect!(ran.stdout.contains(&pid.to_string()), "the pid is not named: {}", ran.stdout);
    expect!(
        ran.error("remedy").is_some_and(|r| r.contains("--pidns")),
        "--pidns is not offered: {}",
        ran.stdout
    );
    workload.progress()?;
    workload.finish()?;
    workload.rewind();
    // With its own pids free or not, `--pidns` gives the tree its old numbers inside.
    workload.restore("image", &["--pidns"])?;
    expect!(workload.pid() != pid || !running(pid), "not in a pid namespace of its own");
    workload.progress()?;
    workload.finish()
}

#[test]
fn a_changed_file_is_named_and_refused() -> Outcome {
    for change in ["grown", "replaced", "missing", "rewritten"] {
        let mut workload = Workload::start("files", Who::User)?;
        workload.progress()?;
        workload.checkpoint_and_end("image")?;
        let data = workload.place().path("data");
        let contents = fs::read(&data)?;
        match change {
            "grown" => fs::OpenOptions::new().append(true).open(&data)?.write_all(b"x")?,
            "missing" => fs::remove_file(&data)?,
            "replaced" => {
                fs::remove_file(&data)?;
                fs::write(&data, vec![7; contents.len()])?;
            }
            _ => {
                let mut other = contents.clone();
                other[1000] ^= 1;
                fs::write(&data, other)?;
            }
        }
        let image = text(&workload.place().path("image"));
        let ran = workload.tool().exits(5, ["restore", "--detach", "--json", &image])?;
        expect!(ran.error("code").as_deref() == Some("file-differs"), "{change}: {}", ran.stdout);
        expect!(ran.stdout.contains("data"), "{change}: the file is not named: {}", ran.stdout);
    }
    Ok(())
}

#[test]
fn an_attached_restore_exits_as_the_root_does() -> Outcome {
    // Ends well.
    let mut workload = counter()?;
    workload.checkpoint_and_end("image")?;
    let image = text(&workload.place().path("image"));
    let before = workload.place().link("status/main");
    let job = workload.tool().start(["restore", &image])?;
    let mut guard = Guard::default();
    guard.watch(job.pid());
    wait_for("the attached tree to go on", || {
        Ok((workload.place().link("status/main") != before).then_some(()))
    })?;
    workload.place().mark("finish")?;
    job.wait()?.exits(0)?;
    // Is killed: the signal is passed on, and its number comes back.
    workload.rewind();
    let job: Job = workload.tool().start(["restore", &image])?;
    guard.watch(job.pid());
    wait_for("the attached tree to go on", || Ok(workload.place().link("status/main")))?;
    // SAFETY: takes two numbers; the child is ours and not reaped.
    unsafe { libc::kill(job.pid().cast_signed(), libc::SIGTERM) };
    job.wait()?.exits(128 + libc::SIGTERM).map(|_| ())
}

#[test]
fn root_files_are_looked_up_below_a_root_directory() -> Outcome {
    if !Who::Root.can_run() {
        return Ok(());
    }
    let mut workload = Workload::start("cwd", Who::Root)?;
    workload.progress()?;
    workload.checkpoint_and_end("image")?;
    // A copy of nothing: every file that the tree needs is missing there, and that is said.
    let empty = workload.place().path("empty root");
    fs::create_dir(&empty)?;
    let image = text(&workload.place().path("image"));
    let ran = workload.tool().exits(5, ["restore", "--detach", "--json", "--root", &text(&empty), &image])?;
    expect!(ran.error("code").as_deref() == Some("file-differs"), "{}", ran.stdout);
    expect!(fs::read_dir(&empty)?.count() == 0, "something was made below the root directory");
    // The machine's own root, by another name.
    workload.restore("image", &["--root", "/"])?;
    workload.progress()?;
    workload.finish()
}

#[test]
fn a_task_of_another_user_is_not_permitted() -> Outcome {
    if !Who::are_root() {
        skip("needs root to have another user");
        return Ok(());
    }
    let mut workload = Workload::start("counter", Who::Root)?;
    workload.progress()?;
    let place = Place::new(Who::User)?;
    let image = text(&place.path("image"));
    let ran = stillpoint_testkit::harness::Tool::new(&place)
        .exits(1, ["checkpoint", &workload.pid().to_string(), "-o", &image, "--json"])?;
    expect!(ran.error("code").as_deref() == Some("not-permitted"), "{}", ran.stdout);
    expect!(images(&place)?.is_empty(), "an image was left");
    workload.progress()?;
    workload.finish()
}

#[test]
fn a_left_stopped_tree_is_whole_and_goes_on() -> Outcome {
    let mut workload = counter()?;
    workload.checkpoint("image", &["--leave-stopped"])?.exits(0)?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", workload.pid()))?;
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    expect!(state == Some("T"), "the tree is not stopped: {stat}");
    // SAFETY: takes two numbers; the process is this case's own.
    unsafe { libc::kill(workload.pid().cast_signed(), libc::SIGCONT) };
    workload.progress()?;
    workload.finish()
}

#[test]
fn a_restore_that_fails_leaves_no_process() -> Outcome {
    let mut workload = Workload::start("tree", Who::User)?;
    workload.progress()?;
    workload.checkpoint_and_end("image")?;
    let path = workload.place().path("image");
    let mut bytes = fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    let damaged = workload.place().path("damaged");
    fs::write(&damaged, bytes)?;
    let before = workload.place().link("status/main");
    workload.tool().exits(4, ["restore", "--detach", &text(&damaged)])?;
    expect!(workload.place().link("status/main") == before, "a damaged image was started");
    let dir = text(workload.place().dir());
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        expect!(!String::from_utf8_lossy(&line).contains(&dir), "a process was left: {:?}", entry.path());
    }
    Ok(())
}
