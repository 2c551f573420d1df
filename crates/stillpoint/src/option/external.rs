//! `--external [PID:]FD=PATH|fd:N`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use stillpoint_engine::{Code, Error, External, Replacement, Result};

#[derive(Debug, Args)]
pub(crate) struct Externals {
    /// Give descriptor FD, whose other end is outside the tree, this file or descriptor on restore
    ///
    /// FD is a number in the root task, or in task PID (as the tree sees it). PATH is opened as FD was; fd:N is
    /// descriptor N of the command that restores. On restore, this overrides what the checkpoint recorded. May
    /// be given more than once.
    #[arg(
        long = "external",
        value_name = "[PID:]FD=PATH|fd:N",
        value_parser = OsStringValueParser::new().try_map(|text| parse(&text)),
    )]
    externals: Vec<External>,
}

impl Externals {
    /// The replacements, each descriptor at most once.
    pub(crate) fn lower(self) -> Result<Vec<External>> {
        for (index, external) in self.externals.iter().enumerate() {
            let twin = |other: &External| (other.pid, other.fd) == (external.pid, external.fd);
            if self.externals[..index].iter().any(twin) {
                return Err(Box::new(
                    Error::new(Code::Usage, "reading the options")
                        .object(format!("--external {}", target(external)))
                        .cause("the same descriptor is named twice"),
                ));
            }
        }
        Ok(self.externals)
    }
}

fn target(external: &External) -> String {
    match external.pid {
        Some(pid) => format!("{pid}:{}", external.fd),
        None => external.fd.to_string(),
    }
}

// Bytes, not `str`: a path need not be UTF-8.
fn parse(text: &OsStr) -> Result<External, String> {
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|&b| b == b'=').ok_or("expected [PID:]FD=PATH or [PID:]FD=fd:N")?;
    let (target, value) = (&bytes[..equals], &bytes[equals + 1..]);
    let (pid, fd) = match target.iter().position(|&b| b == b':') {
        Some(colon) => {
            let pid = number(&target[..colon]).filter(|&pid| pid > 0);
            (Some(pid.ok_or("PID is a positive number")?), &target[colon + 1..])
        }
        None => (None, target),
    };
    let fd = number(fd).ok_or("FD is a number of 0 to 2147483647")?;
    let replacement = match value.strip_prefix(b"fd:") {
        Some(own) => Replacement::Descriptor(
            number(own).ok_or("what follows fd: is a number (a file of that name: ./fd:...)")?,
        ),
        None if value.is_empty() => return Err("the path after `=` is missing".to_owned()),
        None => Replacement::Path(PathBuf::from(OsString::from_vec(value.to_vec()))),
    };
    Ok(External { pid, fd, replacement })
}

/// A decimal number that fits the kernel's `int`; no sign, no spaces.
fn number(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok().filter(|&n: &u32| n <= i32::MAX.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    fn one(text: &str) -> Result<External, String> {
        parse(OsStr::new(text))
    }

    #[test]
    fn paths_and_descriptors() {
        let path = |p: &str| Replacement::Path(PathBuf::from(p));
        assert_eq!(one("1=/tmp/x=y"), Ok(External { pid: None, fd: 1, replacement: path("/tmp/x=y") }));
        assert_eq!(one("42:0=log"), Ok(External { pid: Some(42), fd: 0, replacement: path("log") }));
        assert_eq!(one("2=fd:7"), Ok(External { pid: None, fd: 2, replacement: Replacement::Descriptor(7) }));
        assert_eq!(one("2=./fd:7").expect("a path").replacement, path("./fd:7"));
    }

    #[test]
    fn wrong_ones_are_named() {
        for wrong in
            ["", "1", "1=", "=x", "-1=x", "+1=x", "a:1=x", "0:1=x", "1:=x", "1=fd:", "1=fd:x", "4294967295=x"]
        {
            assert!(one(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn paths_need_not_be_text() {
        let external = parse(OsStr::from_bytes(b"1=/\xff")).expect("parses");
        assert_eq!(external.replacement, Replacement::Path(PathBuf::from(OsStr::from_bytes(b"/\xff"))));
    }

    #[test]
    fn given_twice_is_a_usage_error() {
        let externals: Externals =
            testing::parse(&["--external", "1=a", "--external", "9:1=b"]).expect("parses");
        assert_eq!(externals.lower().expect("differ").len(), 2);
        let externals: Externals =
            testing::parse(&["--external", "1=a", "--external", "1=b"]).expect("parses");
        assert_eq!(externals.lower().expect_err("twins").code, Code::Usage);
    }
}
