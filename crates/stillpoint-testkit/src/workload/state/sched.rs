//! Nice values, affinity, scheduling policies and I/O priority, each thread its own.

use std::sync::Arc;

use crate::support::{Check, Crew, Ctx};

/// `struct sched_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    times: [u64; 3],
    clamps: [u32; 2],
}

const RESET_ON_FORK: u64 = 1;

#[derive(Debug, PartialEq, Eq)]
struct State {
    attributes: Attributes,
    affinity: [u64; 16],
    io: i64,
}

fn read() -> Check<State> {
    let mut attributes = blank();
    let size = size_of::<Attributes>() as u32;
    sys!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0))?;
    let mut affinity = [0_u64; 16];
    sys!(libc::syscall(libc::SYS_sched_getaffinity, 0, 128_usize, affinity.as_mut_ptr()))?;
    let io = sys!(libc::syscall(libc::SYS_ioprio_get, 1, 0))?;
    Ok(State { attributes, affinity, io })
}

fn blank() -> Attributes {
    let size = size_of::<Attributes>() as u32;
    Attributes { size, policy: 0, flags: 0, nice: 0, priority: 0, times: [0; 3], clamps: [0; 2] }
}

/// Policy, nice, real-time priority, CPUs (a mask; 0: as they are) and I/O priority of a thread.
type Wanted = (i32, i32, u32, u64, i64);

fn set((policy, nice, priority, cpus, io): Wanted) -> Check {
    let attributes = Attributes { policy: policy as u32, nice, priority, flags: RESET_ON_FORK, ..blank() };
    let result = sys!(libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0));
    if priority == 0 {
        result?;
    }
    // Real time needs a privilege, and in some control groups a budget: without it the thread stays as it is.
    if cpus != 0 {
        // A machine with one CPU refuses the others.
        let _ = sys!(libc::syscall(libc::SYS_sched_setaffinity, 0, 8_usize, &raw const cpus));
    }
    if io != 0 {
        sys!(libc::syscall(libc::SYS_ioprio_set, 1, 0, io))?;
    }
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let crew = Crew::new();
    let members: [Wanted; 5] = [
        (libc::SCHED_BATCH, 3, 0, 1, 2 << 13 | 6),
        (libc::SCHED_IDLE, 0, 0, 2, 0),
        (libc::SCHED_OTHER, 12, 0, 3, 0),
        (libc::SCHED_RR, 0, 5, 0, 0),
        (libc::SCHED_FIFO, 0, 2, 1, 0),
    ];
    for wanted in members {
        let shared = Arc::clone(&crew);
        crew.spawn(move || {
            set(wanted)?;
            let before = read()?;
            Ok(move |tick| {
                shared.wait_for_tick(tick);
                same!("scheduling of a thread", read()?, before);
                Ok(())
            })
        })?;
    }
    crew.round()?;
    set((libc::SCHED_OTHER, 7, 0, 2, 0))?;
    let before = read()?;
    let members = Arc::clone(&crew);
    ctx.verify(move |_| {
        same!("scheduling", read()?, before);
        members.round()
    })
}
