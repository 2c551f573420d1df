//! The image format.
#![forbid(unsafe_code)]
