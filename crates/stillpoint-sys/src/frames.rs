//! What is behind the pages of a task: the number of the page frame or the place in swap, from `/proc/PID/pagemap`. Two
//! pages with the same one are one page.
//!
//! See Documentation/admin-guide/mm/pagemap.rst. Frame numbers are shown only with CAP_SYS_ADMIN.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::{Error, Pid, Result};

const DOING: &str = "reading the page frames of a task";
const PAGE: u64 = 4096;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// The frame number, or type and offset in swap.
const PLACE: u64 = (1 << 55) - 1;

/// The page frames of one address space.
#[derive(Debug)]
pub struct Frames {
    file: File,
    pid: Pid,
}

impl Frames {
    /// Opens `/proc/PID/pagemap`.
    ///
    /// # Errors
    ///
    /// EACCES without ptrace access, ENOENT when the task is gone.
    pub fn open(pid: Pid) -> Result<Self> {
        let file = File::open(format!("/proc/{pid}/pagemap"))
            .map_err(|error| Error::io(DOING, Some(pid), &error))?;
        Ok(Frames { file, pid })
    }

    /// What is behind each page of a range (whole pages); none where the kernel does not tell, or where there is
    /// nothing. What is in memory and what is swapped out are never equal.
    ///
    /// # Errors
    ///
    /// When the range lies beyond the user's addresses, or the address space is gone.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<Option<u64>>> {
        let pages = usize::try_from((range.end - range.start) / PAGE).unwrap_or(0);
        let mut bytes = vec![0; pages * 8];
        self.file
            .read_exact_at(&mut bytes, range.start / PAGE * 8)
            .map_err(|error| Error::io(DOING, Some(self.pid), &error))?;
        Ok(bytes.as_chunks().0.iter().map(|entry| place(u64::from_le_bytes(*entry))).collect())
    }
}

fn place(entry: u64) -> Option<u64> {
    let known = entry & (PRESENT | SWAPPED) != 0 && entry & PLACE != 0;
    known.then_some(entry & (PRESENT | SWAPPED | PLACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_tells_is_a_place() {
        assert_eq!(place(0), None);
        assert_eq!(place(PRESENT), None);
        assert_eq!(place(7), None);
        assert_eq!(place(PRESENT | 1 << 61 | 7), Some(PRESENT | 7));
        assert_ne!(place(PRESENT | 7), place(SWAPPED | 7));
    }

    #[test]
    fn a_page_is_one_with_itself() {
        let memory = vec![1u8; 3 * 4096];
        let start = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let frames = Frames::open(std::process::id()).unwrap();
        let read = || frames.read(start..start + 2 * PAGE).unwrap();
        assert_eq!(read(), read());
        assert!(read().iter().all(|frame| frame.is_none()) || read()[0] != read()[1]);
    }
}
