//! Patterns, and mappings that hold them.

use super::Check;

/// A sequence that every offset and seed gives a different byte of (splitmix64).
fn word(seed: u64, index: u64) -> u64 {
    let mut z =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills bytes with the pattern of a seed.
pub(crate) fn fill(bytes: &mut [u8], seed: u64) {
    for (i, chunk) in bytes.chunks_mut(8).enumerate() {
        let pattern = word(seed, i as u64).to_le_bytes();
        chunk.copy_from_slice(&pattern[..chunk.len()]);
    }
}

/// Whether bytes hold the pattern of a seed.
pub(crate) fn matches(bytes: &[u8], seed: u64) -> bool {
    bytes.chunks(8).enumerate().all(|(i, chunk)| chunk == &word(seed, i as u64).to_le_bytes()[..chunk.len()])
}

/// The same as a check, naming what it is about and where it differs.
pub(crate) fn holds(what: &str, bytes: &[u8], seed: u64) -> Check {
    for (i, chunk) in bytes.chunks(8).enumerate() {
        if chunk != &word(seed, i as u64).to_le_bytes()[..chunk.len()] {
            return Err(format!("{what}: contents differ at offset {:#x}", i * 8));
        }
    }
    Ok(())
}

/// A mapping that lives as long as the process.
#[derive(Clone, Copy)]
pub(crate) struct Map {
    pub(crate) start: *mut u8,
    pub(crate) len: usize,
}

// SAFETY: the mapping is never unmapped, and workloads order their accesses themselves.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes.
    pub(crate) fn new(len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> Check<Self> {
        let start = sys!(libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset))?;
        Ok(Self { start: start.cast(), len })
    }

    /// Private anonymous memory.
    pub(crate) fn anonymous(len: usize) -> Check<Self> {
        Self::new(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// A part of it.
    pub(crate) fn part(self, offset: usize, len: usize) -> Self {
        assert!(offset + len <= self.len);
        Self { start: self.start.wrapping_add(offset), len }
    }

    /// Its bytes.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn bytes(&self) -> &mut [u8] {
        // SAFETY: mapped for the life of the process; the caller keeps to what its protection allows.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    pub(crate) fn protect(self, prot: i32) -> Check {
        sys!(libc::mprotect(self.start.cast(), self.len, prot)).map(|_| ())
    }

    pub(crate) fn advise(self, advice: i32) -> Check {
        sys!(libc::madvise(self.start.cast(), self.len, advice)).map(|_| ())
    }
}
