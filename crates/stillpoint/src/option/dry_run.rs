//! `--dry-run`

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DryRun {
    /// Say what would be done and what does not fit here, and touch nothing
    ///
    /// The exit status is 0 if the image would be restored, 5 if something does not fit.
    #[arg(long = "dry-run", short = 'n')]
    dry_run: bool,
}

impl DryRun {
    pub(crate) fn lower(&self) -> bool {
        self.dry_run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn off_by_default() {
        assert!(!testing::parse::<DryRun>(&[]).expect("parses").lower());
        assert!(testing::parse::<DryRun>(&["-n"]).expect("parses").lower());
    }
}
