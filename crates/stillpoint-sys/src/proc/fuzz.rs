//! One entry to all parsers, for `examples/fuzz_proc.rs` and the property tests: any bytes may be an error, and
//! none may be a panic.

use super::{
    auxv, boot, cgroup, coredump_filter, cpuinfo, fdinfo, id_map, limits, locks, maps, mountinfo, namespaces,
    oom_score_adj, personality, smaps, stat, status, syscall, tasks, timens, timer_list, timers, timerslack,
};

/// A parser, reduced to whether it understood.
type Parser = fn(&[u8]) -> bool;

/// Every parser, by the name of its file.
#[doc(hidden)]
pub const PARSERS: [(&str, Parser); 24] = [
    ("auxv", |b| auxv::parse(b).is_ok()),
    ("boot_id", |b| boot::parse_boot_id(b).is_ok()),
    ("cgroup", |b| cgroup::parse(b).is_ok()),
    ("children", |b| tasks::parse_children(b).is_ok()),
    ("coredump_filter", |b| coredump_filter::parse(b).is_ok()),
    ("cpuinfo", |b| cpuinfo::parse(b).is_ok()),
    ("fdinfo", |b| fdinfo::parse(b).is_ok()),
    ("id_map", |b| id_map::parse(b).is_ok()),
    ("limits", |b| limits::parse(b).is_ok()),
    ("lock", |b| locks::parse(b).is_ok()),
    ("machine-id", |b| boot::parse_machine_id(b).is_ok()),
    ("maps", |b| maps::parse(b).is_ok()),
    ("mountinfo", |b| mountinfo::parse(b).is_ok()),
    ("namespace", |b| namespaces::parse(b).is_ok()),
    ("oom_score_adj", |b| oom_score_adj::parse(b).is_ok()),
    ("personality", |b| personality::parse(b).is_ok()),
    ("smaps", |b| smaps::parse(b).is_ok()),
    ("stat", |b| stat::parse(b).is_ok()),
    ("status", |b| status::parse(b).is_ok()),
    ("syscall", |b| syscall::parse(b).is_ok()),
    ("timens_offsets", |b| timens::parse(b).is_ok()),
    ("timer_list", |b| timer_list::parse(b).is_ok()),
    ("timers", |b| timers::parse(b).is_ok()),
    ("timerslack", |b| timerslack::parse(b).is_ok()),
];

/// Hands bytes to the parser that a number selects; says whether they were understood.
#[doc(hidden)]
#[must_use]
pub fn fuzz_one(selector: u8, bytes: &[u8]) -> bool {
    let (_, parse) = PARSERS[usize::from(selector) % PARSERS.len()];
    parse(bytes)
}
