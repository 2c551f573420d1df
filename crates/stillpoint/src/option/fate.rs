//! `--leave-running`, `--leave-stopped`

use clap::Args;
use stillpoint_engine::Fate;

#[derive(Debug, Args)]
pub(crate) struct FateOption {
    /// Let the tasks run on once the image is sealed, instead of ending them
    #[arg(long = "leave-running")]
    running: bool,

    /// Leave the tasks stopped, as by SIGSTOP, once the image is sealed
    #[arg(long = "leave-stopped", conflicts_with = "running")]
    stopped: bool,
}

impl FateOption {
    pub(crate) fn lower(&self) -> Fate {
        match (self.running, self.stopped) {
            (true, _) => Fate::LeaveRunning,
            (_, true) => Fate::LeaveStopped,
            _ => Fate::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn one_fate() {
        let lowered = |words: &[&str]| testing::parse::<FateOption>(words).map(|fate| fate.lower());
        assert_eq!(lowered(&[]), Ok(Fate::End));
        assert_eq!(lowered(&["--leave-running"]), Ok(Fate::LeaveRunning));
        assert_eq!(lowered(&["--leave-stopped"]), Ok(Fate::LeaveStopped));
        assert!(lowered(&["--leave-stopped", "--leave-running"]).is_err());
    }
}
