//! Lines, fields and numbers of the kernel's texts.

use crate::{Error, Result};

/// A text being parsed; carries what was being done, for the error.
#[derive(Clone, Copy)]
pub(super) struct Text(pub(super) &'static str);

impl Text {
    /// The error for a part that is not understood, with an excerpt.
    #[cold]
    pub(super) fn bad(self, what: &str, bytes: &[u8]) -> Error {
        const EXCERPT: usize = 80;
        let (shown, more) = match bytes.get(..EXCERPT) {
            Some(head) => (head, "..."),
            None => (bytes, ""),
        };
        Error::parse(self.0, format!("{what}: \"{}\"{more}", shown.escape_ascii()))
    }

    /// The lines without their newlines. The kernel ends each one, so a text that does not end in a newline was
    /// cut short, and is refused.
    pub(super) fn lines(self, bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]> + Clone> {
        let body = match bytes {
            [] => None,
            [body @ .., b'\n'] => Some(body),
            _ => return Err(self.bad("no newline at the end", &bytes[bytes.len().saturating_sub(40)..])),
        };
        Ok(body.into_iter().flat_map(|b| b.split(|c| *c == b'\n')))
    }

    /// The one line of a text of one line.
    pub(super) fn one_line(self, bytes: &[u8]) -> Result<&[u8]> {
        match bytes {
            [line @ .., b'\n'] if !line.contains(&b'\n') => Ok(line),
            _ => Err(self.bad("not exactly one line", bytes)),
        }
    }

    /// An unsigned decimal number.
    pub(super) fn decimal<T: TryFrom<u64>>(self, what: &str, field: &[u8]) -> Result<T> {
        self.unsigned(what, field, 10)
    }

    /// A hexadecimal number, without `0x`.
    pub(super) fn hex<T: TryFrom<u64>>(self, what: &str, field: &[u8]) -> Result<T> {
        self.unsigned(what, field, 16)
    }

    /// A hexadecimal number with `0x` before it.
    pub(super) fn hex_0x<T: TryFrom<u64>>(self, what: &str, field: &[u8]) -> Result<T> {
        match field.strip_prefix(b"0x") {
            Some(digits) => self.unsigned(what, digits, 16),
            None => Err(self.bad(what, field)),
        }
    }

    /// An octal number.
    pub(super) fn octal<T: TryFrom<u64>>(self, what: &str, field: &[u8]) -> Result<T> {
        self.unsigned(what, field, 8)
    }

    /// A decimal number that may be negative.
    pub(super) fn signed<T: TryFrom<i64>>(self, what: &str, field: &[u8]) -> Result<T> {
        let number = match field.strip_prefix(b"-") {
            Some(digits) => number(digits, 10).and_then(|n| 0_i64.checked_sub_unsigned(n)),
            None => number(field, 10).and_then(|n| i64::try_from(n).ok()),
        };
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| self.bad(what, field))
    }

    fn unsigned<T: TryFrom<u64>>(self, what: &str, field: &[u8], radix: u32) -> Result<T> {
        number(field, radix).and_then(|n| T::try_from(n).ok()).ok_or_else(|| self.bad(what, field))
    }
}

/// Digits only: no sign, no space, no prefix, at least one, no overflow.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, &digit| {
        let value = char::from(digit).to_digit(radix)?;
        sum.checked_mul(u64::from(radix))?.checked_add(u64::from(value))
    })
}

/// Fields between runs of spaces and tabs.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    bytes.split(|c| matches!(c, b' ' | b'\t')).filter(|w| !w.is_empty())
}

/// Exactly `N` fields between runs of spaces and tabs.
pub(super) fn exactly<const N: usize>(bytes: &[u8]) -> Option<[&[u8]; N]> {
    let mut fields = [&b""[..]; N];
    let mut words = words(bytes);
    for field in &mut fields {
        *field = words.next()?;
    }
    words.next().is_none().then_some(fields)
}

/// Splits at the first occurrence of a byte, which belongs to neither side.
pub(super) fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|c| *c == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}

/// Without spaces and tabs at both ends.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Replaces every occurrence of one byte string, which is not empty, by another.
pub(super) fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        if let Some(tail) = rest.strip_prefix(from).filter(|tail| tail.len() < rest.len()) {
            out.extend_from_slice(to);
            rest = tail;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Text = Text("testing");

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        assert_eq!(TEXT.decimal::<u64>("n", b"18446744073709551615").unwrap(), u64::MAX);
        assert_eq!(TEXT.hex::<u64>("n", b"00fF").unwrap(), 255);
        assert_eq!(TEXT.octal::<u32>("n", b"0100002").unwrap(), 0o100_002);
        assert_eq!(TEXT.signed::<i64>("n", b"-9223372036854775808").unwrap(), i64::MIN);
        assert_eq!(TEXT.signed::<i32>("n", b"-1").unwrap(), -1);
        for bad in [&b""[..], b"+1", b" 1", b"1 ", b"0x1", b"18446744073709551616", b"1\xff", b"--1"] {
            assert!(TEXT.decimal::<u64>("n", bad).is_err(), "{bad:?}");
        }
        assert!(TEXT.signed::<i64>("n", b"-9223372036854775809").is_err());
        assert!(TEXT.decimal::<u8>("n", b"256").is_err());
    }

    #[test]
    fn a_text_that_was_cut_is_refused() {
        assert_eq!(TEXT.lines(b"").unwrap().count(), 0);
        assert_eq!(TEXT.lines(b"\n").unwrap().count(), 1);
        assert_eq!(TEXT.lines(b"a\nb\n").unwrap().collect::<Vec<_>>(), [b"a", b"b"]);
        assert!(TEXT.lines(b"a\nb").is_err());
    }

    #[test]
    fn an_excerpt_is_bounded_and_printable() {
        let message = TEXT.bad("line", &[0xff; 1000]).to_string();
        assert!(message.len() < 500 && message.is_ascii(), "{message}");
    }
}
