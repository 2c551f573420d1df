//! The devices that every program may hold: null, zero, full, random, urandom.

use crate::support::{Check, Ctx};

pub(crate) fn run(ctx: &Ctx) -> Check {
    let open = |path: &std::ffi::CStr, flags: i32| sys!(libc::open(path.as_ptr(), flags));
    let null = open(c"/dev/null", libc::O_RDWR | libc::O_CLOEXEC)?;
    let zero = open(c"/dev/zero", libc::O_RDONLY)?;
    let full = open(c"/dev/full", libc::O_RDWR | libc::O_NONBLOCK)?;
    let random = open(c"/dev/random", libc::O_RDONLY)?;
    let urandom = open(c"/dev/urandom", libc::O_RDONLY)?;
    let fds = [null, zero, full, random, urandom];
    let flags = fds.map(|fd| (sys!(libc::fcntl(fd, libc::F_GETFL)), sys!(libc::fcntl(fd, libc::F_GETFD))));
    ctx.verify(|_| {
        let now = fds.map(|fd| (sys!(libc::fcntl(fd, libc::F_GETFL)), sys!(libc::fcntl(fd, libc::F_GETFD))));
        same!("flags", now, flags);
        let mut bytes = [7_u8; 64];
        same!("read of null", sys!(libc::read(null, bytes.as_mut_ptr().cast(), 64))?, 0);
        same!("read of zero", sys!(libc::read(zero, bytes.as_mut_ptr().cast(), 64))?, 64);
        same!("what zero gave", bytes, [0; 64]);
        for fd in [random, urandom] {
            same!("read of a random device", sys!(libc::read(fd, bytes.as_mut_ptr().cast(), 64))?, 64);
            ensure!(bytes != [0; 64], "a random device gave zeroes");
            bytes = [0; 64];
        }
        same!("write to null", sys!(libc::write(null, bytes.as_ptr().cast(), 64))?, 64);
        let result = sys!(libc::write(full, bytes.as_ptr().cast(), 64));
        let error = std::io::Error::last_os_error().raw_os_error();
        ensure!(result.is_err() && error == Some(libc::ENOSPC), "full took bytes");
        Ok(())
    })
}
