//! Room in address spaces: where a restore's own mappings go, clear of all that will be mapped.

use stillpoint_sys::RemoteAddr;
use stillpoint_sys::arch::TASK_SIZE;

/// Distance that is kept from everything, so that a growing stack never meets a mapping of ours.
const MARGIN: u64 = 2 << 20;
/// Nothing is placed below: mmap_min_addr and programs linked at low addresses.
const LOWEST: u64 = 1 << 32;

/// Occupied ranges of one or more address spaces.
#[derive(Debug, Default, Clone)]
pub struct Occupied {
    ranges: Vec<(u64, u64)>,
}

impl Occupied {
    /// Marks a range.
    pub fn add(&mut self, start: u64, end: u64) {
        self.ranges.push((start, end));
    }

    /// Finds room for `size` bytes (whole pages) and marks it.
    #[must_use]
    pub fn place(&mut self, size: u64) -> Option<RemoteAddr> {
        self.ranges.sort_unstable();
        let mut at = LOWEST;
        for &(start, end) in &self.ranges {
            if start.saturating_sub(MARGIN) >= at.checked_add(size)? {
                break;
            }
            at = at.max(end.saturating_add(MARGIN));
        }
        let end = at.checked_add(size)?;
        if end > TASK_SIZE - MARGIN {
            return None;
        }
        self.add(at, end);
        Some(RemoteAddr(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_clear_of_everything_and_of_each_other() {
        let mut occupied = Occupied::default();
        occupied.add(LOWEST + MARGIN, LOWEST + MARGIN + 4096);
        let a = occupied.place(1 << 20).unwrap().0;
        let b = occupied.place(1 << 20).unwrap().0;
        assert!(a >= LOWEST + MARGIN + 4096 + MARGIN);
        assert!(b >= a + (1 << 20) + MARGIN);
        assert_eq!(occupied.place(TASK_SIZE), None);
    }
}
