//! Where the contents that an image holds may go: within what they are the contents of. Checked before anything is
//! made, since contents that lie elsewhere would be written over what the restore itself has put into a task.

use std::collections::HashMap;

use stillpoint_image::VerifiedImage;
use stillpoint_image::records::{Area, Backing, Mm, Run};

use super::model::{Model, inconsistent};
use crate::Result;
use crate::kind::registry;

/// The room of one object: ascending ranges that do not touch.
#[derive(Debug, Default)]
struct Room(Vec<(u64, u64)>);

impl Room {
    /// The areas of an address space that have contents of their own.
    fn of(mm: &Mm) -> Self {
        let mut room = Room::default();
        for area in mm.areas.iter().filter(|area| has_own_contents(area)) {
            match room.0.last_mut() {
                Some(last) if last.1 == area.start => last.1 = area.end,
                _ => room.0.push((area.start, area.end)),
            }
        }
        room
    }

    fn holds(&self, run: &Run) -> bool {
        let at = self.0.partition_point(|&(_, end)| end <= run.offset);
        let end = run.offset.checked_add(run.length);
        self.0.get(at).zip(end).is_some_and(|(&(start, last), end)| start <= run.offset && end <= last)
    }
}

fn has_own_contents(area: &Area) -> bool {
    matches!(area.backing(), Backing::Anonymous | Backing::PrivateFile)
}

/// Checks every run of contents of an image. Those of open files (pipes, deleted files) are checked by their kinds.
///
/// # Errors
///
/// [`ImageInconsistent`](crate::Code::ImageInconsistent), with the first that lies elsewhere.
pub fn check<S>(image: &VerifiedImage<S>, model: &Model) -> Result<()> {
    let memory = model.living().map(|(_, process, body)| (process.task.mm, Room::of(&body.mm)));
    let shared = model.shared.iter().map(|(&object, &size)| (object, Room(vec![(0, size)])));
    let rooms: HashMap<u64, Room> = memory.chain(shared).collect();
    for frame in image.data() {
        let kind = image.object(frame.object).map_or("", |object| object.kind.as_str());
        let Some(room) = rooms.get(&frame.object) else {
            if registry::kind_of(kind).is_some() {
                continue;
            }
            return Err(inconsistent(format!(
                "contents of object {} ({kind}), which has none",
                frame.object
            )));
        };
        if let Some(run) = frame.runs.iter().find(|run| !room.holds(run)) {
            return Err(inconsistent(format!(
                "contents of object {} ({kind}) at {:#x}, {} bytes, which lie outside of it",
                frame.object, run.offset, run.length
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, backing: Backing) -> Area {
        Area { start, end, backing: backing.into(), ..Area::default() }
    }

    #[test]
    fn contents_lie_within_areas_that_have_their_own() {
        let areas = vec![
            area(0x1000, 0x3000, Backing::Anonymous),
            area(0x3000, 0x4000, Backing::PrivateFile),
            area(0x4000, 0x5000, Backing::SharedAnonymous),
            area(0x6000, 0x7000, Backing::Anonymous),
            area(0x7000, 0x8000, Backing::Vdso),
        ];
        let room = Room::of(&Mm { areas, ..Mm::default() });
        let holds = |offset, length| room.holds(&Run { offset, length });
        for (offset, length) in [(0x1000, 0x1000), (0x1000, 0x3000), (0x3fff, 1), (0x6000, 0x1000)] {
            assert!(holds(offset, length), "{offset:#x} {length:#x}");
        }
        for (offset, length) in [
            (0, 0x1000),
            (0xfff, 2),
            (0x1000, 0x3001),
            (0x4000, 0x1000),
            (0x5000, 0x1000),
            (0x6fff, 2),
            (0x7000, 1),
            (0x9000, 1),
            (0x6000, u64::MAX),
            (u64::MAX, 1),
        ] {
            assert!(!holds(offset, length), "{offset:#x} {length:#x}");
        }
    }
}
