//! The private pages of many areas, by few calls: a [`PageMap`] that is asked area after area, in ascending order, and
//! looks further than it is asked.

use std::ops::Range;

use crate::Result;
use crate::pagemap::{Guards, Method, PageMap, Query, Region, category};

/// How far one call looks beyond the start of what is asked for, bytes. It bounds what is kept: the pages in it may
/// all be regions of their own.
const SPAN: u64 = 256 << 20;

/// The page map of one address space, for its areas one after the other.
#[derive(Debug)]
pub struct Sweep {
    map: PageMap,
    /// What was looked at, and found there.
    seen: Range<u64>,
    regions: Vec<Region>,
}

impl Sweep {
    /// Nothing is looked at yet.
    #[must_use]
    pub fn new(map: PageMap) -> Self {
        Sweep { map, seen: 0..0, regions: Vec::new() }
    }

    /// As [`PageMap::private_pages`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn private_pages(&mut self, range: Range<u64>) -> Result<Vec<Region>> {
        if !self.can_look_ahead(&range)? {
            return self.map.private_pages(range);
        }
        self.pages(range, 0, category::GUARD | category::PFNZERO)
    }

    /// As [`PageMap::private_pages_of_file`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn private_pages_of_file(&mut self, range: Range<u64>) -> Result<Vec<Region>> {
        if !self.can_look_ahead(&range)? {
            return self.map.private_pages_of_file(range);
        }
        self.pages(range, 0, category::GUARD)
    }

    /// As [`PageMap::guard_pages`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn guard_pages(&mut self, range: Range<u64>) -> Result<Vec<Region>> {
        if !self.can_look_ahead(&range)? {
            return self.map.guard_pages(range);
        }
        self.pages(range, category::GUARD, 0)
    }

    /// A range that is large by itself gains nothing; and not every kernel tells all categories apart in one go.
    fn can_look_ahead(&self, range: &Range<u64>) -> Result<bool> {
        Ok(self.map.method() == Method::Scan
            && self.map.guards()? == Guards::Reported
            && range.end.saturating_sub(range.start) <= SPAN)
    }

    fn look(&mut self, range: &Range<u64>) -> Result<()> {
        if self.seen.start <= range.start && range.end <= self.seen.end {
            return Ok(());
        }
        // Above the largest address that a task can have the kernel refuses to look.
        let end = range.start.saturating_add(SPAN).min(crate::arch::TASK_SIZE).max(range.end);
        let query = Query {
            none: category::FILE,
            any: category::PRESENT | category::SWAPPED,
            report: category::PFNZERO | category::GUARD,
            ..Query::default()
        };
        self.seen = 0..0;
        self.regions.clear();
        let regions = &mut self.regions;
        self.map.scan_each(range.start..end, &query, |region| regions.push(region))?;
        self.seen = range.start..end;
        Ok(())
    }

    fn pages(&mut self, range: Range<u64>, all: u64, none: u64) -> Result<Vec<Region>> {
        self.look(&range)?;
        let mut pages: Vec<Region> = Vec::new();
        let is_wanted = |region: &Region| region.categories & (all | none) == all;
        for region in self.within(range).filter(is_wanted) {
            match pages.last_mut() {
                Some(last) if last.end == region.start => last.end = region.end,
                _ => pages.push(Region { categories: 0, ..region }),
            }
        }
        Ok(pages)
    }

    /// What was found in a range that was looked at.
    fn within(&self, range: Range<u64>) -> impl Iterator<Item = Region> + '_ {
        let first = self.regions.partition_point(|region| region.end <= range.start);
        let rest = self.regions.get(first..).unwrap_or_default().iter();
        let (start, end) = (range.start, range.end);
        rest.take_while(move |region| region.start < end).map(move |region| Region {
            start: region.start.max(start),
            end: region.end.min(end),
            ..*region
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::maps;

    #[test]
    fn the_same_as_area_by_area() {
        let pid = std::process::id();
        let map = || PageMap::open(pid).unwrap();
        let mut sweep = Sweep::new(map());
        let plain = map();
        // Other tests run on in this process: areas that hold still are enough.
        let areas = maps::read(pid).unwrap();
        let still = areas.iter().filter(|area| area.inode != 0 && !area.perms.write && !area.perms.shared);
        let mut compared = 0;
        for area in still {
            let range = area.start..area.end;
            assert_eq!(
                sweep.private_pages_of_file(range.clone()).unwrap(),
                plain.private_pages_of_file(range.clone()).unwrap()
            );
            assert_eq!(sweep.guard_pages(range.clone()).unwrap(), plain.guard_pages(range).unwrap());
            compared += 1;
        }
        assert!(compared > 5);
    }

    #[test]
    fn regions_are_cut_to_the_area_and_joined() {
        let region = |start, end, categories| Region { start, end, categories };
        let map = PageMap::open(std::process::id()).unwrap();
        if map.method() != Method::Scan || map.guards().unwrap() != Guards::Reported {
            return;
        }
        let regions = vec![
            region(0x1000, 0x4000, 0),
            region(0x4000, 0x5000, category::PFNZERO),
            region(0x5000, 0x6000, 0),
            region(0x8000, 0x9000, category::GUARD),
        ];
        let mut sweep = Sweep { map, seen: 0x1000..0x10000, regions };
        assert_eq!(
            sweep.private_pages(0x2000..0x9000).unwrap(),
            [region(0x2000, 0x4000, 0), region(0x5000, 0x6000, 0)]
        );
        assert_eq!(sweep.private_pages_of_file(0x3000..0x6000).unwrap(), [region(0x3000, 0x6000, 0)]);
        assert_eq!(sweep.guard_pages(0x1000..0x9000).unwrap(), [region(0x8000, 0x9000, 0)]);
        assert_eq!(sweep.guard_pages(0x1000..0x8000).unwrap(), []);
        assert_eq!(sweep.private_pages(0x9000..0x10000).unwrap(), []);
    }
}
