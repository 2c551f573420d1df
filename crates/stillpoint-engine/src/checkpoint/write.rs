//! Writing the image: records first, then what memory and files hold.
//!
//! Where there is much of it, a second thread reads, compresses and hashes while the first one writes. The buffers go
//! round: there are never more than a few, whatever the size of the tree.

use std::io::BufWriter;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use stillpoint_image::records::Run;
use stillpoint_image::{Compression as Encoding, EncodedFrame, ImageError, Writer, encode_data};

use super::output::Destination;
use super::{Collected, check_interrupt, output_error};
use crate::memory::pages;
use crate::{Code, Compression, Error, Observer, Result};

/// An image that has all but its seal.
pub(super) struct Written {
    pub(super) writer: Writer<BufWriter<Destination>>,
    /// Bytes of memory and files, before compression.
    pub(super) content_bytes: u64,
}

/// From how many bytes on a second thread is worth its start.
const SECOND_THREAD: u64 = 4 << 20;

/// Frames that wait to be written. Two more buffers are in use: one is filled, one is written.
const WAITING: usize = 2;

/// A frame with the number of bytes that it holds, before compression.
type Frame = (EncodedFrame<'static>, u64);

/// Where frames go; it gives back a buffer for the next one.
type Emit<'a> = &'a mut dyn FnMut(Frame) -> Result<Vec<u8>>;

/// Writes everything that was collected, and reads memory meanwhile.
pub(super) fn write(
    collected: &Collected,
    destination: Destination,
    compression: Compression,
    observer: &mut dyn Observer,
) -> Result<Written> {
    let sink = BufWriter::with_capacity(1 << 16, destination);
    let mut writer = Writer::new(sink).map_err(|error| output_error(&error))?;
    let failed = |error: ImageError| output_error(&error);
    writer.header(&collected.header).map_err(failed)?;
    for object in &collected.objects {
        writer.object(object).map_err(failed)?;
    }
    for (task, threads) in &collected.tasks {
        writer.task(task).map_err(failed)?;
        for thread in threads {
            writer.thread(thread).map_err(failed)?;
        }
    }
    let encoding = match compression {
        Compression::None => Encoding::None,
        Compression::Lz4 => Encoding::Lz4,
        Compression::Zstd(level) => Encoding::Zstd(level),
    };
    let mut content_bytes = 0;
    let mut append = |(frame, length): Frame| -> Result<Vec<u8>> {
        writer.append(&frame).map_err(|error| output_error(&error))?;
        content_bytes += length;
        observer.advance(length);
        check_interrupt(observer)?;
        Ok(frame.into_buffer().unwrap_or_default())
    };
    if collected.content_bytes() < SECOND_THREAD {
        produce(collected, encoding, &mut append)?;
    } else {
        by_two(collected, encoding, &mut append)?;
    }
    Ok(Written { writer, content_bytes })
}

/// Makes frames on a second thread and hands them to `append` on this one.
fn by_two(collected: &Collected, encoding: Encoding, append: Emit<'_>) -> Result<()> {
    std::thread::scope(|scope| {
        let (frames, queue) = sync_channel::<Frame>(WAITING);
        let (give_back, spare) = channel::<Vec<u8>>();
        let work = move || produce(collected, encoding, &mut |frame| send(&frames, &spare, frame));
        let Ok(worker) = std::thread::Builder::new().name("image pages".into()).spawn_scoped(scope, work)
        else {
            // No thread can be had.
            return produce(collected, encoding, append);
        };
        let written = queue.iter().try_for_each(|frame| {
            // The worker may be done, and needs no buffer then.
            let _ = give_back.send(append(frame)?);
            Ok(())
        });
        // After a failed write this ends the worker.
        drop(queue);
        let produced = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(produced)
    })
}

fn send(frames: &SyncSender<Frame>, spare: &Receiver<Vec<u8>>, frame: Frame) -> Result<Vec<u8>> {
    // Nobody takes it when writing has failed: that error is the one that counts.
    let stopped = |_| Error::new(Code::Output, "writing the image").cause("writing has ended");
    frames.send(frame).map_err(stopped)?;
    // While none has come back yet, there are fewer than can be waiting.
    Ok(spare.try_recv().unwrap_or_default())
}

/// Reads everything that tasks and files hold, in the image's order, and makes frames of it.
fn produce(collected: &Collected, encoding: Encoding, emit: Emit<'_>) -> Result<()> {
    let mut make = |object: u64, runs: &[Run], bytes: Vec<u8>| -> Result<Vec<u8>> {
        let length = bytes.len() as u64;
        let frame =
            encode_data(object, runs, bytes, encoding).map_err(|error| output_error(&error.into()))?;
        emit((frame, length))
    };
    let mut buffer = Vec::new();
    for content in &collected.contents {
        content.stream(&mut |offset, bytes| {
            let mut copy = std::mem::take(&mut buffer);
            copy.clear();
            copy.extend_from_slice(bytes);
            let run = Run { offset, length: bytes.len() as u64 };
            buffer = make(content.object, &[run], copy)?;
            Ok(())
        })?;
    }
    for (object, views) in &collected.shared {
        for view in views {
            let sink = &mut |runs: &[Run], bytes| make(*object, runs, bytes);
            pages::copy(view.pid, [(view.range, view.offset)], &mut buffer, sink)?;
        }
    }
    for mm in &collected.memory {
        let ranges = mm.ranges.iter().map(|&range| (range, range.start));
        pages::copy(mm.pid, ranges, &mut buffer, &mut |runs, bytes| make(mm.object, runs, bytes))?;
    }
    Ok(())
}
