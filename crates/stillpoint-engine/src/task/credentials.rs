//! Credentials of a thread: ids, groups, capabilities, securebits, no_new_privs.

use stillpoint_image::records::Credentials;
use stillpoint_sys::proc::status::Status;
use stillpoint_sys::program::{Arg, Program};

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP: ids may change without touching capabilities.
const KEEP: u32 = 0x10 | 0x04;

/// Credentials as `/proc/TID/status` shows them; securebits are asked of the thread itself.
#[must_use]
pub fn capture(status: &Status, secure_bits: u32) -> Credentials {
    Credentials {
        uids: status.uid.to_vec(),
        gids: status.gid.to_vec(),
        groups: status.groups.clone(),
        cap_inheritable: status.cap_inh,
        cap_permitted: status.cap_prm,
        cap_effective: status.cap_eff,
        cap_bounding: status.cap_bnd,
        cap_ambient: status.cap_amb,
        secure_bits,
        no_new_privs: status.no_new_privs,
    }
}

/// Makes the calling thread have these credentials, given those that it has now (the restoring process's).
/// Only what differs is changed, so a thread that has them already needs no privilege.
pub fn set(program: &mut Program, want: &Credentials, have: &Credentials) {
    if want == have {
        return;
    }
    let prctl = libc::SYS_prctl;
    let ids_differ = want.uids != have.uids || want.gids != have.gids || want.groups != have.groups;
    for capability in (0..64u32).filter(|bit| have.cap_bounding & !want.cap_bounding & 1 << bit != 0) {
        let drop = Arg::from(libc::PR_CAPBSET_DROP);
        program.call(
            format!("dropping capability {capability} from the bounding set"),
            prctl,
            [drop, capability.into()],
        );
    }
    if ids_differ {
        let bits = want.secure_bits & 0x2f | KEEP;
        program.call(
            "keeping capabilities while ids change",
            prctl,
            [libc::PR_SET_SECUREBITS.into(), bits.into()],
        );
        if want.groups != have.groups {
            let bytes: Vec<u8> = want.groups.iter().flat_map(|group| group.to_le_bytes()).collect();
            let data = program.data(&bytes);
            let count = want.groups.len() as u64;
            program.call("setting supplementary groups", libc::SYS_setgroups, [count.into(), data.into()]);
        }
        set_ids(program, "group", libc::SYS_setresgid, libc::SYS_setfsgid, &want.gids);
        set_ids(program, "user", libc::SYS_setresuid, libc::SYS_setfsuid, &want.uids);
    }
    set_capabilities(program, want, have);
    // Ambient capabilities must be permitted and inheritable, so they follow.
    if want.cap_ambient != have.cap_ambient {
        program.call(
            "clearing ambient capabilities",
            prctl,
            [
                Arg::from(libc::PR_CAP_AMBIENT),
                libc::PR_CAP_AMBIENT_CLEAR_ALL.into(),
                Arg::Value(0),
                Arg::Value(0),
                Arg::Value(0),
            ],
        );
        for capability in (0..64u32).filter(|bit| want.cap_ambient & 1 << bit != 0) {
            program.call(
                format!("raising ambient capability {capability}"),
                prctl,
                [
                    Arg::from(libc::PR_CAP_AMBIENT),
                    libc::PR_CAP_AMBIENT_RAISE.into(),
                    capability.into(),
                    Arg::Value(0),
                    Arg::Value(0),
                ],
            );
        }
    }
    if want.no_new_privs && !have.no_new_privs {
        program.call(
            "setting no_new_privs",
            prctl,
            [
                Arg::from(libc::PR_SET_NO_NEW_PRIVS),
                Arg::Value(1),
                Arg::Value(0),
                Arg::Value(0),
                Arg::Value(0),
            ],
        );
    }
}

fn set_ids(program: &mut Program, what: &str, number: i64, fs_number: i64, ids: &[u32]) {
    let id = |n: usize| Arg::from(ids.get(n).copied().unwrap_or(u32::MAX));
    program.call(format!("setting {what} ids"), number, [id(0), id(1), id(2)]);
    // It returns the old id and never fails; the second call tells whether the first took effect.
    program.call_expecting(
        format!("setting the file system {what} id"),
        fs_number,
        [id(3)],
        stillpoint_sys::program::Expect::Anything,
    );
    let want = ids.get(3).copied().unwrap_or(u32::MAX);
    program.call_expecting(
        format!("checking the file system {what} id"),
        fs_number,
        [Arg::from(u32::MAX)],
        stillpoint_sys::program::Expect::Exactly(i64::from(want)),
    );
}

fn set_capabilities(program: &mut Program, want: &Credentials, have: &Credentials) {
    let mut bytes = Vec::new();
    for shift in [0, 32] {
        for set in [want.cap_effective, want.cap_permitted, want.cap_inheritable] {
            bytes.extend_from_slice(&(u32::try_from(set >> shift & 0xffff_ffff).unwrap_or(0)).to_le_bytes());
        }
    }
    let data = program.data(&bytes);
    let header = [CAPABILITY_VERSION.to_le_bytes(), 0u32.to_le_bytes()].concat();
    let header = program.data(&header);
    // Securebits need CAP_SETPCAP, so they come while the thread still has it; where nothing differs, no call.
    if want.secure_bits != have.secure_bits || want.uids != have.uids || want.gids != have.gids {
        program.call(
            "setting securebits",
            libc::SYS_prctl,
            [Arg::from(libc::PR_SET_SECUREBITS), want.secure_bits.into()],
        );
    }
    program.call("setting capabilities", libc::SYS_capset, [header.into(), data.into()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_where_nothing_differs() {
        let mut program = Program::new();
        let same = Credentials { uids: vec![1; 4], ..Credentials::default() };
        set(&mut program, &same, &same.clone());
        assert!(program.is_empty());
    }
}
