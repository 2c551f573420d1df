//! Pages that a child still has in common with its parent, by copy on write: they are saved once, and after a restore
//! they are in memory once, since the child inherits them anew.
//!
//! Only a page that both have at the same address, in areas that are one area forked, counts. Pages that children have
//! in common among themselves, but no longer with their parent, are saved for each.

use stillpoint_image::records::{Area, Backing, Run};
use stillpoint_sys::frames::Frames;
use stillpoint_sys::{RemoteAddr, vm};

use super::PAGE;
use super::areas::{CapturedMm, PageRange};
use super::ranges::{Ranges, both};
use crate::Result;

/// Flags of smaps that a forked area has from its parent's, and that cannot be changed afterwards.
const LASTING: &[&str] = &["gd", "nr", "ac", "gu", "dp"];

/// How much is compared at once.
const STEP: u64 = 256 * PAGE;

/// The area of a parent that an area of its child was forked from, or may be forked from anew: it holds it whole, is
/// private, and has the same thing behind it.
#[must_use]
pub fn origin<'a>(area: &Area, of_parent: &'a [Area]) -> Option<&'a Area> {
    let at = of_parent.partition_point(|parent| parent.end <= area.start);
    let parent = of_parent.get(at).filter(|parent| parent.start <= area.start && area.end <= parent.end)?;
    let private = matches!(area.backing(), Backing::Anonymous | Backing::PrivateFile);
    let same_place = area.backing() == Backing::Anonymous
        || area.offset.checked_sub(parent.offset) == Some(area.start - parent.start);
    let has = |area: &Area, flag: &str| area.flags.iter().any(|have| have == flag);
    let same = private
        && area.backing == parent.backing
        && area.object == parent.object
        && area.name == parent.name
        && (area.policy, &area.policy_nodes) == (parent.policy, &parent.policy_nodes)
        && area.huge_page_size == 0
        && same_place
        && LASTING.iter().all(|flag| has(area, flag) == has(parent, flag));
    same.then_some(parent)
}

/// Takes out of a child's pages those that it has in common with its parent, and returns them. Both are frozen.
///
/// # Errors
///
/// What the kernel answered.
pub fn take_common(
    ranges: &mut Vec<PageRange>,
    areas: &[Area],
    pid: u32,
    parent: &CapturedMm,
) -> Result<Vec<Run>> {
    let forked: Ranges = areas
        .iter()
        .filter(|area| origin(area, &parent.areas).is_some())
        .map(|area| (area.start, area.end))
        .collect();
    let common = overlaps(ranges, &forked, &parent.held);
    if common.is_empty() {
        return Ok(Vec::new());
    }
    let mut comparison = Comparison::new(pid, parent.pid)?;
    let mut runs = Vec::new();
    for (start, end) in common {
        let mut at = start;
        while at < end {
            let to = end.min(at + STEP);
            comparison.compare(at, to, &mut |page| push(&mut runs, page))?;
            at = to;
        }
    }
    *ranges = without(ranges, &runs);
    Ok(runs)
}

/// What lies in all three: pages of the child, areas that were forked, pages of the parent. All ascend.
fn overlaps(child: &[PageRange], areas: &[(u64, u64)], parent: &[(u64, u64)]) -> Ranges {
    let child: Ranges = child.iter().map(|range| (range.start, range.end)).collect();
    both(&both(&child, areas), parent)
}

fn push(runs: &mut Vec<Run>, page: u64) {
    match runs.last_mut() {
        Some(run) if run.offset + run.length == page => run.length += PAGE,
        _ => runs.push(Run { offset: page, length: PAGE }),
    }
}

/// The ranges without the runs, which lie within them.
fn without(ranges: &[PageRange], runs: &[Run]) -> Vec<PageRange> {
    let mut runs = runs.iter().peekable();
    let mut left = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut at = range.start;
        while let Some(run) = runs.next_if(|run| run.offset < range.end) {
            if at < run.offset {
                left.push(PageRange { start: at, end: run.offset, ..*range });
            }
            at = run.offset + run.length;
        }
        if at < range.end {
            left.push(PageRange { start: at, ..*range });
        }
    }
    left
}

/// Compares pages of two processes: by what is behind them where the kernel tells (with CAP_SYS_ADMIN), else by contents.
struct Comparison {
    frames: Frames,
    parent_frames: Frames,
    memory: vm::Memory,
    parent_memory: vm::Memory,
    buffers: [Vec<u8>; 2],
}

impl Comparison {
    fn new(pid: u32, parent: u32) -> Result<Self> {
        Ok(Comparison {
            frames: Frames::open(pid)?,
            parent_frames: Frames::open(parent)?,
            memory: vm::Memory::open(pid)?,
            parent_memory: vm::Memory::open(parent)?,
            buffers: Default::default(),
        })
    }

    fn compare(&mut self, start: u64, end: u64, same: &mut dyn FnMut(u64)) -> Result<()> {
        let addresses = (start..end).step_by(usize::try_from(PAGE).unwrap_or(1));
        let frames = self.frames.read(start..end)?;
        let of_parent = self.parent_frames.read(start..end)?;
        if frames.iter().chain(&of_parent).all(|frame| frame.is_some()) {
            for ((at, frame), parent) in addresses.zip(frames).zip(of_parent) {
                if frame == parent {
                    same(at);
                }
            }
            return Ok(());
        }
        let length = usize::try_from(end - start).unwrap_or(0);
        let [buffer, parent] = &mut self.buffers;
        buffer.resize(length, 0);
        parent.resize(length, 0);
        self.memory.read(RemoteAddr(start), buffer)?;
        self.parent_memory.read(RemoteAddr(start), parent)?;
        let page = usize::try_from(PAGE).unwrap_or(1);
        for ((at, page), parent) in addresses.zip(buffer.chunks(page)).zip(parent.chunks(page)) {
            if page == parent {
                same(at);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange { start, end, zero_elided: true, readable: true }
    }

    fn area(start: u64, end: u64, flags: &[&str]) -> Area {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Area { start, end, backing: Backing::Anonymous.into(), flags, ..Area::default() }
    }

    #[test]
    fn only_what_all_three_hold_is_compared() {
        let child = [range(0x1000, 0x5000), range(0x8000, 0x9000)];
        let parent = [(0x2000, 0x3000), (0x4000, 0xa000)];
        let areas = [(0x1000, 0x4000), (0x8000, 0x9000)];
        assert_eq!(overlaps(&child, &areas, &parent), [(0x2000, 0x3000), (0x8000, 0x9000)]);
    }

    #[test]
    fn what_is_common_is_not_saved_again() {
        let runs = [Run { offset: 0x2000, length: 0x1000 }, Run { offset: 0x8000, length: 0x1000 }];
        let left = without(&[range(0x1000, 0x5000), range(0x8000, 0x9000), range(0xa000, 0xb000)], &runs);
        assert_eq!(left, [range(0x1000, 0x2000), range(0x3000, 0x5000), range(0xa000, 0xb000)]);
    }

    #[test]
    fn an_area_is_forked_from_one_that_holds_it_and_is_alike() {
        let parents = [area(0x1000, 0x4000, &["ac"]), area(0x6000, 0x7000, &[])];
        assert!(origin(&area(0x2000, 0x4000, &["ac", "hg"]), &parents).is_some());
        assert!(origin(&area(0x2000, 0x4000, &[]), &parents).is_none());
        assert!(origin(&area(0x3000, 0x5000, &["ac"]), &parents).is_none());
        assert!(origin(&area(0x4000, 0x5000, &["ac"]), &parents).is_none());
        let mapped = |offset| Area {
            backing: Backing::PrivateFile.into(),
            object: 9,
            offset,
            ..area(0x2000, 0x3000, &["ac"])
        };
        let parents = [Area { start: 0x1000, offset: 0x5000, ..mapped(0) }];
        assert!(origin(&mapped(0x6000), &parents).is_some());
        assert!(origin(&mapped(0x5000), &parents).is_none());
        assert!(origin(&Area { object: 8, ..mapped(0x6000) }, &parents).is_none());
    }
}
