//! Every state through every scenario, as root and as an ordinary user: one line for each state.
//!
//! `cargo test -p stillpoint-testkit --test states root_tree` runs one state's cases.

use stillpoint_testkit::harness::{Outcome, Who, busy_round, leave_running, round_trip, two_rounds};

fn case(scenario: fn(&str, Who) -> Outcome, name: &str, who: Who) -> Outcome {
    if who.can_run() { scenario(name, who) } else { Ok(()) }
}

macro_rules! states {
    ($($module_root:ident $module_user:ident $name:literal;)+) => {
        /// Names that have cases here.
        const COVERED: &[&str] = &[$($name),+];
        $(
            mod $module_root { cases!(super::Who::Root, $name); }
            mod $module_user { cases!(super::Who::User, $name); }
        )+
    };
}

macro_rules! cases {
    ($who:expr, $name:literal) => {
        #[test]
        fn round_trip() -> super::Outcome {
            super::case(super::round_trip, $name, $who)
        }
        #[test]
        fn busy_round() -> super::Outcome {
            super::case(super::busy_round, $name, $who)
        }
        #[test]
        fn two_rounds() -> super::Outcome {
            super::case(super::two_rounds, $name, $who)
        }
        #[test]
        fn leave_running() -> super::Outcome {
            super::case(super::leave_running, $name, $who)
        }
    };
}

states! {
    root_counter user_counter "counter";
    root_threads user_threads "threads";
    root_tree user_tree "tree";
    root_stopped user_stopped "stopped";
    root_leaderless user_leaderless "leaderless";
    root_shared_tables user_shared_tables "shared-tables";
    root_churn user_churn "churn";
    root_vforks user_vforks "vforks";
    root_busy user_busy "busy";
    root_race user_race "race";
    root_xsave user_xsave "xsave";
    root_rseq user_rseq "rseq";
    root_signals user_signals "signals";
    root_sigwaits user_sigwaits "sigwaits";
    root_futex user_futex "futex";
    root_restart user_restart "restart";
    root_waits user_waits "waits";
    root_itimers user_itimers "itimers";
    root_posix_timers user_posix_timers "posix-timers";
    root_rlimits user_rlimits "rlimits";
    root_cwd user_cwd "cwd";
    root_creds user_creds "creds";
    root_sched user_sched "sched";
    root_attrs user_attrs "attrs";
    root_settings user_settings "settings";
    root_seccomp user_seccomp "seccomp";
    root_anon user_anon "anon";
    root_cow user_cow "cow";
    root_adopted user_adopted "adopted";
    root_shmem user_shmem "shmem";
    root_private_map user_private_map "private-map";
    root_shared_map user_shared_map "shared-map";
    root_stack user_stack "stack";
    root_brk user_brk "brk";
    root_argv user_argv "argv";
    root_files user_files "files";
    root_deleted user_deleted "deleted";
    root_dirs user_dirs "dirs";
    root_pipes user_pipes "pipes";
    root_pipe_full user_pipe_full "pipe-full";
    root_fifos user_fifos "fifos";
    root_eventfds user_eventfds "eventfds";
    root_memfds user_memfds "memfds";
    root_deleted_map user_deleted_map "deleted-map";
    root_paths user_paths "paths";
    root_many_files user_many_files "many-files";
    root_areas user_areas "areas";
    root_locks user_locks "locks";
    root_devs user_devs "devs";
    root_subreaper user_subreaper "subreaper";
    root_thread_uid user_thread_uid "thread-uid";
    root_chroot user_chroot "chroot";
    root_syscall_dispatch user_syscall_dispatch "syscall-dispatch";
    root_no_tsc user_no_tsc "no-tsc";
}

#[test]
fn every_workload_has_its_cases() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sp-work")).arg("list").output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(names.lines().collect::<Vec<_>>(), COVERED);
}
