//! `--force`

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Force {
    /// Replace an existing FILE (only once the new image is sealed)
    #[arg(long = "force", short = 'f')]
    force: bool,
}

impl Force {
    pub(crate) fn lower(&self) -> bool {
        self.force
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn off_by_default() {
        assert!(!testing::parse::<Force>(&[]).expect("parses").lower());
        assert!(testing::parse::<Force>(&["--force"]).expect("parses").lower());
    }
}
