//! What this CPU's extended state is like.

#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// The XSAVE components that the kernel has enabled (XCR0); 0 without XSAVE.
#[must_use]
pub fn enabled_xstate() -> u64 {
    #[target_feature(enable = "xsave")]
    fn read() -> u64 {
        // SAFETY: register 0 exists wherever XSAVE is enabled.
        unsafe { _xgetbv(0) }
    }
    // OSXSAVE: bit 27 of ECX in leaf 1.
    if __cpuid(1).ecx & 1 << 27 == 0 {
        return 0;
    }
    // SAFETY: OSXSAVE says that the instruction is there and enabled.
    unsafe { read() }
}

/// The size of an NT_X86_XSTATE note of this CPU, bytes.
#[must_use]
pub fn xstate_size() -> u32 {
    if enabled_xstate() == 0 { 0 } else { __cpuid_count(0xd, 0).ebx }
}

/// Where a component of the extended state ends in the standard format, bytes. The first two are in the legacy part.
#[must_use]
pub(super) fn xstate_end(component: u32) -> usize {
    const LEGACY: usize = 512 + 64;
    if component < 2 {
        return LEGACY;
    }
    let leaf = __cpuid_count(0xd, component);
    (leaf.ebx + leaf.eax) as usize
}
