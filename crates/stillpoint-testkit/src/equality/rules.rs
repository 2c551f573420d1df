//! What may differ between two records of the same state, and why.

use std::collections::BTreeMap;

use super::{Area, Facts, Record, Task, Thread};

/// One normalisation: rewrites a record so that what may differ does not.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// Why what it hides is not part of a task's state.
    pub reason: &'static str,
    apply: fn(&mut Record),
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// A set of rules, applied in order.
#[derive(Debug, Clone)]
pub struct Rules(Vec<Rule>);

impl Default for Rules {
    fn default() -> Self {
        Self::standard()
    }
}

impl Rules {
    /// No rule: what the kernel showed, verbatim.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// The rules that hold for every restored tree.
    #[must_use]
    pub fn standard() -> Self {
        Self(STANDARD.to_vec())
    }

    /// The standard rules, and none that looks at what a program that keeps running changes by itself.
    #[must_use]
    pub fn of_running_tree() -> Self {
        Self::standard().with(RUNNING)
    }

    /// One rule more.
    #[must_use]
    pub fn with(mut self, rule: Rule) -> Self {
        self.0.push(rule);
        self
    }

    /// Without the rule of that name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|rule| rule.name != name);
        self
    }

    /// The rules.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// A record as the rules leave it.
    #[must_use]
    pub fn normalise(&self, record: &Record) -> Record {
        let mut record = record.clone();
        for rule in &self.0 {
            (rule.apply)(&mut record);
        }
        record
    }
}

/// For a checker without privilege.
pub const SHARED_PAGES: Rule = Rule {
    name: "shared-pages",
    reason: "without privilege only those shared pages are seen that the task has touched since it was made; the workloads \
             verify them from inside, and a privileged checker compares them",
    apply: |record| {
        for task in record.tasks.values_mut() {
            let shared: Vec<(u64, u64)> = task
                .areas
                .values()
                .filter(|area| area.perms.contains('s'))
                .map(|area| (area.start, area.end))
                .collect();
            task.pages.retain(|key, _| {
                let at = u64::from_str_radix(key, 16).unwrap_or(0);
                !shared.iter().any(|&(start, end)| start <= at && at < end)
            });
        }
    },
};

/// For a checker without privilege.
pub const TIMER_SLACK: Rule = Rule {
    name: "timer-slack",
    reason: "another task's is shown to CAP_SYS_NICE in its user namespace: to its own user in one that a restore made only",
    apply: |record| {
        for task in record.tasks.values_mut() {
            drop_keys(&mut task.attributes, &["timerslack_ns"]);
        }
    },
};

/// Signals of interval timers become pending whenever their time comes; for workloads that hold such timers.
pub const TIMER_SIGNALS: Rule = Rule {
    name: "timer-signals",
    reason: "an interval timer's signal becomes pending when its time comes, whether or not a record is made",
    apply: |record| {
        const BITS: u64 = 1 << 13 | 1 << 25 | 1 << 26;
        for task in record.tasks.values_mut() {
            let timer = |line: &String| {
                ["signal 14 ", "signal 26 ", "signal 27 "].iter().any(|s| line.starts_with(s))
            };
            task.pending.retain(|line| !timer(line));
            for thread in task.threads.values_mut() {
                for key in ["ShdPnd", "SigPnd"] {
                    if let Some(value) = thread.status.get_mut(key)
                        && let Ok(bits) = u64::from_str_radix(value, 16)
                    {
                        *value = format!("{:016x}", bits & !BITS);
                    }
                }
            }
        }
    },
};

/// A pipe whose writer waits for room, for workloads that hold such pipes.
pub const PIPE_ROOM: Rule = Rule {
    name: "pipe-room",
    reason: "how many bytes fit into a pipe depends on how they were cut into pages; a writer that waited for room may \
             find some, and the reader verifies that every byte comes once and in order",
    apply: |record| {
        for fd in record.tasks.values_mut().flat_map(|task| task.fds.values_mut()) {
            fd.file.remove("queued");
        }
        // What such a writer has in hand moves with it.
        for task in record.tasks.values_mut() {
            task.pages.clear();
            task.threads.values_mut().for_each(|thread| {
                thread.registers.retain(|name, _| name.ends_with("_base"));
                thread.xstate.clear();
            });
        }
    },
};

/// Contents and registers of a program that runs between the two records.
pub const RUNNING: Rule = Rule {
    name: "running",
    reason: "the program ran between the two records: its memory, registers, pending signals and file offsets are its \
             own to change, and the workload verifies them from inside",
    apply: |record| {
        for task in record.tasks.values_mut() {
            task.pages.clear();
            task.pending.clear();
            for fd in task.fds.values_mut() {
                // A timer counts down.
                drop_keys(&mut fd.info, &["pos", "it_value"]);
                drop_keys(&mut fd.file, &["queued", "size", "contents"]);
            }
            for thread in task.threads.values_mut() {
                thread.registers.retain(|name, _| name.ends_with("_base"));
                thread.xstate.clear();
                thread.syscall = None;
                thread.pending.clear();
                thread.traced.remove("sigmask");
                drop_keys(&mut thread.status, &["SigPnd", "ShdPnd", "SigBlk"]);
            }
        }
    },
};

const STANDARD: &[Rule] = &[
    Rule {
        name: "lock-holders",
        reason: "who holds a lock is compared by the id that the tasks see, and the file that is locked by itself",
        apply: lock_holders,
    },
    Rule {
        name: "host-ids",
        reason: "in a pid namespace the ids seen from outside differ; the ids that the task sees are compared",
        apply: |record| {
            for task in record.tasks.values_mut() {
                task.host_pid = 0;
                drop_keys(&mut task.stat, &["ppid", "pgrp", "session"]);
            }
            threads(record, |_, thread| {
                drop_keys(&mut thread.status, &["Tgid", "Ngid", "Pid", "PPid", "TracerPid"]);
                drop_keys(&mut thread.stat, &["ppid", "pgrp", "session"]);
                for key in ["NStgid", "NSpid", "NSpgid", "NSsid"] {
                    if let Some(value) = thread.status.get_mut(key) {
                        *value = value.split_whitespace().next_back().unwrap_or_default().to_owned();
                    }
                }
            });
        },
    },
    Rule {
        name: "times-used",
        reason: "CPU times, fault counts and the start time describe the past of the kernel's task, not its state",
        apply: |record| {
            stats(record, |stat| {
                drop_keys(
                    stat,
                    &[
                        "utime",
                        "stime",
                        "cutime",
                        "cstime",
                        "starttime",
                        "minflt",
                        "cminflt",
                        "majflt",
                        "cmajflt",
                        "guest_time",
                        "cguest_time",
                        "delayacct_blkio_ticks",
                    ],
                );
            });
            threads(record, |_, thread| {
                drop_keys(&mut thread.status, &["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]);
            });
        },
    },
    Rule {
        name: "memory-used",
        reason: "how much is resident follows from what was touched; areas and contents are compared themselves",
        apply: |record| {
            stats(record, |stat| drop_keys(stat, &["rss", "vsize", "rsslim", "nswap", "cnswap"]));
            threads(record, |_, thread| {
                thread.status.retain(|key, _| {
                    key == "VmLck" || key == "VmPin" || !(key.starts_with("Vm") || key.starts_with("Rss"))
                });
            });
        },
    },
    Rule {
        name: "page-presence",
        reason: "a page of zeroes may be left out of an image; contents are compared, presence is told in the record",
        apply: |record| areas(record, |area| area.private_pages = 0),
    },
    Rule {
        name: "where-it-ran",
        reason: "the CPU and the kernel function of the moment",
        apply: |record| stats(record, |stat| drop_keys(stat, &["processor", "wchan", "kstkesp", "kstkeip"])),
    },
    Rule {
        name: "kernel-flags",
        reason: "PF_ flags are the kernel's own notes (used the FPU, forked but not exec'd, was privileged once)",
        apply: |record| stats(record, |stat| drop_keys(stat, &["flags", "itrealvalue"])),
    },
    Rule {
        name: "old-signal-fields",
        reason: "stat's 32-bit signal masks repeat status",
        apply: |record| {
            stats(record, |stat| drop_keys(stat, &["signal", "blocked", "sigignore", "sigcatch"]))
        },
    },
    Rule {
        name: "scheduler-state",
        reason: "running, sleeping and traced are of the moment; stopped and zombie are recorded apart",
        apply: |record| {
            stats(record, |stat| drop_keys(stat, &["state"]));
            threads(record, |_, thread| drop_keys(&mut thread.status, &["State"]));
        },
    },
    Rule {
        name: "terminal",
        reason: "the terminal may be another one; whether there is one is compared",
        apply: |record| {
            stats(record, |stat| {
                drop_keys(stat, &["tpgid"]);
                if let Some(value) = stat.get_mut("tty_nr") {
                    *value = if value == "0" { "none" } else { "a terminal" }.to_owned();
                }
            });
        },
    },
    Rule {
        name: "fd-table-size",
        reason: "the size of the table, not what is in it",
        apply: |record| threads(record, |_, thread| drop_keys(&mut thread.status, &["FDSize"])),
    },
    Rule {
        name: "signals-of-user",
        reason: "SigQ counts the queued signals of the whole user",
        apply: |record| threads(record, |_, thread| drop_keys(&mut thread.status, &["SigQ"])),
    },
    Rule {
        name: "soft-dirty",
        reason: "tracks writes for tools, and is not the task's",
        apply: |record| areas(record, |area| area.flags.retain(|flag| flag != "sd")),
    },
    Rule {
        name: "mount-ids",
        reason: "a number that the kernel gives each mount anew",
        apply: |record| {
            for fd in record.tasks.values_mut().flat_map(|task| task.fds.values_mut()) {
                fd.info.remove("mnt_id");
            }
        },
    },
    Rule {
        name: "event-counter-ids",
        reason: "a number that the kernel gives each event counter anew; who shares one with whom is compared",
        apply: |record| {
            for fd in record.tasks.values_mut().flat_map(|task| task.fds.values_mut()) {
                fd.info.remove("eventfd-id");
            }
        },
    },
    Rule {
        name: "sealed-later",
        reason: "of a memfd that was sealed with F_SEAL_FUTURE_WRITE, what is mapped for reading alone says \"sh\" or not as \
                 the descriptor that it was mapped through could write; neither can be made writable",
        apply: |record| {
            areas(record, |area| {
                if area.path.starts_with("/memfd:") && !area.flags.iter().any(|flag| flag == "mw") {
                    area.flags.retain(|flag| flag != "sh");
                }
            });
        },
    },
    Rule {
        name: "inodes-without-names",
        reason: "pipes, deleted files and shared anonymous memory get new inodes; who shares one with whom is compared",
        apply: nameless_inodes,
    },
    Rule {
        name: "namespaces",
        reason: "a restore may enter new namespaces; which tasks share one is compared",
        apply: |record| {
            let mut groups = Groups::default();
            for task in record.tasks.values_mut() {
                for value in task.namespaces.values_mut() {
                    *value = groups.label(value);
                }
            }
        },
    },
    Rule {
        name: "area-merge",
        reason: "the kernel merges neighbouring areas or not, depending on the order in which they were made",
        apply: |record| {
            for task in record.tasks.values_mut() {
                merge(task);
            }
        },
    },
    Rule {
        name: "restart-syscall",
        reason: "after a stop, a relative wait goes on as restart_syscall; it is the same wait",
        apply: |record| {
            const RELATIVE_WAITS: [i64; 5] = [7, 35, 202, 219, 230];
            threads(record, |_, thread| {
                if thread.syscall.is_some_and(|number| RELATIVE_WAITS.contains(&number)) {
                    thread.syscall = Some(219);
                    drop_keys(&mut thread.registers, &["orig_rax"]);
                    // How the kernel keeps what is left differs between a first and a continued wait.
                    drop_keys(&mut thread.registers, &["rax"]);
                }
            });
        },
    },
    Rule {
        name: "registers-in-motion",
        reason: "a thread that waits in no system call was interrupted at an instruction of chance",
        apply: |record| {
            threads(record, |_, thread| {
                if thread.syscall.is_none() {
                    thread.registers.retain(|name, _| name.ends_with("_base"));
                }
            });
        },
    },
];

/// `1: POSIX ADVISORY WRITE PID DEVICE:INODE START END`, before the ids of this side are dropped.
fn lock_holders(record: &mut Record) {
    let ids: BTreeMap<String, u32> =
        record.tasks.iter().map(|(inner, task)| (task.host_pid.to_string(), *inner)).collect();
    for fd in record.tasks.values_mut().flat_map(|task| task.fds.values_mut()) {
        for (_, value) in fd.info.iter_mut().filter(|(key, _)| key.starts_with("lock")) {
            let mut words: Vec<String> = value.split_whitespace().map(str::to_owned).collect();
            if let [_, _, _, _, holder, file, _, _] = &mut words[..] {
                *holder = ids.get(holder).map_or_else(|| holder.clone(), |inner| format!("task {inner}"));
                *file = "this".to_owned();
            }
            *value = words.join(" ");
        }
    }
}

fn drop_keys(facts: &mut Facts, keys: &[&str]) {
    facts.retain(|key, _| !keys.contains(&key.as_str()));
}

fn threads(record: &mut Record, mut change: impl FnMut(u32, &mut Thread)) {
    for (&pid, task) in &mut record.tasks {
        for thread in task.threads.values_mut() {
            change(pid, thread);
        }
    }
}

fn stats(record: &mut Record, mut change: impl FnMut(&mut Facts)) {
    for task in record.tasks.values_mut() {
        change(&mut task.stat);
        task.threads.values_mut().for_each(|thread| change(&mut thread.stat));
    }
}

fn areas(record: &mut Record, mut change: impl FnMut(&mut Area)) {
    for task in record.tasks.values_mut() {
        task.areas.values_mut().for_each(&mut change);
    }
}

/// Replaces each distinct value by its rank of first appearance.
#[derive(Default)]
struct Groups(BTreeMap<String, usize>);

impl Groups {
    fn label(&mut self, value: &str) -> String {
        let next = self.0.len() + 1;
        let prefix = value.split('[').next().unwrap_or_default().to_owned();
        let n = *self.0.entry(value.to_owned()).or_insert(next);
        if prefix == value { format!("group {n}") } else { format!("{prefix}group {n}") }
    }
}

fn nameless_inodes(record: &mut Record) {
    let mut groups = Groups::default();
    for task in record.tasks.values_mut() {
        for area in task.areas.values_mut().filter(|area| area.path.ends_with(" (deleted)")) {
            let shared_memory = area.path.starts_with("/dev/zero");
            area.inode = groups.label(&format!("{} {}", area.device, area.inode));
            if !shared_memory {
                // A file without a name is made anew under another one.
                area.path = "deleted".to_owned();
            }
        }
        for fd in task.fds.values_mut() {
            let deleted = fd.link.ends_with(" (deleted)");
            if !deleted && !fd.link.starts_with("pipe:") {
                continue;
            }
            let device = fd.file.get("device").cloned().unwrap_or_default();
            // maps writes MAJOR:MINOR and stat a number: keep the two apart by reading the latter as the former.
            let device = u64::from_str_radix(&device, 16).unwrap_or(0);
            let device = format!("{:02x}:{:02x}", libc::major(device), libc::minor(device));
            let inode = fd.file.get("inode").cloned().unwrap_or_default();
            let label = groups.label(&format!("{device} {inode}"));
            fd.link = format!("{} {label}", if deleted { "deleted" } else { "pipe" });
            fd.file.insert("inode".to_owned(), label);
            fd.info.remove("ino");
        }
    }
}

/// Joins neighbouring areas that differ in nothing but where they are.
fn merge(task: &mut Task) {
    let mut out: Vec<Area> = Vec::new();
    for area in std::mem::take(&mut task.areas).into_values() {
        if let Some(last) = out.last_mut()
            && last.end == area.start
            && (&last.perms, &last.device, &last.inode, &last.path, &last.flags, &last.unreadable)
                == (&area.perms, &area.device, &area.inode, &area.path, &area.flags, &area.unreadable)
            && last.policy == area.policy
            && (area.inode == "0" || last.offset + (last.end - last.start) == area.offset)
        {
            last.end = area.end;
            last.private_pages += area.private_pages;
            continue;
        }
        out.push(area);
    }
    task.areas = out.into_iter().map(|area| (area.key(), area)).collect();
}
