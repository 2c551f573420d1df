//! Real programs: saved in mid-work, restored, and finishing with the right result; or refused by name, unharmed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use stillpoint_testkit::expect;
use stillpoint_testkit::harness::{
    Failure, Outcome, Place, Who, Workload, ends, running, skip, tree_of, wait_for,
};

/// Whether the programs that a case needs are on this machine.
fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !Path::new(&format!("/usr/bin/{program}")).exists());
    if let Some(program) = missing {
        skip(&format!("{program} is not installed"));
    }
    missing.is_none()
}

/// A shell script, in the case's directory.
fn shell(place: &Place, script: &str) -> Outcome<Command> {
    let mut command = place.command("bash")?;
    // `set -e` and pipefail: a stage that fails must not look like an empty result.
    command.current_dir(place.dir()).args(["-c", &format!("set -e -o pipefail; {script}; : > done")]);
    Ok(command)
}

/// A file that the case's user can read, and make things beside.
fn write(place: &Place, name: &str, contents: impl AsRef<[u8]>) -> Outcome {
    fs::write(place.path(name), contents)?;
    Ok(())
}

/// Checkpoints a tree that starts processes all the time: the moment in which a child still has its parent's memory (vfork) may be
/// refused, with nothing harmed; then again.
fn checkpoint(workload: &mut Workload, image: &str) -> Outcome {
    for _ in 0..50 {
        let tasks = tree_of(workload.pid());
        let ran = workload.checkpoint(image, &["--json"])?;
        if ran.code() == 3 && ran.error("code").as_deref() == Some("unsupported-sharing") {
            expect!(running(workload.pid()), "a refused checkpoint ended the tree");
            std::thread::sleep(std::time::Duration::from_millis(20));
            continue;
        }
        ran.exits(0)?;
        for pid in tasks {
            ends(pid)?;
        }
        return workload.reap();
    }
    Err(Failure::new("refused for its vfork fifty times in a row"))
}

/// Starts the script, lets it come to its middle, saves and restores it twice, and waits for its end.
fn through(place: Place, script: &str, middle: impl Fn(&Place, u32) -> bool) -> Outcome<Arc<Place>> {
    let command = shell(&place, script)?;
    let mut workload = Workload::spawn(place, command)?;
    for round in 0..2 {
        wait_for("the program to be in the middle of its work", || {
            expect!(running(workload.pid()), "the program ended before its middle");
            Ok(middle(workload.place(), workload.pid()).then_some(()))
        })?;
        let image = format!("image-{round}");
        checkpoint(&mut workload, &image)?;
        workload.restore(&image, &[])?;
    }
    workload.place().mark("go")?;
    ends(workload.pid())?;
    expect!(workload.place().path("done").exists(), "the program failed after it was restored");
    Ok(workload.into_place())
}

fn same(what: &str, a: &[u8], b: &[u8]) -> Outcome {
    expect!(a == b, "{what} differs: {} bytes and {} bytes", a.len(), b.len());
    Ok(())
}

const PYTHON: &str = r#"
import hashlib, os, sys, threading, time
def work(name, rounds):
    h = hashlib.sha256()
    with open(name, "w") as f:
        for i in range(rounds):
            h.update(str(i).encode() * 50)
            f.write("%d %s\n" % (i, h.hexdigest()))
            if i % 100 == 0:
                f.flush()
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.close(r)
    work("child", 60000)
    os.write(w, b"result of the child")
    os._exit(7)
os.close(w)
threads = [threading.Thread(target=work, args=("thread%d" % i, 30000)) for i in range(3)]
for t in threads: t.start()
for t in threads: t.join()
result = os.read(r, 100)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
while not os.path.exists("go"): time.sleep(0.02)
open("result", "w").write("%r %d" % (result, status))
"#;

fn python(who: Who) -> Outcome {
    if !who.can_run() || !have(&["python3"]) {
        return Ok(());
    }
    let place = Place::new(who)?;
    write(&place, "work.py", PYTHON)?;
    let started = |place: &Place, _| place.path("thread2").exists() && place.path("child").exists();
    let place = through(place, "/usr/bin/python3 work.py", started)?;
    // The same without interruption.
    let plain = Place::new(who)?;
    write(&plain, "work.py", PYTHON)?;
    plain.mark("go")?;
    let status = shell(&plain, "/usr/bin/python3 work.py")?.status()?;
    expect!(status.success(), "python by itself ended with {status}");
    for name in ["child", "thread0", "thread1", "thread2", "result"] {
        same(name, &fs::read(place.path(name))?, &fs::read(plain.path(name))?)?;
    }
    Ok(())
}

fn pipeline(who: Who) -> Outcome {
    if !who.can_run() || !have(&["seq", "sort", "xz"]) {
        return Ok(());
    }
    let place = Place::new(who)?;
    let script = "seq 1 1500000 | sort -r -S 20M | xz -6 > out.xz";
    let place = through(place, script, |_, pid| tree_of(pid).len() >= 3)?;
    let out = Command::new("xz").args(["-dc"]).arg(place.path("out.xz")).output()?;
    let expected =
        Command::new("bash").args(["-c", "seq 1 1500000 | sort -r"]).env("LANG", "C.UTF-8").output()?;
    same("the sorted numbers", &out.stdout, &expected.stdout)
}

/// Writes a C project whose program prints a number that every file has a part in.
fn project(place: &Place) -> Outcome {
    const FILES: u32 = 60;
    let dir = place.path("project");
    fs::create_dir(&dir)?;
    std::os::unix::fs::chown(&dir, Some(owner(place)), None)?;
    let mut header =
        String::from("#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    let mut main = String::from("#include \"all.h\"\nint main(void) {\n  uint64_t x = 1;\n");
    for i in 0..FILES {
        header.push_str(&format!("uint64_t part{i}(uint64_t);\n"));
        main.push_str(&format!("  x = part{i}(x);\n"));
        let mut source = String::from("#include \"all.h\"\n");
        for j in 0..40 {
            source.push_str(&format!(
                "static uint64_t f{j}(uint64_t x, unsigned n) {{\n  uint64_t t[64];\n  for (unsigned k = 0; k < 64; k++) \
                 t[k] = x * (k + {i} + {j}ull);\n  for (unsigned k = 0; k < n; k++) {{ t[k % 64] ^= t[(k + 7) % 64] >> 3; \
                 x += t[(x + k) % 64]; }}\n  switch (x % 7) {{ case 0: return x + {j}; case 1: return x ^ {i}; case 2: \
                 return ~x; default: return x * 3; }}\n}}\n"
            ));
        }
        source.push_str(&format!("uint64_t part{i}(uint64_t x) {{\n"));
        (0..40).for_each(|j| source.push_str(&format!("  x = f{j}(x, {});\n", 10 + j)));
        source.push_str("  return x;\n}\n");
        fs::write(dir.join(format!("part{i}.c")), source)?;
    }
    main.push_str("  printf(\"%llu\\n\", (unsigned long long)x);\n  return 0;\n}\n");
    fs::write(dir.join("all.h"), header)?;
    fs::write(dir.join("main.c"), main)?;
    let makefile = "OBJ := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(OBJ)\n\tgcc -o $@ $(OBJ)\n%.o: %.c all.h\n\tgcc -O2 \
                    -g0 -c -o $@ $<\n";
    fs::write(dir.join("Makefile"), makefile)?;
    Ok(())
}

/// The user id of the case.
fn owner(place: &Place) -> u32 {
    if place.who() == Who::User && Who::are_root() {
        stillpoint_testkit::harness::USER
    } else {
        // SAFETY: takes nothing and always succeeds.
        unsafe { libc::geteuid() }
    }
}

fn make(who: Who) -> Outcome {
    if !who.can_run() || !have(&["make", "gcc"]) {
        return Ok(());
    }
    let place = Place::new(who)?;
    project(&place)?;
    let objects = |place: &Place| {
        let names = fs::read_dir(place.path("project")).into_iter().flatten().flatten();
        names.filter(|entry| entry.path().extension().is_some_and(|e| e == "o")).count()
    };
    let middle = |place: &Place, pid| objects(place) >= 5 && tree_of(pid).len() >= 4;
    let place = through(place, "make -j2 -C project", middle)?;
    let plain = Place::new(who)?;
    project(&plain)?;
    let status = shell(&plain, "make -j2 -C project")?.status()?;
    expect!(status.success(), "make by itself ended with {status}");
    let run = |place: &Place| Command::new(place.path("project/program")).output();
    same("what the program prints", &run(&place)?.stdout, &run(&plain)?.stdout)?;
    for entry in fs::read_dir(plain.path("project"))?.flatten() {
        let name = entry.file_name();
        let other = place.path("project").join(&name);
        same(&name.to_string_lossy(), &fs::read(other)?, &fs::read(entry.path())?)?;
    }
    Ok(())
}

/// Rows inserted before and after the checkpoint, all in one transaction, under the locks of the default VFS.
const SQLITE: &str = "{ echo 'PRAGMA cache_size=20; CREATE TABLE t(n INTEGER, s TEXT); BEGIN IMMEDIATE;'; \
     for i in $(seq 1 5000); do echo \"INSERT INTO t VALUES($i, hex(zeroblob(100)));\"; done; \
     echo \"SELECT writefile('inside', 'x');\"; \
     while [ ! -e go ]; do sleep 0.02; done; \
     for i in $(seq 5001 6000); do echo \"INSERT INTO t VALUES($i, 'late');\"; done; \
     echo 'COMMIT; PRAGMA integrity_check; SELECT count(*), sum(n), sum(length(s)) FROM t;'; } \
     | sqlite3 -bail base.db > out";

fn sqlite(who: Who) -> Outcome {
    if !who.can_run() || !have(&["sqlite3"]) {
        return Ok(());
    }
    let place = Place::new(who)?;
    let inside = |place: &Place, _| place.path("inside").exists();
    let place = through(place, SQLITE, inside)?;
    let out = fs::read_to_string(place.path("out"))?;
    let last = out.lines().rev().take(2).collect::<Vec<_>>();
    expect!(last == ["6000|18003000|1004000", "ok"], "sqlite3 said {out:?}");
    expect!(!place.path("base.db-journal").exists(), "the journal was left");
    Ok(())
}

fn xz(who: Who) -> Outcome {
    if !who.can_run() || !have(&["xz"]) {
        return Ok(());
    }
    let place = Place::new(who)?;
    // Numbers in text: compressible, slowly.
    let mut state = 1_u64;
    let mut text = String::new();
    while text.len() < 6 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(&format!("{} ", state >> 44));
    }
    write(&place, "large", &text)?;
    let begun = |place: &Place, pid| {
        place.path("out.xz").metadata().is_ok_and(|meta| meta.len() > 0) && tree_of(pid).len() >= 2
    };
    let place = through(place, "xz -6 -T1 -c large > out.xz", begun)?;
    let expected = Command::new("xz").args(["-6", "-T1", "-c"]).arg(place.path("large")).output()?;
    same("the compressed file", &fs::read(place.path("out.xz"))?, &expected.stdout)
}

/// Runs a program that holds what cannot be saved yet and rewrites the file `beat` again and again.
fn refused(place: Place, command: Command, kinds: &[&str]) -> Outcome {
    let workload = Workload::spawn(place, command)?;
    let beat = || fs::read_to_string(workload.place().path("beat")).unwrap_or_default();
    let beats = || -> Outcome {
        for _ in 0..3 {
            let before = beat();
            wait_for("the program to go on", || {
                expect!(running(workload.pid()), "the program is gone");
                let now = beat();
                Ok((now != before && !now.is_empty()).then_some(()))
            })?;
        }
        Ok(())
    };
    beats()?;
    let tasks = tree_of(workload.pid());
    for _ in 0..3 {
        let ran = workload.checkpoint("image", &["--json"])?.exits(3)?;
        let object = ran.error("object").unwrap_or_default();
        expect!(kinds.iter().any(|kind| object.contains(kind)), "none of {kinds:?} is named: {}", ran.stdout);
        expect!(!workload.place().path("image").exists(), "a refused checkpoint left a file");
        beats()?;
    }
    expect!(tasks.iter().all(|pid| running(*pid)), "a process of the program is gone");
    Ok(())
}

fn node(who: Who) -> Outcome {
    if !who.can_run() || !have(&["node"]) {
        return Ok(());
    }
    let place = Place::new(who)?;
    let script = "let n = 0; setInterval(() => require('fs').writeFileSync('beat', String(n++)), 20)";
    let mut command = place.command("node")?;
    command.current_dir(place.dir()).args(["-e", script]);
    refused(place, command, &["eventpoll", "eventfd", "io_uring", "epoll"])
}

fn java(who: Who) -> Outcome {
    if !who.can_run() || !have(&["java", "javac"]) {
        return Ok(());
    }
    let place = Place::new(who)?;
    let source = "import java.nio.file.*; public class Beat { public static void main(String[] a) throws Exception { \
                  var s = java.nio.channels.Selector.open(); for (int n = 0; ; n++) { \
                  Files.writeString(Path.of(\"beat\"), \"\" + n); s.select(20); } } }";
    write(&place, "Beat.java", source)?;
    let status = Command::new("javac").arg("-d").arg(place.dir()).arg(place.path("Beat.java")).status()?;
    expect!(status.success(), "javac ended with {status}");
    let mut command = place.command("java")?;
    command.current_dir(place.dir()).args(["-cp", ".", "Beat"]);
    refused(place, command, &["eventpoll", "eventfd", "epoll", "socket", "pipe"])
}

macro_rules! programs {
    ($($root:ident $user:ident $case:ident;)+) => {
        $(
            #[test]
            fn $root() -> Outcome { $case(Who::Root) }
            #[test]
            fn $user() -> Outcome { $case(Who::User) }
        )+
    };
}

programs! {
    root_python_with_threads_and_a_child user_python_with_threads_and_a_child python;
    root_pipeline_of_seq_sort_xz user_pipeline_of_seq_sort_xz pipeline;
    root_make_of_a_c_project user_make_of_a_c_project make;
    root_sqlite3_in_a_transaction user_sqlite3_in_a_transaction sqlite;
    root_xz_of_a_large_file user_xz_of_a_large_file xz;
    root_node_is_refused_by_name user_node_is_refused_by_name node;
    root_java_is_refused_by_name user_java_is_refused_by_name java;
}
