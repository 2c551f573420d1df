//! Where an image is read from.

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use stillpoint_image::{Image, ImageError, VerifiedImage, VerifyOptions};

use crate::options::Input;
use crate::{Code, Error, Observer, Phase, Result};

/// Opens and verifies an image. A stream is read to its end into anonymous memory first: an image is not trusted
/// before its seal, which comes last.
///
/// # Errors
///
/// [`Code::ImageDamaged`] or [`Code::ImageUnknown`]; [`Code::Failed`] when it cannot be read.
pub fn open(input: Input, observer: &mut dyn Observer) -> Result<VerifiedImage<File>> {
    let file = match input {
        Input::File(path) => File::options().read(true).open(&path).map_err(|error| {
            Error::new(Code::Failed, "opening the image").object(path.display().to_string()).cause(error)
        })?,
        Input::Stream(fd) => seekable(File::from(fd), observer)?,
    };
    let total = file.metadata().map(|metadata| metadata.len()).ok();
    observer.phase(Phase::Verify, total);
    let mut last = 0;
    let mut progress = |done: u64| {
        observer.advance(done.saturating_sub(last));
        last = done;
        if observer.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    Image::verify_with(file, VerifyOptions::with_progress(&mut progress)).map_err(|error| image_error(&error))
}

fn seekable(mut file: File, observer: &dyn Observer) -> Result<File> {
    let failed =
        |error: std::io::Error| Error::new(Code::Failed, "reading the image from a stream").cause(error);
    if file.metadata().map_err(failed)?.is_file() && file.stream_position().map_err(failed)? == 0 {
        return Ok(file);
    }
    let spool = rustix::fs::memfd_create("stillpoint-image", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|errno| failed(errno.into()))?;
    let mut spool = File::from(OwnedFd::from(spool));
    let mut buffer = vec![0; 1 << 18];
    loop {
        if observer.interrupted() {
            return Err(Error::new(Code::Interrupted, "reading the image")
                .cause("interrupted by a signal")
                .into());
        }
        match std::io::Read::read(&mut file, &mut buffer) {
            Ok(0) => return Ok(spool),
            Ok(got) => spool.write_all(buffer.get(..got).unwrap_or_default()).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error).into()),
        }
    }
}

/// An error of the image reader as ours.
pub(crate) fn image_error(error: &ImageError) -> Box<Error> {
    let (code, remedy) = match error {
        ImageError::Io { .. } => (Code::Failed, ""),
        ImageError::Interrupted { .. } => (Code::Interrupted, ""),
        ImageError::Unknown { .. } => {
            (Code::ImageUnknown, "restore it with the version that made it, or a newer one")
        }
        _ => (Code::ImageDamaged, "use another copy of the image"),
    };
    let out = Error::new(code, "verifying the image").cause(error);
    Box::new(if remedy.is_empty() { out } else { out.remedy(remedy) })
}
