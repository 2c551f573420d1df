//! Descriptors of O_PATH, high numbers above the limits of the moment, and packets in pipes.

use crate::support::{Check, Ctx};

fn is(what: &str, fd: i32, mode: u32) -> Check {
    // SAFETY: all zeroes is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    sys!(libc::fstat(fd, &raw mut stat))?;
    same!(what, stat.st_mode & libc::S_IFMT, mode);
    let flags = sys!(libc::fcntl(fd, libc::F_GETFL))?;
    ensure!(flags & libc::O_PATH != 0, "{what} is not O_PATH any more");
    let mut byte = 0_u8;
    ensure!(sys!(libc::read(fd, (&raw mut byte).cast(), 1)).is_err(), "{what} can be read");
    Ok(())
}

pub(crate) fn run(ctx: &Ctx) -> Check {
    std::fs::write(ctx.path("named"), b"contents").map_err(|e| e.to_string())?;
    std::os::unix::fs::symlink("named", ctx.path("link")).map_err(|e| e.to_string())?;
    sys!(libc::mkfifo(ctx.cpath("fifo").as_ptr(), 0o600))?;
    let path = |name: &str, flags: i32| sys!(libc::open(ctx.cpath(name).as_ptr(), libc::O_PATH | flags));
    let file = path("named", 0)?;
    let link = path("link", libc::O_NOFOLLOW | libc::O_CLOEXEC)?;
    let directory = path("", libc::O_DIRECTORY)?;
    let fifo = path("fifo", 0)?;
    let null = sys!(libc::open(c"/dev/null".as_ptr(), libc::O_PATH))?;

    // Above the soft limit of later, and above the hard one.
    let high = [900, 4000];
    // SAFETY: all zeroes is a valid rlimit.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    sys!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
    limit.rlim_cur = limit.rlim_max;
    sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    let target = sys!(libc::open(ctx.cpath("named").as_ptr(), libc::O_RDONLY))?;
    for number in high {
        sys!(libc::dup2(target, number))?;
    }
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 2000 };
    sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;

    let mut packets = [0; 2];
    sys!(libc::pipe2(packets.as_mut_ptr(), libc::O_DIRECT | libc::O_NONBLOCK))?;
    let put = |text: &[u8]| sys!(libc::write(packets[1], text.as_ptr().cast(), text.len())).map(|_| ());
    let refill = || -> Check {
        put(b"first packet")?;
        put(b"2")?;
        put(&[3; 4096])
    };
    refill()?;
    ctx.verify(|_| {
        is("a file", file, libc::S_IFREG)?;
        is("a symbolic link", link, libc::S_IFLNK)?;
        is("a directory", directory, libc::S_IFDIR)?;
        is("a FIFO", fifo, libc::S_IFIFO)?;
        is("a device", null, libc::S_IFCHR)?;
        sys!(libc::faccessat(directory, c"named".as_ptr(), libc::F_OK, 0))?;
        let mut name = [0_u8; 64];
        let length = sys!(libc::readlinkat(link, c"".as_ptr(), name.as_mut_ptr().cast(), name.len()))?;
        same!("where the link leads", &name[..length as usize], b"named");
        for number in high {
            let mut bytes = [0_u8; 8];
            sys!(libc::pread(number, bytes.as_mut_ptr().cast(), 8, 0))?;
            same!("a file of a high number", &bytes, b"contents");
        }
        ensure!(sys!(libc::dup2(target, 70)).is_err(), "the limit on open files is lost");
        let mut buffer = [0_u8; 8192];
        for expected in [&b"first"[..], b"2", &[3; 4096]] {
            let room = if expected.len() == 5 { 5 } else { buffer.len() };
            let got = sys!(libc::read(packets[0], buffer.as_mut_ptr().cast(), room))?;
            same!("a packet", &buffer[..got as usize], expected);
        }
        refill()
    })
}
