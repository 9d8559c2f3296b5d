use super::*;

/// Per segment its bytes, and whether one row stands for all rows.
fn segments(column: &Column) -> Vec<(Vec<u8>, bool)> {
    column.segments().map(|s| (s.bytes.to_vec(), s.constant)).collect()
}

#[test]
fn varint_len_agrees_with_the_writer() {
    for n in [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152, usize::MAX] {
        let mut out = Vec::new();
        write_varint(&mut out, n);
        assert_eq!(varint_len(n), out.len(), "{n}");
    }
}

#[test]
fn equal_rows_are_kept_once() {
    let mut column = Column::new(ColumnType::String);
    for _ in 0..5 {
        column.push_str("gpt");
    }
    assert_eq!((column.rows(), segments(&column)), (5, vec![(b"\x03gpt".to_vec(), true)]));
}

#[test]
fn a_differing_row_writes_out_the_counted_equal_rows() {
    let mut column = Column::new(ColumnType::String);
    for text in ["a", "a", "a", "b", "a"] {
        column.push_str(text);
    }
    assert_eq!((column.rows(), segments(&column)), (5, vec![(b"\x01a\x01a\x01a\x01b\x01a".to_vec(), false)]));
}

#[test]
fn a_prefix_is_a_different_row() {
    let mut column = Column::new(ColumnType::String);
    for text in ["", "ab", "a", ""] {
        column.push_str(text);
    }
    assert_eq!(segments(&column), vec![(b"\x00\x02ab\x01a\x00".to_vec(), false)]);
}

#[test]
fn maps_become_lengths_keys_and_values() {
    let pair = |key: &'static str, value| Attribute { key: key.into(), value };
    let mut column = Column::new(ColumnType::Map);
    column.push_map(&[pair("n", Value::Int(-7))]);
    column.push_map(&[pair("n", Value::Int(-7))]);
    assert!(column.segments().all(|s| s.constant));
    column.push_map(&[]);
    column.push_map(&[pair("f", Value::Double(1.0)), pair("b", Value::Bool(true))]);
    column.repeat_last();
    let want = [
        ([1u32, 1, 0, 2, 2].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>(), false),
        (b"\x01n\x01n\x01f\x01b\x01f\x01b".to_vec(), false),
        (b"\x02-7\x02-7\x031.0\x04true\x031.0\x04true".to_vec(), false),
    ];
    assert_eq!((column.rows(), segments(&column)), (5, want.to_vec()));
}

#[test]
fn repeated_map_keys_are_stored_once_while_values_differ() {
    let mut column = Column::new(ColumnType::Map);
    for n in [1, 2] {
        column.push_map(&[Attribute { key: "tokens".into(), value: Value::Int(n) }]);
    }
    let want = [(vec![1, 0, 0, 0], true), (b"\x06tokens".to_vec(), true), (b"\x011\x012".to_vec(), false)];
    assert_eq!(segments(&column), want);
}

#[test]
fn repeating_the_first_row_keeps_the_column_constant() {
    let mut column = Column::new(ColumnType::ArrayString);
    column.push_strs(["x"].iter());
    column.repeat_last();
    assert!(column.segments().all(|s| s.constant));
    column.push_strs(["y", "z"].iter());
    column.repeat_last();
    assert_eq!(segments(&column)[1].0, b"\x01x\x01x\x01y\x01z\x01y\x01z");
}
