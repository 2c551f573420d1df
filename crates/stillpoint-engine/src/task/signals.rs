//! Signal state: actions, alternate stacks, pending signals.

use stillpoint_image::records::{AltStack, PendingSignal, SignalAction, SignalHandlers};
use stillpoint_sys::program::{Arg, Data, Finished, Program};

use crate::{Code, Error, Result};

/// Number of signals; they are numbered from 1.
pub const SIGNALS: u32 = 64;

/// Size of `struct sigaction` as rt_sigaction(2) takes it on 64-bit machines.
const ACTION: usize = 32;

/// Questions about every signal action of a process.
#[derive(Debug)]
pub struct Actions(Vec<(u32, Data)>);

impl Actions {
    /// Adds the questions to a program.
    pub fn ask(program: &mut Program) -> Self {
        let asked = settable().map(|signal| {
            let room = program.room(ACTION);
            program.call(
                format!("reading the action of signal {signal}"),
                libc::SYS_rt_sigaction,
                [signal.into(), Arg::Value(0), room.into(), Arg::Value(8)],
            );
            (signal, room)
        });
        Actions(asked.collect())
    }

    /// The answers; default actions are left out.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> SignalHandlers {
        let actions = self.0.iter().map(|&(signal, room)| SignalAction {
            signal,
            handler: finished.word(room, 0),
            flags: finished.word(room, 8),
            restorer: finished.word(room, 16),
            mask: finished.word(room, 24),
        });
        SignalHandlers { actions: actions.filter(|action| !is_default(action)).collect() }
    }
}

/// Sets every action of a process: those recorded, and the default for all others.
///
/// Setting SIGCHLD to "ignore" first drops what the children of the restore itself may have left pending.
pub fn set_actions(program: &mut Program, handlers: &SignalHandlers) {
    set_action(
        program,
        &SignalAction { signal: libc::SIGCHLD.unsigned_abs(), handler: 1, ..SignalAction::default() },
    );
    for signal in settable() {
        let default = SignalAction { signal, ..SignalAction::default() };
        set_action(
            program,
            handlers.actions.iter().find(|action| action.signal == signal).unwrap_or(&default),
        );
    }
}

fn set_action(program: &mut Program, action: &SignalAction) {
    let words = [action.handler, action.flags, action.restorer, action.mask];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let data = program.data(&bytes);
    program.call(
        format!("setting the action of signal {}", action.signal),
        libc::SYS_rt_sigaction,
        [action.signal.into(), data.into(), Arg::Value(0), Arg::Value(8)],
    );
}

fn settable() -> impl Iterator<Item = u32> {
    let fixed = [libc::SIGKILL.unsigned_abs(), libc::SIGSTOP.unsigned_abs()];
    (1..=SIGNALS).filter(move |signal| !fixed.contains(signal))
}

fn is_default(action: &SignalAction) -> bool {
    action.handler == 0 && action.flags == 0 && action.restorer == 0 && action.mask == 0
}

/// The question about a thread's alternate stack.
#[derive(Debug)]
pub struct AlternateStack(Data);

impl AlternateStack {
    /// Adds it to a program.
    pub fn ask(program: &mut Program) -> Self {
        let room = program.room(24);
        program.call(
            "reading the alternate signal stack",
            libc::SYS_sigaltstack,
            [Arg::Value(0), room.into()],
        );
        AlternateStack(room)
    }

    /// The answer. SS_ONSTACK only says where the stack pointer was, and it was the program's own then.
    #[must_use]
    pub fn answer(&self, finished: &Finished) -> AltStack {
        let flags = u32::try_from(finished.word(self.0, 8) & 0xffff_ffff).unwrap_or(0);
        AltStack {
            pointer: finished.word(self.0, 0),
            flags: flags & !(libc::SS_ONSTACK.unsigned_abs()),
            size: finished.word(self.0, 16),
        }
    }
}

/// Sets a thread's alternate stack.
pub fn set_alternate_stack(program: &mut Program, stack: &AltStack) {
    let words = [stack.pointer, u64::from(stack.flags), stack.size];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let data = program.data(&bytes);
    program.call("setting the alternate signal stack", libc::SYS_sigaltstack, [data.into(), Arg::Value(0)]);
}

/// Pending signals as the image stores them.
#[must_use]
pub fn pending(infos: &[[u8; 128]]) -> Vec<PendingSignal> {
    infos.iter().map(|info| PendingSignal { siginfo: info.to_vec() }).collect()
}

/// A mask of the pending signals.
#[must_use]
pub fn pending_mask(signals: &[PendingSignal]) -> u64 {
    signals.iter().filter_map(signal_of).fold(0, |mask, signal| mask | 1 << (signal - 1))
}

/// Queues pending signals again, in order: to one thread, or to the whole group when `tid` is none.
///
/// A task may send itself any siginfo (kernel/signal.c, do_rt_sigqueueinfo).
///
/// # Errors
///
/// When a record is not a siginfo.
pub fn queue(program: &mut Program, signals: &[PendingSignal], pid: u32, tid: Option<u32>) -> Result<()> {
    for signal in signals {
        let number = signal_of(signal).ok_or_else(|| {
            Error::new(Code::ImageInconsistent, "queueing pending signals").cause("a record is not a siginfo")
        })?;
        let data = program.data(&signal.siginfo);
        let what = format!("queueing pending signal {number}");
        match tid {
            Some(tid) => program.call(
                what,
                libc::SYS_rt_tgsigqueueinfo,
                [pid.into(), tid.into(), number.into(), data.into()],
            ),
            None => program.call(what, libc::SYS_rt_sigqueueinfo, [pid.into(), number.into(), data.into()]),
        };
    }
    Ok(())
}

fn signal_of(signal: &PendingSignal) -> Option<u32> {
    if signal.siginfo.len() != 128 {
        return None;
    }
    let number = u32::from_le_bytes(signal.siginfo.get(..4)?.try_into().ok()?);
    (1..=SIGNALS).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_settable_action_is_set() {
        let mut program = Program::new();
        set_actions(&mut program, &SignalHandlers::default());
        assert_eq!(program.len(), 63);
    }

    #[test]
    fn a_short_siginfo_is_refused() {
        let mut program = Program::new();
        let short = PendingSignal { siginfo: vec![5] };
        assert_eq!(pending_mask(std::slice::from_ref(&short)), 0);
        assert!(queue(&mut program, &[short], 1, None).is_err());
    }
}
