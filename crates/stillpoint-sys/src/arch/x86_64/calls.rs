//! System calls that only this machine has, or has in another form.

use crate::program::Arg;

/// ARCH_MAP_VDSO_64 of arch_prctl(2), arch/x86/include/uapi/asm/prctl.h.
const ARCH_MAP_VDSO_64: u64 = 0x2003;

/// The call that maps the kernel's own areas (vvar and vDSO) into a task that has none, starting at an address.
#[must_use]
pub fn map_kernel_areas(start: u64) -> (i64, [u64; 6]) {
    (libc::SYS_arch_prctl, [ARCH_MAP_VDSO_64, start, 0, 0, 0, 0])
}

/// The calls that say whether the task may use the CPUID instruction (1, or 0 when it faults), and that make it fault.
pub const CPU_IDENTIFICATION: (i64, [Arg; 5]) = arch_prctl(0x1011);
/// See [`CPU_IDENTIFICATION`].
pub const FAULT_CPU_IDENTIFICATION: (i64, [Arg; 5]) = arch_prctl(0x1012);

const fn arch_prctl(code: u64) -> (i64, [Arg; 5]) {
    let zero = Arg::Value(0);
    (libc::SYS_arch_prctl, [Arg::Value(code), zero, zero, zero, zero])
}

/// The call that reads a table of segments that a process made for itself: (0, buffer, size) gives its length.
pub const SEGMENT_TABLE_CALL: Option<i64> = Some(libc::SYS_modify_ldt);
