//! The equality checker under planted differences: a process that changes one thing at a time, and what must be told.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests are test code too.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use stillpoint_testkit::equality::{self, Difference, Record, Rules};

struct Puppet {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Puppet {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sp-work"))
            .arg("puppet")
            .env("PUPPET", "value")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not the test runner's: what others write there would be told.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut puppet = Self { child, input, output };
        // Once round, so that the first use of anything does not look like a change.
        puppet.change('.');
        puppet.change('.');
        puppet
    }

    /// Makes it change something, and waits until it did.
    fn change(&mut self, what: char) {
        self.input.write_all(&[what as u8]).unwrap();
        let mut answer = [0];
        self.output.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"+", "the puppet could not do {what:?}");
    }

    /// A record of it waiting for the next command.
    fn record(&self) -> Record {
        let path = format!("/proc/{}/syscall", self.child.id());
        for _ in 0..10_000 {
            // `0 0x0 ...`: read of descriptor 0.
            if std::fs::read_to_string(&path).unwrap().starts_with("0 0x0 ") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        equality::record(self.child.id()).unwrap()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the checker says after these changes, with the process's pid and the addresses taken out of the paths.
fn told(changes: &str) -> Vec<Difference> {
    let mut puppet = Puppet::start();
    let before = puppet.record();
    changes.chars().for_each(|what| puppet.change(what));
    let after = puppet.record();
    let pid = before.root.to_string();
    let mut out = equality::compare(&before, &after, &Rules::standard());
    // Working changes what a function leaves in registers that the next one may use; that is not what is planted here.
    out.retain(|d| !d.path.contains("/registers/") && !d.path.contains("/xstate/"));
    for difference in &mut out {
        let path = difference.path.replace(&pid, "PID");
        let parts = path.split('/').map(|part| {
            let address = part.len() >= 12 && part.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
            if address { "ADDRESS" } else { part }
        });
        difference.path = parts.collect::<Vec<_>>().join("/");
    }
    out
}

/// Asserts that exactly these paths are told, in order.
fn tells(changes: &str, paths: &[&str]) -> Vec<Difference> {
    let told = told(changes);
    let is = told.iter().map(|d| d.path.strip_prefix("tasks/PID/").unwrap_or(&d.path)).collect::<Vec<_>>();
    assert_eq!(is, paths, "{told:#?}");
    told
}

macro_rules! planted {
    ($($(#[$doc:meta])* $name:ident: $changes:literal => [$($path:literal),* $(,)?];)+) => {
        $($(#[$doc])* #[test] fn $name() { tells($changes, &[$($path),*]); })+
    };
}

planted! {
    nothing_when_nothing_changed: "" => [];
    nothing_after_a_command_that_does_nothing: "...." => [];
    nothing_when_a_change_is_taken_back: "pp" => [];
    a_byte_of_memory: "p" => ["pages/ADDRESS"];
    a_page_that_becomes_zero: "0" => ["pages/ADDRESS"];
    protection_of_an_area: "P" => ["areas/ADDRESS/flags", "areas/ADDRESS/perms"];
    advice_that_sets_a_flag: "a" => ["areas/ADDRESS/flags"];
    guard_pages: "G" => ["areas/ADDRESS/flags", "pages/ADDRESS"];
    a_file_offset: "o" => ["fds/10/info/pos", "fds/11/info/pos"];
    a_file_flag: "f" => ["fds/10/info/flags", "fds/11/info/flags"];
    close_on_exec: "c" => ["fds/10/info/flags"];
    a_record_lock: "K" => ["fds/10/info/lock", "fds/11/info/lock"];
    a_lock_of_an_open_file: "j" => ["fds/10/info/lock", "fds/11/info/lock"];
    a_new_descriptor: "d" => ["fds/20"];
    a_closed_descriptor: "C" => ["fds/11"];
    opened_anew_instead_of_duplicated: "D" => ["fds/11/description"];
    contents_of_a_deleted_file: "w" => ["fds/12/file/contents", "fds/12/file/size"];
    contents_of_a_pipe: "q" => ["fds/3/file/queued", "fds/4/file/queued"];
    capacity_of_a_pipe: "z" => ["fds/3/file/queued", "fds/4/file/queued"];
    policy_of_an_area: "M" => ["areas/ADDRESS/policy"];
    seals_of_a_memfd: "i" => ["fds/14/file/seals"];
    contents_of_a_memfd: "I" => ["fds/14/file/contents", "fds/14/file/size"];
    value_of_an_event_counter: "E" => ["fds/13/info/eventfd-count"];
    umask: "u" => ["threads/PID/status/Umask"];
    nice: "n" => ["stat/nice", "stat/priority", "threads/PID/stat/nice", "threads/PID/stat/priority"];
    policy: "B" => ["stat/policy", "threads/PID/stat/policy"];
    affinity: "A" => ["threads/PID/status/Cpus_allowed", "threads/PID/status/Cpus_allowed_list"];
    name:
        "N" => ["attributes/comm", "stat/comm", "threads/PID/stat/comm", "threads/PID/status/Name"];
    working_directory: "W" => ["attributes/cwd"];
    signal_mask: "m" => ["threads/PID/status/SigBlk", "threads/PID/traced/sigmask"];
    signal_action: "s" => ["threads/PID/status/SigIgn"];
    resource_limit: "l" => ["limits/Max open files"];
    no_new_privs: "v" => ["threads/PID/status/NoNewPrivs"];
    personality: "y" => ["attributes/personality"];
    process_group: "g" => ["threads/PID/status/NSpgid"];
    robust_list: "r" => ["threads/PID/traced/robust_list"];
}

#[test]
fn timer_slack() {
    // Another task's is shown to CAP_SYS_NICE only.
    if !stillpoint_testkit::harness::Who::Root.can_run() {
        return;
    }
    tells("S", &["attributes/timerslack_ns"]);
}

#[test]
fn a_pending_signal_is_told_with_its_details() {
    let told = told("mk");
    let pending = told.iter().find(|d| d.path == "tasks/PID/threads/PID/pending").expect("nothing pending");
    assert!(pending.after.contains("signal 10") && pending.after.contains("code -6"), "{pending}");
    assert!(told.iter().any(|d| d.path.ends_with("status/SigPnd")));
}

#[test]
fn the_environment_is_told_where_proc_shows_it() {
    let told = told("e");
    let shown = told.iter().find(|d| d.path.contains("attributes/environ.")).expect("not told");
    assert_eq!((shown.before.as_str(), shown.after.as_str()), ("PUPPET=value", "PUPPET=#alue"));
    // The same byte as memory, on the stack.
    assert_eq!(told.len(), 2, "{told:#?}");
}

#[test]
fn a_part_of_an_area_is_told_as_areas_that_came_and_went() {
    for (change, pages) in [("h", 0), ("x", 4)] {
        let told = told(change);
        let (areas, others) = told.iter().partition::<Vec<_>, _>(|d| d.path.ends_with("areas/ADDRESS"));
        assert!(areas.iter().any(|d| d.before == "absent") || change == "x", "{told:#?}");
        assert!(areas.iter().any(|d| d.after == "absent"), "{told:#?}");
        assert!(
            others.iter().all(|d| d.path == "tasks/PID/pages/ADDRESS" && d.after == "absent"),
            "{told:#?}"
        );
        assert_eq!(others.len(), pages);
    }
}

#[test]
fn a_locked_area_is_told_as_flag_and_count() {
    let told = told("L");
    assert!(told.iter().any(|d| d.path.ends_with("/flags") && d.after.contains("lo")), "{told:#?}");
    assert!(told.iter().any(|d| d.path.ends_with("status/VmLck")), "{told:#?}");
}

#[test]
fn a_heap_that_grew_is_told() {
    let told = told("b");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|d| d.before.contains("[heap]") || d.after.contains("[heap]")), "{told:#?}");
}

#[test]
fn a_posix_timer_is_told() {
    let told = told("T");
    assert!(told.iter().any(|d| d.path == "tasks/PID/timers"), "{told:#?}");
}

#[test]
fn a_new_child_and_a_zombie_are_told() {
    for (change, state) in [("F", "running"), ("Z", "zombie")] {
        let mut puppet = Puppet::start();
        let before = puppet.record();
        puppet.change(change.chars().next().unwrap());
        // The child ends by itself, in its own time.
        let mut after = puppet.record();
        for _ in 0..1000 {
            if after.tasks.len() == 2 && after.tasks.values().any(|task| task.state == state) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            after = puppet.record();
        }
        let told = equality::compare(&before, &after, &Rules::standard());
        let new = after.tasks.keys().find(|pid| **pid != before.root).expect("no child");
        assert!(told.iter().any(|d| d.path == format!("tasks/{new}") && d.before == "absent"), "{told:#?}");
        assert_eq!(after.tasks[new].state, state);
        if state == "zombie" {
            assert_eq!(after.tasks[new].stat["exit_code"], (3 << 8).to_string());
        } else {
            // SAFETY: a signal to a child of the puppet, which has not reaped it.
            unsafe { libc::kill(new.cast_signed(), libc::SIGKILL) };
        }
    }
}

#[test]
fn a_new_thread_is_told() {
    let told = told("t");
    assert!(
        told.iter().any(|d| d.path.starts_with("tasks/PID/threads/") && d.before == "absent"),
        "{told:#?}"
    );
    assert!(told.iter().any(|d| d.path.ends_with("stat/num_threads")), "{told:#?}");
}

#[test]
fn without_rules_the_past_differs_too() {
    let puppet = Puppet::start();
    let before = puppet.record();
    let after = puppet.record();
    assert!(equality::compare(&before, &after, &Rules::standard()).is_empty());
    let raw = equality::compare(&before, &after, &Rules::none());
    assert!(raw.iter().any(|d| d.path.ends_with("ctxt_switches")), "{raw:#?}");
}

/// Extended state of a process that holds a pattern in its registers and spins.
fn held(kind: &str, seed: &str) -> equality::Facts {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sp-work"))
        .args(["registers", kind, seed])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It says that it is about to; a little later it does, in a loop that never ends, with a pattern in rbx too.
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let mut record = equality::record(child.id()).unwrap();
    while record.tasks[&record.root].threads[&record.root].registers["rbx"] != "0x1122334455667788" {
        record = equality::record(child.id()).unwrap();
    }
    // The pattern is loaded right after rbx: by the next look it is.
    std::thread::sleep(std::time::Duration::from_millis(10));
    let record = equality::record(child.id()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    record.tasks[&record.root].threads[&record.root].xstate.clone()
}

#[test]
fn extended_registers_are_told() {
    for kind in ["sse", "avx", "avx512"] {
        let (a, same, other) = (held(kind, "1"), held(kind, "1"), held(kind, "2"));
        assert_eq!(a, same, "{kind}");
        assert_ne!(a["sse"], other["sse"], "{kind}");
        if kind != "sse" && std::arch::is_x86_feature_detected!("avx") {
            assert_ne!(a["component2"], other["component2"], "upper halves: {kind}");
        }
        if kind == "avx512" && std::arch::is_x86_feature_detected!("avx512f") {
            // Mask registers, upper halves of the first sixteen, the second sixteen.
            assert!((5..8).all(|n| a[&format!("component{n}")] != other[&format!("component{n}")]), "{a:?}");
        }
    }
    let a = held("x87", "1");
    assert_ne!(a["x87"], held("x87", "2")["x87"]);
    assert_ne!(a["mxcsr"], held("sse", "1")["mxcsr"]);
}

#[test]
fn a_record_survives_json() {
    let record = Puppet::start().record();
    let text = serde_json::to_string(&record).unwrap();
    let back: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(record, back);
}

#[test]
fn a_recorded_tree_runs_on() {
    let mut puppet = Puppet::start();
    for _ in 0..20 {
        puppet.record();
        puppet.change('p');
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", puppet.child.id())).unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
}

#[test]
fn every_rule_has_a_name_of_its_own_and_a_reason() {
    let rules = Rules::standard();
    let mut names = rules.iter().map(|rule| rule.name).collect::<Vec<_>>();
    assert!(rules.iter().all(|rule| rule.reason.len() > 20));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rules.iter().count());
}
