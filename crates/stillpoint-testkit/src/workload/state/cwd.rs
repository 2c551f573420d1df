//! Working directory and umask.

use std::ffi::CStr;

use crate::support::{Check, Ctx};

fn getcwd() -> Check<String> {
    let mut buffer = [0_u8; 4096];
    // The system call: needs no open file.
    sys!(libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()))?;
    CStr::from_bytes_until_nul(&buffer).map(|s| s.to_string_lossy().into_owned()).map_err(|e| e.to_string())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let work = ctx.cpath("working directory \u{e9}");
    sys!(libc::mkdir(work.as_ptr(), 0o755))?;
    sys!(libc::chdir(work.as_ptr()))?;
    sys!(libc::mkdir(c"here".as_ptr(), 0o755))?;
    let before = getcwd()?;
    sys!(libc::umask(0o137))?;
    ctx.verify(|_| {
        same!("working directory", getcwd()?, before);
        sys!(libc::access(c"here".as_ptr(), libc::F_OK))?;
        same!("umask", sys!(libc::umask(0o137))?, 0o137);
        Ok(())
    })
}
