//! Decoding that loses nothing.

use prost::Message;

/// Why bytes are not the record that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not protobuf, or a field has another type.
    #[error("it cannot be decoded: {0}")]
    Malformed(prost::DecodeError),
    /// It holds something that this version would not have written: a field that it does not know, most likely.
    #[error("it has fields that this version does not know")]
    Unfaithful,
}

/// Decodes a record, and refuses one that would not be encoded to the very same bytes.
///
/// Plain protobuf decoding drops fields that it does not know. A restore that ignores a field which a newer writer
/// relied on is a silent corruption, so this compares. It also leaves no room for two spellings of one record.
///
/// # Errors
///
/// [`RecordError::Malformed`] if the bytes are no such message, [`RecordError::Unfaithful`] if they are more than it.
pub fn decode_exact<M: Message + Default>(bytes: &[u8]) -> Result<M, RecordError> {
    let record = M::decode(bytes).map_err(RecordError::Malformed)?;
    if record.encoded_len() != bytes.len() || record.encode_to_vec() != bytes {
        return Err(RecordError::Unfaithful);
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Header, Run};

    #[test]
    fn a_record_comes_back() {
        let header = Header { tool: "stillpoint".into(), tasks: 3, ..Header::default() };
        assert_eq!(decode_exact(&header.encode_to_vec()), Ok(header));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let mut bytes = Header { tasks: 3, ..Header::default() }.encode_to_vec();
        bytes.extend([0xb8, 0x3e, 0x01]); // field 999, varint 1
        assert!(Header::decode(&bytes[..]).is_ok());
        assert_eq!(decode_exact::<Header>(&bytes), Err(RecordError::Unfaithful));
    }

    #[test]
    fn another_spelling_is_refused() {
        let spellings: [&[u8]; 4] = [
            &[0x08, 0x01, 0x08, 0x02],       // a field twice
            &[0x10, 0x01, 0x08, 0x02],       // fields out of order
            &[0x08, 0x00, 0x10, 0x01],       // a default spelled out
            &[0x08, 0x81, 0x00, 0x10, 0x01], // a varint that is longer than needed
        ];
        for bytes in spellings {
            assert!(Run::decode(bytes).is_ok(), "{bytes:x?}");
            assert_eq!(decode_exact::<Run>(bytes), Err(RecordError::Unfaithful), "{bytes:x?}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(decode_exact::<Run>(&[0xff]), Err(RecordError::Malformed(_))));
    }
}
