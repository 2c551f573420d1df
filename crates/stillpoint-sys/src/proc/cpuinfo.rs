//! `/proc/cpuinfo`: what the first processor is, for the check that an image runs here.
//!
//! See `show_cpuinfo` in the kernel's `arch/*/kernel`. A line means what its architecture says; only those are
//! taken that are the same on all CPUs. The text is for people, and its unknown lines tell nothing that a task
//! could lose.

use super::source;
use super::text::{Text, split_once, trim, words};
use crate::Result;

const TEXT: Text = Text("reading /proc/cpuinfo");

/// The first processor. Empty where the architecture does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuInfo {
    /// `vendor_id` on x86, `CPU implementer` on arm64.
    pub vendor: Vec<u8>,
    /// `model name` on x86; arm64 prints none to 64-bit readers.
    pub model_name: Vec<u8>,
    /// `flags` on x86, `Features` on arm64.
    pub flags: Vec<Vec<u8>>,
}

impl CpuInfo {
    /// Whether the processor has a feature that the kernel uses or lets programs use.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag.as_bytes())
    }
}

/// Reads `/proc/cpuinfo`.
///
/// # Errors
///
/// When it cannot be read, or is not understood.
pub fn read() -> Result<CpuInfo> {
    source::parse_system(TEXT.0, "/proc/cpuinfo", parse)
}

/// Parses the text of `/proc/cpuinfo` up to the first empty line.
///
/// # Errors
///
/// A line without `:`, or no flags at all.
pub fn parse(bytes: &[u8]) -> Result<CpuInfo> {
    let mut info = CpuInfo::default();
    let mut flags = None;
    for line in TEXT.lines(bytes)?.take_while(|line| !line.is_empty()) {
        let (key, value) = split_once(line, b':').ok_or_else(|| TEXT.bad("a line of cpuinfo", line))?;
        let value = trim(value);
        match trim(key) {
            b"vendor_id" | b"CPU implementer" => info.vendor = value.to_vec(),
            b"model name" => info.model_name = value.to_vec(),
            b"flags" | b"Features" => flags = Some(words(value).map(<[u8]>::to_vec).collect()),
            _ => {}
        }
    }
    info.flags = flags.ok_or_else(|| TEXT.bad("no line of flags", &bytes[..bytes.len().min(40)]))?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor() {
        let info = parse(
            b"processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu vme avx2\n\
            power management:\n\nprocessor\t: 1\nvendor_id\t: Other\n",
        )
        .unwrap();
        assert_eq!(info.vendor, b"AuthenticAMD");
        assert_eq!(info.model_name, b"AMD EPYC");
        assert!(info.has("avx2") && !info.has("avx"));
    }

    #[test]
    fn arm64() {
        let info = parse(b"processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n\n").unwrap();
        assert_eq!(info.vendor, b"0x41");
        assert!(info.has("sve"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(parse(b"").is_err());
        assert!(parse(b"processor : 0\n\n").is_err());
        assert!(parse(b"processor 0\nflags : a\n").is_err());
        assert!(parse(b"flags : a").is_err());
    }

    #[test]
    fn this_machine() {
        assert!(!read().unwrap().flags.is_empty());
    }
}
