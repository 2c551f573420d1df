//! Everything changes all the time: threads and processes come and go, programs are executed, credentials change, memory
//! is mapped, protected, moved and unmapped.

use std::sync::Arc;

use crate::support::{Check, Crew, Ctx, Map, fill, holds, matches, pause_ms, reap};

pub(crate) fn run(ctx: &Ctx) -> Check {
    let crew = Crew::new();
    for seed in 0..2 {
        let shared = Arc::clone(&crew);
        crew.spawn(move || {
            let mut seed = seed;
            Ok(move |tick| {
                for _ in 0..10 {
                    seed += 2;
                    map_and_unmap(seed)?;
                }
                shared.wait_for_tick(tick);
                Ok(())
            })
        })?;
    }
    let own = std::fs::read_link("/proc/self/exe").map_err(|e| e.to_string())?;
    let own = std::ffi::CString::new(own.to_string_lossy().into_owned()).map_err(|e| e.to_string())?;
    let mut kept = vec![0; 64 * 1024];
    ctx.verify(|round| {
        fill(&mut kept, round);
        for i in 0..4 {
            let seed = round * 4 + i;
            let thread = std::thread::spawn(move || {
                let mut local = vec![0; 4096];
                fill(&mut local, seed);
                change_credentials(seed)?;
                ensure!(matches(&local, seed), "a thread's memory");
                Ok(())
            });
            let good = execute(&own)?;
            let born = sys!(libc::fork())?;
            if born == 0 {
                let fine = change_credentials(seed).is_ok() && map_and_unmap(seed).is_ok();
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(if fine { 7 } else { 8 }) }
            }
            reap(good, 0)?;
            reap(born, 7 << 8)?;
            thread.join().map_err(|_| "a thread panicked".to_owned())??;
        }
        holds("memory that is kept", &kept, round)?;
        crew.round()
    })?;
    crew.stop.store(true, std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// A child that executes this program anew.
fn execute(own: &std::ffi::CStr) -> Check<i32> {
    let arguments = [own.as_ptr(), c"list".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    match sys!(libc::fork())? {
        0 => {
            // SAFETY: terminated arrays of terminated strings; on failure the process ends.
            unsafe {
                libc::execve(own.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                libc::_exit(9)
            }
        }
        pid => Ok(pid),
    }
}

/// What needs no privilege: the name, no_new_privs and a parent-death signal, a dropped capability or the same ids anew.
fn change_credentials(seed: u64) -> Check {
    let name = format!("race {}\0", seed % 10);
    sys!(libc::prctl(libc::PR_SET_NAME, name.as_ptr()))?;
    // SAFETY: they take nothing.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    // For this thread alone: the C library would tell all of them.
    sys!(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
    sys!(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    let mut read = [0_u8; 16];
    sys!(libc::prctl(libc::PR_GET_NAME, read.as_mut_ptr()))?;
    ensure!(read.starts_with(name.as_bytes()), "thread name: is {read:?}, was {name:?}");
    pause_ms(1);
    Ok(())
}

fn map_and_unmap(seed: u64) -> Check {
    let pages = 1 + (seed % 7) as usize;
    let map = Map::anonymous(pages * 4096)?;
    fill(map.bytes(), seed);
    map.protect(libc::PROT_READ)?;
    holds("memory that was protected", map.bytes(), seed)?;
    let larger = 16 * 4096;
    let moved = sys!(libc::mremap(map.start.cast(), map.len, larger, libc::MREMAP_MAYMOVE))?.cast::<u8>();
    // SAFETY: the mapping was made here, is at least that long, and readable.
    let bytes = unsafe { std::slice::from_raw_parts(moved, map.len) };
    holds("memory that was moved", bytes, seed)?;
    sys!(libc::munmap(moved.cast(), larger)).map(drop)
}
