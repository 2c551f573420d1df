//! A process that was left to an ancestor, in the session of a brother who has changed and passed on his memory: its own is
//! still what it was when the brother's child made it.

use crate::support::{Check, Ctx, Map, child, fill, holds, reap};

const LEN: usize = 256 * 4096;

pub(crate) fn run(ctx: &Ctx) -> Check {
    sys!(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_u64, 0_u64, 0_u64, 0_u64))?;
    let map = Map::anonymous(LEN)?;
    fill(map.bytes(), 1);
    let (adopted, below, heir) = (ctx.party("adopted"), ctx.party("below"), ctx.party("heir"));
    let cell =
        Map::new(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
    // SAFETY: aligned zeroed memory that stays mapped.
    let pid = unsafe { &*cell.start.cast::<std::sync::atomic::AtomicI32>() };
    let leader = child(ctx.party("leader"), |party| {
        sys!(libc::setsid())?;
        let between = sys!(libc::fork())?;
        if between == 0 {
            let left = child(adopted, |party| {
                let below = child(below, |party| party.run(|_| holds("what its child has", map.bytes(), 1)))?;
                party.run(|_| holds("what the adopted has", map.bytes(), 1))?;
                reap(below, 0)
            });
            pid.store(left.unwrap_or(-1), std::sync::atomic::Ordering::SeqCst);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
        reap(between, 0)?;
        fill(map.bytes(), 2);
        let heir = child(heir, |party| party.run(|_| holds("what the heir has", map.bytes(), 2)))?;
        party.run(|_| holds("what the leader has", map.bytes(), 2))?;
        reap(heir, 0)
    })?;
    ctx.ready(&["main", "leader", "heir", "adopted", "below"])?;
    ctx.party("main").run(|_| holds("what their ancestor has", map.bytes(), 1))?;
    reap(leader, 0)?;
    reap(pid.load(std::sync::atomic::Ordering::SeqCst), 0)
}
