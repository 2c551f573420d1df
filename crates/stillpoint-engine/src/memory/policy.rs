//! NUMA policies of areas: mbind(2), which only `/proc/PID/numa_maps` shows.
//!
//! An area without a policy of its own shows that of its task (fs/proc/task_mmu.c, show_numa_map). A task that has one is
//! refused before this comes, so what is not `default` is the area's own.

use stillpoint_image::records::Area;
use stillpoint_sys::program::Arg;

use crate::freeze::FrozenTask;
use crate::restore::sequence::Sequence;
use crate::{Code, Error, Result};

/// Modes by the names that mm/mempolicy.c, policy_modes, has for them.
const MODES: &[(&str, u32)] = &[
    ("prefer", 1),
    ("bind", 2),
    ("interleave", 3),
    ("local", 4),
    ("prefer (many)", 5),
    ("weighted interleave", 6),
];

/// Nodes that are understood: CONFIG_NODES_SHIFT is 10 at most.
const NODES: usize = 1024;

/// A policy: the mode, and the nodes as a mask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Policy {
    mode: u32,
    nodes: Vec<u8>,
}

/// The text of `/proc/PID/numa_maps`; none on a kernel without NUMA, which has no policies.
pub type Policies = std::io::Result<Option<Vec<u8>>>;

/// Reads it. The kernel looks at every page for this.
pub fn read(pid: u32) -> Policies {
    match std::fs::read(format!("/proc/{pid}/numa_maps")) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds the policies of a process's areas to their records.
///
/// # Errors
///
/// A refusal of a policy that is not understood, with the area.
pub fn capture(task: &FrozenTask, policies: &Policies, areas: &mut [Area]) -> Result<()> {
    let text = match policies {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(()),
        Err(error) => {
            return Err(Error::new(Code::Failed, "reading memory policies")
                .in_task(&task.name)
                .cause(error)
                .into());
        }
    };
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let Some((start, policy)) = parse(line).map_err(|cause| {
            let start = line.split(|&byte| byte == b' ').next().unwrap_or_default();
            Error::new(Code::UnsupportedArea, "saving an area of memory")
                .in_task(&task.name)
                .object(format!("area {}", start.escape_ascii()))
                .cause(format!("its NUMA policy is not supported: {cause}"))
        })?
        else {
            continue;
        };
        let area =
            areas.binary_search_by_key(&start, |area| area.start).ok().and_then(|at| areas.get_mut(at));
        match area {
            Some(area) => (area.policy, area.policy_nodes) = (policy.mode, policy.nodes),
            None => {
                return Err(Error::new(Code::Failed, "reading memory policies")
                    .in_task(&task.name)
                    .cause(format!("there is no area at {start:x}"))
                    .into());
            }
        }
    }
    Ok(())
}

/// A line: `START POLICY[=FLAGS][:NODES] ...`. None for the default.
fn parse(line: &[u8]) -> Result<Option<(u64, Policy)>, String> {
    let line = String::from_utf8_lossy(line);
    let (start, rest) = line.split_once(' ').ok_or("the line is cut")?;
    if rest.split(' ').next() == Some("default") {
        return Ok(None);
    }
    let start = u64::from_str_radix(start, 16).map_err(|error| error.to_string())?;
    // Names with spaces stand before shorter ones, whose beginning they share.
    let mode = MODES.iter().rev().find(|(name, _)| rest.starts_with(name));
    let (name, mode) = mode.ok_or_else(|| rest.to_owned())?;
    let rest = rest.get(name.len()..).unwrap_or_default().split(' ').next().unwrap_or_default();
    let nodes = match rest.strip_prefix(':') {
        Some(list) => nodes(list).ok_or_else(|| format!("{name}{rest}"))?,
        None if rest.is_empty() => Vec::new(),
        // The nodes that are shown need not be those that were asked for.
        None => return Err(format!("{name}{rest}")),
    };
    Ok(Some((start, Policy { mode: *mode, nodes })))
}

/// `0-2,5` as a mask.
fn nodes(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for node in first.parse::<usize>().ok()?..=last.parse::<usize>().ok().filter(|&last| last < NODES)? {
            if mask.len() <= node / 8 {
                mask.resize((node / 8 + 1).next_multiple_of(8), 0);
            }
            *mask.get_mut(node / 8)? |= 1 << (node % 8);
        }
    }
    Some(mask)
}

/// Whether an area's policy is one that this version makes.
#[must_use]
pub fn is_known(area: &Area) -> bool {
    let length = area.policy_nodes.len();
    (area.policy == 0 && length == 0)
        || (MODES.iter().any(|(_, mode)| *mode == area.policy)
            && length.is_multiple_of(8)
            && length <= NODES / 8)
}

/// Gives an area its policy, before it has pages.
pub fn set(sequence: &mut Sequence, area: &Area) {
    if area.policy == 0 {
        return;
    }
    // The kernel reads one bit less than it is told: mm/mempolicy.c, get_nodes.
    let bits = if area.policy_nodes.is_empty() { 0 } else { area.policy_nodes.len() as u64 * 8 + 1 };
    let mask = match bits {
        0 => Arg::Value(0),
        _ => sequence.current().data(&[&area.policy_nodes[..], &[0; 8]].concat()).into(),
    };
    sequence.call(
        format!("setting the NUMA policy of area {:x}-{:x}", area.start, area.end),
        libc::SYS_mbind,
        [
            Arg::Value(area.start),
            Arg::Value(area.end - area.start),
            area.policy.into(),
            mask,
            Arg::Value(bits),
            Arg::Value(0),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_numa_maps() {
        let policy = |line: &str| parse(line.as_bytes()).map(|found| found.map(|(_, policy)| policy));
        let mask = |bits: u64| bits.to_le_bytes().to_vec();
        let is = |mode, nodes| Ok(Some(Policy { mode, nodes }));
        assert_eq!(policy("7f00 default file=/bin/cat"), Ok(None));
        assert_eq!(policy("7f00 bind:0"), is(2, mask(1)));
        assert_eq!(policy("7f00 interleave:0-2,5 anon=4 N0=4"), is(3, mask(0b10_0111)));
        assert_eq!(policy("7f00 local"), is(4, vec![]));
        assert_eq!(policy("7f00 prefer (many):0-1"), is(5, mask(3)));
        assert_eq!(policy("7f00 weighted interleave:1 anon=1"), is(6, mask(2)));
        assert_eq!(policy("7f00 prefer:63"), is(1, mask(1 << 63)));
        for bad in ["7f00 bind=static:0", "7f00 newest:1", "7f00 bind:1-", "7f00 bind:9999", "x"] {
            assert!(policy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_cannot_ask_for_any_policy() {
        let area = |policy, length| Area { policy, policy_nodes: vec![1; length], ..Area::default() };
        assert!(is_known(&area(0, 0)) && is_known(&area(2, 8)) && is_known(&area(4, 0)));
        assert!(!is_known(&area(0, 8)) && !is_known(&area(7, 8)) && !is_known(&area(2, 7)));
        assert!(!is_known(&area(2, 136)));
    }
}
