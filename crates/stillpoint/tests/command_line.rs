//! The command as its users meet it: help, usage errors, exit statuses, JSON. What needs a live tree is in
//! `stillpoint-testkit`.

// What fails in a helper fails its test.
#![allow(clippy::expect_used)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The command: where CI put it for a user who cannot enter the source tree, or where cargo built it.
fn command() -> Command {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_stillpoint"));
    Command::new(
        std::env::var_os("STILLPOINT_BIN_DIR")
            .map_or_else(built, |dir| PathBuf::from(dir).join("stillpoint")),
    )
}

fn run(words: &[&str]) -> Output {
    command().args(words).stdin(Stdio::null()).output().expect("start stillpoint")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The one JSON object that standard output (or what is given) consists of.
fn object(text: &str) -> serde_json::Value {
    assert_eq!(text.lines().count(), 1, "one line: {text:?}");
    let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    assert!(value.is_object());
    value
}

#[test]
fn help_names_the_subcommands_and_exit_statuses() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for word in ["checkpoint", "restore", "inspect", "verify", "demo", "3 refused", "4 the image"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for hidden in ["generate", "demo-workload"] {
        assert!(!help.contains(hidden), "{hidden}: {help}");
    }
}

#[test]
fn help_of_a_subcommand_names_its_options() {
    let options: [(&str, &[&str]); 4] = [
        (
            "checkpoint",
            &[
                "PID",
                "--output",
                "--leave-running",
                "--leave-stopped",
                "--compress",
                "--external",
                "--force",
                "--json",
            ],
        ),
        ("restore", &["--detach", "--pid-file", "--root", "--pidns", "--external", "--dry-run", "--json"]),
        ("inspect", &["tasks", "files", "memory", "objects", "--json"]),
        ("verify", &["--json"]),
    ];
    for (subcommand, names) in options {
        let help = stdout(&run(&[subcommand, "--help"]));
        for name in names {
            assert!(help.contains(name), "{subcommand} {name}: {help}");
        }
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let lines: [&[&str]; 8] = [
        &[],
        &["bogus"],
        &["checkpoint", "1"],
        &["checkpoint", "0", "-o", "x"],
        &["checkpoint", "1", "-o", "x", "--leave-running", "--leave-stopped"],
        &["checkpoint", "1", "-o", "x", "--compress", "zstd=99"],
        &["restore"],
        &["inspect", "x", "bogus"],
    ];
    for words in lines {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
        assert!(!output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn a_usage_error_is_an_object_where_json_is_asked_for() {
    let output = run(&["checkpoint", "one", "-o", "x", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let error = &object(&stdout(&output))["error"];
    assert_eq!(error["code"], "usage");
    assert!(error["cause"].as_str().expect("a cause").contains("PID"), "{error}");

    let output = run(&["checkpoint", "one", "-o", "-", "--json"]);
    assert!(output.stdout.is_empty(), "standard output is the image's");
    assert_eq!(object(&stderr(&output))["error"]["exit_status"], 2);
}

#[test]
fn an_external_named_twice_is_wrong_usage() {
    let output = run(&["checkpoint", "1", "-o", "x", "--external", "1=a", "--external", "1=b", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(object(&stdout(&output))["error"]["object"], "--external 1");
}

/// Every member of an error is there, and what is no image is one of class 4, for each command that reads one.
#[test]
fn what_is_no_image_exits_with_4() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("no\x1b[31mimage");
    std::fs::write(&file, b"#!/bin/sh\n").expect("write");
    let file = file.to_str().expect("UTF-8");
    for subcommand in ["verify", "inspect"] {
        let output = run(&[subcommand, file, "--json"]);
        assert_eq!(output.status.code(), Some(4), "{subcommand}");
        let value = object(&stdout(&output));
        assert_eq!(value["result"], "error");
        let error = value["error"].as_object().expect("an object");
        let members: Vec<_> = error.keys().map(String::as_str).collect();
        let mut expected = ["code", "exit_status", "doing", "task", "object", "cause", "remedy", "others"];
        expected.sort_unstable();
        assert_eq!(members, expected);
        assert_eq!(error["code"], "image-damaged");

        let output = run(&[subcommand, file]);
        assert_eq!(output.status.code(), Some(4), "{subcommand}");
        assert!(output.stdout.is_empty());
        let line = stderr(&output);
        assert!(line.starts_with("stillpoint: "), "{line}");
        assert!(!line.contains('\x1b'), "a name drives the terminal: {line:?}");
    }
}

#[test]
fn an_image_comes_through_a_pipe_too() {
    let mut child = command()
        .args(["verify", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start stillpoint");
    child.stdin.take().expect("a pipe").write_all(b"not an image").expect("write");
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[test]
fn a_file_that_is_not_there_exits_with_1() {
    let output = run(&["verify", "/nonexistent/image.sp"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent/image.sp"));
}

#[test]
fn man_pages_and_completions_are_generated() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().to_str().expect("UTF-8");
    assert_eq!(run(&["generate", "man", path]).status.code(), Some(0));
    for page in ["stillpoint.1", "stillpoint-checkpoint.1", "stillpoint-restore.1", "stillpoint-inspect.1"] {
        let text = std::fs::read_to_string(directory.path().join(page)).expect(page);
        assert!(text.contains(".TH"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["generate", "completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("leave-running"), "{shell}");
    }
}

/// What the demo saves is itself right: it counts without gaps and ends when told to.
#[test]
fn the_workload_of_the_demo_counts() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut workload = command()
        .arg("demo-workload")
        .arg(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start stillpoint");
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::write(directory.path().join("stop"), b"").expect("write");
    assert_eq!(workload.wait().expect("wait").code(), Some(7));
    for name in ["parent-1", "parent-2", "child-1", "child-2"] {
        let text = std::fs::read_to_string(directory.path().join(name)).expect(name);
        let counts: Vec<usize> = text.lines().map(|line| line.parse().expect("a number")).collect();
        assert!(counts.iter().copied().eq(1..=counts.len()), "{name}: {text}");
    }
}
