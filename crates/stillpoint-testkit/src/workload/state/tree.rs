//! Parents, children and grandchildren; sessions and process groups; zombies by exit and by signal.

use crate::support::{Check, Ctx, child, reap, until};

/// What a process is to everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

fn ids() -> Check<Ids> {
    Ok(Ids {
        pid: sys!(libc::getpid())?,
        parent: sys!(libc::getppid())?,
        group: sys!(libc::getpgid(0))?,
        session: sys!(libc::getsid(0))?,
    })
}

/// A child that has ended and is not reaped.
fn zombie(how: impl FnOnce()) -> Check<i32> {
    let pid = sys!(libc::fork())?;
    if pid == 0 {
        how();
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(99) }
    }
    check_zombie(pid, 0)?;
    Ok(pid)
}

/// Looks at a zombie without reaping it.
fn check_zombie(pid: i32, flags: i32) -> Check {
    // SAFETY: all zeroes is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT | flags;
    sys!(libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, options))?;
    // SAFETY: waitid filled in the fields of SIGCHLD.
    same!("zombie's pid", unsafe { info.si_pid() }, pid);
    Ok(())
}

fn exits_with(code: i32) -> impl FnOnce() {
    // SAFETY: ends the process at once.
    move || unsafe { libc::_exit(code) }
}

fn dies_of(signal: i32) -> impl FnOnce() {
    move || {
        let _ = sys!(libc::signal(signal, libc::SIG_DFL));
        let _ = sys!(libc::raise(signal));
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let me = ids()?;
    // Two children lead sessions of their own, one a process group; each has a child of its own.
    let mut children = Vec::new();
    for (i, tag) in ["session-a", "session-b", "group"].into_iter().enumerate() {
        let grand = ctx.party(["grand-a", "grand-b", "grand-c"][i]);
        children.push(child(ctx.party(tag), |party| {
            if i < 2 {
                sys!(libc::setsid())?;
            } else {
                sys!(libc::setpgid(0, 0))?;
            }
            let own_zombie = zombie(exits_with(40 + i as i32))?;
            let mine = ids()?;
            let grandchild = child(grand, |party| {
                if i == 1 {
                    sys!(libc::setpgid(0, 0))?;
                }
                let mine = ids()?;
                party.run(|_| {
                    same!("ids of a grandchild", ids()?, mine);
                    Ok(())
                })
            })?;
            party.run(|_| {
                same!("ids of a child", ids()?, mine);
                check_zombie(own_zombie, libc::WNOHANG)
            })?;
            reap(own_zombie, (40 + i as i32) << 8)?;
            reap(grandchild, 0)
        })?);
    }
    let zombies = [
        (zombie(exits_with(7))?, 7 << 8),
        (zombie(exits_with(0))?, 0),
        (zombie(dies_of(libc::SIGKILL))?, libc::SIGKILL),
        (zombie(dies_of(libc::SIGTERM))?, libc::SIGTERM),
    ];
    // The children's groups are their own by the time that they report.
    ctx.ready(&["main", "session-a", "session-b", "group", "grand-a", "grand-b", "grand-c"])?;
    ctx.party("main").run(|_| {
        // The root's parent is whoever restored it.
        same!("ids", Ids { parent: me.parent, ..ids()? }, me);
        for (pid, _) in zombies {
            check_zombie(pid, libc::WNOHANG)?;
        }
        until("the children lead their groups", || {
            children.iter().all(|&pid| sys!(libc::getpgid(pid)) == Ok(pid))
        })
    })?;
    for (pid, status) in zombies {
        reap(pid, status)?;
    }
    children.into_iter().try_for_each(|pid| reap(pid, 0))
}
