//! Threads and processes that come and go all the time, so that a checkpoint meets them half-made.

use crate::support::{Check, Ctx, fill, matches, pause_ms, reap};

pub(crate) fn run(ctx: &Ctx) -> Check {
    ctx.verify(|round| {
        for i in 0..8 {
            let seed = round * 8 + i;
            let thread = std::thread::spawn(move || {
                let mut local = vec![0; 4096];
                fill(&mut local, seed);
                pause_ms(2);
                matches(&local, seed).then_some(seed)
            });
            let code = (seed % 200) as i32;
            let pid = sys!(libc::fork())?;
            if pid == 0 {
                pause_ms(2);
                // A child of a child, for whom nobody waits but its parent.
                let grandchild = sys!(libc::fork());
                if grandchild == Ok(0) {
                    pause_ms(1);
                    // SAFETY: ends the process at once.
                    unsafe { libc::_exit(code) }
                }
                let good = grandchild.and_then(|pid| reap(pid, code << 8)).is_ok();
                // SAFETY: as above.
                unsafe { libc::_exit(if good { code } else { 255 }) }
            }
            reap(pid, code << 8)?;
            match thread.join() {
                Ok(answer) => same!("a thread's answer", answer, Some(seed)),
                Err(_) => return Err("a thread panicked".to_owned()),
            }
        }
        Ok(())
    })
}
