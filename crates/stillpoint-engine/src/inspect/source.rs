//! From wherever an image comes to a verified one.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use stillpoint_image::{Image, ImageError, Inconsistency, RecordError, VerifiedImage, VerifyOptions};

use crate::options::Input;
use crate::{Code, Error, Observer, Phase, Result};

/// How long a silent pipe keeps us from asking whether the user interrupted.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes of a pipe taken at once; the kernel's own default is a quarter of it.
const STEP: usize = 256 << 10;

/// How much of an image is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every byte's checksum, every record. What compressed chunks hold is checked where they are used.
    Checksums,
    /// Decompresses every chunk too.
    Unpack,
}

/// Reads and verifies a whole image.
///
/// # Errors
///
/// With a code of class [`Image`](crate::Class::Image) if it is damaged or not ours.
pub fn read(input: Input, depth: Depth, observer: &mut dyn Observer) -> Result<VerifiedImage<File>> {
    let object = match &input {
        Input::File(path) => printable_path(path),
        Input::Stream(_) => "the stream".to_owned(),
    };
    let file = open(input, observer)?;
    let length = file.metadata().ok().map(|metadata| metadata.len());
    observer.phase(Phase::Verify, length);
    let mut seen = 0;
    let mut progress = |bytes: u64| {
        observer.advance(bytes.saturating_sub(seen));
        seen = bytes;
        if observer.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options =
        VerifyOptions { unpack: depth == Depth::Unpack, ..VerifyOptions::with_progress(&mut progress) };
    Image::verify_with(file, options).map_err(|error| Box::new(image_error(&error).object(object)))
}

fn open(input: Input, observer: &mut dyn Observer) -> Result<File> {
    let mut stream = match input {
        Input::File(path) => {
            let file =
                File::open(&path).map_err(|error| cannot_read(&error).object(printable_path(&path)))?;
            let metadata = file.metadata().map_err(|error| cannot_read(&error))?;
            if metadata.is_dir() {
                let error = Error::new(Code::ImageDamaged, "opening the image").cause("it is a directory");
                return Err(Box::new(error.object(printable_path(&path))));
            }
            if metadata.is_file() {
                return Ok(file);
            }
            file
        }
        Input::Stream(fd) => {
            let mut file = File::from(fd);
            let regular = file.metadata().map_err(|error| cannot_read(&error))?.is_file();
            if regular && file.stream_position().map_err(|error| cannot_read(&error))? == 0 {
                return Ok(file);
            }
            file
        }
    };
    store(&mut stream, observer)
}

/// Nothing of an image may be believed before its last byte was checked, so what comes through a pipe is stored, in
/// memory: no temporary file is left, whatever happens to us.
fn store(stream: &mut File, observer: &mut dyn Observer) -> Result<File> {
    observer.phase(Phase::Verify, None);
    let memory = rustix::fs::memfd_create("stillpoint-image", MemfdFlags::CLOEXEC)
        .map_err(|errno| Error::new(Code::Failed, "making room for the image in memory").cause(errno))?;
    let mut memory = File::from(memory);
    let mut buffer = vec![0; STEP];
    loop {
        if observer.interrupted() {
            return Err(Box::new(interrupted()));
        }
        if !readable(stream)? {
            continue;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(memory),
            Ok(read) => {
                memory.write_all(&buffer[..read]).map_err(|error| {
                    Error::new(Code::Failed, "storing the image in memory")
                        .cause(error)
                        .remedy("give it as a file")
                })?;
                observer.advance(read as u64);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(Box::new(cannot_read(&error))),
        }
    }
}

/// Whether a read will not block, after waiting for a while. A read that blocks would not see Ctrl-C.
fn readable(stream: &File) -> Result<bool> {
    let timeout = Timespec::try_from(PATIENCE).ok();
    match poll(&mut [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)], timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(Box::new(cannot_read(&errno.into()))),
    }
}

fn interrupted() -> Error {
    Error::new(Code::Interrupted, "reading the image").cause("interrupted by a signal; nothing was started")
}

fn cannot_read(error: &io::Error) -> Error {
    let code =
        if error.kind() == io::ErrorKind::PermissionDenied { Code::NotPermitted } else { Code::Failed };
    Error::new(code, "reading the image").cause(error)
}

/// What an error of the image crate is to a user.
#[must_use]
pub fn image_error(error: &ImageError) -> Error {
    let code = match error {
        ImageError::Io { source, .. } => return cannot_read(source),
        ImageError::Interrupted { .. } => return interrupted(),
        ImageError::Unknown { .. } => Code::ImageUnknown,
        ImageError::Inconsistent { what: Inconsistency::Record { source, .. }, .. } => match source {
            RecordError::Malformed(_) => Code::ImageDamaged,
            _ => Code::ImageUnknown,
        },
        ImageError::Inconsistent { .. } => Code::ImageInconsistent,
        _ => Code::ImageDamaged,
    };
    let remedy = match code {
        Code::ImageUnknown => "use the version of Stillpoint that wrote it, or a later one",
        _ => "take another copy of the image; this one cannot be trusted",
    };
    let out = Error::new(code, "verifying the image").cause(error);
    if matches!(error, ImageError::NotAnImage) { out } else { out.remedy(remedy) }
}

fn printable_path(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use crate::inspect::tests::image;

    fn code_of(bytes: &[u8]) -> Code {
        let mut file = File::from(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let read = read(Input::Stream(file.into()), Depth::Unpack, &mut Silent);
        read.expect_err("must be refused").code
    }

    #[test]
    fn a_pipe_is_stored_and_verified() {
        let (from, to) = rustix::pipe::pipe().unwrap();
        let bytes = image();
        let length = bytes.len() as u64;
        let writer = std::thread::spawn(move || File::from(to).write_all(&bytes));
        let image = read(Input::Stream(from), Depth::Checksums, &mut Silent).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(image.sealed().bytes, length);
    }

    #[test]
    fn a_silent_pipe_can_be_interrupted() {
        struct Impatient;
        impl Observer for Impatient {
            fn phase(&mut self, _: Phase, _: Option<u64>) {}
            fn advance(&mut self, _: u64) {}
            fn interrupted(&self) -> bool {
                true
            }
        }
        let (from, _to) = rustix::pipe::pipe().unwrap();
        let error = read(Input::Stream(from), Depth::Checksums, &mut Impatient).expect_err("interrupted");
        assert_eq!(error.code, Code::Interrupted);
    }

    #[test]
    fn what_is_wrong_has_its_code() {
        let whole = image();
        assert_eq!(code_of(b"not an image at all"), Code::ImageDamaged);
        assert_eq!(code_of(b""), Code::ImageDamaged);
        assert_eq!(code_of(&whole[..whole.len() - 1]), Code::ImageDamaged);
        let mut newer = whole.clone();
        newer[12] += 1;
        assert_eq!(code_of(&newer), Code::ImageUnknown);
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        assert_eq!(code_of(&flipped), Code::ImageDamaged);
    }

    #[test]
    fn a_missing_file_is_a_failure_and_a_directory_no_image() {
        let read = |path: &str| read(Input::File(path.into()), Depth::Checksums, &mut Silent).map(drop);
        assert_eq!(read("/nonexistent/x").expect_err("missing").code, Code::Failed);
        assert_eq!(read("/").expect_err("directory").code, Code::ImageDamaged);
    }
}
