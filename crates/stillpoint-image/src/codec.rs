//! LZ4 and Zstandard with bounded output. Their working memory is kept per thread: making it anew for each chunk costs
//! as much as compressing a small one.

use std::cell::Cell;

use zstd::bulk::{Compressor, Decompressor};

use crate::data::Compression;
use crate::format::Encoding;

thread_local! {
    // Cells that are emptied while in use: nothing can meet them borrowed.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static COMPRESSOR: Cell<Option<(i32, Compressor<'static>)>> = const { Cell::new(None) };
    static DECOMPRESSOR: Cell<Option<Decompressor<'static>>> = const { Cell::new(None) };
}

/// Compresses, unless that was not asked for, fails or does not make it shorter.
pub(crate) fn compress(raw: &[u8], compression: Compression) -> Option<(Encoding, Vec<u8>)> {
    let mut scratch = SCRATCH.take();
    let packed = match compression {
        Compression::None => None,
        Compression::Lz4 => {
            scratch.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
            lz4_flex::block::compress_into(raw, &mut scratch).ok().map(|length| (Encoding::Lz4, length))
        }
        Compression::Zstd(level) => {
            scratch.resize(raw.len(), 0);
            zstd_compress(raw, level, &mut scratch).map(|length| (Encoding::Zstd, length))
        }
    };
    let packed = packed
        .filter(|(_, length)| *length < raw.len())
        .and_then(|(encoding, length)| Some((encoding, scratch.get(..length)?.to_vec())));
    SCRATCH.set(scratch);
    packed
}

fn zstd_compress(raw: &[u8], level: i32, output: &mut [u8]) -> Option<usize> {
    let mut compressor = match COMPRESSOR.take() {
        Some((made_for, compressor)) if made_for == level => compressor,
        _ => Compressor::new(level).ok()?,
    };
    // An output that is too small is an error too: the chunk did not shrink.
    let length = compressor.compress_to_buffer(raw, output).ok();
    COMPRESSOR.set(Some((level, compressor)));
    length
}

/// Fills `output` from packed bytes; false unless they unpack to exactly that many.
pub(crate) fn decompress(packed: &[u8], encoding: Encoding, output: &mut [u8]) -> bool {
    let length = match encoding {
        Encoding::Raw => {
            if packed.len() == output.len() {
                output.copy_from_slice(packed);
            }
            Some(packed.len())
        }
        Encoding::Lz4 => lz4_flex::block::decompress_into(packed, output).ok(),
        Encoding::Zstd => zstd_decompress(packed, output),
    };
    length == Some(output.len())
}

fn zstd_decompress(packed: &[u8], output: &mut [u8]) -> Option<usize> {
    let mut decompressor = match DECOMPRESSOR.take() {
        Some(decompressor) => decompressor,
        None => Decompressor::new().ok()?,
    };
    let length = decompressor.decompress_to_buffer(packed, output).ok();
    DECOMPRESSOR.set(Some(decompressor));
    length
}

/// Lends a buffer of this thread, so that reading compressed chunks does not allocate for each.
pub(crate) fn with_scratch<T>(length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take();
    if scratch.len() < length {
        scratch.resize(length, 0);
    }
    let result = work(&mut scratch[..length]);
    SCRATCH.set(scratch);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 3] = [Compression::Lz4, Compression::Zstd(1), Compression::Zstd(19)];

    #[test]
    fn what_is_packed_unpacks() {
        let raw: Vec<u8> = (0..200_000u32).map(|n| (n / 300) as u8).collect();
        for compression in ALL {
            let (encoding, packed) = compress(&raw, compression).unwrap();
            assert!(packed.len() < raw.len() / 4);
            let mut output = vec![0; raw.len()];
            assert!(decompress(&packed, encoding, &mut output));
            assert!(output == raw);
        }
    }

    #[test]
    fn another_length_than_declared_is_refused() {
        let raw = [7; 5000];
        for compression in ALL {
            let (encoding, packed) = compress(&raw, compression).unwrap();
            for length in [0, 1, 4999, 5001, 100_000] {
                assert!(!decompress(&packed, encoding, &mut vec![0; length]), "{compression:?} to {length}");
            }
        }
    }

    #[test]
    fn what_does_not_shrink_stays() {
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(10_000)
        .collect();
        for compression in ALL {
            assert!(compress(&noise, compression).is_none());
            assert!(compress(&[1], compression).is_none());
        }
    }
}
