//! Sets of addresses: ascending ranges, first address and first after it, that neither overlap nor touch.

/// Such a set.
pub type Ranges = Vec<(u64, u64)>;

/// Puts ranges of any order in order, and those that overlap or touch together.
#[must_use]
pub fn union(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut all: Ranges = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match all.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => all.push((start, end)),
        }
    }
    all
}

/// What lies in both.
#[must_use]
pub fn both(a: &[(u64, u64)], b: &[(u64, u64)]) -> Ranges {
    let (mut i, mut j) = (0, 0);
    let mut common = Vec::new();
    while let (Some(&(from_a, to_a)), Some(&(from_b, to_b))) = (a.get(i), b.get(j)) {
        let (from, to) = (from_a.max(from_b), to_a.min(to_b));
        if from < to {
            common.push((from, to));
        }
        if to_a < to_b { i += 1 } else { j += 1 }
    }
    common
}

/// What lies in the first and not in the second.
#[must_use]
pub fn minus(a: &[(u64, u64)], b: &[(u64, u64)]) -> Ranges {
    let mut left = Vec::new();
    let mut next = 0;
    for &(start, end) in a {
        let mut at = start;
        while b.get(next).is_some_and(|&(_, to)| to <= at) {
            next += 1;
        }
        let mut n = next;
        while let Some(&(from, to)) = b.get(n).filter(|&&(from, _)| from < end) {
            if at < from {
                left.push((at, from));
            }
            at = at.max(to);
            n += 1;
        }
        if at < end {
            left.push((at, end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_addresses() {
        assert_eq!(union(vec![(5, 7), (1, 3), (3, 4), (6, 9), (6, 6)]), [(1, 4), (5, 9)]);
        assert_eq!(both(&[(1, 5), (8, 9)], &[(2, 3), (4, 10)]), [(2, 3), (4, 5), (8, 9)]);
        assert_eq!(minus(&[(1, 5), (8, 12)], &[(0, 2), (3, 4), (9, 10)]), [(2, 3), (4, 5), (8, 9), (10, 12)]);
        assert_eq!(minus(&[(1, 5)], &[(1, 5)]), []);
        assert_eq!(minus(&[(1, 5), (6, 7)], &[(0, 9)]), []);
        assert_eq!(minus(&[(1, 5)], &[]), [(1, 5)]);
    }
}
