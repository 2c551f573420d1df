//! Handing open files to tasks: the coordinator opens each once, at a number that no task needs for itself; tasks
//! inherit all of them, and each moves its own to their places and closes the rest.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use stillpoint_image::records::DescriptorTable;
use stillpoint_sys::program::{Arg, Expect};

use super::sequence::Sequence;
use crate::plan::Model;
use crate::{Code, Error, Result};

/// Gives out descriptor numbers that no task of the tree uses.
#[derive(Debug)]
pub(super) struct Numbers {
    taken: BTreeSet<u32>,
    next: u32,
}

impl Numbers {
    /// Numbers beside those of all tasks.
    pub(super) fn beside(model: &Model) -> Self {
        let tables = model.living().flat_map(|(_, _, body)| &body.table.descriptors);
        Numbers { taken: tables.map(|descriptor| descriptor.number).collect(), next: 3 }
    }

    /// Moves a descriptor to such a number.
    pub(super) fn place(&mut self, fd: OwnedFd) -> Result<OwnedFd> {
        let raw = fd.as_raw_fd().unsigned_abs();
        if raw > 2 && !self.taken.contains(&raw) {
            return Ok(fd);
        }
        loop {
            while self.taken.contains(&self.next) {
                self.next += 1;
            }
            let moved =
                rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), self.next.cast_signed()).map_err(|errno| {
                    Error::new(Code::LimitTooSmall, "placing an open file")
                        .cause(errno)
                        .remedy("raise RLIMIT_NOFILE (ulimit -n) of the restoring process")
                })?;
            let number = moved.as_raw_fd().unsigned_abs();
            self.next = number + 1;
            if !self.taken.contains(&number) {
                return Ok(moved);
            }
        }
    }
}

/// The number at which a task inherits a descriptor.
pub(super) fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// Moves the descriptors of a table to their numbers and closes everything else.
pub(super) fn move_descriptors(
    sequence: &mut Sequence,
    table: &DescriptorTable,
    source: impl Fn(u64) -> Option<u32>,
) -> Result<()> {
    for descriptor in &table.descriptors {
        let from = source(descriptor.file).ok_or_else(|| {
            Error::new(Code::Failed, "moving descriptors")
                .cause(format!("descriptor {} was not opened", descriptor.number))
        })?;
        let flags = if descriptor.close_on_exec { libc::O_CLOEXEC } else { 0 };
        sequence.call_expecting(
            format!("moving descriptor {}", descriptor.number),
            libc::SYS_dup3,
            [from.into(), descriptor.number.into(), flags.into()],
            Expect::Exactly(i64::from(descriptor.number)),
        );
    }
    for (first, last) in gaps(table.descriptors.iter().map(|descriptor| descriptor.number)) {
        sequence.call(
            "closing what is not the task's",
            libc::SYS_close_range,
            [first.into(), last.into(), Arg::Value(0)],
        );
    }
    Ok(())
}

/// The ranges between ascending numbers, both ends included.
fn gaps(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 0;
    for number in numbers {
        if number > next {
            gaps.push((next, number - 1));
        }
        next = number + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn gaps_are_all_that_is_not_there() {
        assert_eq!(gaps([0, 1, 5].into_iter()), [(2, 4), (6, u32::MAX)]);
        assert_eq!(gaps(std::iter::empty()), [(0, u32::MAX)]);
    }
}
