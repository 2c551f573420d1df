//! `/proc/PID/auxv`: the auxiliary vector that the kernel handed to the program, or that PR_SET_MM_MAP set.
//!
//! See proc_pid_auxv(5), getauxval(3) and `proc_pid_auxv` in the kernel's `fs/proc/base.c`.

use super::source;
use super::text::Text;
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's auxiliary vector");

/// The vector of a 64-bit task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auxv {
    /// The bytes, with the AT_NULL at their end, as PR_SET_MM_MAP takes them.
    pub bytes: Vec<u8>,
    /// Types and values in order, without the AT_NULL.
    pub entries: Vec<(u64, u64)>,
}

impl Auxv {
    /// The value of the first entry of a type (`AT_*`).
    #[must_use]
    pub fn get(&self, kind: u64) -> Option<u64> {
        self.entries.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value)
    }
}

/// Reads `/proc/PID/auxv`. Empty for a task without an address space, on kernels that do not answer ESRCH.
///
/// # Errors
///
/// EACCES without ptrace access, ENOENT or ESRCH when the task or its address space is gone, and bytes that are not
/// understood, such as the vector of a 32-bit task.
pub fn read(pid: Pid) -> Result<Auxv> {
    source::parse(TEXT.0, pid, &format!("/proc/{pid}/auxv"), parse)
}

/// Parses the bytes of `/proc/PID/auxv`.
///
/// # Errors
///
/// A length that is not of whole entries, no AT_NULL at the end, or one before.
pub fn parse(bytes: &[u8]) -> Result<Auxv> {
    let (entries, []) = bytes.as_chunks::<16>() else {
        return Err(TEXT.bad("not whole entries of 16 bytes", bytes));
    };
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let mut entries: Vec<_> = entries.iter().map(|e| (word(&e[..8]), word(&e[8..]))).collect();
    match entries.pop() {
        None => {}
        Some((0, _)) if entries.iter().all(|(kind, _)| *kind != 0) => {}
        Some(_) => return Err(TEXT.bad("AT_NULL is not at the end", bytes)),
    }
    Ok(Auxv { bytes: bytes.to_vec(), entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let auxv = read(std::process::id()).unwrap();
        assert_eq!(auxv.get(libc::AT_PAGESZ), Some(4096));
        assert!(auxv.get(libc::AT_SYSINFO_EHDR).is_some_and(|at| at != 0));
        assert_eq!(auxv.bytes.len(), (auxv.entries.len() + 1) * 16);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let entry = |kind: u64, value: u64| [kind.to_le_bytes(), value.to_le_bytes()].concat();
        assert_eq!(parse(b"").unwrap(), Auxv::default());
        assert_eq!(parse(&[entry(6, 4096), entry(0, 0)].concat()).unwrap().entries, [(6, 4096)]);
        assert!(parse(&entry(6, 4096)).is_err());
        assert!(parse(&[entry(0, 0), entry(6, 4096), entry(0, 0)].concat()).is_err());
        assert!(parse(&[0; 15]).is_err());
    }
}
