//! Writing and reading the wire format of Protocol Buffers, as far as OTLP needs it.
//!
//! Messages are written field by field into one buffer, without a tree of structures before it. Source: the encoding
//! guide of Protocol Buffers. Strings are UTF-8 because `str` is.

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// The value of an attribute: `opentelemetry.proto.common.v1.AnyValue`, as far as we write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `bool_value`
    Bool(bool),
    /// `int_value`
    Int(u64),
    /// `string_value`
    Text(&'a str),
}

/// Appends seven bits a byte, the lowest first; the highest bit says that more follow.
#[inline]
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_seven(value) | 0x80);
        value >>= 7;
    }
    out.push(low_seven(value));
}

const fn low_seven(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low & 0x7f
}

/// Bytes of a value as [`varint`] writes it: 1 to 10.
#[must_use]
#[inline]
pub const fn varint_bytes(value: u64) -> u64 {
    let bits = 64_u32.saturating_sub((value | 1).leading_zeros());
    bits.div_ceil(7) as u64
}

#[inline]
fn tag(out: &mut Vec<u8>, field: u32, wire: u64) {
    varint(out, u64::from(field) << 3 | wire);
}

#[inline]
fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Appends a field of a number or an enumeration.
#[inline]
pub fn uint(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

/// Appends a field of eight bytes.
#[inline]
pub fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a field of four bytes.
#[inline]
pub fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    tag(out, field, FIXED32);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a field of bytes.
#[inline]
pub fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    head(out, field, length(value.len()));
    out.extend_from_slice(value);
}

/// Appends a field of text.
#[inline]
pub fn string(out: &mut Vec<u8>, field: u32, value: &str) {
    bytes(out, field, value.as_bytes());
}

/// Appends what stands before `bytes` bytes of a message or text that the caller appends next.
#[inline]
pub fn head(out: &mut Vec<u8>, field: u32, bytes: u64) {
    tag(out, field, LENGTH);
    varint(out, bytes);
}

/// Appends a message that `write` fills. Its length is put before it afterwards, which moves it by a byte or two; where the
/// length is known, [`head`] costs less.
pub fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH);
    let start = out.len();
    // Room for the length of most messages: up to 127 bytes.
    out.push(0);
    write(out);
    let body = start.saturating_add(1);
    let written = length(out.len().saturating_sub(body));
    if written < 0x80 {
        // The usual case: the room is as large as the length.
        if let Some(room) = out.get_mut(start) {
            *room = low_seven(written);
        }
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    varint(&mut prefix, written);
    out.splice(start..body, prefix);
}

/// Appends `opentelemetry.proto.common.v1.KeyValue`, an attribute.
#[inline]
pub fn key_value(out: &mut Vec<u8>, field: u32, key: &str, value: Value<'_>) {
    // One byte for each tag: all fields are below 16.
    let any = match value {
        Value::Bool(_) => 2,
        Value::Int(value) => varint_bytes(value).saturating_add(1),
        Value::Text(text) => sized(text.len()),
    };
    head(out, field, sized(key.len()).saturating_add(varint_bytes(any)).saturating_add(any).saturating_add(1));
    string(out, 1, key);
    head(out, 2, any);
    match value {
        Value::Bool(value) => uint(out, 2, u64::from(value)),
        Value::Int(value) => uint(out, 3, value),
        Value::Text(text) => string(out, 1, text),
    }
}

/// Bytes of a field that holds so many.
#[inline]
fn sized(bytes: usize) -> u64 {
    let bytes = length(bytes);
    bytes.saturating_add(varint_bytes(bytes)).saturating_add(1)
}

/// One field that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Bytes, a text or a message.
    Bytes(&'a [u8]),
    /// Four or eight bytes.
    Fixed,
    /// A number.
    Number(u64),
}

/// The fields of a message, one after the other; ends early where it is no message.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those of this message.
    #[must_use]
    pub const fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The last field of that number that holds bytes.
    #[must_use]
    pub fn bytes(self, number: u64) -> Option<&'a [u8]> {
        self.filter_map(|(at, field)| match field {
            Field::Bytes(bytes) if at == number => Some(bytes),
            Field::Bytes(_) | Field::Fixed | Field::Number(_) => None,
        })
        .last()
    }

    /// The last field of that number that holds a number.
    #[must_use]
    pub fn number(self, number: u64) -> Option<u64> {
        self.filter_map(|(at, field)| match field {
            Field::Number(value) if at == number => Some(value),
            Field::Bytes(_) | Field::Fixed | Field::Number(_) => None,
        })
        .last()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if *byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            VARINT => Field::Number(self.varint()?),
            FIXED64 => self.take(8).map(|_| Field::Fixed)?,
            LENGTH => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            FIXED32 => self.take(4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

#[cfg(test)]
mod tests;
