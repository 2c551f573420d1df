//! `stopped`: children that job control has stopped, with one thread and with several, whose stop their parent has collected
//! or not. They stay stopped, and SIGCONT continues them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Check, Ctx, Map, pause_ms, reap, until};

struct Child {
    pid: i32,
    by: i32,
    collected: bool,
    counter: &'static AtomicU64,
}

/// Counts in every thread, for ever.
fn count(threads: usize, counter: &'static AtomicU64) -> ! {
    for _ in 1..threads {
        std::thread::spawn(move || {
            loop {
                pause_ms(1);
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    loop {
        pause_ms(1);
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

fn start(by: i32, threads: usize, collected: bool) -> Check<Child> {
    let map =
        Map::new(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
    // SAFETY: aligned zeroed memory that stays mapped.
    let counter = unsafe { &*map.start.cast::<AtomicU64>() };
    let pid = sys!(libc::fork())?;
    if pid == 0 {
        // A group of its own with a parent outside of it: it is not orphaned, and the terminal's signals stop it.
        let _ = sys!(libc::setpgid(0, 0));
        count(threads, counter);
    }
    until("the child counts", || counter.load(Ordering::SeqCst) > 10 * threads as u64)?;
    sys!(libc::kill(pid, by))?;
    let child = Child { pid, by, collected, counter };
    // Waits for the stop without taking the report.
    same!("the stop of a child", child.report(0)?, Some(by));
    if collected {
        let mut status = 0;
        same!("the stopped child", sys!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED))?, pid);
        ensure!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == by, "wait status {status:#x}");
    }
    Ok(child)
}

impl Child {
    /// What wait(2) would report of its being stopped: the signal.
    fn report(&self, flags: i32) -> Check<Option<i32>> {
        // SAFETY: all zeroes is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WSTOPPED | libc::WNOWAIT | flags;
        sys!(libc::waitid(libc::P_PID, self.pid.cast_unsigned(), &raw mut info, options))?;
        // SAFETY: waitid filled in the fields of SIGCHLD, or left zeroes.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        Ok((pid == self.pid).then_some(status))
    }

    fn stays_stopped(&self) -> Check {
        let before = self.counter.load(Ordering::SeqCst);
        let expected = (!self.collected).then_some(self.by);
        same!(format!("the report of child {}", self.pid), self.report(libc::WNOHANG)?, expected);
        pause_ms(20);
        same!("the count of a stopped child", self.counter.load(Ordering::SeqCst), before);
        Ok(())
    }

    fn goes_on(&self) -> Check {
        let before = self.counter.load(Ordering::SeqCst);
        sys!(libc::kill(self.pid, libc::SIGCONT))?;
        until("the continued child counts", || self.counter.load(Ordering::SeqCst) > before + 10)?;
        sys!(libc::kill(self.pid, libc::SIGKILL))?;
        reap(self.pid, libc::SIGKILL)
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let children = [
        start(libc::SIGSTOP, 1, false)?,
        start(libc::SIGSTOP, 4, true)?,
        start(libc::SIGTSTP, 1, true)?,
        start(libc::SIGTTIN, 3, false)?,
    ];
    ctx.verify(|_| children.iter().try_for_each(Child::stays_stopped))?;
    children.iter().try_for_each(Child::goes_on)
}
