//! Arguments and environment, overwritten in place as setproctitle does: `/proc/PID/cmdline` shows what stands there.

use std::ffi::CStr;

use crate::support::{Check, Ctx};

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

fn entries() -> Vec<(*mut libc::c_char, usize)> {
    let mut out = Vec::new();
    // SAFETY: one thread; the C library keeps a null-terminated list of null-terminated strings.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            out.push((*at, CStr::from_ptr(*at).to_bytes().len()));
            at = at.add(1);
        }
    }
    out
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    // The first argument lies below the environment, whose first string follows the last argument.
    let variables = entries();
    let Some(&(first, _)) = variables.first() else {
        return Err("no environment".to_owned());
    };
    let args = std::env::args().map(|a| a.len() + 1).sum::<usize>();
    let title = first.cast::<u8>().wrapping_sub(args);
    // SAFETY: the kernel laid arguments and environment out in one block, which is writable.
    let area = unsafe { std::slice::from_raw_parts_mut(title, args) };
    ensure!(area.last() == Some(&0), "the arguments are not where they were expected");
    let text = b"sp-work: a title";
    let len = text.len().min(area.len() - 1);
    area.fill(0);
    area[..len].copy_from_slice(&text[..len]);
    // And the values of the environment.
    for &(start, len) in &variables {
        // SAFETY: as above; the terminator stays.
        let value = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), len) };
        if let Some(at) = value.iter().position(|&b| b == b'=') {
            value[at + 1..].fill(b'#');
        }
    }
    let before = area.to_vec();
    ctx.verify(|_| {
        ensure!(area == before, "the title differs");
        same!("number of variables", entries().len(), variables.len());
        for &(start, len) in &variables {
            // SAFETY: as above.
            let text = unsafe { CStr::from_ptr(start) }.to_bytes();
            same!("length of a variable", text.len(), len);
            let value = text.iter().skip_while(|&&b| b != b'=').skip(1);
            ensure!(value.into_iter().all(|&b| b == b'#'), "a variable differs");
        }
        Ok(())
    })
}
