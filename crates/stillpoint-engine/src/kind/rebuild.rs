//! What a kind is told and may ask while open files are checked and rebuilt.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::{Place, deleted, external, inconsistent, memfd, record, terminal};
use crate::Result;

/// Reads the contents of an object from the image, in ascending order of offset.
pub type Contents<'a> = dyn FnMut(u64, &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> + 'a;

/// The objects of an image, by id.
#[derive(Debug)]
pub(super) struct Index<'a> {
    by_id: HashMap<u64, &'a record::Object>,
}

impl<'a> Index<'a> {
    pub(super) fn new(objects: &'a [record::Object]) -> Self {
        Index { by_id: objects.iter().map(|object| (object.id, object)).collect() }
    }

    /// Whether there is an open file description of that id.
    pub(super) fn is_open_file(&self, id: u64) -> bool {
        self.by_id.get(&id).is_some_and(|object| super::registry::describes_open_file(&object.kind))
    }

    /// The object that `from` refers to, which must be of a kind.
    fn get(&self, from: &record::Object, id: u64, kind: &str) -> Result<&'a record::Object> {
        match self.by_id.get(&id) {
            Some(object) if object.kind == kind => Ok(object),
            _ => {
                Err(inconsistent(from, format!("it refers to object {id}, which is no {kind} of this image")))
            }
        }
    }
}

/// The context of a check: nothing is touched.
#[derive(Debug)]
pub struct Check<'a> {
    /// Where the tree would be restored.
    pub place: &'a Place,
    pub(super) objects: Index<'a>,
}

impl<'a> Check<'a> {
    /// The object that `from` refers to, which must be of a kind.
    ///
    /// # Errors
    ///
    /// [`Code::ImageInconsistent`](crate::Code::ImageInconsistent) when there is none.
    pub fn object(&self, from: &record::Object, id: u64, kind: &str) -> Result<&'a record::Object> {
        self.objects.get(from, id, kind)
    }
}

/// An object that is not an open file description, but that some are made from.
#[derive(Debug)]
pub(super) enum Held {
    Pipe(HeldPipe),
    DeletedFile(deleted::HeldFile),
    Memfd(memfd::HeldMemfd),
}

/// A pipe or FIFO whose ends are being made.
#[derive(Debug)]
pub(super) struct HeldPipe {
    /// Any open file description of it, to open others through.
    pub(super) handle: OwnedFd,
    /// The ends that pipe2(2) gave, until they are taken.
    pub(super) read: Option<OwnedFd>,
    pub(super) write: Option<OwnedFd>,
    /// Of a FIFO.
    pub(super) fifo: Option<record::FileIdentity>,
}

/// The context of a rebuild.
pub struct Rebuild<'a> {
    /// Where the tree is restored.
    pub place: &'a Place,
    /// What the user should know.
    pub notes: Vec<String>,
    pub(super) objects: &'a [record::Object],
    pub(super) terminal: Option<terminal::Settings>,
    pub(super) opened: external::Opened,
    /// What is to be opened of each deleted file, once that was gathered.
    pub(super) deleted: Option<HashMap<u64, Vec<deleted::Wanted>>>,
    held: HashMap<u64, Held>,
    contents: &'a mut Contents<'a>,
}

impl std::fmt::Debug for Rebuild<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebuild")
            .field("place", &self.place)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(
        place: &'a Place,
        objects: &'a [record::Object],
        contents: &'a mut Contents<'a>,
    ) -> Self {
        Rebuild {
            place,
            notes: Vec::new(),
            objects,
            terminal: None,
            opened: external::Opened::default(),
            deleted: None,
            held: HashMap::new(),
            contents,
        }
    }

    /// Hands the contents of an object to `sink`.
    pub(super) fn contents(
        &mut self,
        object: u64,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        (self.contents)(object, sink)
    }

    pub(super) fn hold(&mut self, id: u64, held: Held) {
        self.held.insert(id, held);
    }

    pub(super) fn held(&mut self, id: u64) -> Option<&mut Held> {
        self.held.get_mut(&id)
    }

    /// What areas of memory may map of files without a name, by object.
    pub(super) fn take_inodes(&mut self) -> HashMap<u64, Inode> {
        let inode = |held| match held {
            Held::Pipe(_) => None,
            Held::DeletedFile(file) => Some(Inode { writer: file.fd, reader: file.reader, late_seals: 0 }),
            Held::Memfd(held) => Some(held.into_inode()),
        };
        self.held.drain().filter_map(|(id, held)| Some((id, inode(held)?))).collect()
    }
}

/// The open files of an image, rebuilt.
#[derive(Debug)]
pub struct Rebuilt {
    /// One descriptor, close-on-exec, for each open file description, by object.
    pub files: HashMap<u64, OwnedFd>,
    /// Files without a name that areas may map, by object.
    pub inodes: HashMap<u64, Inode>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// How the tree had set its terminal, to be applied when nothing can fail any more.
    pub terminal: Option<terminal::Settings>,
    /// Files that were made for what reached outside; they go when this is dropped.
    pub created: Vec<external::Created>,
}

/// A file without a name, rebuilt, as far as areas of memory need it.
#[derive(Debug)]
pub struct Inode {
    /// Open for reading and writing.
    pub writer: OwnedFd,
    /// Open for reading alone: what is mapped through it cannot be made writable.
    pub reader: OwnedFd,
    /// Seals that are added when everything is mapped: they let be what is mapped before.
    pub late_seals: u32,
}

impl Inode {
    /// The descriptor to map through.
    #[must_use]
    pub fn descriptor(&self, writable: bool) -> &OwnedFd {
        if writable { &self.writer } else { &self.reader }
    }

    /// Adds the seals that had to wait.
    ///
    /// # Errors
    ///
    /// What the kernel answered.
    pub fn seal(&self) -> Result<()> {
        memfd::seal(&self.writer, self.late_seals)
    }
}
