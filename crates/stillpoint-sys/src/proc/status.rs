//! `/proc/PID/status`: identity, credentials, signal sets and capabilities of a task.
//!
//! See proc_pid_status(5) and `proc_pid_status` in the kernel's `fs/proc/array.c`.

use super::source;
use super::text::{Text, exactly, split_once, trim, words};
use crate::{Pid, Result};

const TEXT: Text = Text("reading a task's status");

/// What `/proc/PID/status` says. A field is an `Option` where kernels from 5.10 on may lack its line; where a
/// missing line has one meaning, the field's default is documented instead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The thread's comm, unescaped.
    pub name: Vec<u8>,
    /// File mode creation mask; none for a task that has left its fs context (a zombie).
    pub umask: Option<u32>,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`, ...
    pub state: u8,
    /// The process.
    pub tgid: Pid,
    /// The thread.
    pub pid: Pid,
    /// The parent process; 0 when it is outside of the pid namespace.
    pub ppid: Pid,
    /// The tracer, or 0: also when it is outside of the pid namespace, where `state` still tells a trace stop.
    pub tracer_pid: Pid,
    /// Real, effective, saved and file system uid, in the reader's user namespace (overflow uid when unmapped).
    pub uid: [u32; 4],
    /// Real, effective, saved and file system gid.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// `tgid` in each pid namespace, from the reader's to the innermost. Empty without CONFIG_PID_NS.
    pub ns_tgid: Vec<Pid>,
    /// `pid` in each pid namespace. Empty without CONFIG_PID_NS.
    pub ns_pid: Vec<Pid>,
    /// Process group in each pid namespace. Empty without CONFIG_PID_NS.
    pub ns_pgid: Vec<Pid>,
    /// Session in each pid namespace. Empty without CONFIG_PID_NS.
    pub ns_sid: Vec<Pid>,
    /// Whether it is a kernel thread (Linux 6.10).
    pub kthread: Option<bool>,
    /// Sizes; none for a task without an address space (a zombie or a kernel thread).
    pub memory: Option<Memory>,
    /// Whether it is dumping core.
    pub core_dumping: Option<bool>,
    /// Whether transparent huge pages are enabled (not PR_SET_THP_DISABLE).
    pub thp_enabled: Option<bool>,
    /// Linear address masking (x86, Linux 6.4): all ones when it is off.
    pub untag_mask: Option<u64>,
    /// Number of threads; 0 once the task is being released.
    pub threads: u32,
    /// Queued signals of the user, and the limit.
    pub sig_q: (u64, u64),
    /// Signals pending for the thread; bit 0 is signal 1.
    pub sig_pnd: u64,
    /// Signals pending for the process.
    pub shd_pnd: u64,
    /// Blocked signals.
    pub sig_blk: u64,
    /// Ignored signals.
    pub sig_ign: u64,
    /// Signals with a handler.
    pub sig_cgt: u64,
    /// Inheritable capabilities.
    pub cap_inh: u64,
    /// Permitted capabilities.
    pub cap_prm: u64,
    /// Effective capabilities.
    pub cap_eff: u64,
    /// Bounding set.
    pub cap_bnd: u64,
    /// Ambient capabilities.
    pub cap_amb: u64,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter. 0 on a kernel without seccomp.
    pub seccomp: u32,
    /// Number of filters in force (Linux 5.9); none on a kernel without them.
    pub seccomp_filters: Option<u32>,
    /// PR_SPEC_STORE_BYPASS, as the kernel words it.
    pub speculation_store_bypass: Option<Vec<u8>>,
    /// PR_SPEC_INDIRECT_BRANCH, as the kernel words it (Linux 5.11).
    pub speculation_indirect_branch: Option<Vec<u8>>,
    /// CPU affinity: word 0 holds CPUs 0 to 63, as sched_setaffinity(2) takes it. Empty where not printed.
    pub cpus_allowed: Vec<u64>,
    /// The mask of memory nodes, as the kernel prints it. Empty where not printed.
    pub mems_allowed: Vec<u8>,
    /// Shadow stack features in use, such as `shstk wrss` (x86, Linux 6.6); empty when none is.
    pub x86_thread_features: Option<Vec<u8>>,
    /// Shadow stack features that are locked.
    pub x86_thread_features_locked: Option<Vec<u8>>,
    /// Names of lines that are not known here, for the caller to decide on.
    pub unknown: Vec<Vec<u8>>,
}

/// The memory lines, in bytes; 0 where a kernel lacks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// VmPeak.
    pub peak: u64,
    /// VmSize.
    pub size: u64,
    /// VmLck: locked with mlock(2).
    pub locked: u64,
    /// VmPin: pinned, for example by RDMA or io_uring.
    pub pinned: u64,
    /// VmHWM: peak resident size.
    pub high_water: u64,
    /// VmRSS.
    pub resident: u64,
    /// RssAnon.
    pub resident_anonymous: u64,
    /// RssFile.
    pub resident_file: u64,
    /// RssShmem.
    pub resident_shmem: u64,
    /// VmData.
    pub data: u64,
    /// VmStk.
    pub stack: u64,
    /// VmSwap.
    pub swap: u64,
    /// HugetlbPages.
    pub hugetlb: u64,
}

/// Reads `/proc/PID/status`; a thread id serves as well as a process id.
///
/// # Errors
///
/// ENOENT or ESRCH when the task is gone, and a text that is not understood.
pub fn read(pid: Pid) -> Result<Status> {
    source::parse_single(TEXT.0, pid, &format!("/proc/{pid}/status"), parse)
}

/// Reads `/proc/PID/task/TID/status`.
///
/// # Errors
///
/// As [`read`].
pub fn read_thread(pid: Pid, tid: Pid) -> Result<Status> {
    source::parse_single(TEXT.0, tid, &format!("/proc/{pid}/task/{tid}/status"), parse)
}

/// Lines that every kernel since 5.10 prints for every task.
const REQUIRED: [&[u8]; 20] = [
    b"Name",
    b"State",
    b"Tgid",
    b"Pid",
    b"PPid",
    b"TracerPid",
    b"Uid",
    b"Gid",
    b"Groups",
    b"Threads",
    b"SigQ",
    b"SigPnd",
    b"ShdPnd",
    b"SigBlk",
    b"SigIgn",
    b"SigCgt",
    b"CapPrm",
    b"CapBnd",
    b"CapAmb",
    b"NoNewPrivs",
];

/// Parses the text of `/proc/PID/status`.
///
/// # Errors
///
/// A known line that is not understood or comes twice, and a line that must be there and is not.
pub fn parse(bytes: &[u8]) -> Result<Status> {
    let mut status = Status::default();
    let mut seen = [false; REQUIRED.len()];
    for line in TEXT.lines(bytes)? {
        let (key, value) = split_once(line, b':').ok_or_else(|| TEXT.bad("a line of status", line))?;
        if let Some(index) = REQUIRED.iter().position(|r| *r == key)
            && std::mem::replace(&mut seen[index], true)
        {
            return Err(TEXT.bad("a line that comes twice", line));
        }
        status.take(line, key, value)?;
    }
    match seen.iter().position(|s| !s) {
        Some(index) => Err(TEXT.bad("a line is missing", REQUIRED[index])),
        None => Ok(status),
    }
}

impl Status {
    fn take(&mut self, line: &[u8], key: &[u8], raw: &[u8]) -> Result<()> {
        let value = trim(raw);
        let bad = || TEXT.bad("a line of status", line);
        match key {
            // Not trimmed: a comm may begin or end with spaces.
            b"Name" => self.name = unescape(raw.strip_prefix(b"\t").ok_or_else(bad)?).ok_or_else(bad)?,
            b"Umask" => self.umask = Some(TEXT.octal("umask", value)?),
            b"State" => self.state = *value.first().ok_or_else(bad)?,
            b"Tgid" => self.tgid = TEXT.decimal("tgid", value)?,
            b"Pid" => self.pid = TEXT.decimal("pid", value)?,
            b"PPid" => self.ppid = TEXT.decimal("ppid", value)?,
            b"TracerPid" => self.tracer_pid = TEXT.decimal("tracer", value)?,
            b"Uid" => self.uid = four(value)?,
            b"Gid" => self.gid = four(value)?,
            b"Groups" => self.groups = list(value)?,
            b"NStgid" => self.ns_tgid = list(value)?,
            b"NSpid" => self.ns_pid = list(value)?,
            b"NSpgid" => self.ns_pgid = list(value)?,
            b"NSsid" => self.ns_sid = list(value)?,
            b"Kthread" => self.kthread = Some(flag(value)?),
            b"CoreDumping" => self.core_dumping = Some(flag(value)?),
            b"THP_enabled" => self.thp_enabled = Some(flag(value)?),
            b"untag_mask" => self.untag_mask = Some(TEXT.hex_0x("untag mask", value)?),
            b"Threads" => self.threads = TEXT.decimal("thread count", value)?,
            b"SigQ" => {
                let (queued, limit) = split_once(value, b'/').ok_or_else(bad)?;
                self.sig_q = (TEXT.decimal("SigQ", queued)?, TEXT.decimal("SigQ", limit)?);
            }
            b"SigPnd" => self.sig_pnd = TEXT.hex("a signal set", value)?,
            b"ShdPnd" => self.shd_pnd = TEXT.hex("a signal set", value)?,
            b"SigBlk" => self.sig_blk = TEXT.hex("a signal set", value)?,
            b"SigIgn" => self.sig_ign = TEXT.hex("a signal set", value)?,
            b"SigCgt" => self.sig_cgt = TEXT.hex("a signal set", value)?,
            b"CapInh" => self.cap_inh = TEXT.hex("a capability set", value)?,
            b"CapPrm" => self.cap_prm = TEXT.hex("a capability set", value)?,
            b"CapEff" => self.cap_eff = TEXT.hex("a capability set", value)?,
            b"CapBnd" => self.cap_bnd = TEXT.hex("a capability set", value)?,
            b"CapAmb" => self.cap_amb = TEXT.hex("a capability set", value)?,
            b"NoNewPrivs" => self.no_new_privs = flag(value)?,
            b"Seccomp" => self.seccomp = TEXT.decimal("seccomp mode", value)?,
            b"Seccomp_filters" => self.seccomp_filters = Some(TEXT.decimal("seccomp filters", value)?),
            b"Speculation_Store_Bypass" => self.speculation_store_bypass = Some(value.to_vec()),
            b"SpeculationIndirectBranch" => self.speculation_indirect_branch = Some(value.to_vec()),
            b"Cpus_allowed" => self.cpus_allowed = mask(value)?,
            b"Mems_allowed" => self.mems_allowed = value.to_vec(),
            b"x86_Thread_features" => self.x86_thread_features = Some(value.to_vec()),
            b"x86_Thread_features_locked" => self.x86_thread_features_locked = Some(value.to_vec()),
            // Statistics, and what other lines say already.
            b"Ngid"
            | b"FDSize"
            | b"Cpus_allowed_list"
            | b"Mems_allowed_list"
            | b"voluntary_ctxt_switches"
            | b"nonvoluntary_ctxt_switches" => {}
            _ if self.take_memory(key, value)? => {}
            _ => self.unknown.push(key.to_vec()),
        }
        Ok(())
    }

    /// Takes a line of `task_mem` in `fs/proc/task_mmu.c`; false when it is none.
    fn take_memory(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        let mut memory = self.memory.unwrap_or_default();
        let field = match key {
            b"VmPeak" => &mut memory.peak,
            b"VmSize" => &mut memory.size,
            b"VmLck" => &mut memory.locked,
            b"VmPin" => &mut memory.pinned,
            b"VmHWM" => &mut memory.high_water,
            b"VmRSS" => &mut memory.resident,
            b"RssAnon" => &mut memory.resident_anonymous,
            b"RssFile" => &mut memory.resident_file,
            b"RssShmem" => &mut memory.resident_shmem,
            b"VmData" => &mut memory.data,
            b"VmStk" => &mut memory.stack,
            b"VmSwap" => &mut memory.swap,
            b"HugetlbPages" => &mut memory.hugetlb,
            b"VmExe" | b"VmLib" | b"VmPTE" | b"VmPMD" => &mut 0,
            _ => return Ok(false),
        };
        let bad = || TEXT.bad("a size in kB", value);
        let [number, b"kB"] = exactly(value).ok_or_else(bad)? else { return Err(bad()) };
        *field = TEXT.decimal::<u64>("a size in kB", number)?.checked_mul(1024).ok_or_else(bad)?;
        self.memory = Some(memory);
        Ok(true)
    }
}

/// Undoes `seq_escape_str(..., ESCAPE_SPACE | ESCAPE_SPECIAL, "\n\\")`.
fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'\\' => b'\\',
                _ => return None,
            },
            _ => byte,
        });
    }
    Some(out)
}

fn four(value: &[u8]) -> Result<[u32; 4]> {
    let fields: [&[u8]; 4] = exactly(value).ok_or_else(|| TEXT.bad("four ids", value))?;
    let mut ids = [0; 4];
    for (id, field) in ids.iter_mut().zip(fields) {
        *id = TEXT.decimal("an id", field)?;
    }
    Ok(ids)
}

fn list(value: &[u8]) -> Result<Vec<u32>> {
    words(value).map(|w| TEXT.decimal("an id", w)).collect()
}

fn flag(value: &[u8]) -> Result<bool> {
    match value {
        b"0" => Ok(false),
        b"1" => Ok(true),
        _ => Err(TEXT.bad("neither 0 nor 1", value)),
    }
}

/// A bitmap of `%*pb`: groups of 32 bits in hexadecimal, highest first.
fn mask(value: &[u8]) -> Result<Vec<u64>> {
    let mut words = Vec::new();
    for (index, group) in value.rsplit(|c| *c == b',').enumerate() {
        let bits: u32 = TEXT.hex("a mask", group)?;
        if index % 2 == 0 {
            words.push(u64::from(bits));
        } else if let Some(word) = words.last_mut() {
            *word |= u64::from(bits) << 32;
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel() {
        let status = parse(include_bytes!("testdata/status-6.18")).unwrap();
        assert_eq!(status.name, b"cat");
        assert_eq!(status.state, b'R');
        assert_eq!(status.umask, Some(0o22));
        assert_eq!(status.unknown, Vec::<Vec<u8>>::new());
        assert_eq!(status.memory.unwrap().size, 3060 << 10);
        assert_eq!(status.sig_q, (0, 96365));
        assert_eq!(status.cpus_allowed, [3]);
        assert_eq!(status.speculation_store_bypass.as_deref(), Some(&b"vulnerable"[..]));
        assert_eq!(status.untag_mask, Some(u64::MAX));
        assert_eq!(status.groups, Vec::<u32>::new());
    }

    #[test]
    fn linux_5_10_a_zombie_in_a_nested_pid_namespace() {
        let status = parse(include_bytes!("testdata/status-5.10-zombie")).unwrap();
        assert_eq!(status.name, b" a\n\\b\xff ");
        assert_eq!(status.state, b'Z');
        assert_eq!(status.umask, None);
        assert_eq!(status.memory, None);
        assert_eq!(status.ns_pid, [4242, 17, 1]);
        assert_eq!(status.groups, [4, 24, 4_294_967_294]);
        assert_eq!(status.cpus_allowed, [0xffff_ffff_ffff_ffff, 0xff]);
        assert_eq!(status.seccomp_filters, Some(2));
        assert_eq!(status.unknown, [b"NewThing".to_vec()]);
        assert_eq!(status.sig_blk, 0x8000_0000_0000_0001);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let good = include_bytes!("testdata/status-5.10-zombie").to_vec();
        let with = |from: &[u8], to: &[u8]| parse(&super::super::text::replace(&good, from, to));
        assert!(with(b"x", b"x").is_ok());
        assert!(with(b"SigBlk:\t80", b"SigBlk:\tzz").is_err());
        assert!(with(b"NoNewPrivs:\t0", b"NoNewPrivs:\t2").is_err());
        assert!(with(b"CapAmb", b"CapAmp").is_err());
        assert!(with(b"Uid:\t0", b"Uid:").is_err());
        assert!(with(b"\\\\b", b"\\xb").is_err());
        assert!(with(b"Pid:\t4242", b"Pid:\t-1").is_err());
        let twice = [&good[..], b"Uid:\t0\t0\t0\t0\n"].concat();
        assert!(parse(&twice).is_err());
        assert!(parse(&good[..good.len() / 2]).is_err());
    }

    #[test]
    fn this_process_and_a_thread_of_it() {
        let pid = std::process::id();
        let status = read(pid).unwrap();
        assert_eq!((status.pid, status.tgid), (pid, pid));
        assert_eq!(status.unknown, Vec::<Vec<u8>>::new());
        let tid = crate::proc::tasks::threads(pid).unwrap().into_iter().max().unwrap();
        let thread = read_thread(pid, tid).unwrap();
        assert_eq!((thread.pid, thread.tgid), (tid, pid));
    }
}
