//! `leaderless`: sessions and process groups whose leaders have ended, reaped or not, and processes that were left to an
//! ancestor in another session: as daemons and pipelines leave them.

use crate::support::{Check, Ctx, Party, child, pause_ms, reap, until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    parent: i32,
    group: i32,
    session: i32,
}

fn ids() -> Check<Ids> {
    Ok(Ids {
        parent: sys!(libc::getppid())?,
        group: sys!(libc::getpgid(0))?,
        session: sys!(libc::getsid(0))?,
    })
}

/// Goes on verifying that its ids stay what they are, once its parent is `parent`.
fn member(party: &Party, parent: i32, leader: Option<i32>) -> Check {
    until("the member is left to its ancestor", || sys!(libc::getppid()) == Ok(parent))?;
    let mine = ids()?;
    if let Some(leader) = leader {
        same!("the session of a member", mine.session, leader);
    }
    party.run(|_| {
        same!("ids of a member", ids()?, mine);
        Ok(())
    })
}

fn end() -> ! {
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) }
}

/// Runs `body` in a child that leads a session; it makes members and then ends.
fn leader(body: impl FnOnce(i32) -> Check) -> Check<i32> {
    let pid = sys!(libc::fork())?;
    if pid == 0 {
        if sys!(libc::setsid()).and_then(body).is_err() {
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(1) }
        }
        end();
    }
    Ok(pid)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let root = sys!(libc::getpid())?;
    sys!(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_u64))?;
    // A daemon: its leader is gone, it has a child, and a brother in a group of its own.
    let (daemon, worker, brother) = (ctx.party("daemon"), ctx.party("worker"), ctx.party("brother"));
    let gone = leader(|session| {
        child(daemon, |party| {
            let parent = sys!(libc::getpid())?;
            let pid = child(worker, |party| member(party, parent, Some(session)))?;
            member(party, root, Some(session))?;
            reap(pid, 0)
        })?;
        child(brother, |party| {
            sys!(libc::setpgid(0, 0))?;
            member(party, root, Some(session))
        })
        .map(drop)
    })?;
    reap(gone, 0)?;
    // One that nobody has reaped.
    let heir = ctx.party("heir");
    let zombie = leader(|session| child(heir, |party| member(party, root, Some(session))).map(drop))?;
    // One that lives on, while a child of a child of it is left to the root.
    let (captain, grand) = (ctx.party("captain"), ctx.party("grand"));
    let captain = child(captain, |party| {
        let session = sys!(libc::setsid())?;
        let between = sys!(libc::fork())?;
        if between == 0 {
            if child(grand, |party| member(party, root, Some(session))).is_err() {
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(1) }
            }
            end();
        }
        reap(between, 0)?;
        party.run(|_| Ok(()))
    })?;
    // A pipeline whose first process has ended.
    let first = sys!(libc::fork())?;
    if first == 0 {
        loop {
            pause_ms(1000);
        }
    }
    sys!(libc::setpgid(first, first))?;
    let pipeline = ["second", "third"].map(|tag| {
        let pid = child(ctx.party(tag), |party| {
            sys!(libc::setpgid(0, first))?;
            member(party, root, None)
        })?;
        until("the member joins its group", || sys!(libc::getpgid(pid)) == Ok(first))?;
        Ok::<_, String>(pid)
    });
    sys!(libc::kill(first, libc::SIGKILL))?;
    reap(first, libc::SIGKILL)?;
    // A stopped member of an orphaned group: when a group becomes orphaned, its members are hung up and continued.
    let still = leader(|_| {
        if sys!(libc::fork())? == 0 {
            loop {
                pause_ms(1);
            }
        }
        Ok(())
    })?;
    reap(still, 0)?;
    sys!(libc::kill(-still, libc::SIGSTOP))?;
    let stays_stopped = move || -> Check {
        // SAFETY: all zeroes is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WSTOPPED | libc::WNOWAIT;
        sys!(libc::waitid(libc::P_PGID, still.cast_unsigned(), &raw mut info, options))?;
        // SAFETY: waitid filled in the fields of SIGCHLD.
        same!("what stopped a member", unsafe { info.si_status() }, libc::SIGSTOP);
        Ok(())
    };
    stays_stopped()?;
    ctx.ready(&["main", "daemon", "worker", "brother", "heir", "captain", "grand", "second", "third"])?;
    let mine = ids()?;
    ctx.party("main").run(|_| {
        // The root's parent is whoever restored it.
        same!("ids", Ids { parent: mine.parent, ..ids()? }, mine);
        stays_stopped()?;
        // SAFETY: all zeroes is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOWAIT;
        sys!(libc::waitid(libc::P_PID, zombie.cast_unsigned(), &raw mut info, options))?;
        // SAFETY: waitid filled in the fields of SIGCHLD.
        same!("the leader that nobody reaped", unsafe { info.si_pid() }, zombie);
        Ok(())
    })?;
    reap(zombie, 0)?;
    reap(captain, 0)?;
    for pid in pipeline {
        reap(pid?, 0)?;
    }
    sys!(libc::kill(-still, libc::SIGKILL))?;
    // The daemon, its brother, the heir, the grandchild and the one that was stopped.
    for _ in 0..5 {
        sys!(libc::waitpid(-1, std::ptr::null_mut(), 0))?;
    }
    Ok(())
}
