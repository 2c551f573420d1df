//! `--root DIR`

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Root {
    /// Look all paths up below this directory: a copy of the file system of the machine that was saved
    #[arg(long = "root", value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Root {
    pub(crate) fn lower(self) -> Option<PathBuf> {
        self.directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn a_directory_or_none() {
        assert_eq!(testing::parse::<Root>(&[]).expect("parses").lower(), None);
        let given: Root = testing::parse(&["--root", "/copy"]).expect("parses");
        assert_eq!(given.lower(), Some(PathBuf::from("/copy")));
    }
}
