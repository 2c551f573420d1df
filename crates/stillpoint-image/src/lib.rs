//! Stillpoint's image format: one sealed file that holds a process tree.
//!
//! This crate turns records into bytes and bytes into records. It knows neither Linux nor tasks: it never makes a
//! system call of its own, and what a record *means* is for the engine to say. What it does promise:
//!
//! - An image that was cut, edited, reordered or only half written is refused, whole, before one record of it can be
//!   seen: [`Image::verify`] is the only way to a [`VerifiedImage`], and only that hands out records.
//! - Every byte is hostile. No input makes the reader panic, recurse without bound or allocate more than
//!   [`VerifyOptions::memory_limit`] and a few fixed buffers.
//! - What the reader does not understand it refuses ([`ImageError::Unknown`]): an unknown format version, frame
//!   type, flag, or record field. Only frames that say they are optional are skipped.
//! - The writer cannot seal what the reader would refuse: both run the same checks.
//!
//! The layout is drawn in [`format`](mod@format); the records are in [`records`], generated from
//! `proto/stillpoint.proto`.
//!
//! # Writing
//!
//! ```
//! use stillpoint_image::{Compression, Writer, encode_data, records::*};
//!
//! let mut writer = Writer::new(Vec::new())?;
//! writer.header(&Header { root_pid: 7, tasks: 1, threads: 1, ..Header::default() })?;
//! writer.object(&Object::with_body(1, "pipe", &Pipe { capacity: 65536, queued: 5, ..Pipe::default() }))?;
//! writer.task(&Task { pid: 7, ..Task::default() })?;
//! writer.thread(&Thread { pid: 7, tid: 7, ..Thread::default() })?;
//! // Encoding is pure: it may run on any thread, and borrows the bytes it can leave where they are.
//! let frame = encode_data(1, &[Run { offset: 0, length: 5 }], &b"hello"[..], Compression::None)?;
//! writer.append(&frame)?;
//! let (image, sealed) = writer.seal()?;
//! assert_eq!(sealed.bytes, image.len() as u64);
//! # Ok::<(), stillpoint_image::ImageError>(())
//! ```
//!
//! # Reading
//!
//! ```
//! # use stillpoint_image::{Writer, records::*};
//! # let mut writer = Writer::new(Vec::new())?;
//! # writer.header(&Header::default())?;
//! # let image = writer.seal()?.0;
//! use stillpoint_image::Image;
//!
//! let image = Image::verify(image)?; // a std::fs::File, a Vec<u8>, a &[u8], or your own ReadAt
//! let mut raw = Vec::new();
//! for chunk in image.data() {
//!     image.read_data(chunk, &mut raw)?;
//!     for (run, bytes) in chunk.split(&raw) {
//!         println!("object {} at {:#x}: {} bytes", chunk.object, run.offset, bytes.len());
//!     }
//! }
//! # Ok::<(), stillpoint_image::ImageError>(())
//! ```
#![forbid(unsafe_code)]

mod codec;
mod data;
mod error;
mod grammar;
mod image;
mod object;
mod source;
mod strict;
mod verify;
mod writer;

pub mod format;
/// The records: generated from `proto/stillpoint.proto`, whose comments are the documentation here.
#[allow(missing_docs, rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, rustdoc::bare_urls)]
#[rustfmt::skip]
pub mod records;

pub use data::{ChunkError, Compression, EncodedFrame, encode_data};
pub use error::{Damage, ImageError, Inconsistency, Misplaced, Place, Size, Unknown};
pub use image::{DataFrame, FrameInfo, SavedTask, VerifiedImage};
/// Encoding and decoding of the generated records, as in [`Object::with_body`](records::Object::with_body).
pub use prost::Message;
pub use source::ReadAt;
pub use strict::{RecordError, decode_exact};
pub use verify::{Image, VerifyOptions};
pub use writer::{Sealed, Writer};
