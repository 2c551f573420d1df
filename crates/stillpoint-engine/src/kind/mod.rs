//! Kinds of open files: one file of source each, which holds how it is recognised, captured, checked and rebuilt.
//!
//! Adding a kind is adding a file here and one line in [`registry::KINDS`]. What no kind recognises is refused by
//! the registry itself.
//!
//! A capture goes through every descriptor of every task ([`descriptors::capture_tables`]), finds out which of them
//! share an open file description, and asks the registry once for each. A kind refuses what it cannot save whole;
//! then nothing has been done to any task. After all files were seen, [`Kind::finish`] looks at what only the whole
//! tree tells: whether both ends of a pipe are in it.
//!
//! A restore first checks every object ([`descriptors::check_all`]), which touches nothing, then rebuilds them in
//! the image's order ([`descriptors::rebuild_all`]), which gives one descriptor for each open file description.
//!
//! *Invariant:* nothing here runs inside a task. Captures are made on duplicates of descriptors, and no query moves
//! a position, consumes a byte or changes a flag of an open file description that a task has.

use rustix::io::Errno;

use crate::{Code, Error, Result};

pub mod capture;
pub mod descriptors;
pub mod identity;
pub mod locks;
pub mod mapped;
pub mod objects;
pub mod place;
pub mod rebuild;
pub mod registry;
pub mod support;

pub mod deleted;
pub mod device;
pub mod directory;
pub mod eventfd;
pub mod external;
pub mod fifo;
pub mod memfd;
pub mod path;
pub mod pipe;
pub mod regular;
pub mod terminal;

mod filesystem;
pub(crate) mod outside;
mod state;

#[cfg(test)]
mod testing;

pub use capture::{Capture, SeenFile};
pub use objects::{Content, Key, Met, Objects, Source};
pub use place::Place;
pub use rebuild::{Contents, Inode, Rebuild, Rebuilt};
pub use stillpoint_image::records as record;
pub use support::{State, SupportRow};

use std::os::fd::OwnedFd;

/// What a kind knows how to do. See the module's documentation.
pub trait Kind: Sync {
    /// The name of its open file descriptions in the image.
    fn name(&self) -> &'static str;

    /// Names of other objects that it puts into the image: the pipe itself, the inode of a deleted file.
    fn parts(&self) -> &'static [&'static str] {
        &[]
    }

    /// Its rows in the support matrix.
    fn support(&self) -> &'static [SupportRow];

    /// Whether this kind stands for that file. At most one kind answers yes; it may still refuse to capture it.
    fn recognise(&self, seen: &SeenFile<'_>) -> bool;

    /// Saves the file and returns the id of its object.
    ///
    /// # Errors
    ///
    /// A refusal, with the reason. Nothing was done to the task.
    fn capture(&self, seen: SeenFile<'_>, ctx: &mut Capture<'_>) -> Result<u64>;

    /// A second pass, after all files of the tree were seen.
    ///
    /// # Errors
    ///
    /// A refusal, with the reason.
    fn finish(&self, ctx: &mut Capture<'_>) -> Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// Whether the place fits one of its objects. Touches nothing.
    ///
    /// # Errors
    ///
    /// What does not fit.
    fn check(&self, object: &record::Object, at: &rebuild::Check<'_>) -> Result<()>;

    /// Rebuilds one of its objects; gives a descriptor if it is an open file description.
    ///
    /// # Errors
    ///
    /// What does not fit or went wrong. What was made disappears with the descriptors in `ctx`.
    fn rebuild(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<Option<OwnedFd>>;

    /// A second pass over its objects, after all were rebuilt.
    ///
    /// # Errors
    ///
    /// What went wrong.
    fn settle(&self, object: &record::Object, ctx: &mut Rebuild<'_>) -> Result<()> {
        let _ = (object, ctx);
        Ok(())
    }
}

/// How errors name a descriptor: `fd 7 -> /path`.
#[must_use]
pub fn descriptor_name(number: u32, link: &[u8]) -> String {
    format!("fd {number} -> {}", link.escape_ascii())
}

/// Decodes the body of an object.
///
/// # Errors
///
/// [`Code::ImageInconsistent`] when it is not what its kind says.
pub fn decode<M: stillpoint_image::Message + Default>(object: &record::Object) -> Result<M> {
    object.decode_body().map_err(|error| inconsistent(object, error))
}

/// A part that every record of a kind has.
fn required<T>(object: &record::Object, part: Option<T>, name: &str) -> Result<T> {
    part.ok_or_else(|| inconsistent(object, format!("it lacks its {name}")))
}

fn inconsistent(object: &record::Object, cause: impl std::fmt::Display) -> Box<Error> {
    Box::new(
        Error::new(Code::ImageInconsistent, "reading an open file of the image")
            .object(format!("object {} ({})", object.id, object.kind))
            .cause(cause),
    )
}

fn failed(doing: &str, errno: Errno) -> Box<Error> {
    Box::new(Error::new(Code::Failed, doing).cause(errno))
}
