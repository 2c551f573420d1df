//! `sp-work NAME DIR`: a program for each state that a checkpoint must save.
//!
//! It sets the state up, makes the link `DIR/ready`, then verifies from inside, several times a second, that its state is
//! as it was set up. It says how it goes in links `DIR/status/TAG`, one for each party (process or thread that verifies):
//!
//! | link target       | meaning                                                                        |
//! |-------------------|--------------------------------------------------------------------------------|
//! | `ok N`            | N verifications were right                                                     |
//! | `quiet N`         | it saw `DIR/quiet` and waits in `open` of the FIFO `DIR/wake`; nothing changes |
//! | `done N`          | it saw `DIR/finish` and verified once more                                     |
//! | (in `TAG.fail`)   | what was not as it should be; the process then exits with 1                    |
//!
//! `DIR/finished` comes last, when everything was taken down and checked; the exit status is then 0.
//!
//! *Why links:* a link is made without opening anything. A status file would be open for a moment at each report, and a
//! checkpoint in that moment would hold a file which the next report changes, so that a strict restore rightly refuses.
//! For the same reason no verification reads `/proc`: what only `/proc` shows is for the equality checker.
//!
//! `sp-work hold THING DIR` holds one thing that cannot be saved; `sp-work list` and `sp-work list-holds` print names.
//!
//! Not here, since later issues bring the kinds: leases, inotify, deleted directories (issue 4); sockets, epoll, SysV and
//! asynchronous I/O (issue 6).

#[macro_use]
mod support;
mod hold;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = std::env::args().collect::<Vec<_>>();
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    let result = match args[1..] {
        ["list"] => {
            state::ALL.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        ["list-holds"] => {
            hold::all().iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        ["registers", kind, seed] => support::puppet::hold_registers(kind, seed),
        ["puppet"] => support::puppet::run(),
        ["hold", thing, dir, ..] => hold::run(thing, dir),
        [name, dir, ..] => match state::ALL.iter().find(|(n, _)| *n == name) {
            Some((_, run)) => {
                let ctx = support::Ctx::new(dir);
                run(&ctx).and_then(|()| ctx.finished())
            }
            None => Err(format!("no workload is named {name}; `sp-work list` lists them")),
        },
        _ => Err("usage: sp-work NAME DIR | hold THING DIR | list | list-holds".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(dir) = args.get(if args.get(1) == Some(&"hold") { 3 } else { 2 }) {
                support::report_failure(dir, "main", &error);
            }
            eprintln!("sp-work: {error}");
            ExitCode::FAILURE
        }
    }
}
