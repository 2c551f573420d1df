//! Counts in memory: every cell is the count, always.

use crate::support::{Check, Ctx};

pub(crate) fn run(ctx: &Ctx) -> Check {
    let mut cells = vec![0_u64; 1 << 17];
    ctx.verify(|round| {
        if let Some(i) = cells.iter().position(|&cell| cell != round) {
            return Err(format!("cell {i} is {}, not {round}", cells[i]));
        }
        cells.iter_mut().for_each(|cell| *cell += 1);
        Ok(())
    })
}
