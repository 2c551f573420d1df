//! Properties of the `/proc` parsers: any bytes are an answer or an error, never a panic; and what the kernel prints
//! of any name is read as that name.
//!
//! `examples/fuzz_proc.rs` looks for panics longer, from real texts.

use proptest::collection::vec;
use proptest::prelude::*;
use stillpoint_sys::proc::{PARSERS, fuzz_one, maps, mountinfo, stat, status};

const STATUS: &[u8] = include_bytes!("../src/proc/testdata/status-6.18");

/// Numbers, separators and keys.
const LIKELY: &str = "([0-9a-f]{1,20}|[-:/() \\\\\n\t]|kB|[A-Z][a-z]+:){0,60}\n";

/// Where the kernel puts a name: `seq_setwidth` in `show_vma_header_prefix`.
fn maps_line(name: &[u8]) -> Vec<u8> {
    let prefix = "7f0000000000-7f0000001000 rw-p 00000000 fe:00 77 ";
    [format!("{prefix:72} ").as_bytes(), name, b"\n"].concat()
}

fn replace(bytes: &[u8], from: u8, to: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|b| if *b == from { to.to_vec() } else { vec![*b] }).collect()
}

proptest! {
    #[test]
    fn proc_any_bytes_are_no_panic(selector in 0..PARSERS.len(), bytes in vec(any::<u8>(), 0..300)) {
        let _ = fuzz_one(u8::try_from(selector).unwrap(), &bytes);
    }

    #[test]
    fn proc_any_likely_text_is_no_panic(selector in 0..PARSERS.len(), text in LIKELY) {
        let _ = fuzz_one(u8::try_from(selector).unwrap(), text.as_bytes());
    }

    #[test]
    fn proc_a_cut_text_is_refused(at in 0..STATUS.len()) {
        // After the last line that must be there, a text that was cut at a line's end looks like an older kernel's.
        let last = STATUS.windows(13).position(|w| w == b"NoNewPrivs:\t0").unwrap() + 13;
        let may_pass = at >= last && STATUS[at - 1] == b'\n';
        prop_assert!(status::parse(&STATUS[..at]).is_err() || may_pass);
    }

    #[test]
    fn proc_stat_gives_any_comm(comm in vec(any::<u8>(), 0..16)) {
        let tail = b") S 1 2 3 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 0 0 0 0 0 0 \
            1 1 1 1 1 1 1 0\n";
        let text = [b"77 (", &comm[..], tail].concat();
        prop_assert_eq!(stat::parse(&text).unwrap().comm, comm);
    }

    #[test]
    fn proc_status_gives_any_comm(comm in vec(1_u8.., 0..16)) {
        let escaped = replace(&replace(&comm, b'\\', b"\\\\"), b'\n', b"\\n");
        let rest = STATUS.strip_prefix(b"Name:\tcat").unwrap();
        let text = [b"Name:\t", &escaped[..], rest].concat();
        prop_assert_eq!(status::parse(&text).unwrap().name, comm);
    }

    #[test]
    fn proc_maps_gives_any_name(name in vec(1_u8.., 1..300)) {
        // A backslash is not escaped: a name that holds the escape itself cannot be told from one with a newline.
        prop_assume!(!name.windows(4).any(|w| w == b"\\012"));
        let escaped = replace(&name, b'\n', b"\\012");
        let escapes = escaped.windows(4).filter(|w| w == b"\\012").count();
        prop_assume!(escapes == name.iter().filter(|b| **b == b'\n').count());
        prop_assert_eq!(&maps::parse(&maps_line(&escaped)).unwrap()[0].name, &name);
    }

    #[test]
    fn proc_mountinfo_gives_any_mount_point(path in vec(1_u8.., 0..300)) {
        let escaped: Vec<u8> = path
            .iter()
            .flat_map(|b| match b {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
                _ => vec![*b],
            })
            .collect();
        let text = [b"22 27 0:21 / ", &escaped[..], b" rw - proc proc rw\n"].concat();
        prop_assert_eq!(&mountinfo::parse(&text).unwrap()[0].mount_point, &path);
    }
}

/// What is in the corpus is understood, but for inputs that once failed.
#[test]
fn proc_corpus_is_understood() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/proc");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let parser = (0_u8..)
            .zip(PARSERS)
            .filter(|(_, (parser, _))| name.starts_with(&format!("{parser}-")))
            .max_by_key(|(_, (parser, _))| parser.len());
        let (selector, _) = parser.unwrap_or_else(|| panic!("no parser for {name}"));
        let understood = fuzz_one(selector, &std::fs::read(&path).unwrap());
        assert!(understood || name.contains("-panic-") || name.contains("-slow-"), "{name}");
        count += 1;
    }
    assert!(count > 20);
}
