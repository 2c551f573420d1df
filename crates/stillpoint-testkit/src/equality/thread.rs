//! What belongs to a thread: status, registers, extended state, pending signals, what it shares.

use std::collections::BTreeMap;
use std::io;

use super::files::same;
use super::freeze::{Frozen, Stopped, ptrace};
use super::memory::RseqArea;
use super::{Facts, Task, Thread, proc};

const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;

/// The layout of `struct user_regs_struct` (x86_64), in words.
const REGISTERS: [&str; 27] = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
];

/// Everything of one stopped thread.
pub(super) fn record(pid: u32, thread: &Stopped) -> io::Result<Thread> {
    let dir = format!("/proc/{pid}/task/{}", thread.tid);
    let registers = registers(thread.tid)?;
    Ok(Thread {
        status: proc::status(&format!("{dir}/status"))?,
        stat: proc::stat(&format!("{dir}/stat"))?,
        shares: Facts::new(),
        syscall: waiting_in(&registers),
        registers: registers.iter().map(|(k, v)| (k.clone(), format!("{v:#x}"))).collect(),
        xstate: xstate(&regset(thread.tid, NT_X86_XSTATE)?),
        pending: pending(thread.tid, false)?,
        traced: traced(thread.tid)?,
    })
}

fn regset(tid: u32, set: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 32 * 1024];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    ptrace(libc::PTRACE_GETREGSET, tid, set, (&raw mut iov) as usize)?;
    buffer.truncate(iov.iov_len);
    Ok(buffer)
}

fn registers(tid: u32) -> io::Result<BTreeMap<String, u64>> {
    let bytes = regset(tid, NT_PRSTATUS)?;
    let words = bytes.chunks_exact(8).map(|c| c.try_into().map(u64::from_ne_bytes).unwrap_or(0));
    Ok(REGISTERS.iter().map(|s| (*s).to_owned()).zip(words).collect())
}

/// The call that a stopped thread will go back to: the kernel left one of its restart codes in rax.
fn waiting_in(registers: &BTreeMap<String, u64>) -> Option<i64> {
    let number = registers.get("orig_rax")?.cast_signed();
    let result = registers.get("rax")?.cast_signed();
    (number >= 0 && matches!(result, -514..=-512 | -516)).then_some(number)
}

/// Extended state by component, in a form in which "initial" is one value however the CPU marks it.
fn xstate(area: &[u8]) -> Facts {
    let mut out = Facts::new();
    let word = |at: usize| area.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let present = word(512);
    out.insert("mxcsr".to_owned(), format!("{:#x}", word(24) & 0xffff_ffff));
    // Legacy: x87 (control .. data pointer, then ST0-7) and SSE (XMM0-15).
    let x87 =
        [area.get(..24), area.get(32..160)].into_iter().flatten().flatten().copied().collect::<Vec<_>>();
    let mut initial_x87 = vec![0; 152];
    initial_x87[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
    component(&mut out, "x87", &x87, present & 1 != 0 && x87 != initial_x87);
    component(&mut out, "sse", area.get(160..416).unwrap_or_default(), present & 2 != 0);
    for (bit, name) in (2..63).map(|bit| (bit, format!("component{bit}"))) {
        if let Some((offset, size)) = place(bit)
            && let Some(bytes) = area.get(offset..offset + size)
        {
            component(&mut out, &name, bytes, present >> bit & 1 != 0);
        }
    }
    out
}

fn component(out: &mut Facts, name: &str, bytes: &[u8], used: bool) {
    let used = used && bytes.iter().any(|&b| b != 0);
    let value = if used { blake3::hash(bytes).to_hex()[..16].to_owned() } else { "init".to_owned() };
    out.insert(name.to_owned(), value);
}

/// Where the standard format has a component, from CPUID leaf 0xD.
fn place(bit: u32) -> Option<(usize, usize)> {
    let leaf = std::arch::x86_64::__cpuid_count(0xd, bit);
    // Supervisor components (ECX bit 0) have no place in the standard format.
    (leaf.eax != 0 && leaf.ecx & 1 == 0).then_some((leaf.ebx as usize, leaf.eax as usize))
}

/// `struct ptrace_peeksiginfo_args`.
#[repr(C)]
struct PeekArgs {
    offset: u64,
    flags: u32,
    count: i32,
}

/// Signals pending for a thread, or for its process, with number, code, value and sender.
pub(super) fn pending(tid: u32, shared: bool) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    loop {
        let args = PeekArgs { offset: out.len() as u64, flags: u32::from(shared), count: 1 };
        let mut info = [0_u8; size_of::<libc::siginfo_t>()];
        let got =
            ptrace(libc::PTRACE_PEEKSIGINFO, tid, (&raw const args) as usize, info.as_mut_ptr() as usize)?;
        if got == 0 {
            break;
        }
        let int = |at: usize| info[at..at + 4].try_into().map(i32::from_ne_bytes).unwrap_or(0);
        let long = |at: usize| info[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or(0);
        out.push(format!(
            "signal {} errno {} code {} fields {:#x} {:#x} {:#x}",
            int(0),
            int(4),
            int(8),
            long(16),
            long(24),
            long(32)
        ));
    }
    Ok(out)
}

/// `struct ptrace_rseq_configuration`.
#[repr(C)]
#[derive(Default)]
struct RseqConfig {
    pointer: u64,
    size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;

fn rseq(tid: u32) -> io::Result<RseqConfig> {
    let mut config = RseqConfig::default();
    ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, size_of::<RseqConfig>(), (&raw mut config) as usize)?;
    Ok(config)
}

/// Where the kernel writes CPU numbers for this thread.
pub(super) fn rseq_area(tid: u32) -> Option<RseqArea> {
    rseq(tid).ok().filter(|c| c.pointer != 0).map(|c| RseqArea(c.pointer))
}

fn traced(tid: u32) -> io::Result<Facts> {
    let mut out = Facts::new();
    let mut mask = 0_u64;
    ptrace(PTRACE_GETSIGMASK, tid, 8, (&raw mut mask) as usize)?;
    out.insert("sigmask".to_owned(), format!("{mask:016x}"));
    let config = rseq(tid)?;
    let registration = format!(
        "{:#x} size {} signature {:#x} flags {}",
        config.pointer, config.size, config.signature, config.flags
    );
    out.insert("rseq".to_owned(), registration);
    let (mut head, mut len) = (0_u64, 0_u64);
    // SAFETY: the call writes one pointer and one length, both of which live in this frame.
    let got = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    let robust =
        if got == 0 { format!("{head:#x} length {len}") } else { io::Error::last_os_error().to_string() };
    out.insert("robust_list".to_owned(), robust);
    Ok(out)
}

/// The numbers of `enum kcmp_type` for what threads share.
const SHARED: [(&str, libc::c_int); 4] = [("vm", 1), ("files", 2), ("fs", 3), ("sighand", 4)];

/// Fills in [`Thread::shares`] for the whole tree.
pub(super) fn shares(frozen: &Frozen, tasks: &mut BTreeMap<u32, Task>) -> io::Result<()> {
    for (name, kind) in SHARED {
        let mut firsts: Vec<(String, u32)> = Vec::new();
        for process in frozen.processes() {
            for thread in &process.threads {
                let mut label = None;
                for (first, tid) in &firsts {
                    if same((*tid, thread.tid), kind, (0, 0))? {
                        label = Some(first.clone());
                        break;
                    }
                }
                let label = label.unwrap_or_else(|| {
                    let label = format!("{}.{}", process.inner, thread.inner);
                    firsts.push((label.clone(), thread.tid));
                    label
                });
                let thread = tasks.get_mut(&process.inner).and_then(|t| t.threads.get_mut(&thread.inner));
                if let Some(thread) = thread {
                    thread.shares.insert(name.to_owned(), label);
                }
            }
        }
    }
    Ok(())
}
