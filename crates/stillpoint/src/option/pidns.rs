//! `--pidns`

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Pidns {
    /// Restore into a new pid namespace, where every pid of the tree is free
    ///
    /// An ordinary user's restore does so anyway, together with a user namespace.
    #[arg(long = "pidns")]
    pidns: bool,
}

impl Pidns {
    pub(crate) fn lower(&self) -> bool {
        self.pidns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn off_by_default() {
        assert!(!testing::parse::<Pidns>(&[]).expect("parses").lower());
        assert!(testing::parse::<Pidns>(&["--pidns"]).expect("parses").lower());
    }
}
