//! The options of the command line: for each its name, help, parsing, lowering and test in one file.
//!
//! A subcommand flattens the ones it takes. Each is lowered once, into the engine's checked option of the same
//! meaning; nothing past `command/` sees a raw flag.

pub(crate) mod compress;
pub(crate) mod detach;
pub(crate) mod dry_run;
pub(crate) mod external;
pub(crate) mod fate;
pub(crate) mod force;
pub(crate) mod image;
pub(crate) mod json;
pub(crate) mod pid;
pub(crate) mod pid_file;
pub(crate) mod pidns;
pub(crate) mod root;

#[cfg(test)]
pub(crate) mod testing {
    //! Parsing one option by itself.

    use clap::{Args, Parser};

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Only<T: Args> {
        #[command(flatten)]
        option: T,
    }

    /// The option as parsed from these words, or clap's message.
    pub(crate) fn parse<T: Args>(words: &[&str]) -> Result<T, String> {
        Only::<T>::try_parse_from(words).map(|only| only.option).map_err(|error| error.to_string())
    }
}
