//! Reads the protobuf wire format, borrowed from the body: just enough to read a message's fields without a copy.
//!
//! Written by hand because it is the hottest code of `ingest-api`: it takes about half the time of decoding into owned
//! messages. A test compares it with `prost` on generated and on broken input. Source:
//! <https://protobuf.dev/programming-guides/encoding/>.

/// Bytes that are not a protobuf message of the expected shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf at byte {offset}: {reason}")]
pub struct Malformed {
    /// Offset of the error from the start of the request body, in bytes.
    pub offset: usize,
    /// What is wrong at that offset.
    pub reason: &'static str,
}

/// The value of one field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// A varint, wire type 0.
    Varint(u64),
    /// Eight bytes, wire type 1.
    Fixed64(u64),
    /// A message, text or bytes, wire type 2.
    Message(Message<'a>),
    /// Four bytes, wire type 5.
    Fixed32(u32),
}

/// The bytes of a message, and their offset in the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// The bytes of the message.
    pub bytes: &'a [u8],
    offset: usize,
}

impl<'a> Message<'a> {
    /// The outermost message, which is the whole body.
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { bytes: body, offset: 0 }
    }

    /// The fields of the message, in the order of the bytes.
    pub(super) fn fields(self) -> Fields<'a> {
        Fields { bytes: self.bytes, at: 0, offset: self.offset }
    }
}

/// Iterates over a message's fields.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    offset: usize,
}

impl<'a> Fields<'a> {
    #[cold]
    fn fail<T>(&self, reason: &'static str) -> Result<T, Malformed> {
        Err(Malformed { offset: self.offset + self.at, reason })
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly every number is one byte: the key of a field, or a short length.
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else { return self.fail("cut off inside a number") };
            self.at += 1;
            // The tenth byte holds only the 64th bit.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.fail("a number is longer than 64 bits")
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => self.fail("cut off inside a fixed-size number"),
        }
    }

    /// The number and the value of the next field, or `None` at the end.
    #[inline(always)] // a call would pass every field through memory: measured
    pub(super) fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let Ok(key) = u32::try_from(self.varint()?) else { return self.fail("a field number is too large") };
        let number = key >> 3;
        if number == 0 {
            return self.fail("field number 0");
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let end = usize::try_from(length).ok().and_then(|n| self.at.checked_add(n));
                let Some(end) = end.filter(|end| *end <= self.bytes.len()) else {
                    return self.fail("a field is longer than what is left");
                };
                let message = Message { bytes: &self.bytes[self.at..end], offset: self.offset + self.at };
                self.at = end;
                Value::Message(message)
            }
            _ => return self.fail("a group or an unknown wire type"),
        };
        Ok(Some((number, value)))
    }

    /// An error at the current offset, for a field of the wrong wire type.
    pub(super) fn wrong_type<T>(&self) -> Result<T, Malformed> {
        self.fail("a field has the wrong wire type")
    }
}
