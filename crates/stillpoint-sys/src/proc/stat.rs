//! `/proc/PID/stat`: parentage, terminal, times and the layout of the address space.
//!
//! See proc_pid_stat(5) and `do_task_stat` in the kernel's `fs/proc/array.c`.

use super::source;
use super::text::{Text, exactly};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's stat");

/// What `/proc/PID/stat` says, without its fault counters and obsolete fields.
///
/// The addresses need ptrace access; without it the kernel prints 0, and 1 for `start_code` and `end_code`.
/// Times are in clock ticks, of which there are 100 a second on every architecture that we know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// The task.
    pub pid: Pid,
    /// The thread's comm.
    pub comm: Vec<u8>,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`, ...
    pub state: u8,
    /// The parent process; 0 when it is outside of the pid namespace.
    pub ppid: Pid,
    /// Process group; 0 when it is outside of the pid namespace, -1 once the task is being released.
    pub pgrp: i32,
    /// Session; 0 when it is outside of the pid namespace, -1 once the task is being released.
    pub session: i32,
    /// Device number of the controlling terminal (`new_encode_dev`), or 0.
    pub tty_nr: i32,
    /// Foreground process group of that terminal, or -1 without one.
    pub tpgid: i32,
    /// `PF_*` of the kernel's `include/linux/sched.h`: not stable from one kernel to the next.
    pub flags: u32,
    /// Ticks in user mode: of the whole process, or of the thread when read from its own directory.
    pub utime: u64,
    /// Ticks in the kernel.
    pub stime: u64,
    /// Ticks in user mode of children that were waited for.
    pub cutime: i64,
    /// Ticks in the kernel of children that were waited for.
    pub cstime: i64,
    /// The kernel's priority: negative for real-time tasks.
    pub priority: i64,
    /// Nice value.
    pub nice: i64,
    /// Number of threads.
    pub num_threads: u32,
    /// When it was started, in ticks since boot (in the reader's time namespace).
    pub start_time: u64,
    /// Size of the address space in bytes.
    pub vsize: u64,
    /// Start of the program's text.
    pub start_code: u64,
    /// End of the program's text.
    pub end_code: u64,
    /// Bottom of the stack.
    pub start_stack: u64,
    /// The signal that its end sends to its parent; -1 for a thread.
    pub exit_signal: i32,
    /// The CPU it last ran on.
    pub processor: i32,
    /// Real-time priority, or 0.
    pub rt_priority: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// Start of the program's data.
    pub start_data: u64,
    /// End of the program's data.
    pub end_data: u64,
    /// Where brk(2) begins.
    pub start_brk: u64,
    /// Start of the arguments.
    pub arg_start: u64,
    /// End of the arguments.
    pub arg_end: u64,
    /// Start of the environment.
    pub env_start: u64,
    /// End of the environment.
    pub env_end: u64,
    /// Status in the form of waitpid(2); needs ptrace access.
    pub exit_code: i32,
}

/// Reads `/proc/PID/stat`: times are those of the whole process.
///
/// # Errors
///
/// ENOENT or ESRCH when the task is gone, and a text that is not understood.
pub fn read(pid: Pid) -> Result<Stat> {
    source::parse_single(TEXT.0, pid, &format!("/proc/{pid}/stat"), parse)
}

/// Reads `/proc/PID/task/TID/stat`: times are those of the thread.
///
/// # Errors
///
/// As [`read`].
pub fn read_thread(pid: Pid, tid: Pid) -> Result<Stat> {
    source::parse_single(TEXT.0, tid, &format!("/proc/{pid}/task/{tid}/stat"), parse)
}

/// The number of fields after the comm since Linux 3.5.
const FIELDS: usize = 50;

/// Parses the text of `/proc/PID/stat`.
///
/// The comm is not escaped: it may hold spaces, newlines and parentheses, but what follows it holds none of the
/// latter, so it ends at the last `)`.
///
/// # Errors
///
/// Anything but the 52 fields that the kernel prints.
pub fn parse(bytes: &[u8]) -> Result<Stat> {
    let bad = || TEXT.bad("the line of stat", bytes);
    let open = bytes.iter().position(|c| *c == b'(').ok_or_else(bad)?;
    let close = bytes.iter().rposition(|c| *c == b')').filter(|c| *c > open).ok_or_else(bad)?;
    let pid = bytes[..open].strip_suffix(b" ").ok_or_else(bad)?;
    let rest = TEXT.one_line(&bytes[close + 1..])?;
    let fields: [&[u8]; FIELDS] = exactly(rest).ok_or_else(bad)?;
    let &[state] = fields[0] else { return Err(bad()) };
    // Fields by their number in the manual page, which counts pid and comm.
    let u = |number: usize| TEXT.decimal("a number in stat", fields[number - 3]);
    let i = |number: usize| TEXT.signed("a number in stat", fields[number - 3]);
    Ok(Stat {
        pid: TEXT.decimal("pid", pid)?,
        comm: bytes[open + 1..close].to_vec(),
        state,
        ppid: TEXT.decimal("ppid", fields[1])?,
        pgrp: TEXT.signed("process group", fields[2])?,
        session: TEXT.signed("session", fields[3])?,
        tty_nr: TEXT.signed("terminal", fields[4])?,
        tpgid: TEXT.signed("foreground group", fields[5])?,
        flags: TEXT.decimal("flags", fields[6])?,
        utime: u(14)?,
        stime: u(15)?,
        cutime: i(16)?,
        cstime: i(17)?,
        priority: i(18)?,
        nice: i(19)?,
        num_threads: TEXT.decimal("thread count", fields[17])?,
        start_time: u(22)?,
        vsize: u(23)?,
        start_code: u(26)?,
        end_code: u(27)?,
        start_stack: u(28)?,
        exit_signal: TEXT.signed("exit signal", fields[35])?,
        processor: TEXT.signed("processor", fields[36])?,
        rt_priority: TEXT.decimal("real-time priority", fields[37])?,
        policy: TEXT.decimal("policy", fields[38])?,
        start_data: u(45)?,
        end_data: u(46)?,
        start_brk: u(47)?,
        arg_start: u(48)?,
        arg_end: u(49)?,
        env_start: u(50)?,
        env_end: u(51)?,
        exit_code: TEXT.signed("exit code", fields[49])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "R 8583 8584 3375 34816 -1 4194304 99 0 0 0 7 8 9 10 -2 -20 3 0 156395 3133440 362 \
        18446744073709551615 94153740251136 94153740271017 140722979707120 0 0 0 0 0 0 0 0 0 17 1 50 2 0 0 0 \
        94153740287024 94153740288640 94154500255744 140722979711716 140722979711736 140722979711737 \
        140722979713003 256\n";

    #[test]
    fn fields_are_where_the_manual_has_them() {
        let stat = parse(format!("8596 (cat) {TAIL}").as_bytes()).unwrap();
        assert_eq!(
            stat,
            Stat {
                pid: 8596,
                comm: b"cat".to_vec(),
                state: b'R',
                ppid: 8583,
                pgrp: 8584,
                session: 3375,
                tty_nr: 34816,
                tpgid: -1,
                flags: 4_194_304,
                utime: 7,
                stime: 8,
                cutime: 9,
                cstime: 10,
                priority: -2,
                nice: -20,
                num_threads: 3,
                start_time: 156_395,
                vsize: 3_133_440,
                start_code: 94_153_740_251_136,
                end_code: 94_153_740_271_017,
                start_stack: 140_722_979_707_120,
                exit_signal: 17,
                processor: 1,
                rt_priority: 50,
                policy: 2,
                start_data: 94_153_740_287_024,
                end_data: 94_153_740_288_640,
                start_brk: 94_154_500_255_744,
                arg_start: 140_722_979_711_716,
                arg_end: 140_722_979_711_736,
                env_start: 140_722_979_711_737,
                env_end: 140_722_979_713_003,
                exit_code: 256,
            }
        );
    }

    #[test]
    fn a_comm_may_hold_anything() {
        for comm in [&b"a b"[..], b") R 1 1", b"(((", b"a\nb\xff", b"", b":-)"] {
            let text = [b"1 (", comm, b") ", TAIL.as_bytes()].concat();
            assert_eq!(parse(&text).unwrap().comm, comm);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            String::new(),
            "1 (a)\n".into(),
            "1 a) R\n".into(),
            ")(".into(),
            format!("1 (a) {}", TAIL.replace(" 256\n", "\n")),
            format!("1 (a) {}", TAIL.replace('\n', " 1\n")),
            format!("1 (a) {}", TAIL.replace('\n', "")),
            format!("-1 (a) {TAIL}"),
            format!("1 (a) {}", TAIL.replace("R ", "RR ")),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_process_and_a_thread_of_it() {
        let pid = std::process::id();
        let stat = read(pid).unwrap();
        assert_eq!(stat.pid, pid);
        assert!(stat.arg_start != 0 && stat.arg_end > stat.arg_start);
        let tid = crate::proc::tasks::threads(pid).unwrap().into_iter().max().unwrap();
        assert_eq!(read_thread(pid, tid).unwrap().pid, tid);
    }
}
