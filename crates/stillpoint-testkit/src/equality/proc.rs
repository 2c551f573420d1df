//! Small readers of `/proc`, written for this checker alone. Bytes that are not UTF-8 are escaped, never dropped.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Facts;

/// The whole of a file, with its name in the error.
pub(super) fn read(path: &str) -> io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}

/// Bytes as text in which every byte can be told.
pub(super) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(s) if !s.contains(['\\', '\0']) => s.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// A link's target.
pub(super) fn link(path: &str) -> io::Result<String> {
    let target = std::fs::read_link(path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    Ok(text(target.as_os_str().as_bytes()))
}

/// Every link in a directory.
pub(super) fn links(dir: &str) -> io::Result<Facts> {
    let mut out = Facts::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        out.insert(name.clone(), link(&format!("{dir}/{name}"))?);
    }
    Ok(out)
}

/// `key: value` lines. A key that comes twice is numbered, so that nothing is lost.
pub(super) fn key_values(bytes: &[u8]) -> Facts {
    let mut out = Facts::new();
    for line in bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let line = text(line);
        let (key, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut name = key.trim().to_owned();
        let mut n = 1;
        while out.contains_key(&name) {
            n += 1;
            name = format!("{}#{n}", key.trim());
        }
        out.insert(name, value);
    }
    out
}

/// `/proc/PID/status`.
pub(super) fn status(path: &str) -> io::Result<Facts> {
    Ok(key_values(&read(path)?))
}

/// The names of the fields of `/proc/PID/stat` after the name, in order, from proc(5).
const STAT: [&str; 50] = [
    "state",
    "ppid",
    "pgrp",
    "session",
    "tty_nr",
    "tpgid",
    "flags",
    "minflt",
    "cminflt",
    "majflt",
    "cmajflt",
    "utime",
    "stime",
    "cutime",
    "cstime",
    "priority",
    "nice",
    "num_threads",
    "itrealvalue",
    "starttime",
    "vsize",
    "rss",
    "rsslim",
    "startcode",
    "endcode",
    "startstack",
    "kstkesp",
    "kstkeip",
    "signal",
    "blocked",
    "sigignore",
    "sigcatch",
    "wchan",
    "nswap",
    "cnswap",
    "exit_signal",
    "processor",
    "rt_priority",
    "policy",
    "delayacct_blkio_ticks",
    "guest_time",
    "cguest_time",
    "start_data",
    "end_data",
    "start_brk",
    "arg_start",
    "arg_end",
    "env_start",
    "env_end",
    "exit_code",
];

/// `/proc/PID/stat` by field. Fields that this list does not know are kept under their numbers.
pub(super) fn stat(path: &str) -> io::Result<Facts> {
    let bytes = read(path)?;
    let open = bytes.iter().position(|&b| b == b'(').ok_or_else(|| bad(path))?;
    let close = bytes.iter().rposition(|&b| b == b')').ok_or_else(|| bad(path))?;
    let mut out = Facts::new();
    out.insert("comm".to_owned(), text(&bytes[open + 1..close]));
    let rest = String::from_utf8_lossy(&bytes[close + 1..]).into_owned();
    for (i, value) in rest.split_whitespace().enumerate() {
        let name = STAT.get(i).map_or_else(|| format!("field{}", i + 3), |s| (*s).to_owned());
        out.insert(name, value.to_owned());
    }
    Ok(out)
}

/// Single values of a process. `dir` is the directory of a live thread of it.
pub(super) fn attributes(dir: &str, pid: u32) -> io::Result<Facts> {
    let mut out = Facts::new();
    for name in ["cwd", "root", "exe"] {
        out.insert(name.to_owned(), link(&format!("{dir}/{name}"))?);
    }
    for name in ["cmdline", "environ"] {
        let bytes = read(&format!("{dir}/{name}"))?;
        for (i, part) in bytes.split(|&b| b == 0).enumerate() {
            out.insert(format!("{name}.{i:03}"), text(part));
        }
    }
    for name in ["personality", "oom_score_adj", "comm", "loginuid"] {
        if Path::new(&format!("{dir}/{name}")).exists() {
            out.insert(name.to_owned(), text(read(&format!("{dir}/{name}"))?.trim_ascii()));
        }
    }
    // These exist for processes only.
    for name in ["coredump_filter", "timerslack_ns"] {
        let path = format!("/proc/{pid}/{name}");
        if Path::new(&path).exists() {
            out.insert(name.to_owned(), read(&path).map_or_else(|e| e.to_string(), |b| text(b.trim_ascii())));
        }
    }
    Ok(out)
}

/// `/proc/PID/limits`: the name is everything before two spaces.
pub(super) fn limits(path: &str) -> io::Result<Facts> {
    let bytes = read(path)?;
    let mut out = Facts::new();
    for line in text(&bytes).lines().skip(1) {
        if let Some((name, rest)) = line.split_once("  ") {
            out.insert(name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    Ok(out)
}

/// The auxiliary vector.
pub(super) fn auxv(path: &str) -> io::Result<Facts> {
    let bytes = read(path)?;
    let word = |chunk: &[u8]| chunk.try_into().map(u64::from_ne_bytes).unwrap_or_default();
    Ok(bytes
        .chunks_exact(16)
        .enumerate()
        .map(|(i, pair)| (format!("{i:02}:{}", word(&pair[..8])), format!("{:#x}", word(&pair[8..]))))
        .collect())
}

/// POSIX timers, one a line.
pub(super) fn timers(pid: u32) -> io::Result<Vec<String>> {
    let path = format!("/proc/{pid}/timers");
    if !Path::new(&path).exists() {
        return Ok(Vec::new());
    }
    // Whom a timer notifies is told by the reader's ids; the task's own are what counts.
    let own = |line: &str| {
        let (what, id) = line.strip_prefix("notify: ")?.rsplit_once('.')?;
        let inner = innermost(&status(&format!("/proc/{id}/status")).ok()?, "NSpid")?;
        Some(format!("notify: {what}.{inner}"))
    };
    Ok(text(&read(&path)?).lines().map(|line| own(line).unwrap_or_else(|| line.to_owned())).collect())
}

/// The last number of an `NS...` line of status: the id that the task itself sees.
pub(super) fn innermost(status: &Facts, key: &str) -> Option<u32> {
    status.get(key)?.split_whitespace().next_back()?.parse().ok()
}

/// What a malformed file is answered with.
pub(super) fn bad(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path}: not understood"))
}

/// Numeric names in a directory.
pub(super) fn numbers(dir: &str) -> io::Result<Vec<u32>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| io::Error::new(e.kind(), format!("{dir}: {e}")))? {
        if let Ok(n) = entry?.file_name().to_string_lossy().parse() {
            out.push(n);
        }
    }
    out.sort_unstable();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_every_byte() {
        assert_eq!(text(b"plain"), "plain");
        assert_ne!(text(b"a\xffb"), text(b"a\xfeb"));
        assert_ne!(text(b"a\\x00"), text(b"a\0"));
    }

    #[test]
    fn repeated_keys_are_numbered() {
        let facts = key_values(b"tfd: 1\ntfd: 2\n");
        assert_eq!((facts["tfd"].as_str(), facts["tfd#2"].as_str()), ("1", "2"));
    }

    #[test]
    fn stat_survives_a_hostile_name() {
        let facts = stat("/proc/self/stat").unwrap();
        assert!(facts.contains_key("exit_code") && facts.contains_key("comm"));
    }
}
