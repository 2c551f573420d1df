//! Objects carry their kind's own message as bytes; these are the two ways across.

use prost::Message;

use crate::records::Object;
use crate::strict::{RecordError, decode_exact};

impl Object {
    /// An object of the kind that is called `kind`, with that kind's message as its body.
    pub fn with_body(id: u64, kind: impl Into<String>, body: &impl Message) -> Self {
        Self { id, kind: kind.into(), body: body.encode_to_vec() }
    }

    /// The kind's message.
    ///
    /// # Errors
    ///
    /// If the body is not exactly such a message: see [`decode_exact`].
    pub fn decode_body<M: Message + Default>(&self) -> Result<M, RecordError> {
        decode_exact(&self.body)
    }
}
