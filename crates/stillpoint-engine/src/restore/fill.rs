//! Writing memory from the image into tasks: by several threads where there is much of it.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use stillpoint_image::records::Run;
use stillpoint_image::{DataFrame, VerifiedImage};
use stillpoint_sys::{Pid, RemoteAddr, vm};

use super::build::interrupted;
use crate::inspect::image_error;
use crate::{Observer, Result};

/// From how many bytes on more threads are worth their start.
const MORE_THREADS: u64 = 4 << 20;

/// What the kernel gains nothing by: page faults of one address space wait for one another sometimes.
const MOST_THREADS: usize = 4;

/// Frames with where they belong: the process, and what is added to their addresses.
pub(super) type Placed<'a> = Vec<(&'a DataFrame, Pid, u64)>;

/// Writes frames into tasks. Returns how many bytes they hold.
pub(super) fn fill(
    image: &VerifiedImage<File>,
    frames: &Placed<'_>,
    observer: &mut dyn Observer,
) -> Result<u64> {
    let total = frames.iter().map(|(frame, ..)| u64::from(frame.raw_length)).sum::<u64>();
    let work = Work {
        image,
        frames,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    // Of frames that overlap the later one counts: those keep their order.
    let helpers = if total < MORE_THREADS || !are_apart(frames) {
        0
    } else {
        std::thread::available_parallelism().map_or(1, |count| count.get()).min(MOST_THREADS) - 1
    };
    std::thread::scope(|scope| {
        let work = &work;
        let start = |_| {
            let thread = std::thread::Builder::new().name("image fill".into());
            // One that cannot be had leaves its work to the others.
            thread.spawn_scoped(scope, || work.run(&mut || Ok(()))).ok()
        };
        let helpers: Vec<_> = (0..helpers).filter_map(start).collect();
        let mut told = 0;
        let mut result = work.run(&mut || {
            let done = work.done.load(Ordering::Relaxed);
            observer.advance(done - told);
            told = done;
            interrupted(observer)
        });
        for helper in helpers {
            let helped = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(helped);
        }
        observer.advance(work.done.load(Ordering::Relaxed) - told);
        result
    })?;
    Ok(total)
}

struct Work<'a> {
    image: &'a VerifiedImage<File>,
    frames: &'a Placed<'a>,
    next: AtomicUsize,
    done: AtomicU64,
    /// A thread has failed.
    stop: AtomicBool,
}

impl Work<'_> {
    /// Takes one frame after the other until none is left; asks `may_go_on` before each.
    fn run(&self, may_go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut raw = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some((frame, pid, base)) = self.frames.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let put = may_go_on().and_then(|()| {
                self.image.read_data(frame, &mut raw).map_err(|error| Box::new(image_error(&error)))?;
                write_runs(*pid, *base, &frame.runs, &raw)
            });
            if put.is_err() {
                self.stop.store(true, Ordering::Relaxed);
                return put;
            }
            self.done.fetch_add(raw.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Whether the frames of each object follow one another without overlap, as a checkpoint writes them.
fn are_apart(frames: &Placed<'_>) -> bool {
    let mut ends = std::collections::HashMap::new();
    frames.iter().all(|(frame, ..)| {
        let (Some(first), Some(last)) = (frame.runs.first(), frame.runs.last()) else { return true };
        let end = ends.insert(frame.object, last.offset.saturating_add(last.length));
        end.is_none_or(|end| end <= first.offset)
    })
}

fn write_runs(pid: Pid, base: u64, runs: &[Run], raw: &[u8]) -> Result<()> {
    let mut rest = raw;
    for part in runs.chunks(vm::MAX_PIECES) {
        let pieces: Vec<vm::Piece> =
            part.iter().map(|run| (RemoteAddr(base.wrapping_add(run.offset)), run.length)).collect();
        let length = part.iter().map(|run| usize::try_from(run.length).unwrap_or(usize::MAX)).sum::<usize>();
        let (now, later) = rest.split_at(length.min(rest.len()));
        vm::write_pieces(pid, &pieces, now)?;
        rest = later;
    }
    Ok(())
}
