//! Processes that job control has stopped: they are stopped while they are still traced, which lets programs run in them
//! all the same, and the kernel stops them for good when they are let go of.

use stillpoint_sys::program::Arg;
use stillpoint_sys::ptrace::{Event, Stop, Stopped, Until};
use stillpoint_sys::task;

use super::build::{Builder, lost};
use super::sequence::Sequence;
use crate::Result;

impl Builder<'_> {
    /// Stops what the image has stopped, and takes back the reports that parents have collected. Nothing else is pending
    /// in a process at that moment that a signal could reach.
    pub(super) fn stop_processes(&mut self) -> Result<()> {
        let model = self.model;
        for (n, process, _) in model.living().filter(|(_, process, _)| process.task.stop_signal != 0) {
            let signal = process.task.stop_signal.cast_signed();
            // The signal acts by its default action: that it did so shows that nothing else was set.
            let mut sequence = Sequence::new();
            if signal != libc::SIGSTOP {
                let default = sequence.current().data(&[0; 32]);
                sequence.call(
                    "resetting the action of a stop signal",
                    libc::SYS_rt_sigaction,
                    [signal.into(), default.into(), Arg::Value(0), Arg::Value(8)],
                );
            }
            self.run_leader(n, sequence)?;
            for slot in 0..process.threads.len() {
                let stopped = self.take(n, slot)?;
                let stopped = if slot == 0 { stop_by(stopped, signal)? } else { join_stop(stopped)? };
                self.put(n, slot, stopped.ok_or_else(|| lost(n))?)?;
            }
        }
        for (parent, process, _) in model.living() {
            let mut sequence = Sequence::new();
            let children = process.children.iter().filter_map(|&child| model.processes.get(child));
            for child in children.filter(|child| child.task.stop_reported) {
                const P_PID: i32 = 1;
                let flags = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
                sequence.call(
                    format!("collecting the report that process {} is stopped", child.task.pid),
                    libc::SYS_waitid,
                    [P_PID.into(), child.task.pid.into(), Arg::Value(0), flags.into(), Arg::Value(0)],
                );
            }
            self.run_leader(parent, sequence)?;
        }
        Ok(())
    }
}

/// Delivers a stop signal to a process's first thread: a SIGSTOP, which nothing blocks, in whose place the signal is put.
///
/// The kernel ignores the other three in an orphaned process group, as a tree restored without its shell may be: then it
/// is the SIGSTOP that stops the process.
fn stop_by(stopped: Stopped, signal: i32) -> Result<Option<Stopped>> {
    stopped.set_signal_mask(!(1 << (signal - 1)))?;
    task::signal_thread(stopped.tid(), libc::SIGSTOP)?;
    let mut running = stopped.resume(Until::Stop, 0)?;
    let mut delivered = false;
    loop {
        let at = match running.wait()? {
            Event::Stopped(at) => at,
            Event::Gone(_) => return Ok(None),
        };
        running = match at.why() {
            Stop::Group(_) => return Ok(Some(at)),
            Stop::Signal(libc::SIGSTOP) if !delivered => {
                delivered = true;
                at.interrupt_next()?;
                at.resume(Until::Stop, signal)?
            }
            Stop::Interrupt if !delivered => at.resume(Until::Stop, 0)?,
            Stop::Interrupt if signal != libc::SIGSTOP => return stop_by(at, libc::SIGSTOP),
            _ => return Ok(None),
        }
    }
}

/// Lets another thread of the process take part in its stop, which is complete when all do.
fn join_stop(stopped: Stopped) -> Result<Option<Stopped>> {
    stopped.interrupt_next()?;
    match stopped.resume(Until::Stop, 0)?.wait()? {
        Event::Stopped(at) if matches!(at.why(), Stop::Group(_)) => Ok(Some(at)),
        Event::Stopped(_) | Event::Gone(_) => Ok(None),
    }
}
