//! Scheduling of a thread: policy, nice, priority, affinity, I/O priority, timer slack.

use stillpoint_image::records::Scheduling;
use stillpoint_sys::program::{Arg, Program};
use stillpoint_sys::{Pid, task};

use crate::Result;

/// SCHED_FLAG_UTIL_CLAMP_MIN and SCHED_FLAG_UTIL_CLAMP_MAX.
const UTILIZATION: u64 = 0x60;

/// Reads a thread's scheduling from outside.
///
/// # Errors
///
/// When the thread is gone.
pub fn capture(tid: Pid) -> Result<Scheduling> {
    let attr = task::scheduling(tid)?;
    Ok(Scheduling {
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        affinity: task::affinity(tid)?,
        io_priority: task::io_priority(tid)?,
        runtime: attr.runtime,
        deadline: attr.deadline,
        period: attr.period,
        utilization_min: attr.utilization_min,
        utilization_max: attr.utilization_max,
    })
}

/// Sets the calling thread's scheduling. Must come before credentials are dropped: a lower nice value or a
/// realtime policy needs privilege.
pub fn set(program: &mut Program, scheduling: &Scheduling) {
    // A deadline is granted with the CPUs that a thread has then, and keeps it from changing them.
    let mask = program.data(&scheduling.affinity);
    program.call(
        "setting the CPU affinity",
        libc::SYS_sched_setaffinity,
        [Arg::Value(0), (scheduling.affinity.len() as u64).into(), mask.into()],
    );
    let clamp = (scheduling.utilization_min, scheduling.utilization_max);
    // (0, 1024) is no limit, and zeroes are what a kernel without such limits says.
    let clamped = !matches!(clamp, (0, 0 | 1024));
    let attr = task::SchedAttr {
        size: 56,
        policy: scheduling.policy,
        // Reset-on-fork would be refused together with a realtime policy for want of privilege only.
        flags: scheduling.flags | if clamped { UTILIZATION } else { 0 },
        nice: scheduling.nice,
        priority: scheduling.priority,
        runtime: scheduling.runtime,
        deadline: scheduling.deadline,
        period: scheduling.period,
        utilization_min: if clamped { clamp.0 } else { 0 },
        utilization_max: if clamped { clamp.1 } else { 0 },
    };
    let data = program.data(&attr.to_bytes());
    program.call(
        "setting the scheduling policy",
        libc::SYS_sched_setattr,
        [Arg::Value(0), data.into(), Arg::Value(0)],
    );
    // IOPRIO_WHO_PROCESS is 1 and means one thread. Class 0 is "none": derived from nice.
    program.call(
        "setting the I/O priority",
        libc::SYS_ioprio_set,
        [Arg::Value(1), Arg::Value(0), scheduling.io_priority.into()],
    );
}
