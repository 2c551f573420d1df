//! Extended registers: x87, SSE, AVX and AVX-512 as far as the CPU has them, spinning and sleeping; MXCSR.

use std::sync::Arc;

use crate::support::{Check, Crew, Ctx, Hold, HoldKind};

pub(crate) fn run(ctx: &Ctx) -> Check {
    let crew = Crew::new();
    for (i, kind) in HoldKind::available().into_iter().enumerate() {
        for sleep in [true, false] {
            let shared = Arc::clone(&crew);
            crew.spawn(move || {
                let mut hold = Hold::new(kind, 1000 + 2 * i as u64 + u64::from(sleep), sleep);
                Ok(move |tick| hold.until_changed(&shared.tick, tick))
            })?;
        }
    }
    crew.round()?;
    ctx.verify(|_| crew.round())
}
