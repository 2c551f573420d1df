//! Where a tree is restored: what a kind may know of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::external::StandIn;
use crate::{Code, Error, Result};

/// Where a tree is restored.
#[derive(Debug, Default)]
pub struct Place {
    /// The directory below which all paths are looked up (`--root`); none: the caller's own root directory.
    pub root: Option<OwnedFd>,
    /// The terminal that the tree gets in place of the one that it was started from: that of a restore in the
    /// foreground, open in any mode. It must be the caller's controlling terminal if the tree had opened `/dev/tty`.
    pub terminal: Option<OwnedFd>,
    /// What stands in for open file descriptions, by object: see [`replacements`](super::external::replacements).
    /// These override what the image says.
    pub replacements: HashMap<u64, StandIn>,
}

impl Place {
    /// A place whose paths are looked up below `root`.
    ///
    /// # Errors
    ///
    /// When `root` is not a directory that can be opened.
    pub fn below(root: &Path) -> Result<Self> {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| {
                Box::new(
                    Error::new(Code::Usage, "opening the directory of --root")
                        .object(root.display().to_string())
                        .cause(errno),
                )
            })?;
        Ok(Place { root: Some(root), ..Place::default() })
    }
}
