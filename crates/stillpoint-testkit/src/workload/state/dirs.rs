//! Open directories, one read half-way.

use std::ffi::CStr;

use crate::support::{Check, Ctx};

/// Names from where the directory stands to its end.
fn rest(fd: i32) -> Check<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    let mut buffer = [0_u8; 32 * 1024];
    loop {
        let got = sys!(libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()))? as usize;
        if got == 0 {
            return Ok(out);
        }
        let mut at = 0;
        while at < got {
            let len = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = CStr::from_bytes_until_nul(&buffer[at + 19..at + len]).map_err(|e| e.to_string())?;
            out.push(name.to_bytes().to_vec());
            at += len;
        }
    }
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    let full = ctx.cpath("full");
    sys!(libc::mkdir(full.as_ptr(), 0o755))?;
    for i in 0..500 {
        std::fs::write(ctx.path(&format!("full/entry {i}")), b"").map_err(|e| e.to_string())?;
    }
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let whole = sys!(libc::open(full.as_ptr(), flags | libc::O_CLOEXEC))?;
    let half = sys!(libc::open(full.as_ptr(), flags))?;
    let mut some = [0_u8; 4096];
    ensure!(
        sys!(libc::syscall(libc::SYS_getdents64, half, some.as_mut_ptr(), some.len()))? > 0,
        "the directory is empty"
    );
    let stands = sys!(libc::lseek(half, 0, libc::SEEK_CUR))?;
    let behind = rest(half)?;
    sys!(libc::lseek(half, stands, libc::SEEK_SET))?;
    ctx.verify(|_| {
        same!("where the directory stands", sys!(libc::lseek(half, 0, libc::SEEK_CUR))?, stands);
        ensure!(rest(half)? == behind, "the rest of the directory differs");
        sys!(libc::lseek(half, stands, libc::SEEK_SET))?;
        same!("number of entries", rest(whole)?.len(), 502);
        sys!(libc::lseek(whole, 0, libc::SEEK_SET))?;
        sys!(libc::faccessat(whole, c"entry 7".as_ptr(), libc::F_OK, 0)).map(|_| ())
    })
}
