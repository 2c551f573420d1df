//! Credentials: as root, a child gives up most of them; as anybody, no_new_privs and keep-caps.

use crate::support::{Check, Ctx, child, reap};

#[derive(Debug, PartialEq, Eq)]
struct Credentials {
    uids: [u32; 4],
    gids: [u32; 4],
    groups: Vec<u32>,
    capabilities: [u32; 6],
    ambient: u64,
    bounding: u64,
    securebits: i32,
    keepcaps: i32,
    no_new_privs: i32,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

const VERSION_3: u32 = 0x2008_0522;

fn prctl(option: i32, a: u64, b: u64) -> Check<i32> {
    sys!(libc::prctl(option, a, b, 0_u64, 0_u64))
}

fn read() -> Check<Credentials> {
    let (mut uids, mut gids) = ([0; 4], [0; 4]);
    let [r, e, s, fs] = &mut uids;
    sys!(libc::getresuid(r, e, s))?;
    // An id that does not exist changes nothing and returns the current one.
    *fs = sys!(libc::setfsuid(u32::MAX))?.cast_unsigned();
    let [r, e, s, fs] = &mut gids;
    sys!(libc::getresgid(r, e, s))?;
    *fs = sys!(libc::setfsgid(u32::MAX))?.cast_unsigned();
    let mut groups = vec![0; 100];
    let count = sys!(libc::getgroups(100, groups.as_mut_ptr()))?;
    groups.truncate(count as usize);
    let mut capabilities = [0_u32; 6];
    let mut header = CapHeader { version: VERSION_3, pid: 0 };
    sys!(libc::syscall(libc::SYS_capget, &raw mut header, capabilities.as_mut_ptr()))?;
    let has =
        |option: i32, arg: u64, cap: u64| prctl(option, arg, cap).map_or(0, |n| u64::from(n == 1) << cap);
    Ok(Credentials {
        uids,
        gids,
        groups,
        capabilities,
        ambient: (0..41).map(|cap| has(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as u64, cap)).sum(),
        bounding: (0..41)
            .map(|cap| prctl(libc::PR_CAPBSET_READ, cap, 0).map_or(0, |n| u64::from(n == 1) << cap))
            .sum(),
        securebits: prctl(libc::PR_GET_SECUREBITS, 0, 0)?,
        keepcaps: prctl(libc::PR_GET_KEEPCAPS, 0, 0)?,
        no_new_privs: prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0)?,
    })
}

fn give_up() -> Check {
    const NET_BIND_SERVICE: u64 = 10;
    const SYS_MODULE: u64 = 16;
    const SECBIT_NOROOT: u64 = 1;
    prctl(libc::PR_CAPBSET_DROP, SYS_MODULE, 0)?;
    prctl(libc::PR_SET_SECUREBITS, SECBIT_NOROOT, 0)?;
    let groups = [1234, 4321, 99_999];
    sys!(libc::setgroups(groups.len(), groups.as_ptr()))?;
    sys!(libc::setresgid(1234, 1235, 1236))?;
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    sys!(libc::setresuid(1234, 1235, 1236))?;
    let own = 1_u32 << NET_BIND_SERVICE;
    let capabilities = [own, own | 1, own, 0, 0, 0];
    let mut header = CapHeader { version: VERSION_3, pid: 0 };
    sys!(libc::syscall(libc::SYS_capset, &raw mut header, capabilities.as_ptr()))?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, NET_BIND_SERVICE)?;
    sys!(libc::setfsuid(1236))?;
    sys!(libc::setfsgid(1236)).map(|_| ())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let root = sys!(libc::geteuid())? == 0;
    let dropped = child(ctx.party("dropped"), |party| {
        if root {
            give_up()?;
        }
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
        let before = read()?;
        party.run(|_| {
            same!("credentials of the child", read()?, before);
            Ok(())
        })
    })?;
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    let before = read()?;
    ctx.ready(&["main", "dropped"])?;
    ctx.party("main").run(|_| {
        same!("credentials", read()?, before);
        Ok(())
    })?;
    reap(dropped, 0)
}
