//! Which record may follow which, and what they must agree on. The writer and the reader both ask here, so neither
//! can be laxer than the other. A check that fails changes nothing.

use std::collections::HashSet;

use crate::error::{ImageError, Inconsistency, Misplaced, Place};
use crate::format::FrameType;
use crate::records::{Header, Object, Task, Thread};

/// A broken rule; becomes an [`ImageError`] where the place is known.
#[derive(Debug)]
pub(crate) enum Fault {
    Order(Misplaced),
    Content(Inconsistency),
}

impl Fault {
    pub(crate) fn at(self, at: Place) -> ImageError {
        match self {
            Self::Order(what) => ImageError::OutOfOrder { at, what },
            Self::Content(what) => ImageError::Inconsistent { at, what },
        }
    }
}

impl From<Inconsistency> for Fault {
    fn from(what: Inconsistency) -> Self {
        Self::Content(what)
    }
}

/// What has been met so far.
#[derive(Debug, Default)]
pub(crate) struct Grammar {
    last: Option<FrameType>,
    root_pid: u32,
    announced_tasks: u32,
    announced_threads: u32,
    objects: HashSet<u64>,
    pids: HashSet<u32>,
    tids: HashSet<u32>,
    /// The task whose threads may follow.
    task: Option<OpenTask>,
}

#[derive(Debug, Clone, Copy)]
struct OpenTask {
    pid: u32,
    needs_thread: bool,
    leader_met: bool,
}

/// The sections of an image in their order. Task and Thread share one.
fn section(kind: FrameType) -> u8 {
    match kind {
        FrameType::Header => 0,
        FrameType::Object => 1,
        FrameType::Task | FrameType::Thread => 2,
        FrameType::Data => 3,
        FrameType::Index => 4,
        FrameType::Trailer => 5,
        // Optional frames are not part of the order: see `optional`.
        FrameType::Other(_) => u8::MAX,
    }
}

impl Grammar {
    fn check_order(&self, found: FrameType) -> Result<(), Fault> {
        let fits = match (self.last, found) {
            (None, found) => found == FrameType::Header,
            (Some(_), FrameType::Header) => false,
            (Some(last), FrameType::Thread) => matches!(last, FrameType::Task | FrameType::Thread),
            (Some(last), FrameType::Trailer) => last == FrameType::Index,
            (Some(last), found) => section(found) >= section(last) && last != FrameType::Trailer,
        };
        if fits { Ok(()) } else { Err(Fault::Order(Misplaced { found, after: self.last })) }
    }

    pub(crate) fn header(&mut self, header: &Header) -> Result<(), Fault> {
        self.check_order(FrameType::Header)?;
        self.root_pid = header.root_pid;
        self.announced_tasks = header.tasks;
        self.announced_threads = header.threads;
        self.last = Some(FrameType::Header);
        Ok(())
    }

    pub(crate) fn object(&mut self, object: &Object) -> Result<(), Fault> {
        self.check_order(FrameType::Object)?;
        if object.id == 0 {
            return Err(Inconsistency::ZeroObject.into());
        }
        if !self.objects.insert(object.id) {
            return Err(Inconsistency::DuplicateObject(object.id).into());
        }
        self.last = Some(FrameType::Object);
        Ok(())
    }

    pub(crate) fn task(&mut self, task: &Task) -> Result<(), Fault> {
        self.check_order(FrameType::Task)?;
        self.check_task_closed()?;
        for id in [task.mm, task.descriptors, task.fs, task.handlers] {
            if id != 0 && !self.objects.contains(&id) {
                return Err(Inconsistency::MissingObject(id).into());
            }
        }
        if task.pid == 0 {
            return Err(Inconsistency::ZeroTask.into());
        }
        if !self.pids.insert(task.pid) {
            return Err(Inconsistency::DuplicateTask(task.pid).into());
        }
        self.task = Some(OpenTask { pid: task.pid, needs_thread: !task.zombie, leader_met: false });
        self.last = Some(FrameType::Task);
        Ok(())
    }

    pub(crate) fn thread(&mut self, thread: &Thread) -> Result<(), Fault> {
        self.check_order(FrameType::Thread)?;
        let &Thread { pid, tid, .. } = thread;
        let Some(task) = &mut self.task else {
            return Err(Fault::Order(Misplaced { found: FrameType::Thread, after: self.last }));
        };
        if pid != task.pid {
            return Err(Inconsistency::ForeignThread { pid, tid, task: task.pid }.into());
        }
        if !task.leader_met && tid != pid {
            return Err(Inconsistency::LeaderNotFirst { pid, tid }.into());
        }
        if !self.tids.insert(tid) {
            return Err(Inconsistency::DuplicateThread(tid).into());
        }
        task.leader_met = true;
        self.last = Some(FrameType::Thread);
        Ok(())
    }

    pub(crate) fn data(&mut self, object: u64) -> Result<(), Fault> {
        self.check_order(FrameType::Data)?;
        self.check_tasks_whole()?;
        if !self.objects.contains(&object) {
            return Err(Inconsistency::MissingObject(object).into());
        }
        self.last = Some(FrameType::Data);
        Ok(())
    }

    /// An optional frame of unknown type: anywhere between the header and the index.
    pub(crate) fn optional(&mut self, found: FrameType) -> Result<(), Fault> {
        match self.last {
            Some(last) if section(last) < section(FrameType::Index) => Ok(()),
            after => Err(Fault::Order(Misplaced { found, after })),
        }
    }

    pub(crate) fn index(&mut self) -> Result<(), Fault> {
        self.check_order(FrameType::Index)?;
        self.check_tasks_whole()?;
        self.last = Some(FrameType::Index);
        Ok(())
    }

    pub(crate) fn trailer(&mut self) -> Result<(), Fault> {
        self.check_order(FrameType::Trailer)?;
        self.last = Some(FrameType::Trailer);
        Ok(())
    }

    fn check_task_closed(&self) -> Result<(), Fault> {
        match self.task {
            Some(task) if task.needs_thread && !task.leader_met => {
                Err(Inconsistency::NoThreads(task.pid).into())
            }
            _ => Ok(()),
        }
    }

    /// After the last task: are they those that the header announced?
    fn check_tasks_whole(&self) -> Result<(), Fault> {
        self.check_task_closed()?;
        let (tasks, threads) = (self.pids.len() as u64, self.tids.len() as u64);
        if tasks != u64::from(self.announced_tasks) || threads != u64::from(self.announced_threads) {
            return Err(Inconsistency::Counts {
                announced_tasks: self.announced_tasks,
                announced_threads: self.announced_threads,
                tasks,
                threads,
            }
            .into());
        }
        if tasks != 0 && !self.pids.contains(&self.root_pid) {
            return Err(Inconsistency::NoRoot(self.root_pid).into());
        }
        Ok(())
    }
}
