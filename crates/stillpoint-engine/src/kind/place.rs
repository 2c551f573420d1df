//! Where a tree is restored: what a kind may know of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

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
    /// The directory that was looked into last, open: files stand together.
    pub(super) parent: RefCell<Option<(Vec<u8>, Rc<OwnedFd>)>>,
}

impl Place {
    /// The directory that a path names a file in, open, and the name: a path costs less to look up by its last part.
    pub(super) fn parent<'p>(&self, path: &'p [u8]) -> Option<(Rc<OwnedFd>, &'p [u8])> {
        let at = path.iter().rposition(|&byte| byte == b'/')?;
        let (directory, name) = (path.get(..at)?, path.get(at + 1..)?);
        if directory.is_empty() || matches!(name, b"" | b"." | b"..") {
            return None;
        }
        let mut parent = self.parent.borrow_mut();
        match &*parent {
            Some((known, fd)) if known == directory => Some((fd.clone(), name)),
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = Rc::new(super::identity::lookup(self, directory, flags).ok()?);
                *parent = Some((directory.to_vec(), fd.clone()));
                Some((fd, name))
            }
        }
    }

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
