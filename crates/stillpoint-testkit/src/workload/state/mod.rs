//! One file for each state.

mod adopted;
mod anon;
mod areas;
mod argv;
mod attrs;
mod brk;
mod busy;
mod churn;
mod counter;
mod cow;
mod creds;
mod cwd;
mod deleted;
mod deleted_map;
mod devs;
mod dirs;
mod eventfds;
mod fifos;
mod files;
mod futex;
mod itimers;
mod leaderless;
mod locks;
mod many_files;
mod memfds;
mod paths;
mod pipe_full;
mod pipes;
mod posix_timers;
mod private_map;
mod race;
mod restart;
mod rlimits;
mod rseq;
mod sched;
mod seccomp;
mod settings;
mod shared_map;
mod shared_tables;
mod shmem;
mod signals;
mod sigwaits;
mod stack;
mod stopped;
mod threads;
mod tree;
mod vforks;
mod waits;
mod xsave;

use super::hold;
use super::support::{Check, Ctx};

/// Sets a state up and verifies it until told to finish.
type Run = fn(&Ctx) -> Check;

/// Names and entry points.
pub(crate) const ALL: &[(&str, Run)] = &[
    ("counter", counter::run),
    ("threads", threads::run),
    ("tree", tree::run),
    ("stopped", stopped::run),
    ("leaderless", leaderless::run),
    ("shared-tables", shared_tables::run),
    ("churn", churn::run),
    ("vforks", vforks::run),
    ("busy", busy::run),
    ("race", race::run),
    ("xsave", xsave::run),
    ("rseq", rseq::run),
    ("signals", signals::run),
    ("sigwaits", sigwaits::run),
    ("futex", futex::run),
    ("restart", restart::run),
    ("waits", waits::run),
    ("itimers", itimers::run),
    ("posix-timers", posix_timers::run),
    ("rlimits", rlimits::run),
    ("cwd", cwd::run),
    ("creds", creds::run),
    ("sched", sched::run),
    ("attrs", attrs::run),
    ("settings", settings::run),
    ("seccomp", seccomp::run),
    ("anon", anon::run),
    ("cow", cow::run),
    ("adopted", adopted::run),
    ("shmem", shmem::run),
    ("private-map", private_map::run),
    ("shared-map", shared_map::run),
    ("stack", stack::run),
    ("brk", brk::run),
    ("argv", argv::run),
    ("files", files::run),
    ("deleted", deleted::run),
    ("dirs", dirs::run),
    ("pipes", pipes::run),
    ("pipe-full", pipe_full::run),
    ("fifos", fifos::run),
    ("eventfds", eventfds::run),
    ("memfds", memfds::run),
    ("deleted-map", deleted_map::run),
    ("paths", paths::run),
    ("many-files", many_files::run),
    ("areas", areas::run),
    ("locks", locks::run),
    ("devs", devs::run),
    ("subreaper", |ctx| hold::as_state(ctx, "subreaper")),
    ("thread-uid", |ctx| hold::as_state(ctx, "thread-uid")),
    ("chroot", |ctx| hold::as_state(ctx, "chroot")),
    ("syscall-dispatch", |ctx| hold::as_state(ctx, "syscall-dispatch")),
    ("no-tsc", |ctx| hold::as_state(ctx, "no-tsc")),
];
