//! What depends on the machine. Each architecture has a folder with the same file names and the same API, so
//! callers hold no `cfg`.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "stillpoint-sys: this architecture is not supported yet; add crates/stillpoint-sys/src/arch/<name>"
);
