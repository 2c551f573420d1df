//! The memory areas of each address space.

use serde::{Serialize, Serializer};
use stillpoint_image::records::{Area, Backing};

use super::body::{self, Body};
use super::{Saved, covered, printable};

/// The address spaces of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryMap {
    /// As they stand in the image.
    pub spaces: Vec<AddressSpace>,
}

/// One address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressSpace {
    /// The object.
    pub object: u64,
    /// The processes that use it.
    pub tasks: Vec<u32>,
    /// What they execute.
    pub executable: String,
    /// Bytes that the image holds of it, uncompressed.
    pub saved_bytes: u64,
    /// Its areas, by address.
    pub areas: Vec<MemoryArea>,
}

/// One area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryArea {
    /// Its first address.
    #[serde(serialize_with = "hexadecimal")]
    pub start: u64,
    /// The address after its last.
    #[serde(serialize_with = "hexadecimal")]
    pub end: u64,
    /// "rw-p", as `/proc/PID/maps` has it.
    pub protection: String,
    /// What is behind it: "anonymous", "private-file", ...
    pub backing: &'static str,
    /// The file or shared memory behind it, and where in it the area begins.
    pub file: Option<String>,
    /// Offset into that, in bytes.
    #[serde(serialize_with = "hexadecimal")]
    pub offset: u64,
    /// The name given to it by PR_SET_VMA_ANON_NAME.
    pub name: String,
    /// The VmFlags of smaps, as the kernel prints them.
    pub flags: String,
    /// Bytes that the image holds for this area, uncompressed.
    pub saved_bytes: u64,
}

/// Addresses pass what a JSON reader may keep exactly in a number.
fn hexadecimal<S: Serializer>(address: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{address:#x}"))
}

/// The memory areas of each address space.
#[must_use]
pub fn memory<S>(image: &Saved<S>) -> MemoryMap {
    let spaces = image.objects().iter().filter_map(|object| {
        let Body::Mm(mm) = Body::of(object) else { return None };
        let saved = covered(image, object.id);
        let tasks = image.tasks().iter().filter(|saved| saved.task.mm == object.id);
        Some(AddressSpace {
            object: object.id,
            tasks: tasks.map(|saved| saved.task.pid).collect(),
            executable: body::referred(image, mm.executable),
            saved_bytes: saved.iter().fold(0, |sum, range| sum.saturating_add(range.1 - range.0)),
            areas: mm.areas.iter().map(|area| describe(image, area, &saved)).collect(),
        })
    });
    MemoryMap { spaces: spaces.collect() }
}

fn describe<S>(image: &Saved<S>, area: &Area, saved: &[(u64, u64)]) -> MemoryArea {
    let shared = matches!(area.backing(), Backing::SharedAnonymous | Backing::SharedFile);
    MemoryArea {
        start: area.start,
        end: area.end,
        protection: protection(area.protection, shared),
        backing: match area.backing() {
            Backing::Unspecified => "unknown",
            Backing::Anonymous => "anonymous",
            Backing::SharedAnonymous => "shared-anonymous",
            Backing::PrivateFile => "private-file",
            Backing::SharedFile => "shared-file",
            Backing::Vvar => "vvar",
            Backing::Vdso => "vdso",
        },
        file: (area.object != 0).then(|| body::referred(image, area.object)),
        offset: area.offset,
        name: printable(&area.name),
        flags: printable(area.flags.join(" ").as_bytes()),
        saved_bytes: within(saved, area.start, area.end),
    }
}

/// Bytes of the ranges, which are ascending and do not overlap, that lie in start..end.
fn within(ranges: &[(u64, u64)], start: u64, end: u64) -> u64 {
    let first = ranges.partition_point(|range| range.1 <= start);
    let inside = ranges[first..].iter().take_while(|range| range.0 < end);
    inside.fold(0, |sum, range| sum.saturating_add(range.1.min(end).saturating_sub(range.0.max(start))))
}

// PROT_READ, PROT_WRITE and PROT_EXEC are 1, 2 and 4 on every machine.
fn protection(bits: u32, shared: bool) -> String {
    let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
    [letter(1, 'r'), letter(2, 'w'), letter(4, 'x'), if shared { 's' } else { 'p' }].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::verified;

    #[test]
    fn saved_bytes_go_to_their_area() {
        let map = memory(&verified());
        let [space] = &map.spaces[..] else { panic!("one address space") };
        assert_eq!(
            (&space.tasks[..], space.executable.as_str(), space.saved_bytes),
            (&[12, 10][..], "/usr/bin/count", 0x1800)
        );
        let [text, heap] = &space.areas[..] else { panic!("two areas") };
        assert_eq!(
            (text.protection.as_str(), text.file.as_deref(), text.saved_bytes),
            ("r-xp", Some("/usr/bin/count"), 0)
        );
        assert_eq!((heap.backing, heap.saved_bytes), ("anonymous", 0x1800));
    }

    #[test]
    fn ranges_are_cut_at_the_area() {
        let ranges = [(10, 20), (30, 40)];
        assert_eq!(within(&ranges, 0, 100), 20);
        assert_eq!(within(&ranges, 15, 35), 10);
        assert_eq!(within(&ranges, 20, 30), 0);
        assert_eq!(within(&ranges, 40, 20), 0);
    }
}
