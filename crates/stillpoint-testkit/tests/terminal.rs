//! A tree in the foreground: terminals, shells, job control, signals. Everything is typed at a shell on a real
//! pseudo-terminal, or sent by another process, as users do.

use std::fs;
use std::path::Path;

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{
    Failure, Job, Outcome, Place, Pty, Tool, Who, ends, parent_of, running, wait_for,
};

/// Reads lines from its terminal and answers each; counts in memory what it has seen.
const ANSWERS: &str = r#"
import os, signal, sys
seen = {}
def note(number, frame):
    name = signal.Signals(number).name
    seen[name] = seen.get(name, 0) + 1
    os.write(2, b"[%s %d]" % (name.encode(), seen[name]))
for name in ("SIGINT", "SIGCONT", "SIGWINCH", "SIGTERM", "SIGHUP", "SIGUSR1"):
    signal.signal(getattr(signal, name), note)
count = 0
print("pid=%d." % os.getpid(), flush=True)
while True:
    line = sys.stdin.readline()
    if not line:
        sys.exit(99)
    count += 1
    words = line.split()
    if words and words[0] == "quit":
        sys.exit(int(words[1]))
    print("answer %d: %s." % (count, line.strip()), flush=True)
"#;

/// Reads keys in raw mode, without echo.
const RAW: &str = r#"
import os, signal, tty
signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b"[resized %d]" % os.get_terminal_size().lines))
tty.setraw(0)
os.write(1, b"pid=%d." % os.getpid())
while True:
    key = os.read(0, 1)
    if key == b"q":
        os._exit(5)
    os.write(1, b"<%s>" % key)
"#;

/// A program in a case's directory, and the terminal that it runs on.
struct Session {
    pty: Pty,
    place: Place,
    tool: String,
}

impl Session {
    fn new(who: Who, program: &str) -> Outcome<Self> {
        let place = Place::new(who)?;
        fs::write(place.path("program.py"), program)?;
        let tool = place.program("stillpoint")?.to_string_lossy().into_owned();
        Ok(Session { pty: Pty::shell(&place)?, place, tool })
    }

    fn file(&self, name: &str) -> String {
        self.place.path(name).to_string_lossy().into_owned()
    }

    /// Types a command line with `%` for the program; returns the pid that it tells.
    fn start(&mut self, line: &str) -> Outcome<u32> {
        let line = line.replace('%', &format!("python3 {}", self.file("program.py")));
        self.pty.line(&line)?;
        self.pty.shows("pid=")?;
        let pid = self.pty.shows(".")?;
        pid.trim().parse().map_err(|_| Failure::new(format!("no pid: {pid:?}")))
    }

    /// Checkpoints a task of the terminal from outside.
    fn save(&self, pid: u32) -> Outcome {
        Tool::new(&self.place).exits(0, ["checkpoint", &pid.to_string(), "-o", &self.file("image")]).map(drop)
    }

    /// What is typed to restore it, beside options.
    fn restore_line(&self, options: &str) -> String {
        let (tool, image, pid) = (&self.tool, self.file("image"), self.file("pid"));
        format!("{tool} restore {image} --pid-file {pid} {options}")
    }

    /// Types that, and waits until the tree runs. Returns its root, as seen from here.
    fn restore(&mut self, options: &str) -> Outcome<u32> {
        let line = self.restore_line(options);
        restore_on(&mut self.pty, &self.place, &line)
    }

    /// Waits until a restored root, which wants to read in the background, is stopped and the shell knows of it.
    fn stops(&mut self, pid: u32) -> Outcome {
        let command = parent_of(pid).unwrap_or_default();
        let stopped = |pid| state(pid) == Some('T');
        wait_for(
            "the job to stop for its terminal",
            || Ok((stopped(pid) && stopped(command)).then_some(())),
        )?;
        expect!(self.pty.run("echo $((6 * 7))")?.contains("42"), "the shell has lost its terminal");
        Ok(())
    }

    /// Waits until a program waits for keys: a signal that came before would be noticed after them.
    fn waits(&self, pid: u32) -> Outcome {
        wait_for("the program to wait", || Ok((state(pid) == Some('S')).then_some(())))
    }

    /// A line and its answer.
    fn asks(&mut self, line: &str, answer: &str) -> Outcome {
        self.pty.line(line)?;
        self.pty.shows(answer).map(drop)
    }
}

fn restore_on(pty: &mut Pty, place: &Place, line: &str) -> Outcome<u32> {
    let _ = fs::remove_file(place.path("pid"));
    pty.line(line)?;
    pty.shows("the root is pid ")?;
    let text = wait_for("the pid file", || {
        Ok(fs::read_to_string(place.path("pid")).ok().filter(|text| text.ends_with('\n')))
    })?;
    let pid = text.trim().parse().map_err(Failure::new)?;
    pty.watch(pid);
    Ok(pid)
}

fn state(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: takes two numbers.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

fn terminal_of(pid: u32, fd: u32) -> String {
    fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .map(|p| p.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn cooked(pty: &Pty) -> Outcome<bool> {
    Ok(pty.local_modes()? & (libc::ICANON | libc::ECHO) == libc::ICANON | libc::ECHO)
}

macro_rules! cases {
    ($($case:ident: $root:ident $user:ident;)+) => { $(
        #[test]
        fn $root() -> Outcome { if Who::Root.can_run() { $case(Who::Root) } else { Ok(()) } }
        #[test]
        fn $user() -> Outcome { $case(Who::User) }
    )+ };
}

cases! {
    a_job_of_the_shell: root_job user_job;
    a_member_of_another_group: root_member user_member;
    a_whole_pipeline: root_pipeline user_pipeline;
    raw_mode: root_raw user_raw;
    another_terminal: root_other_terminal user_other_terminal;
    in_the_background: root_background user_background;
    without_a_terminal: root_detached user_detached;
    an_inner_shell: root_inner_shell user_inner_shell;
    signals_are_passed_on: root_passed user_passed;
    the_command_is_killed: root_killed user_killed;
    no_signal_is_lost: root_gap user_gap;
}

/// The whole life of a program that was started from a shell, in its own process group.
fn a_job_of_the_shell(who: Who) -> Outcome {
    let mut s = Session::new(who, ANSWERS)?;
    let pid = s.start("%")?;
    s.asks("one", "answer 1: one.")?;
    s.save(pid)?;
    s.pty.shows("Killed")?;
    s.pty.prompt()?;
    let pid = s.restore("")?;
    s.pty.shows("in its own process group")?;
    s.asks("two", "answer 2: two.")?;
    for fd in 0..3 {
        expect!(terminal_of(pid, fd) == s.pty.name(), "fd {fd} is {}", terminal_of(pid, fd));
    }
    expect!(s.pty.foreground()? == pid, "the terminal is group {}'s, not {pid}'s", s.pty.foreground()?);
    job_control(&mut s, pid, 3)?;
    s.pty.line("quit 7")?;
    s.pty.prompt()?;
    expect!(s.pty.status()? == 7, "the status is not passed on");

    // Once more, ended by a signal.
    let pid = s.restore("")?;
    s.asks("two", "answer 2: two.")?;
    kill(pid, libc::SIGKILL);
    s.pty.prompt()?;
    expect!(s.pty.status()? == 128 + libc::SIGKILL, "the signal is not told");
    expect!(s.pty.foreground()? == s.pty.pid(), "the shell did not get its terminal back");
    Ok(())
}

/// Ctrl-C, Ctrl-Z, `fg`, `bg`, a resize; the next line is number `n`.
fn job_control(s: &mut Session, pid: u32, n: u32) -> Outcome {
    s.pty.clear();
    s.pty.keys("\x03")?;
    s.pty.shows("[SIGINT 1]")?;
    s.asks("after", &format!("answer {n}: after."))?;
    expect!(!s.pty.screen()?.contains("SIGINT 2"), "Ctrl-C came twice");
    s.pty.keys("\x1a")?;
    s.pty.shows("Stopped")?;
    s.pty.prompt()?;
    expect!(state(pid) == Some('T'), "it is not stopped: {:?}", state(pid));
    s.pty.run("true")?;
    s.pty.line("fg")?;
    s.pty.shows("[SIGCONT 1]")?;
    s.asks("again", &format!("answer {}: again.", n + 1))?;
    expect!(!s.pty.screen()?.contains("SIGCONT 2"), "SIGCONT came twice");
    s.pty.resize(33, 99)?;
    s.pty.shows("[SIGWINCH 1]")?;
    // To the background, where it stops for want of a terminal, and to the foreground again.
    s.pty.keys("\x1a")?;
    s.pty.prompt()?;
    s.pty.run("bg")?;
    s.stops(pid)?;
    s.pty.line("fg")?;
    s.asks("more", &format!("answer {}: more.", n + 2))?;
    expect!(running(pid), "it is gone");
    Ok(())
}

/// The program's group is led by a process that is not saved: it joins the group of `restore`.
fn a_member_of_another_group(who: Who) -> Outcome {
    let mut s = Session::new(who, ANSWERS)?;
    let pid = s.start("(%; true)")?;
    s.asks("one", "answer 1: one.")?;
    s.save(pid)?;
    s.pty.prompt()?;
    let pid = s.restore("")?;
    s.pty.shows("the session and process group of restore")?;
    s.asks("two", "answer 2: two.")?;
    let command = parent_of(pid).unwrap_or_default();
    expect!(s.pty.foreground()? == command, "the terminal is not that of restore's group");
    job_control(&mut s, pid, 3)?;
    s.pty.line("quit 9")?;
    s.pty.prompt()?;
    expect!(s.pty.status()? == 9, "the status is not passed on");
    Ok(())
}

/// A script with a pipeline in the foreground: all of it stops, and all of it goes on.
fn a_whole_pipeline(who: Who) -> Outcome {
    let mut s = Session::new(who, ANSWERS)?;
    s.start("bash -c 'tee copy | % | cat'")?;
    s.asks("one", "answer 1: one.")?;
    let script = s.pty.foreground()?;
    s.save(script)?;
    s.pty.prompt()?;
    let pid = s.restore("")?;
    s.asks("two", "answer 2: two.")?;
    s.pty.keys("\x1a")?;
    s.pty.shows("Stopped")?;
    s.pty.prompt()?;
    s.pty.line("fg")?;
    s.pty.shows("[SIGCONT 1]")?;
    s.asks("three", "answer 3: three.")?;
    // Ctrl-D ends tee, that its reader, and so on.
    s.pty.keys("\x04")?;
    s.pty.prompt()?;
    expect!(s.pty.status()? == 0, "the last of the pipeline ends well");
    ends(pid)
}

/// The terminal is set as the program had it, and reset when the program is killed.
fn raw_mode(who: Who) -> Outcome {
    let mut s = Session::new(who, RAW)?;
    let pid = s.start("%")?;
    s.pty.keys("a")?;
    s.pty.shows("<a>")?;
    expect!(!cooked(&s.pty)?, "the program did not set raw mode");
    s.save(pid)?;
    s.pty.prompt()?;
    expect!(cooked(&s.pty)?, "the shell did not reset the terminal");
    // What only looks changes nothing.
    let line = s.restore_line("--dry-run");
    let said = s.pty.run(&line)?;
    expect!(said.contains("would be restored: 1 task"), "{said}");
    expect!(cooked(&s.pty)? && !s.place.path("pid").exists(), "a dry run touches");
    for (end, status) in [("kill", 128 + libc::SIGKILL), ("q", 5)] {
        let pid = s.restore("")?;
        s.pty.keys("b")?;
        s.pty.shows("<b>")?;
        expect!(!cooked(&s.pty)?, "raw mode was not restored");
        if end == "kill" {
            kill(pid, libc::SIGKILL);
        } else {
            s.pty.keys(end)?;
        }
        s.pty.prompt()?;
        if end == "kill" {
            expect!(cooked(&s.pty)?, "a killed program leaves its modes");
        }
        expect!(s.pty.status()? == status, "the status is not {status}");
    }
    Ok(())
}

/// A terminal of another size: the program gets it, and is told of the size.
fn another_terminal(who: Who) -> Outcome {
    let mut s = Session::new(who, RAW)?;
    s.pty.resize(24, 80)?;
    let pid = s.start("%")?;
    s.waits(pid)?;
    s.save(pid)?;
    s.pty.prompt()?;
    let mut other = Pty::shell(&s.place)?;
    other.resize(40, 100)?;
    let line = s.restore_line("");
    let pid = restore_on(&mut other, &s.place, &line)?;
    other.shows("[resized 40]")?;
    other.keys("x")?;
    other.shows("<x>")?;
    expect!(terminal_of(pid, 0) == other.name(), "it is on {}", terminal_of(pid, 0));
    expect!(cooked(&s.pty)?, "the old terminal was touched");
    other.keys("q")?;
    other.prompt()?;
    expect!(other.status()? == 5, "the status is not passed on");
    Ok(())
}

/// `restore &`: the terminal stays the shell's, until `fg`.
fn in_the_background(who: Who) -> Outcome {
    let mut s = Session::new(who, RAW)?;
    let pid = s.start("%")?;
    s.save(pid)?;
    s.pty.prompt()?;
    let pid = s.restore("&")?;
    s.stops(pid)?;
    expect!(cooked(&s.pty)?, "a background job has set the terminal");
    s.pty.line("fg")?;
    s.pty.keys("k")?;
    s.pty.shows("<k>")?;
    expect!(!cooked(&s.pty)?, "raw mode was not set in the foreground");
    s.pty.keys("q")?;
    s.pty.prompt()?;
    Ok(())
}

/// Detached there is no terminal: refused with the remedy, which works.
fn without_a_terminal(who: Who) -> Outcome {
    let mut s = Session::new(who, ANSWERS)?;
    let pid = s.start("%")?;
    s.asks("one", "answer 1: one.")?;
    s.save(pid)?;
    s.pty.prompt()?;
    let (image, log, pid_file) = (s.file("image"), s.file("log"), s.file("pid"));
    let tool = Tool::new(&s.place);
    for extra in [&["--json"][..], &["--json", "--dry-run"]] {
        let ran = tool.exits(5, ["restore", &image, "--detach"].iter().chain(extra))?;
        expect!(ran.stdout.contains("no-terminal") && ran.stdout.contains("--external"), "{}", ran.stdout);
    }
    let said = tool.exits(5, ["restore", &image, "--detach"])?.stderr;
    expect!(said.contains("--external") && said.contains(&s.pty.name()), "{said}");
    let (out, err) = (format!("1={log}"), format!("2={log}"));
    let externals = ["--external", "0=/dev/null", "--external", &out, "--external", &err];
    let args = ["restore", &image, "--detach", "--pid-file", &pid_file].into_iter().chain(externals);
    let dry = tool.exits(0, args.clone().chain(["--dry-run"]))?.stdout;
    expect!(dry.contains("a session of its own"), "{dry}");
    expect!(!Path::new(&log).exists() && !Path::new(&pid_file).exists(), "a dry run made a file");
    let ran = tool.exits(0, args)?;
    expect!(ran.stdout.contains("a session of its own"), "{}", ran.stdout);
    // Its input is at its end: it says nothing more and exits.
    let pid: u32 = fs::read_to_string(&pid_file)?.trim().parse().map_err(Failure::new)?;
    ends(pid)?;
    expect!(Path::new(&log).exists(), "the replacement was not made");
    Ok(())
}

/// An interactive shell within the tree, with a job in the foreground: the job has the terminal again.
fn an_inner_shell(who: Who) -> Outcome {
    let mut s = Session::new(who, ANSWERS)?;
    // In two parts, so that the echo of the line is not the prompt.
    s.pty.line("PS1='inn''er: ' HISTFILE= bash --norc --noprofile --noediting -i")?;
    s.pty.shows("inner: ")?;
    let job = s.start("%")?;
    s.asks("one", "answer 1: one.")?;
    let inner = parent_of(job).unwrap_or_default();
    s.save(inner)?;
    s.pty.prompt()?;
    let pid = s.restore("")?;
    s.asks("two", "answer 2: two.")?;
    expect!(parent_of(s.pty.foreground()?) == Some(pid), "the inner job does not have the terminal");
    s.pty.keys("\x1a")?;
    s.pty.shows("inner: ")?;
    s.pty.line("fg")?;
    s.asks("three", "answer 3: three.")?;
    s.pty.line("quit 3")?;
    s.pty.shows("inner: ")?;
    s.pty.line("exit 4")?;
    s.pty.prompt()?;
    expect!(s.pty.status()? == 4, "the status is not passed on");
    Ok(())
}

/// Signals to the command reach the root, once each.
fn signals_are_passed_on(who: Who) -> Outcome {
    for line in ["%", "(%; true)"] {
        let mut s = Session::new(who, ANSWERS)?;
        let pid = s.start(line)?;
        s.save(pid)?;
        s.pty.prompt()?;
        let pid = s.restore("")?;
        s.asks("one", "answer 1: one.")?;
        let command = parent_of(pid).unwrap_or_default();
        for (signal, name) in [
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGHUP, "SIGHUP"),
            (libc::SIGUSR1, "SIGUSR1"),
            (libc::SIGINT, "SIGINT"),
        ] {
            kill(command, signal);
            s.pty.shows(&format!("[{name} 1]"))?;
        }
        s.asks("two", "answer 2: two.")?;
        expect!(!s.pty.screen()?.contains(" 2]"), "one came twice");
        expect!(running(command), "a signal ended the command");
        s.pty.line("quit 0")?;
        s.pty.prompt()?;
    }
    Ok(())
}

/// Counts in a link, forever, so that no file is open, and whatever an earlier restore of it has left there; ends with
/// 43 when it is told to.
const COUNTS: &str = r#"
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(43))
count = 0
while True:
    count += 1
    try:
        os.symlink(str(count), sys.argv[1] + ".new")
        os.rename(sys.argv[1] + ".new", sys.argv[1])
    except OSError:
        os.path.lexists(sys.argv[1] + ".new") and os.unlink(sys.argv[1] + ".new")
    time.sleep(0.01)
"#;

struct Counter {
    guard: stillpoint_testkit::harness::Guard,
    place: Place,
    pid: u32,
}

impl Counter {
    /// A counter that is led by this process's group and session, saved and ended.
    fn saved(who: Who) -> Outcome<Self> {
        let place = Place::new(who)?;
        fs::write(place.path("program.py"), COUNTS)?;
        let mut command = place.command("python3")?;
        command.arg(place.path("program.py")).arg(place.path("count"));
        let mut child = command.spawn()?;
        let mut counter = Counter { guard: Default::default(), place, pid: child.id() };
        counter.guard.watch(child.id());
        counter.counts()?;
        let (image, pid) = (counter.file("image"), child.id().to_string());
        let ran = Tool::new(&counter.place).exits(0, ["checkpoint", &pid, "-o", &image])?;
        expect!(ran.stdout.contains("led from outside the tree"), "{}", ran.stdout);
        child.wait()?;
        Ok(counter)
    }

    fn file(&self, name: &str) -> String {
        self.place.path(name).to_string_lossy().into_owned()
    }

    fn count(&self) -> u32 {
        self.place.link("count").and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    fn counts(&self) -> Outcome {
        let before = self.count();
        wait_for("the counter to count", || Ok((self.count() > before + 2).then_some(())))
    }

    fn start(&mut self) -> Outcome<Job> {
        let (image, pid) = (self.file("image"), self.file("pid"));
        let _ = fs::remove_file(&pid);
        Tool::new(&self.place).start(["restore", &image, "--pid-file", &pid, "--json"])
    }

    fn restored(&mut self) -> Outcome<Job> {
        let job = self.start()?;
        let text = wait_for("the pid file", || {
            Ok(fs::read_to_string(self.place.path("pid")).ok().filter(|text| text.ends_with('\n')))
        })?;
        self.pid = text.trim().parse().map_err(Failure::new)?;
        self.guard.watch(self.pid);
        self.counts()?;
        Ok(job)
    }
}

/// SIGKILL for the command: the tree runs on, as any orphan does.
fn the_command_is_killed(who: Who) -> Outcome {
    let mut counter = Counter::saved(who)?;
    let mut job = counter.restored()?;
    job.child.kill()?;
    job.child.wait()?;
    counter.counts()?;
    expect!(running(counter.pid), "the tree died with the command");
    kill(counter.pid, libc::SIGTERM);
    ends(counter.pid)
}

/// A signal at any moment of a restore either undoes it or reaches the tree.
fn no_signal_is_lost(who: Who) -> Outcome {
    let mut counter = Counter::saved(who)?;
    let mut outcomes = std::collections::BTreeMap::new();
    for round in 0..60u64 {
        let job = counter.start()?;
        std::thread::sleep(std::time::Duration::from_micros(round * 700));
        kill(job.pid(), libc::SIGTERM);
        let ran = job.wait()?;
        let outcome = match ran.code() {
            43 => "passed on",
            1 if ran.error("code").as_deref() == Some("interrupted") => "interrupted",
            // It was not yet there to watch for signals.
            143 if ran.stdout.is_empty() => "not begun",
            _ => return Err(Failure::new(format!("round {round}: {ran:?}"))),
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
        expect!(outcome == "passed on" || !counter.place.path("pid").exists(), "a pid file is left");
        if who == Who::Root {
            ends(counter.pid)?;
        }
    }
    eprintln!("{outcomes:?}");
    Ok(())
}
