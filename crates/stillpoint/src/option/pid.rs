//! PID

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Pid {
    /// The root of the tree; all its descendants go in
    // A pid is a positive `int` in the kernel.
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pid: u32,
}

impl Pid {
    pub(crate) fn lower(&self) -> u32 {
        self.pid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn a_positive_int() {
        assert_eq!(testing::parse::<Pid>(&["42"]).map(|pid| pid.lower()), Ok(42));
        for wrong in ["0", "-1", "2147483648", "self", ""] {
            assert!(testing::parse::<Pid>(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
