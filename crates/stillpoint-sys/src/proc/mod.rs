//! Parsers of `/proc`: bytes in, types out. What is not understood is an error, never dropped.
