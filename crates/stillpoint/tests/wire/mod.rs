//! Edits of protobuf messages without their schema: a field somewhere in the message gets another value.

/// A small generator of numbers (splitmix64), the same for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or(0)
    }
}

#[derive(Clone)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

type Field = (u64, Value);

/// Changes one field of a message, or of a message within it. Says what was done.
pub(crate) fn edit(message: &mut Vec<u8>, random: &mut Random) -> String {
    let Some(mut fields) = parse(message).filter(|fields| !fields.is_empty()) else {
        return change_bytes(message, random);
    };
    let at = random.below(fields.len());
    let (number, value) = &mut fields[at];
    let told = match value {
        Value::Number(value) => {
            let was = *value;
            *value = other_number(was, random);
            format!("field {number}: {was:#x} -> {value:#x}")
        }
        Value::Bytes(bytes) => match random.below(8) {
            0 => {
                let field = fields.remove(at);
                format!("field {}: removed", field.0)
            }
            1 => {
                let field = fields[at].clone();
                let told = format!("field {}: twice", field.0);
                fields.insert(at, field);
                told
            }
            _ => format!("field {number} > {}", edit(bytes, random)),
        },
    };
    *message = encode(&fields);
    told
}

fn other_number(value: u64, random: &mut Random) -> u64 {
    match random.below(9) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => value.wrapping_add(1),
        4 => value.wrapping_sub(1),
        5 => value ^ (1 << random.below(64)),
        6 => value.wrapping_add(4096),
        7 => u64::from(random.next() as u32),
        _ => random.next(),
    }
}

fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let at = random.below(bytes.len());
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_slice(&random.next().to_le_bytes()),
        2 if !bytes.is_empty() => bytes[at] = 0,
        _ if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        _ => bytes.push(b'/'),
    }
    format!("bytes at {at}")
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value.to_vec())
            }
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        fields.push((key >> 3, value));
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, value) in fields {
        match value {
            Value::Number(value) => {
                put(&mut bytes, number << 3);
                put(&mut bytes, *value);
            }
            Value::Bytes(value) => {
                put(&mut bytes, number << 3 | 2);
                put(&mut bytes, value.len() as u64);
                bytes.extend_from_slice(value);
            }
        }
    }
    bytes
}

/// Appends a varint.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f | 0x80) as u8);
        value >>= 7;
    }
    bytes.push(value as u8);
}
