//! The header of an image: which machine, which clocks, what of the tree.

use std::time::{SystemTime, UNIX_EPOCH};

use stillpoint_image::records::{Choice, Clocks, Cpu, Foreign, Header, Machine, Task, Thread};
use stillpoint_sys::arch;
use stillpoint_sys::proc::{boot, clocks, cpuinfo};

use crate::Result;
use crate::memory::PAGE;

/// The header of an image of these tasks.
pub(super) fn header(
    tasks: &[(Task, Vec<Thread>)],
    choices: Vec<(String, String)>,
    private_pids: bool,
    foreign: Option<Foreign>,
    vdso: Vec<u8>,
) -> Result<Header> {
    let threads = tasks.iter().map(|(_, threads)| threads.len()).sum::<usize>();
    let note = tasks.iter().flat_map(|(_, threads)| threads).map(|thread| thread.extended.as_slice()).next();
    Ok(Header {
        tool: concat!("stillpoint ", env!("CARGO_PKG_VERSION")).to_owned(),
        machine: Some(machine()?),
        cpu: Some(cpu(note.unwrap_or_default())?),
        clocks: Some(now()),
        root_pid: tasks.first().map_or(0, |(task, _)| task.pid),
        choices: choices.into_iter().map(|(option, text)| Choice { option, text }).collect(),
        tasks: u32::try_from(tasks.len()).unwrap_or(u32::MAX),
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        created_unix_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds),
        creator_uid: rustix::process::geteuid().as_raw(),
        private_pids,
        foreign,
        vdso,
    })
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn machine() -> Result<Machine> {
    let boot = boot::read()?;
    Ok(Machine {
        arch: arch::NAME.to_owned(),
        kernel_release: boot.release,
        kernel_version: boot.version,
        hostname: boot.hostname,
        boot_id: boot.boot_id,
        machine_id: boot.machine_id.unwrap_or_default(),
        page_size: u32::try_from(PAGE).unwrap_or(0),
    })
}

fn cpu(note: &[u8]) -> Result<Cpu> {
    let info = cpuinfo::read()?;
    Ok(Cpu {
        vendor: info.vendor,
        model: info.model_name,
        xcr0: arch::xstate_mask(note).unwrap_or(0),
        xsave_size: u32::try_from(note.len()).unwrap_or(0),
        features: info.flags.iter().map(|flag| String::from_utf8_lossy(flag).into_owned()).collect(),
    })
}

/// The clocks of this machine, now.
fn now() -> Clocks {
    let now = clocks::read();
    Clocks {
        realtime_ns: now.realtime.cast_unsigned(),
        monotonic_ns: now.monotonic.cast_unsigned(),
        boottime_ns: now.boottime.cast_unsigned(),
    }
}
