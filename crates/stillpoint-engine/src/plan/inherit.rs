//! What a child inherits of its parent's memory: the pages that both still have in common are in the image once, and the
//! child is born when its parent has them.

use std::collections::{BTreeSet, HashMap};

use stillpoint_image::VerifiedImage;

use super::model::{Model, Process, inconsistent};
use crate::Result;
use crate::memory::PAGE;
use crate::memory::inherit::origin;
use crate::memory::ranges::{Ranges, both, minus, union};

/// Who inherits what, by index of the process.
#[derive(Debug, Default)]
pub struct Inheritance {
    heirs: HashMap<usize, Heir>,
    parents: BTreeSet<usize>,
}

/// What a child does with its parent's memory when it is born with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heir {
    /// Areas that it keeps; all else is unmapped.
    pub kept: Ranges,
    /// Pages of those that its parent has and it has not.
    pub holes: Ranges,
}

impl Inheritance {
    /// Reads it from the image's records, checked against each other.
    ///
    /// # Errors
    ///
    /// [`ImageInconsistent`](crate::Code::ImageInconsistent).
    pub fn plan<S>(image: &VerifiedImage<S>, model: &Model) -> Result<Self> {
        let mut saved: HashMap<u64, Ranges> = HashMap::new();
        for frame in image.data() {
            let runs = frame.runs.iter().map(|run| (run.offset, run.offset.saturating_add(run.length)));
            saved.entry(frame.object).or_default().extend(runs);
        }
        let index: HashMap<u32, usize> =
            model.processes.iter().enumerate().map(|(n, process)| (process.task.pid, n)).collect();
        let mut plan = Inheritance::default();
        let mut held: HashMap<usize, Ranges> = HashMap::new();
        for (n, process, body) in model.living() {
            let mut own = union(saved.remove(&process.task.mm).unwrap_or_default());
            if body.mm.parent != 0 || !body.mm.inherited.is_empty() {
                let parent = index.get(&process.task.parent).copied().unwrap_or(usize::MAX);
                let inherited = inherited(process)?;
                own = union([own, inherited.clone()].concat());
                let of_parent = held.get(&parent).map_or(&[][..], Vec::as_slice);
                let heir = heir(process, model.processes.get(parent), &inherited, &own, of_parent)?;
                plan.heirs.insert(n, heir);
                plan.parents.insert(parent);
            }
            held.insert(n, own);
        }
        Ok(plan)
    }

    /// What a process inherits.
    #[must_use]
    pub fn of(&self, process: usize) -> Option<&Heir> {
        self.heirs.get(&process)
    }

    /// Whether a process must have its memory before its children are born.
    #[must_use]
    pub fn is_parent(&self, process: usize) -> bool {
        self.parents.contains(&process)
    }

    /// Whether nobody inherits anything: then children are born with nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heirs.is_empty()
    }
}

/// The pages that a process says it inherits.
fn inherited(process: &Process) -> Result<Ranges> {
    let runs = process.body.iter().flat_map(|body| &body.mm.inherited);
    let mut ranges: Ranges = Vec::new();
    for run in runs {
        let end = run.offset.checked_add(run.length).filter(|end| end.is_multiple_of(PAGE));
        let ascends = ranges.last().is_none_or(|last| last.1 <= run.offset);
        match end {
            Some(end) if ascends && run.length > 0 && run.offset.is_multiple_of(PAGE) => {
                ranges.push((run.offset, end));
            }
            _ => return Err(inconsistent(format!("inherited pages at {:#x} out of order", run.offset))),
        }
    }
    Ok(union(ranges))
}

fn heir(
    process: &Process,
    parent: Option<&Process>,
    inherited: &[(u64, u64)],
    own: &[(u64, u64)],
    of_parent: &[(u64, u64)],
) -> Result<Heir> {
    let bad = |why: &str| inconsistent(format!("process {}, which {why}", process.task.pid));
    let (Some(body), Some((parent, parent_body))) =
        (&process.body, parent.and_then(|parent| Some((parent, parent.body.as_ref()?))))
    else {
        return Err(bad("inherits memory and has no parent"));
    };
    if body.mm.parent != parent.task.mm || body.mm.executable != parent_body.mm.executable {
        return Err(bad("inherits memory that is not its parent's"));
    }
    let areas = body.mm.areas.iter().filter(|area| {
        !both(&[(area.start, area.end)], inherited).is_empty()
            && origin(area, &parent_body.mm.areas).is_some()
    });
    let areas: Ranges = areas.map(|area| (area.start, area.end)).collect();
    if !minus(inherited, &union(areas.clone())).is_empty() {
        return Err(bad("inherits pages outside of areas that it has of its parent"));
    }
    let holes = minus(&both(of_parent, &union(areas.clone())), own);
    Ok(Heir { kept: areas, holes })
}
