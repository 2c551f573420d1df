//! `--detach`

use clap::Args;
use stillpoint_engine::Foreground;

#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// Let go of the restored tree: it gets a session of its own and outlives this command
    ///
    /// Without it this command stays as the parent, passes signals on, lends the tree its session and terminal,
    /// and exits as the root task does (128+N where signal N ended it).
    #[arg(long = "detach", short = 'd')]
    detach: bool,
}

impl Detach {
    pub(crate) fn lower(&self) -> Foreground {
        if self.detach { Foreground::Detached } else { Foreground::Attached }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn attached_by_default() {
        let lowered = |words: &[&str]| testing::parse::<Detach>(words).expect("parses").lower();
        assert_eq!(lowered(&[]), Foreground::Attached);
        assert_eq!(lowered(&["--detach"]), Foreground::Detached);
        assert_eq!(lowered(&["-d"]), Foreground::Detached);
    }
}
