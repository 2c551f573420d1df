//! The rseq area that the C library registered for each thread: still registered, still told the right CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Check, Crew, Ctx};

unsafe extern "C" {
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

const SIGNATURE: u32 = 0x5305_3053;

fn area() -> *const u8 {
    let pointer: isize;
    // SAFETY: on x86_64 the word at the thread pointer is the thread pointer itself; `__rseq_offset` is a constant of the
    // C library.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
        (pointer + __rseq_offset) as *const u8
    }
}

fn verify() -> Check {
    let area = area();
    // SAFETY: cpu_id is the second word of the area, which the kernel writes and which lives as long as the thread.
    let cpu_id = unsafe { &*area.add(4).cast::<AtomicU32>() };
    for _ in 0..1000 {
        let before = cpu_id.load(Ordering::SeqCst);
        let mut cpu = 0_u32;
        sys!(libc::syscall(libc::SYS_getcpu, &raw mut cpu, 0_usize, 0_usize))?;
        if before == cpu_id.load(Ordering::SeqCst) {
            same!("cpu_id of the rseq area", before, cpu);
            // Registering it once more fails with EBUSY only if it is registered with these very values.
            let again = sys!(libc::syscall(libc::SYS_rseq, area, 32_u32, 0, SIGNATURE));
            let error = std::io::Error::last_os_error().raw_os_error();
            ensure!(
                again.is_err() && error == Some(libc::EBUSY),
                "the rseq area is not registered: errno {error:?}"
            );
            return Ok(());
        }
    }
    Err("never twice on the same CPU".to_owned())
}

fn cpus() -> Check<Vec<usize>> {
    // SAFETY: all zeroes is a valid set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    sys!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set))?;
    // SAFETY: the set lives here; the numbers are within it.
    Ok((0..1024).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

fn allow(cpus: &[usize]) -> Check {
    // SAFETY: all zeroes is a valid set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: the set lives here; the number came out of such a set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    sys!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)).map(|_| ())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    // SAFETY: a constant of the C library.
    ensure!(unsafe { __rseq_size } > 0, "the C library has not registered rseq");
    let all = cpus()?;
    let crew = Crew::new();
    for _ in 0..2 {
        let shared = Arc::clone(&crew);
        crew.spawn(move || {
            Ok(move |tick| {
                shared.wait_for_tick(tick);
                verify()
            })
        })?;
    }
    ctx.verify(|_| {
        for &cpu in &all {
            allow(&[cpu])?;
            verify()?;
        }
        allow(&all)?;
        crew.round()
    })
}
