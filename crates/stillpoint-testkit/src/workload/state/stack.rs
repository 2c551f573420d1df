//! The stack of the process: its contents, and that it still grows, down to where it never was.

use crate::support::{Check, Ctx, fill, holds};

/// Goes down `depth` frames of some 16 KiB, each with a pattern that is checked on the way back.
#[inline(never)]
fn deep(depth: u64) -> Check {
    let mut frame = [0_u8; 16 * 1024];
    fill(&mut frame, depth);
    std::hint::black_box(&mut frame);
    if depth > 0 {
        deep(depth - 1)?;
    }
    holds("a frame of the stack", &frame, depth)
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    // On the main thread, whose stack is the process's.
    let mut kept = [0_u8; 100_000];
    fill(&mut kept, 77);
    std::hint::black_box(&mut kept);
    ctx.verify(|round| {
        holds("what lies on the stack", &kept, 77)?;
        // Deeper each time, up to 6 MiB of the usual 8.
        deep((4 + round).min(380))
    })?;
    deep(380)
}
