//! `--pid-file F`

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct PidFile {
    /// Write the pid of the restored root, as seen from here, to this file
    #[arg(long = "pid-file", value_name = "F")]
    path: Option<PathBuf>,
}

impl PidFile {
    pub(crate) fn lower(self) -> Option<PathBuf> {
        self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn a_path_or_none() {
        assert_eq!(testing::parse::<PidFile>(&[]).expect("parses").lower(), None);
        let given: PidFile = testing::parse(&["--pid-file", "/run/x.pid"]).expect("parses");
        assert_eq!(given.lower(), Some(PathBuf::from("/run/x.pid")));
    }
}
