//! Resource limits: prlimit(2). Read from `/proc/PID/limits`, since prlimit on a task of another user needs
//! CAP_SYS_RESOURCE.

use stillpoint_image::records::ResourceLimit;
use stillpoint_sys::program::{Arg, Program};

/// RLIMIT_NOFILE.
pub const NOFILE: u32 = 7;

/// The limits of `/proc/PID/limits` as the image stores them, by number.
#[must_use]
pub fn record(limits: &[(u64, u64)]) -> Vec<ResourceLimit> {
    limits.iter().map(|&(soft, hard)| ResourceLimit { soft, hard }).collect()
}

/// Sets all limits of the process.
pub fn set(program: &mut Program, limits: &[ResourceLimit]) {
    for (number, limit) in (0u32..).zip(limits) {
        let bytes: Vec<u8> = [limit.soft, limit.hard].iter().flat_map(|word| word.to_le_bytes()).collect();
        let data = program.data(&bytes);
        program.call(
            format!("setting resource limit {number} to {} (hard {})", show(limit.soft), show(limit.hard)),
            libc::SYS_prlimit64,
            [Arg::Value(0), number.into(), data.into(), Arg::Value(0)],
        );
    }
}

fn show(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}
