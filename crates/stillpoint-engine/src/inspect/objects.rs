//! Every kernel object of an image.

use serde::Serialize;

use super::body::Body;
use super::{Saved, content_bytes, printable};

/// The objects of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectTable {
    /// As they stand in the image.
    pub objects: Vec<SavedObject>,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SavedObject {
    /// Its id, unique in the image.
    pub id: u64,
    /// Its kind, as the registry calls it.
    pub kind: String,
    /// What it is, in a line.
    pub what: String,
    /// Bytes of contents that the image holds for it, uncompressed.
    pub content_bytes: u64,
}

/// Every kernel object of an image.
#[must_use]
pub fn objects<S>(image: &Saved<S>) -> ObjectTable {
    let objects = image.objects().iter().map(|object| SavedObject {
        id: object.id,
        kind: printable(object.kind.as_bytes()),
        what: Body::of(object).describe(image),
        content_bytes: content_bytes(image, object.id),
    });
    ObjectTable { objects: objects.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::verified;

    #[test]
    fn every_object_has_a_line() {
        let table = objects(&verified());
        let line =
            |id: u64| table.objects.iter().find(|object| object.id == id).map(|object| object.what.as_str());
        assert_eq!(table.objects.len(), 9);
        assert_eq!(line(3), Some("5 bytes in it, room for 65536"));
        assert_eq!(line(5), Some("3 descriptors"));
        assert_eq!(line(7), Some("2 areas, runs /usr/bin/count"));
        assert_eq!(line(8), Some("in /tmp, root /, umask 022"));
        assert_eq!(line(9), Some("3 bytes of a kind that this version does not know"));
        assert_eq!(table.objects[2].content_bytes, 5);
    }
}
