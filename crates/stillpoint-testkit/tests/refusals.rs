//! What cannot be saved is refused by name, with exit status 3, and is unharmed: one line for each thing.

use stillpoint_testkit::harness::{Outcome, Who, refused};

fn case(thing: &str, codes: &[&str], who: Who) -> Outcome {
    if who.can_run() { refused(thing, codes, who) } else { Ok(()) }
}

macro_rules! refusals {
    ($($root:ident $user:ident $thing:literal => $($code:literal)|+;)+) => {
        /// Things that have cases here.
        const COVERED: &[&str] = &[$($thing),+];
        $(
            #[test]
            fn $root() -> Outcome { case($thing, &[$($code),+], Who::Root) }
            #[test]
            fn $user() -> Outcome { case($thing, &[$($code),+], Who::User) }
        )+
    };
}

refusals! {
    root_socket_pair user_socket_pair "socket-pair" => "unsupported-file";
    root_socket_tcp user_socket_tcp "socket-tcp" => "unsupported-file";
    root_epoll user_epoll "epoll" => "unsupported-file";
    root_eventfd_outside user_eventfd_outside "eventfd-outside" => "outside-tree";
    root_inotify user_inotify "inotify" => "unsupported-file";
    root_timerfd user_timerfd "timerfd" => "unsupported-file";
    root_signalfd user_signalfd "signalfd" => "unsupported-file";
    root_memfd_outside user_memfd_outside "memfd-outside" => "outside-tree";
    root_shared_outside user_shared_outside "shared-outside" => "outside-tree";
    root_io_uring user_io_uring "io-uring" => "unsupported-file";
    root_userfaultfd user_userfaultfd "userfaultfd" => "unsupported-file";
    root_pidfd user_pidfd "pidfd" => "unsupported-file";
    root_namespace_file user_namespace_file "namespace-file" => "unsupported-file";
    root_proc_file user_proc_file "proc-file" => "unsupported-file";
    root_sys_file user_sys_file "sys-file" => "unsupported-file";
    root_pty_master user_pty_master "pty-master" => "unsupported-file";
    root_pipe_outside user_pipe_outside "pipe-outside" => "outside-tree";
    root_lease user_lease "lease" => "unsupported-file-state";
    root_fd_owner user_fd_owner "fd-owner" => "unsupported-file-state";
    root_memfd_map user_memfd_map "memfd-map" => "unsupported-area";
    root_guarded_shared user_guarded_shared "guarded-shared" => "unsupported-area";
    root_sysv_shm user_sysv_shm "sysv-shm" => "unsupported-area";
    root_hugetlb_shared user_hugetlb_shared "hugetlb-shared" => "unsupported-area";
    root_secretmem user_secretmem "secretmem" => "unsupported-area";
    root_aio user_aio "aio" => "unsupported-area";
    root_io_uring_map user_io_uring_map "io-uring-map" => "unsupported-area";
    root_thread_timer user_thread_timer "thread-timer" => "unsupported-state";
    root_seccomp user_seccomp "seccomp" => "unsupported-state";
    root_traced_child user_traced_child "traced-child" => "unsupported-state" | "would-not-freeze";
    root_vfork user_vfork "vfork" => "would-not-freeze";
    root_shared_vm user_shared_vm "shared-vm" => "unsupported-sharing";
    root_shared_handlers user_shared_handlers "shared-handlers" => "unsupported-sharing";
    root_thread_fs user_thread_fs "thread-fs" => "unsupported-sharing";
    root_thread_files user_thread_files "thread-files" => "unsupported-sharing";
    root_ldt user_ldt "ldt" => "unsupported-state";
    root_mempolicy user_mempolicy "mempolicy" => "unsupported-state" | "unsupported-area";
    root_syscall_caught user_syscall_caught "syscall-caught" => "unsupported-state";
    root_keyring user_keyring "keyring" => "unsupported-state";
    root_uts_namespace user_uts_namespace "uts-namespace" => "unsupported-namespace";
    root_net_namespace user_net_namespace "net-namespace" => "unsupported-namespace";
    root_mount_namespace user_mount_namespace "mount-namespace" => "unsupported-namespace";
}

#[test]
fn every_hold_has_its_cases() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_sp-work")).arg("list-holds").output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(names.lines().collect::<Vec<_>>(), COVERED);
}
