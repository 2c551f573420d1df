//! What an object's body says, whichever kind it is of.

use stillpoint_image::records::{
    DeletedFile, DeletedFileDescription, DescriptorTable, Device, Directory, EventFd, External, FileIdentity,
    FileName, FsContext, Memfd, MemfdDescription, Mm, Object, OpenFile, PathFile, Pipe, PipeEnd, RegularFile,
    SharedMemory, SignalHandlers, Terminal,
};
use stillpoint_image::{Message, RecordError};

use super::{Saved, printable};

/// The decoded body of an object.
#[derive(Debug)]
pub(super) enum Body {
    RegularFile(RegularFile),
    DeletedFile(DeletedFile),
    DeletedFileDescription(DeletedFileDescription),
    Directory(Directory),
    Pipe(Pipe),
    PipeEnd(PipeEnd),
    Device(Device),
    Terminal(Terminal),
    EventFd(EventFd),
    Memfd(Memfd),
    PathFile(PathFile),
    MemfdDescription(MemfdDescription),
    External(External),
    FileName(FileName),
    SharedMemory(SharedMemory),
    Mm(Box<Mm>),
    DescriptorTable(DescriptorTable),
    FsContext(FsContext),
    SignalHandlers(SignalHandlers),
    /// A kind that this version does not know.
    Unknown(usize),
    /// A kind that this version knows, with a body that it does not understand.
    Unreadable(RecordError),
}

impl Body {
    pub(super) fn of(object: &Object) -> Body {
        fn decode<M: Message + Default>(object: &Object, wrap: impl FnOnce(M) -> Body) -> Body {
            object.decode_body().map_or_else(Body::Unreadable, wrap)
        }
        match object.kind.as_str() {
            "regular-file" => decode(object, Body::RegularFile),
            "deleted-file" => decode(object, Body::DeletedFile),
            "deleted-file-description" => decode(object, Body::DeletedFileDescription),
            "directory" => decode(object, Body::Directory),
            "pipe" => decode(object, Body::Pipe),
            "pipe-end" | "fifo-end" => decode(object, Body::PipeEnd),
            "device" => decode(object, Body::Device),
            "terminal" => decode(object, Body::Terminal),
            "eventfd" => decode(object, Body::EventFd),
            "path" => decode(object, Body::PathFile),
            "memfd" => decode(object, Body::Memfd),
            "memfd-description" => decode(object, Body::MemfdDescription),
            "external" => decode(object, Body::External),
            "file-name" => decode(object, Body::FileName),
            "shared-memory" => decode(object, Body::SharedMemory),
            "mm" => decode(object, |mm| Body::Mm(Box::new(mm))),
            "descriptor-table" => decode(object, Body::DescriptorTable),
            "fs-context" => decode(object, Body::FsContext),
            "signal-handlers" => decode(object, Body::SignalHandlers),
            _ => Body::Unknown(object.body.len()),
        }
    }

    /// The common part, of an open file description.
    pub(super) fn open(&self) -> Option<&OpenFile> {
        match self {
            Body::RegularFile(body) => body.open.as_ref(),
            Body::DeletedFileDescription(body) => body.open.as_ref(),
            Body::Directory(body) => body.open.as_ref(),
            Body::PipeEnd(body) => body.open.as_ref(),
            Body::Device(body) => body.open.as_ref(),
            Body::Terminal(body) => body.open.as_ref(),
            Body::EventFd(body) => body.open.as_ref(),
            Body::MemfdDescription(body) => body.open.as_ref(),
            Body::PathFile(body) => body.open.as_ref(),
            Body::External(body) => body.open.as_ref(),
            _ => None,
        }
    }

    /// In one line, what it is; for a file, its path.
    pub(super) fn describe<S>(&self, image: &Saved<S>) -> String {
        match self {
            Body::RegularFile(RegularFile { file, .. })
            | Body::Directory(Directory { file, .. })
            | Body::Device(Device { file, .. })
            | Body::PathFile(PathFile { file, .. })
            | Body::FileName(FileName { file }) => path(file.as_ref()),
            Body::DeletedFile(body) => format!("{} (deleted)", path(body.file.as_ref())),
            Body::DeletedFileDescription(body) => referred(image, body.file),
            Body::Memfd(body) => {
                let huge = if body.huge_page_size == 0 { "" } else { " of huge pages" };
                format!("{}, {} bytes{huge}, seals {:#x}", memfd(body), body.size, body.seals)
            }
            Body::MemfdDescription(body) => referred(image, body.file),
            Body::Pipe(Pipe { fifo: Some(fifo), queued, .. }) => {
                format!("{}, {queued} bytes in it", printable(&fifo.path))
            }
            Body::Pipe(Pipe { queued, capacity, .. }) => format!("{queued} bytes in it, room for {capacity}"),
            Body::PipeEnd(body) => {
                let pipe = image.object(body.pipe).map(Body::of);
                match pipe {
                    Some(Body::Pipe(Pipe { fifo: Some(fifo), .. })) => printable(&fifo.path),
                    _ => format!("pipe:[{}]", body.pipe),
                }
            }
            Body::Terminal(body) => {
                format!("{}, {} by {}", path(body.file.as_ref()), body.columns, body.rows)
            }
            Body::EventFd(body) => {
                format!("value {}{}", body.value, if body.semaphore { ", a semaphore" } else { "" })
            }
            Body::External(body) => {
                format!("{}, replaced by {}", printable(&body.seen), printable(body.replacement.as_bytes()))
            }
            Body::SharedMemory(body) => format!("{} bytes", body.size),
            Body::Mm(body) => {
                format!("{} areas, runs {}", body.areas.len(), referred(image, body.executable))
            }
            Body::DescriptorTable(body) => format!("{} descriptors", body.descriptors.len()),
            Body::FsContext(body) => {
                format!(
                    "in {}, root {}, umask {:03o}",
                    path(body.cwd.as_ref()),
                    path(body.root.as_ref()),
                    body.umask
                )
            }
            Body::SignalHandlers(body) => {
                // SIG_DFL is 0 and SIG_IGN is 1.
                let ignored = body.actions.iter().filter(|action| action.handler == 1).count();
                let handled = body.actions.iter().filter(|action| action.handler > 1).count();
                format!("{handled} signals handled, {ignored} ignored")
            }
            Body::Unknown(length) => format!("{length} bytes of a kind that this version does not know"),
            Body::Unreadable(error) => format!("not understood: {error}"),
        }
    }
}

/// The description of an object that another refers to.
pub(super) fn referred<S>(image: &Saved<S>, id: u64) -> String {
    match image.object(id) {
        // What a described object refers to is never described by referring again: no cycle.
        Some(object) => match Body::of(object) {
            Body::FileName(body) => path(body.file.as_ref()),
            Body::DeletedFile(body) => format!("{} (deleted)", path(body.file.as_ref())),
            Body::Memfd(body) => memfd(&body),
            _ => format!("{} [{id}]", printable(object.kind.as_bytes())),
        },
        None => format!("missing object {id}"),
    }
}

/// As the kernel shows it.
fn memfd(body: &Memfd) -> String {
    format!("/memfd:{} (deleted)", printable(&body.name))
}

pub(super) fn path(file: Option<&FileIdentity>) -> String {
    file.map_or_else(|| "?".to_owned(), |file| printable(&file.path))
}
