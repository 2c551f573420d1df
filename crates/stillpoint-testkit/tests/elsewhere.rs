//! What a restore is given in place of what a tree had: `--external` for descriptors, `--root` for the file system.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{Failure, Guard, Outcome, Place, Tool, Who, ends, running, wait_for};

macro_rules! cases {
    ($($case:ident: $root:ident $user:ident;)+) => { $(
        #[test]
        fn $root() -> Outcome { if Who::Root.can_run() { $case(Who::Root) } else { Ok(()) } }
        #[test]
        fn $user() -> Outcome { $case(Who::User) }
    )+ };
}

cases! {
    a_pipe_to_outside: root_pipe user_pipe;
    below_another_root: root_below user_below;
}

/// A case: its directory, and what it has running.
struct Case {
    guard: Guard,
    place: Place,
}

impl Case {
    fn new(who: Who) -> Outcome<Self> {
        Ok(Case { guard: Guard::default(), place: Place::new(who)? })
    }

    fn tool(&self) -> Tool<'_> {
        Tool::new(&self.place)
    }

    fn file(&self, name: &str) -> String {
        self.place.path(name).to_string_lossy().into_owned()
    }

    /// The root of what was restored last.
    fn restored(&mut self) -> Outcome<u32> {
        let text = wait_for("the pid file", || {
            Ok(fs::read_to_string(self.place.path("pid")).ok().filter(|text| text.ends_with('\n')))
        })?;
        let pid = text.trim().parse().map_err(Failure::new)?;
        self.guard.watch(pid);
        fs::remove_file(self.place.path("pid"))?;
        Ok(pid)
    }
}

fn kill(pid: u32) -> Outcome {
    // SAFETY: takes two numbers.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    ends(pid)
}

/// Says a line each time that it finds a mark, and takes the mark away.
const SAYS: &str = r#"
import os, sys, time
count = 0
while True:
    try:
        os.unlink(sys.argv[1])
    except FileNotFoundError:
        time.sleep(0.005)
        continue
    count += 1
    os.write(1, b"said %d\n" % count)
"#;

fn a_pipe_to_outside(who: Who) -> Outcome {
    let mut case = Case::new(who)?;
    fs::write(case.place.path("says.py"), SAYS)?;
    let mut command = case.place.command("python3")?;
    command.arg(case.place.path("says.py")).arg(case.place.path("mark")).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    case.guard.watch(child.id());
    let mut said = String::new();
    let mut pipe = BufReader::new(child.stdout.take().ok_or_else(|| Failure::new("no pipe"))?);
    case.place.mark("mark")?;
    pipe.read_line(&mut said)?;
    expect!(said == "said 1\n", "{said:?}");
    let (pid, image) = (child.id().to_string(), case.file("image"));

    // Without a word about it: refused, naming who has the other end. The task runs on.
    let ran = case.tool().exits(3, ["checkpoint", &pid, "-o", &image, "--json"])?;
    expect!(ran.error("code").as_deref() == Some("outside-tree"), "{}", ran.stdout);
    let cause = ran.error("cause").unwrap_or_default();
    let me = std::process::id();
    let name = fs::read_to_string("/proc/self/comm")?;
    let hidden = who == Who::User && Who::are_root();
    let named = cause.contains(&format!("process {me} ({})", name.trim())) && cause.contains("(fd ");
    expect!(named || hidden && cause.contains("may not look at"), "{cause}");
    let remedy = ran.error("remedy").unwrap_or_default();
    expect!(remedy.contains(&format!("--external {pid}:1=")), "{remedy}");
    expect!(running(child.id()) && !Path::new(&image).exists(), "a refusal harms");

    let log = case.file("log");
    let external = format!("1={log}");
    case.tool().exits(0, ["checkpoint", &pid, "-o", &image, "--external", &external])?;
    child.wait()?;
    for what in [&["files"][..], &["--json"], &["files", "--json"]] {
        let ran = case.tool().exits(0, ["inspect", &image].iter().chain(what))?;
        expect!(ran.stdout.contains(&log), "inspect {what:?} does not show it: {}", ran.stdout);
    }

    // Made if it is missing, written to from its end on if it is not.
    fn says(case: &mut Case, file: &str, text: &str) -> Outcome {
        case.place.mark("mark")?;
        let path = case.place.path(file);
        wait_for(text, || Ok((fs::read_to_string(&path).ok().as_deref() == Some(text)).then_some(())))
    }
    let (image, pid_file) = (image.as_str(), case.file("pid"));
    for text in ["said 2\n", "said 2\nsaid 2\n"] {
        case.tool().exits(0, ["restore", image, "--detach", "--pid-file", &pid_file])?;
        let pid = case.restored()?;
        says(&mut case, "log", text)?;
        kill(pid)?;
    }

    // Another one, that the command was given: in the foreground, below a shell.
    let tool = case.place.program("stillpoint")?.to_string_lossy().into_owned();
    let line = format!(
        "{tool} restore {image} --pid-file {pid_file} --external 1=fd:7 7>{} & wait $!",
        case.file("given")
    );
    let mut shell = case.place.command("bash")?.args(["-c", &line]).spawn()?;
    let pid = case.restored()?;
    says(&mut case, "given", "said 2\n")?;
    kill(pid)?;
    let status = shell.wait()?;
    expect!(status.code() == Some(128 + libc::SIGKILL), "{status}");
    expect!(fs::read_to_string(&log)? == "said 2\nsaid 2\n", "the log was written to");

    // What was not given is not taken, whatever happens to have that number.
    for number in 3..12 {
        let external = format!("1=fd:{number}");
        let ran = case.tool().exits(2, ["restore", image, "--detach", "--json", "--external", &external])?;
        expect!(ran.error("code").as_deref() == Some("usage"), "{}", ran.stdout);
    }
    // A file that was made is gone when nothing comes of the restore.
    let nowhere = case.file("nowhere/pid");
    let external = format!("1={}", case.file("made"));
    case.tool().exits(1, ["restore", image, "--detach", "--pid-file", &nowhere, "--external", &external])?;
    expect!(!case.place.path("made").exists(), "a failed restore leaves a file");
    Ok(())
}

/// Answers each line of a FIFO with the next line of its data, in a log; holds all three open.
const KEEPS: &str = r#"
cd "$1"
exec <in >out 2>err 3<data 4>>log 5<>fifo
n=0
while read -r line <&5; do
    n=$((n + 1))
    read -r next <&3
    echo "$n $line $next" >&4
done
"#;

/// Copies everything that a process has open or mapped below a directory, as an administrator would.
const COPY: &str = r#"
set -e
root=$1 pid=$2 work=$3
mkdir "$root"
{ awk '$6 ~ "^/" { print $6 }' "/proc/$pid/maps"; readlink "/proc/$pid/exe"; } | sort -u |
    xargs -d '\n' cp -a --parents -t "$root"
cp -a --parents -t "$root" "$work"
"#;

struct Keeper {
    case: Case,
    pid: u32,
    count: u32,
}

impl Keeper {
    /// Has it answer a line, in the log of a work directory.
    fn answers(&mut self, work: &Path) -> Outcome {
        self.count += 1;
        let mut fifo = fs::OpenOptions::new().read(true).write(true).open(work.join("fifo"))?;
        writeln!(fifo, "line-{}", self.count)?;
        let want = format!("{0} line-{0} data-{0}\n", self.count);
        wait_for(&want, || Ok(fs::read_to_string(work.join("log"))?.ends_with(&want).then_some(())))
    }

    fn save(&self, image: &str, child: Option<Child>) -> Outcome {
        let (pid, image) = (self.pid.to_string(), self.case.file(image));
        self.case.tool().exits(0, ["checkpoint", &pid, "-o", &image])?;
        match child {
            Some(mut child) => drop(child.wait()?),
            None => ends(self.pid)?,
        }
        Ok(())
    }

    fn restore(&mut self, image: &str, options: &[&str]) -> Outcome {
        let (image, pid_file) = (self.case.file(image), self.case.file("pid"));
        let args = ["restore", &image, "--detach", "--pid-file", &pid_file];
        self.case.tool().exits(0, args.iter().chain(options))?;
        self.pid = self.case.restored()?;
        Ok(())
    }

    /// Everything that it has is below a directory.
    fn is_below(&self, root: &Path) -> Outcome {
        let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", self.pid));
        expect!(link("root")? == root, "its root is {:?}", link("root")?);
        for name in ["exe", "cwd", "fd/0", "fd/1", "fd/2", "fd/3", "fd/4", "fd/5"] {
            expect!(link(name)?.starts_with(root), "{name} is {:?}", link(name)?);
        }
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let outside = |line: &&str| line.contains(" /") && !line.contains(&*root.to_string_lossy());
        match maps.lines().find(outside) {
            Some(line) => Err(Failure::new(format!("not below the root: {line}"))),
            None => Ok(()),
        }
    }
}

fn below_another_root(who: Who) -> Outcome {
    let case = Case::new(who)?;
    fs::write(case.place.path("keeps.sh"), KEEPS)?;
    fs::write(case.place.path("copy.sh"), COPY)?;
    let work = case.place.path("work");
    let script = format!(
        "mkdir {0}; cd {0}; mkfifo fifo; touch in; for n in {{1..99}}; do echo data-$n; done >data",
        work.display()
    );
    expect!(case.place.command("bash")?.args(["-c", &script]).status()?.success(), "{script} failed");
    let mut command = case.place.command("bash")?;
    command.arg("--norc").arg(case.place.path("keeps.sh")).arg(&work);
    let child = command.spawn()?;
    let mut keeper = Keeper { pid: child.id(), case, count: 0 };
    keeper.case.guard.watch(keeper.pid);
    wait_for("the program to open its log", || Ok(work.join("log").exists().then_some(())))?;
    keeper.answers(&work)?;

    // A shell keeps its script open, which is copied with the rest.
    let root = keeper.case.place.path("root");
    let copy = keeper.case.file("copy.sh");
    keeper.case.tool().exits(
        0,
        ["checkpoint", &keeper.pid.to_string(), "-o", &keeper.case.file("image"), "--leave-stopped"],
    )?;
    let mut command = keeper.case.place.command("bash")?;
    command.arg(&copy).arg(&root).arg(keeper.pid.to_string()).arg(&work).stderr(Stdio::inherit());
    expect!(command.status()?.success(), "copying failed");
    let script = format!("cp -a --parents -t {} {}", root.display(), keeper.case.file("keeps.sh"));
    expect!(keeper.case.place.command("bash")?.args(["-c", &script]).status()?.success(), "{script} failed");
    let mut child = child;
    child.kill()?;
    child.wait()?;

    // Links that would lead out stay inside: a relative one, and an absolute one to what is not there outside.
    let script = format!(
        "cd {} && mv usr moved && ln -s ../../../moved usr && mv moved/lib only-here && ln -s /only-here moved/lib",
        root.display()
    );
    expect!(keeper.case.place.command("bash")?.args(["-c", &script]).status()?.success(), "{script} failed");
    // The files outside are not those any more.
    fs::write(work.join("data"), "wrong\n")?;
    let inside: PathBuf = root.join(work.strip_prefix("/")?);
    let (image, below) = (keeper.case.file("image"), root.to_string_lossy().into_owned());
    keeper.case.tool().exits(5, ["restore", &image, "--detach"])?;
    let dry = keeper.case.tool().exits(0, ["restore", &image, "--detach", "--dry-run", "--root", &below])?;
    expect!(dry.stdout.contains("would be restored"), "{}", dry.stdout);

    keeper.restore("image", &["--root", &below])?;
    keeper.is_below(&root)?;
    keeper.answers(&inside)?;
    // It is saved again as it is: its root is a directory like any other.
    keeper.save("again", None)?;
    keeper.restore("again", &[])?;
    keeper.is_below(&root)?;
    keeper.answers(&inside)?;
    kill(keeper.pid)
}
