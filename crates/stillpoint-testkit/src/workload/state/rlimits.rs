//! Every resource limit away from its default, as far as it can be lowered without hurting.

use crate::support::{Check, Ctx};

const ALL: u32 = 16;

fn get(resource: u32) -> Check<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    sys!(libc::getrlimit(resource, &raw mut limit))?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let wanted = [
        (libc::RLIMIT_CPU, 100_000, 200_000),
        (libc::RLIMIT_FSIZE, 1 << 40, 1 << 41),
        (libc::RLIMIT_DATA, 1 << 38, u64::MAX),
        (libc::RLIMIT_STACK, 3 << 20, 5 << 20),
        (libc::RLIMIT_CORE, 0, 4096),
        (libc::RLIMIT_NPROC, 3000, 4000),
        (libc::RLIMIT_NOFILE, 333, 444),
        (libc::RLIMIT_MEMLOCK, 12_288, 65_536),
        (libc::RLIMIT_AS, 1 << 40, u64::MAX),
        (libc::RLIMIT_SIGPENDING, 200, 300),
        (libc::RLIMIT_MSGQUEUE, 1000, 2000),
        (libc::RLIMIT_NICE, 0, 0),
        (libc::RLIMIT_RTTIME, 1_000_000, 2_000_000),
    ];
    for (resource, soft, hard) in wanted {
        let (_, max) = get(resource)?;
        let limit = libc::rlimit { rlim_cur: soft.min(max), rlim_max: hard.min(max) };
        sys!(libc::setrlimit(resource, &raw const limit))?;
    }
    let before = (0..ALL).map(get).collect::<Check<Vec<_>>>()?;
    ctx.verify(|_| {
        for (resource, before) in (0..ALL).zip(&before) {
            same!(format!("limit {resource}"), get(resource)?, *before);
        }
        Ok(())
    })
}
