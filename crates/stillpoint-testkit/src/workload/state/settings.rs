//! Settings of prctl that outlast nothing but the process: memory merging, deny-write-execute, the machine check policy,
//! locks of memory to come, huge pages on request, where the kernel has them.

use crate::support::{Check, Ctx, Map};

const PR_MCE_KILL: i32 = 33;
const PR_MCE_KILL_GET: i32 = 34;
const PR_SET_MDWE: i32 = 65;
const PR_GET_MDWE: i32 = 66;
const PR_SET_MEMORY_MERGE: i32 = 67;
const PR_GET_MEMORY_MERGE: i32 = 68;
const MCL_ONFAULT: i32 = 4;

/// What the kernel answers, a setting that it lacks included.
fn get(option: i32) -> i32 {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(option, 0_u64, 0_u64, 0_u64, 0_u64) }
}

fn set(option: i32, first: u64, second: u64) {
    // SAFETY: takes numbers only; one that the kernel lacks stays as it is, which is what is verified then.
    unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) };
}

fn tsc() -> Check<i32> {
    let mut mode = 0;
    sys!(libc::prctl(libc::PR_GET_TSC, &raw mut mode))?;
    Ok(mode)
}

fn all() -> [i32; 5] {
    [PR_MCE_KILL_GET, PR_GET_MDWE, PR_GET_MEMORY_MERGE, libc::PR_GET_THP_DISABLE, 52].map(get)
}

/// The flags of a new area: what becomes of memory to come.
fn flags_of_new_memory() -> Check<String> {
    let map = Map::anonymous(3 * 4096)?;
    map.bytes()[0] = 1;
    let smaps = std::fs::read_to_string("/proc/self/smaps").map_err(|e| e.to_string())?;
    let address = map.start as u64;
    let mut inside = false;
    let mut found = String::new();
    for line in smaps.lines() {
        if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-'))
            && let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        {
            inside = start <= address && address < end;
        }
        if inside && line.starts_with("VmFlags:") {
            let kept = line.split(' ').filter(|flag| ["lo", "lf", "mg"].contains(flag));
            found = kept.collect::<Vec<_>>().join(" ");
        }
    }
    sys!(libc::munmap(map.start.cast(), map.len))?;
    Ok(found)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    set(PR_MCE_KILL, 1, 1);
    set(PR_SET_MEMORY_MERGE, 1, 0);
    set(libc::PR_SET_THP_DISABLE, 1, 2);
    // The speculative store bypass, disabled.
    set(53, 0, 4);
    sys!(libc::mlockall(libc::MCL_FUTURE | MCL_ONFAULT))?;
    set(PR_SET_MDWE, 1, 0);
    let (before, flags, mode) = (all(), flags_of_new_memory()?, tsc()?);
    ensure!(flags.contains("lo lf"), "new memory is not locked: {flags}");
    ctx.verify(|_| {
        same!("settings", all(), before);
        same!("flags of new memory", flags_of_new_memory()?, flags);
        same!("the time stamp counter's mode", tsc()?, mode);
        if before[1] == 1 {
            let code = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let made = Map::new(4096, code, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            ensure!(made.is_err(), "memory may be written and executed");
        }
        Ok(())
    })
}
