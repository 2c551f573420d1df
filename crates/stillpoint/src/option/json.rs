//! `--json`

use std::ffi::OsString;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Report as one JSON object on standard output, the result or the error
    ///
    /// Where the image itself goes to standard output, the object goes to standard error.
    #[arg(long = "json")]
    json: bool,
}

impl Json {
    pub(crate) fn lower(&self) -> bool {
        self.json
    }
}

/// Whether words that could not be parsed ask for JSON: a usage error is answered in it too.
pub(crate) fn asked_for(words: &[OsString]) -> bool {
    words.iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn off_by_default() {
        assert!(!testing::parse::<Json>(&[]).expect("parses").lower());
        assert!(testing::parse::<Json>(&["--json"]).expect("parses").lower());
    }

    #[test]
    fn found_in_words_that_do_not_parse() {
        let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(asked_for(&words(&["stillpoint", "checkpoint", "x", "--json"])));
        assert!(!asked_for(&words(&["stillpoint", "inspect", "--", "--json"])));
    }
}
