//! `sp-work hold THING DIR`: holds one thing that a checkpoint must refuse, and verifies that it is unharmed.
//!
//! A machine that does not have the thing gets the link `DIR/ready` -> `unavailable: REASON`.
//!
//! When a later issue makes a thing savable, its entry moves from here to a state of its own.

mod descriptors;
mod memory;
mod task;

use super::support::{Check, Ctx};

/// Sets the thing up; what it returns verifies it.
pub(crate) type Setup = fn(&Ctx) -> Check<Box<dyn FnMut() -> Check>>;

/// Names and setups.
pub(crate) fn all() -> Vec<(&'static str, Setup)> {
    [descriptors::ALL, memory::ALL, task::ALL].concat()
}

/// Holds the thing until told to finish.
pub(crate) fn run(thing: &str, dir: &str) -> Check {
    let ctx = Ctx::new(dir);
    let setups = all();
    let Some((_, setup)) = setups.iter().find(|(name, _)| *name == thing) else {
        return Err(format!("nothing is named {thing}; `sp-work list-holds` lists them"));
    };
    match setup(&ctx) {
        Ok(mut check) => {
            ctx.ready(&["main"])?;
            ctx.party("main").run(|_| check())?;
            end_children()?;
            ctx.finished()
        }
        Err(error) => ctx.ready(&["unavailable:", &error]),
    }
}

/// Verifies something that was refused once and is a state now.
pub(crate) fn as_state(ctx: &Ctx, thing: &str) -> Check {
    let Some((_, setup)) = task::SAVED.iter().find(|(name, _)| *name == thing) else {
        return Err(format!("nothing that is saved is named {thing}"));
    };
    let mut check = setup(ctx)?;
    ctx.verify(|_| check())?;
    end_children()
}

/// Children of a thing wait for ever: ends the process group, if it is led by this process.
fn end_children() -> Check {
    sys!(libc::signal(libc::SIGTERM, libc::SIG_IGN))?;
    if sys!(libc::getpgrp())? == sys!(libc::getpid())? {
        sys!(libc::kill(0, libc::SIGTERM))?;
        sys!(libc::kill(0, libc::SIGCONT))?;
    }
    Ok(())
}

/// The common case: nothing to verify but that the descriptor is open.
pub(crate) fn open(fd: i32) -> Check<Box<dyn FnMut() -> Check>> {
    Ok(Box::new(move || sys!(libc::fcntl(fd, libc::F_GETFD)).map(|_| ())))
}
