//! Checks that a column's segments hold exactly as many elements as their rows say. A column that passes can be
//! appended to a block without looking into it, and every row of the block then has its own values. A segment with one
//! text too few would shift all later texts by a row, perhaps into another org.

use super::{ColumnBytes, lengths};
use crate::columns::{Segment, SegmentBytes};

/// Most bytes of a string's length. Five bytes can express more than the size of the largest envelope.
const STRING_LENGTH_BYTES_MAX: usize = 5;

/// Fails with the index of the first wrong segment, and how many elements it should have.
pub(super) fn check_segments(types: &[Segment], rows: u32, column: &ColumnBytes<'_>) -> Result<(), (usize, u64)> {
    // How many elements the segment has in all rows, and in one row if every row has the same number.
    let (mut all, mut per_row) = (u64::from(rows), Some(1));
    for (i, kind) in types.iter().enumerate() {
        let SegmentBytes { bytes, constant } = column.segments[i];
        if constant && per_row.is_none() && !bytes.is_empty() {
            per_row = elements_of_every_row(rows, &column.segments[..i]);
        }
        let held = match (constant, per_row) {
            (false, _) => all,
            (true, Some(per_row)) => per_row,
            // One row cannot stand for rows of different lengths, unless all of them are empty.
            (true, None) if bytes.is_empty() => all,
            (true, None) => return Err((i, all)),
        };
        let fits = match kind {
            Segment::Fixed(width) => held.checked_mul(*width as u64) == Some(bytes.len() as u64),
            Segment::Lengths => held.checked_mul(4) == Some(bytes.len() as u64),
            Segment::Strings => holds_strings(bytes, held),
        };
        if !fits {
            return Err((i, held));
        }
        if *kind == Segment::Lengths {
            let sum: u64 = lengths(bytes).map(u64::from).sum();
            // A number that does not fit is larger than any segment, so the check fails anyway.
            let repeated = sum.saturating_mul(u64::from(rows));
            (all, per_row) = if constant { (repeated, Some(sum)) } else { (sum, None) };
        }
    }
    Ok(())
}

/// How many elements each row has under these segments of lengths, outermost first; `None` if rows differ. Each segment
/// has as many lengths as the segment before it says, and the last one is written out row by row.
fn elements_of_every_row(rows: u32, outer: &[SegmentBytes<'_>]) -> Option<u64> {
    let (last, before) = outer.split_last()?;
    let mut of_last = lengths(last.bytes);
    let mut of_first = before.first().map(|first| lengths(first.bytes).cycle());
    let mut counts = (0..rows).map(|_| {
        // How many lengths of the last segment belong to this row.
        let own = of_first.as_mut().map_or(1, |first| first.next().unwrap_or_default());
        of_last.by_ref().take(own as usize).map(u64::from).sum::<u64>()
    });
    let first = counts.next()?;
    counts.all(|count| count == first).then_some(first)
}

/// Whether these bytes are exactly `count` strings, each a LEB128 length and that many bytes.
fn holds_strings(bytes: &[u8], count: u64) -> bool {
    // Each string takes at least one byte, so a count that is too large ends here without a long loop.
    if count > bytes.len() as u64 {
        return false;
    }
    let mut at = 0;
    for _ in 0..count {
        let Some(first) = bytes.get(at) else { return false };
        let (length, prefix) = if *first < 0x80 { (usize::from(*first), 1) } else { long_length(&bytes[at..]) };
        if prefix > STRING_LENGTH_BYTES_MAX {
            return false;
        }
        at += prefix + length;
    }
    at == bytes.len()
}

/// A length of several bytes, and its number of bytes; more than [`STRING_LENGTH_BYTES_MAX`] if it is cut off or too
/// long.
#[cold]
fn long_length(bytes: &[u8]) -> (usize, usize) {
    let mut length = 0;
    for (i, byte) in bytes.iter().take(STRING_LENGTH_BYTES_MAX).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            return (length, i + 1);
        }
    }
    (0, STRING_LENGTH_BYTES_MAX + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::ColumnType;
    use crate::envelope::SECTION_ROWS_MAX;

    fn segment(bytes: &[u8], constant: bool) -> SegmentBytes<'_> {
        SegmentBytes { bytes, constant }
    }

    fn check(ty: ColumnType, rows: u32, segments: [SegmentBytes<'_>; 4]) -> Result<(), (usize, u64)> {
        check_segments(ty.segments(), rows, &ColumnBytes { segments })
    }

    const NONE: SegmentBytes<'static> = SegmentBytes { bytes: &[], constant: false };

    #[test]
    fn strings_are_counted_to_their_last_byte() {
        let strings = |bytes: &[u8], rows| check(ColumnType::String, rows, [segment(bytes, false), NONE, NONE, NONE]);
        assert_eq!(strings(b"\x01a\x00\x02bc", 3), Ok(()));
        for (bytes, rows, why) in [
            (&b"\x01a\x00\x02bc"[..], 2, "a string too many"),
            (b"\x01a\x00\x02bc", 4, "a string too few"),
            (b"\x01a\x00\x03bc", 3, "the last is cut off"),
            (b"\x01a\x04\x02bc", 2, "one reaches beyond the end"),
            (b"\x80\x80\x80\x80\x80\x00", 1, "a length of six bytes"),
            (b"\x80", 1, "a length that is cut off"),
            (b"\xff\xff\xff\xff\x7fa", 1, "a length beyond the end"),
        ] {
            assert_eq!(strings(bytes, rows), Err((0, rows.into())), "{why}");
        }
        let long = [&[0x80, 0x02][..], &[b'x'; 256]].concat();
        assert_eq!(strings(&long, 1), Ok(()));
        assert_eq!(check(ColumnType::String, 9, [segment(b"\x00\x00", true), NONE, NONE, NONE]), Err((0, 1)));
    }

    #[test]
    fn more_elements_than_can_be_counted_are_refused() {
        const MAPS: u32 = 9_000;
        let (maps, each) = (MAPS.to_le_bytes(), u32::MAX.to_le_bytes().repeat(MAPS as usize));
        let segments = [segment(&maps, true), segment(&each, true), segment(b"few", false), segment(b"few", false)];
        assert_eq!(check(ColumnType::ArrayMap, SECTION_ROWS_MAX, segments), Err((2, u64::MAX)));
        let one = [u32::MAX.to_le_bytes(); 1].concat();
        for ty in [ColumnType::ArrayUuid, ColumnType::ArrayString, ColumnType::ArrayUInt32] {
            let segments = [segment(&one, true), segment(b"few", false), NONE, NONE];
            assert!(check(ty, SECTION_ROWS_MAX, segments).is_err(), "{ty:?}");
        }
    }

    /// Two rows of two events each. In one row the first event has the attribute, in the other row the second event has
    /// it.
    #[test]
    fn rows_with_equal_attribute_names_may_group_them_differently() {
        let le = |lengths: &[u32]| lengths.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let (two, grouped) = (le(&[2]), le(&[1, 0, 0, 1]));
        let names = segment(b"\x01k", true);
        let segments = [segment(&two, true), segment(&grouped, false), names, names];
        assert_eq!(check(ColumnType::ArrayMap, 2, segments), Ok(()));
        let (one_and_two, grouped) = (le(&[1, 2]), le(&[1, 1, 0]));
        let segments = [segment(&one_and_two, false), segment(&grouped, false), names, names];
        assert_eq!(check(ColumnType::ArrayMap, 2, segments), Ok(()));
        let differing = le(&[1, 0, 1, 1]);
        let segments = [segment(&two, true), segment(&differing, false), names, names];
        assert_eq!(check(ColumnType::ArrayMap, 2, segments), Err((2, 3)));
    }
}
