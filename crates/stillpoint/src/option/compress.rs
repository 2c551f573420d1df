//! `--compress none|lz4|zstd[=LEVEL]`

use clap::Args;
use stillpoint_engine::Compression;

/// The level of `zstd` alone: the library's own default.
const ZSTD_DEFAULT: i32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Compress {
    /// Compress memory and file contents: none, lz4, zstd or zstd=LEVEL (1 to 19)
    ///
    /// lz4 costs little time; zstd makes smaller images. Each chunk is compressed by itself, so an image stays
    /// readable from any place.
    #[arg(long = "compress", value_name = "METHOD", default_value = "none", value_parser = parse)]
    method: Compression,
}

impl Compress {
    pub(crate) fn lower(self) -> Compression {
        self.method
    }
}

fn parse(text: &str) -> Result<Compression, String> {
    match text.split_once('=') {
        None => match text {
            "none" => Ok(Compression::None),
            "lz4" => Ok(Compression::Lz4),
            "zstd" => Ok(Compression::Zstd(ZSTD_DEFAULT)),
            _ => Err("expected none, lz4, zstd or zstd=LEVEL".to_owned()),
        },
        Some(("zstd", level)) => match level.parse() {
            Ok(level @ 1..=19) => Ok(Compression::Zstd(level)),
            _ => Err("the level of zstd is a number of 1 to 19".to_owned()),
        },
        Some((method, _)) => Err(format!("`{method}` takes no level, only zstd does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::testing;

    #[test]
    fn methods_and_levels() {
        let lowered = |words: &[&str]| testing::parse::<Compress>(words).map(Compress::lower);
        assert_eq!(lowered(&[]), Ok(Compression::None));
        assert_eq!(lowered(&["--compress", "lz4"]), Ok(Compression::Lz4));
        assert_eq!(lowered(&["--compress", "zstd"]), Ok(Compression::Zstd(3)));
        assert_eq!(lowered(&["--compress=zstd=19"]), Ok(Compression::Zstd(19)));
        for wrong in ["zstd=0", "zstd=20", "zstd=", "lz4=1", "gzip", ""] {
            assert!(lowered(&["--compress", wrong]).is_err(), "{wrong:?}");
        }
    }
}
