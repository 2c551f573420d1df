//! Small attributes that prctl and personality set.

use crate::support::{Check, Ctx};

const ADDR_NO_RANDOMIZE: u64 = 0x0004_0000;

#[derive(Debug, PartialEq, Eq)]
struct Attributes {
    personality: i32,
    slack: i32,
    death_signal: i32,
    dumpable: i32,
    thp_disabled: i32,
    name: [u8; 16],
}

fn read() -> Check<Attributes> {
    let mut death_signal = 0;
    sys!(libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut death_signal))?;
    let mut name = [0; 16];
    sys!(libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()))?;
    Ok(Attributes {
        personality: sys!(libc::personality(0xffff_ffff))?,
        slack: sys!(libc::prctl(libc::PR_GET_TIMERSLACK))?,
        death_signal,
        dumpable: sys!(libc::prctl(libc::PR_GET_DUMPABLE))?,
        thp_disabled: sys!(libc::prctl(libc::PR_GET_THP_DISABLE, 0_u64, 0_u64, 0_u64, 0_u64))?,
        name,
    })
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    sys!(libc::personality(ADDR_NO_RANDOMIZE))?;
    sys!(libc::prctl(libc::PR_SET_TIMERSLACK, 123_456_u64))?;
    sys!(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGWINCH as u64))?;
    sys!(libc::prctl(libc::PR_SET_THP_DISABLE, 1_u64, 0_u64, 0_u64, 0_u64))?;
    // A name with a space, a parenthesis and a byte that is not text.
    sys!(libc::prctl(libc::PR_SET_NAME, c") odd\n\xff(name".as_ptr()))?;
    let before = read()?;
    ctx.verify(|_| {
        same!("attributes", read()?, before);
        Ok(())
    })
}
