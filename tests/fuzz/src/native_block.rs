//! Reads a Native block as ClickHouse does, and knows nothing of how it was made.

use wire::block::SealedBlock;
use wire::columns::{ColumnType, Segment};
use wire::tables::STAMPS;

/// Checks that a block is what its head says: every column has as many values as the block has rows, every array and
/// map as many elements as its offsets say, and nothing is left over.
pub(crate) fn check(block: &SealedBlock) {
    let bytes = block.pieces().concat();
    let mut reader = Reader { bytes: &bytes };
    let specs = STAMPS.iter().chain(block.table().columns);
    assert_eq!(reader.varint(), specs.clone().count(), "columns");
    assert_eq!(reader.varint(), block.rows(), "rows");
    for spec in specs {
        assert_eq!(reader.string(), spec.name.as_bytes());
        assert_eq!(reader.string(), spec.ty.native_name().as_bytes());
        reader.column(spec.ty, block.rows());
    }
    assert!(reader.bytes.is_empty(), "{} bytes are left over", reader.bytes.len());
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at_checked(n).expect("the block is cut off");
        self.bytes = rest;
        taken
    }

    fn varint(&mut self) -> usize {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        panic!("a length of more than ten bytes");
    }

    fn string(&mut self) -> &'a [u8] {
        let length = self.varint();
        self.take(length)
    }

    fn column(&mut self, ty: ColumnType, rows: usize) {
        let mut elements = rows;
        for segment in ty.segments() {
            match segment {
                Segment::Fixed(width) => {
                    self.take(elements * width);
                }
                Segment::Strings => (0..elements).for_each(|_| {
                    self.string();
                }),
                Segment::Lengths => {
                    let mut last = 0;
                    for offset in self.take(elements * 8).chunks_exact(8) {
                        let offset = u64::from_le_bytes(offset.try_into().expect("eight bytes"));
                        assert!(offset >= last, "offsets go back");
                        last = offset;
                    }
                    elements = usize::try_from(last).expect("a block fits into memory");
                }
            }
        }
    }
}
