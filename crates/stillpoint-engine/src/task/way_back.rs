//! The way back of a thread that makes a single call: should this process be killed meanwhile, the thread returns by
//! itself to where it was.
//!
//! What a thread's registers point at while there is no program area yet, or none any more, is made to look as if the
//! kernel had delivered a signal: a frame on dead stack, with a restorer of its own memory as the address that the
//! handler returns to. The "handler" is a `syscall; ret` of its own memory. Both are found in its C library, or
//! whatever takes its place.

use std::collections::HashMap;

use memchr::memmem;
use stillpoint_sys::arch::{RESTORERS, SYSCALL_AND_RETURN, SYSCALL_INSTRUCTION, SignalFrame};
use stillpoint_sys::pagemap::PageMap;
use stillpoint_sys::proc::maps::Mapping;
use stillpoint_sys::program::CallSite;
use stillpoint_sys::{Pid, RemoteAddr, vm};

use super::restart;
use crate::freeze::FrozenTask;
use crate::{Code, Error, Result};

/// Stack below the stack pointer that belongs to the function all the same: the x86-64 ABI's red zone.
const RED_ZONE: u64 = 128;
const PAGE: u64 = 4096;
/// Text is searched in steps of this, since what is looked for mostly comes early.
const STEP: u64 = 128 << 10;
/// How much of the lowest, untouched part of a stack is used.
const LOW: u64 = 16 * PAGE;

/// What was found in executable files, by device, inode and offset: most tasks share their C library.
#[derive(Debug, Default)]
pub struct Gadgets(HashMap<(u32, u32, u64, u64), Option<Gadget>>);

/// Where in a mapping the two pieces of code are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gadget {
    call: u64,
    restorer: u64,
}

/// Where the first thread of a process makes its single calls from, and what has to be put back afterwards.
#[derive(Debug)]
pub(super) struct WayBack {
    pub(super) site: CallSite,
    /// The part of the stack that the frame is in, and what was there.
    borrowed: Option<(RemoteAddr, Vec<u8>)>,
}

impl WayBack {
    /// Lays the frame. Without a place or without the code that it takes (an unusual C library, a stack that is in
    /// use to its end), the calls are made from the vDSO, and a kill in that moment harms the task.
    pub(super) fn lay(task: &FrozenTask, maps: &[Mapping], gadgets: &mut Gadgets) -> Result<Self> {
        let pid = task.host_pid;
        let leader = task.threads.first().ok_or_else(|| Error::new(Code::NoSuchTask, "visiting a task"))?;
        let extended = leader.stopped()?.extended()?;
        let size = SignalFrame::size(extended.len()) as u64;
        let place = match dead_stack(pid, maps, leader.registers.stack(), size)? {
            Some(place) => place,
            None => return Self::without(pid, maps),
        };
        let Some((call, restorer)) = gadgets.find(pid, maps) else { return Self::without(pid, maps) };
        let frame = SignalFrame::build(place, &restart::recorded(leader), leader.mask, &extended, restorer.0);
        let mut before = vec![0; frame.bytes.len()];
        vm::read(pid, RemoteAddr(frame.start), &mut before)?;
        vm::write(pid, RemoteAddr(frame.start), &frame.bytes)?;
        Ok(WayBack {
            site: CallSite { instruction: call, back: Some(frame.start) },
            borrowed: Some((RemoteAddr(frame.start), before)),
        })
    }

    fn without(pid: Pid, maps: &[Mapping]) -> Result<Self> {
        tracing::debug!(pid, "no way back for single calls");
        let vdso = maps.iter().find(|map| map.name == b"[vdso]");
        let at = vdso.and_then(|map| {
            let mut image = vec![0; usize::try_from(map.len()).ok()?];
            vm::read(pid, RemoteAddr(map.start), &mut image).ok()?;
            Some(map.start + memmem::find(&image, SYSCALL_INSTRUCTION)? as u64)
        });
        let at = at.ok_or_else(|| {
            Error::new(Code::UnsupportedState, "visiting a task")
                .object("[vdso]")
                .cause("it holds no instruction that enters the kernel")
        })?;
        Ok(WayBack { site: CallSite { instruction: RemoteAddr(at), back: None }, borrowed: None })
    }

    /// Puts back what was on the stack. The thread must be at home again.
    pub(super) fn clear(self, pid: Pid) -> Result<()> {
        match self.borrowed {
            Some((start, bytes)) => Ok(vm::write(pid, start, &bytes)?),
            None => Ok(()),
        }
    }
}

/// A place for `size` bytes that nobody will miss: pages of the main stack that were never touched, for what runs on it
/// has to take whatever it finds there, or else what is below its stack pointer, as the kernel does when it delivers
/// a signal. The stacks of other threads may be anything: small, or next to what is in use.
fn dead_stack(pid: Pid, maps: &[Mapping], pointer: u64, size: u64) -> Result<Option<u64>> {
    let Some(stack) = maps.iter().find(|map| map.name == b"[stack]") else { return Ok(None) };
    if !stack.perms.read || !stack.perms.write || stack.perms.shared {
        return Ok(None);
    }
    let on_it = stack.range().contains(&pointer);
    let top = if on_it { pointer.saturating_sub(RED_ZONE) } else { stack.end };
    let low = (stack.start + LOW).min(top / PAGE * PAGE);
    if low > stack.start {
        let touched = PageMap::open(pid)?.private_pages(stack.start..low)?;
        let end = touched.first().map_or(low, |region| region.start);
        if end - stack.start >= size {
            return Ok(Some(end - size));
        }
    }
    let below = top.saturating_sub(size);
    Ok((on_it && below >= stack.start).then_some(below))
}

impl Gadgets {
    fn find(&mut self, pid: Pid, maps: &[Mapping]) -> Option<(RemoteAddr, RemoteAddr)> {
        let mut text: Vec<&Mapping> =
            maps.iter().filter(|map| map.perms.exec && map.perms.read && map.inode != 0).collect();
        // The C library first.
        text.sort_by_key(|map| !is_c_library(&map.name));
        text.into_iter().find_map(|map| {
            let key = (map.dev.0, map.dev.1, map.inode, map.offset);
            if let Some(Some(known)) = self.0.get(&key)
                && known.is_in(pid, map)
            {
                return Some((RemoteAddr(map.start + known.call), RemoteAddr(map.start + known.restorer)));
            }
            if let Some(None) = self.0.get(&key) {
                return None;
            }
            let found = Gadget::search(pid, map);
            self.0.insert(key, found);
            found.map(|found| (RemoteAddr(map.start + found.call), RemoteAddr(map.start + found.restorer)))
        })
    }
}

fn is_c_library(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.starts_with(b"libc.") || name.starts_with(b"libc-") || name.starts_with(b"ld-musl")
}

impl Gadget {
    fn search(pid: Pid, map: &Mapping) -> Option<Self> {
        const OVERLAP: u64 = 16;
        let mut call = None;
        let mut restorer = None;
        let mut at = map.start;
        let mut buffer = Vec::new();
        while at < map.end {
            let end = (at + STEP + OVERLAP).min(map.end);
            buffer.resize(usize::try_from(end - at).ok()?, 0);
            vm::read(pid, RemoteAddr(at), &mut buffer).ok()?;
            let offset = at - map.start;
            let look = |code: &[u8]| memmem::find(&buffer, code).map(|found| offset + found as u64);
            call = call.or_else(|| look(SYSCALL_AND_RETURN));
            restorer = restorer.or_else(|| RESTORERS.iter().find_map(|code| look(code)));
            if let (Some(call), Some(restorer)) = (call, restorer) {
                return Some(Gadget { call, restorer });
            }
            at += STEP;
        }
        None
    }

    /// Whether the code is there in this mapping too.
    fn is_in(self, pid: Pid, map: &Mapping) -> bool {
        let holds = |at: u64, codes: &[&[u8]]| {
            codes.iter().any(|code| {
                let mut bytes = vec![0; code.len()];
                at + (code.len() as u64) <= map.len()
                    && vm::read(pid, RemoteAddr(map.start + at), &mut bytes).is_ok()
                    && bytes == *code
            })
        };
        holds(self.call, &[SYSCALL_AND_RETURN]) && holds(self.restorer, &RESTORERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_what_it_takes() {
        let pid = std::process::id();
        let maps = stillpoint_sys::proc::maps::read(pid).unwrap();
        let mut gadgets = Gadgets::default();
        let (call, restorer) = gadgets.find(pid, &maps).unwrap();
        let mut code = [0; 3];
        vm::read(pid, call, &mut code).unwrap();
        assert_eq!(code, SYSCALL_AND_RETURN);
        assert_eq!(gadgets.find(pid, &maps), Some((call, restorer)));
        assert_eq!(gadgets.0.values().flatten().count(), 1);
    }

    #[test]
    fn a_place_on_the_stack_lies_below_what_is_in_use() {
        let pid = std::process::id();
        let maps = stillpoint_sys::proc::maps::read(pid).unwrap();
        let stack = maps.iter().find(|map| map.name == b"[stack]").unwrap();
        let pointer = stack.end - 8192;
        let place = dead_stack(pid, &maps, pointer, 4000).unwrap().unwrap();
        assert!(place >= stack.start && place + 4000 <= pointer - RED_ZONE);
        // No room at all.
        assert_eq!(dead_stack(pid, &maps, stack.start + 4096, 4096).unwrap(), None);
    }
}
