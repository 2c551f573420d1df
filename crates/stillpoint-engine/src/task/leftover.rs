//! Program areas that a killed checkpoint has left in a task: recognised, and removed by the next one.

use std::time::{Duration, Instant};

use stillpoint_sys::proc::maps::Mapping;
use stillpoint_sys::proc::status::{self, Status};
use stillpoint_sys::program::{self, ProgramArea};
use stillpoint_sys::ptrace::{Event, Stop, Until};

use super::way_back::{Gadgets, WayBack};
use super::{restart, seccomp};
use crate::freeze::{FrozenTask, FrozenThread};
use crate::{Code, Error, Result};

/// How long a thread may take to leave such an area: it has a few calls to make, unless a handler runs on the way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Removes what is left of an earlier visit; returns whether there was anything, and the areas have to be read anew.
///
/// # Errors
///
/// When a thread is still on its way out of it.
pub fn remove<'a>(
    task: &mut FrozenTask,
    maps: impl Iterator<Item = &'a Mapping> + Clone,
    gadgets: &mut Gadgets,
) -> Result<bool> {
    let mut left = Vec::new();
    for map in maps.clone().filter(|map| is_candidate(map)) {
        if let Some(size) = ProgramArea::left_at(task.host_pid, map.range())? {
            left.push((map.start, size));
        }
    }
    if left.is_empty() {
        return Ok(false);
    }
    for &(start, size) in &left {
        for thread in &mut task.threads {
            leave(thread, start..start + size)?;
        }
    }
    seccomp::suspend(task, &statuses(task)?)?;
    let maps: Vec<Mapping> = maps.cloned().collect();
    let way = WayBack::lay(task, &maps, gadgets)?;
    for (start, size) in left {
        let leader =
            task.threads.first_mut().ok_or_else(|| Error::new(Code::NoSuchTask, "visiting a task"))?;
        let arguments = [start, size, 0, 0, 0, 0];
        let what = "unmapping what an earlier checkpoint left";
        let made = program::single(leader.take()?, way.site, what, libc::SYS_munmap, arguments);
        let made = made.map(|(stopped, _)| leader.stopped = Some(stopped));
        leader.undisturb()?;
        made?;
    }
    way.clear(task.host_pid)?;
    Ok(true)
}

fn statuses(task: &FrozenTask) -> Result<Vec<Status>> {
    let read = |thread: &FrozenThread| Ok(status::read_thread(task.host_pid, thread.host_tid)?);
    task.threads.iter().map(read).collect()
}

fn is_candidate(map: &Mapping) -> bool {
    let perms = map.perms;
    let anonymous = map.inode == 0 && map.name.is_empty() && !perms.shared;
    anonymous && perms.read && perms.write && perms.exec
}

/// Lets a thread that was caught on its way out of an area go on until it is outside.
fn leave(thread: &mut FrozenThread, area: std::ops::Range<u64>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while area.contains(&thread.registers.ip()) || area.contains(&thread.registers.stack()) {
        if Instant::now() > deadline {
            return Err(Error::new(Code::WouldNotFreeze, "clearing up after a checkpoint that was killed")
                .object(format!("thread {}", thread.tid))
                .cause("it is on its way back, but a signal handler keeps it")
                .remedy("try again")
                .into());
        }
        thread.undisturb()?;
        let mut running = thread.take()?.resume(Until::Stop, 0)?;
        std::thread::sleep(Duration::from_micros(100));
        running.interrupt()?;
        let stopped = loop {
            let stopped = match running.wait()? {
                Event::Stopped(stopped) => stopped,
                Event::Gone(_) => {
                    return Err(Error::new(Code::NoSuchTask, "saving the tree")
                        .task(thread.tid, "")
                        .cause("it was killed while it was saved")
                        .into());
                }
            };
            match stopped.why() {
                Stop::Interrupt => break stopped,
                Stop::Signal(signal) => {
                    running = stopped.resume(Until::Stop, signal)?;
                    running.interrupt()?;
                }
                _ => {
                    running = stopped.resume(Until::Stop, 0)?;
                    running.interrupt()?;
                }
            }
        };
        let seen = stopped.registers()?;
        thread.registers = restart::unnoticed(seen);
        thread.mask = stopped.signal_mask()?;
        thread.disturbed = thread.registers != seen;
        thread.stopped = Some(stopped);
    }
    Ok(())
}
