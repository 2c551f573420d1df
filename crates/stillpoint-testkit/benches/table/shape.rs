//! The trees that are measured: this program again, in the shape that it is told.

use std::fs::File;
use std::path::Path;

/// A row of the table.
pub(crate) struct Shape {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// Its name in the table.
    pub(crate) title: &'static str,
    /// Whether a floor is measured beside it.
    pub(crate) has_floor: bool,
    /// Processes of the tree.
    pub(crate) processes: usize,
    set_up: fn(&Path) -> Result<(), String>,
}

const THREADS: usize = 200;
const PROCESSES: usize = 200;
const FILES: usize = 5_000;
const AREAS: usize = 10_000;
const PAGE: usize = 4096;
pub(crate) const MEMORY: usize = 1 << 30;

/// The rows.
pub(crate) const ALL: &[Shape] = &[
    Shape { name: "idle", title: "one idle process", has_floor: false, processes: 1, set_up: idle },
    Shape { name: "threads", title: "200 threads", has_floor: false, processes: 1, set_up: threads },
    Shape {
        name: "processes",
        title: "1 + 200 processes",
        has_floor: false,
        processes: 1 + PROCESSES,
        set_up: processes,
    },
    Shape { name: "files", title: "5,000 open regular files", has_floor: false, processes: 1, set_up: files },
    Shape { name: "areas", title: "10,000 areas of one page", has_floor: false, processes: 1, set_up: areas },
    Shape {
        name: "memory",
        title: "1 GiB of random private memory",
        has_floor: true,
        processes: 1,
        set_up: memory,
    },
];

/// Becomes a tree: sets it up, makes `dir/ready`, and waits.
pub(crate) fn run(name: &str, dir: &Path) -> Result<(), String> {
    let shape = ALL.iter().find(|shape| shape.name == name).ok_or("no such shape")?;
    (shape.set_up)(dir)?;
    // A link, not a file: nothing is open while it is made.
    std::os::unix::fs::symlink("/", dir.join("ready")).map_err(|error| error.to_string())?;
    wait()
}

fn wait() -> ! {
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

fn idle(_: &Path) -> Result<(), String> {
    Ok(())
}

fn threads(_: &Path) -> Result<(), String> {
    for _ in 0..THREADS - 1 {
        std::thread::Builder::new().spawn(|| wait()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn processes(_: &Path) -> Result<(), String> {
    for _ in 0..PROCESSES {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => wait(),
            -1 => return Err(std::io::Error::last_os_error().to_string()),
            _ => {}
        }
    }
    Ok(())
}

fn files(dir: &Path) -> Result<(), String> {
    let dir = dir.join("files");
    std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    for n in 0..FILES {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join(n.to_string()));
        // Open for as long as the process is there.
        std::mem::forget(file.map_err(|error| error.to_string())?);
    }
    Ok(())
}

/// Areas of one page that hold something, every other one read-only: neighbours that are not alike stay apart.
fn areas(_: &Path) -> Result<(), String> {
    let start = map(AREAS * PAGE)?;
    for n in 0..AREAS {
        // SAFETY: within what was mapped above.
        let page = unsafe { start.add(n * PAGE) };
        // SAFETY: as above; the page is writable.
        unsafe { page.cast::<u64>().write(n as u64 + 1) };
        if n % 2 == 1 {
            // SAFETY: the page is not written again.
            unsafe { libc::mprotect(page.cast(), PAGE, libc::PROT_READ) };
        }
    }
    Ok(())
}

fn memory(_: &Path) -> Result<(), String> {
    let start = map(MEMORY)?.cast::<u64>();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for n in 0..MEMORY / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // SAFETY: within what was mapped above.
        unsafe { start.add(n).write(state) };
    }
    Ok(())
}

/// Private anonymous memory, for as long as the process is there.
pub(crate) fn map(length: usize) -> Result<*mut u8, String> {
    // SAFETY: a new mapping, wherever the kernel has room.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(format!("mapping {length} bytes: {}", std::io::Error::last_os_error()));
    }
    Ok(start.cast())
}
