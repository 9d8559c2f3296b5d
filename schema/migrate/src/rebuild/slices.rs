//! Cuts a partition along the sorting key into slices that one statement can copy.
//!
//! The bounds come from the primary index, with one granule of about 8000 rows as the unit, so finding them reads no
//! data. Each bound is a condition on the key, spelled out element by element, because ClickHouse's index cannot use a
//! comparison of tuples.

use clickhouse::Row;
use serde::Deserialize;

use super::RebuildError;
use crate::session::Session;

/// About the most rows that one statement copies. It holds a 16-byte hash of each in memory, which takes about 100
/// bytes.
pub(super) const ROWS_PER_COPY_MAX: u64 = 1_000_000;

/// The rows of one partition between two keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    /// The SQL condition for the rows, perhaps `true`, with the parameters it names.
    pub(super) condition: String,
    pub(super) parameters: Vec<(String, String)>,
}

/// The key at a bound: each element as text, and its type.
type Bound = Vec<(String, String)>;

#[derive(Row, Deserialize)]
struct BoundRow {
    texts: Vec<String>,
    types: Vec<String>,
}

/// The slices of a partition, in the order of the key; together they are the whole partition.
pub(super) async fn of_partition(
    session: &mut Session<'_>,
    table: &str,
    key: &[String],
    partition: &str,
    rows: u64,
) -> Result<Vec<Slice>, RebuildError> {
    if rows <= ROWS_PER_COPY_MAX {
        return Ok(vec![between(key, None, None)]);
    }
    let elements: Vec<String> = key.iter().map(|element| format!("`{element}`")).collect();
    let [elements, texts, types] = [
        elements.join(", "),
        elements.iter().map(|element| format!("toString({element})")).collect::<Vec<_>>().join(", "),
        elements.iter().map(|element| format!("toTypeName({element})")).collect::<Vec<_>>().join(", "),
    ];
    // A granule whose first row fills a slice begins the next slice.
    let sql = format!(
        "SELECT texts, types FROM (
            SELECT [{texts}] AS texts, [{types}] AS types, rows_in_granule AS rows,
                   sum(rows_in_granule) OVER (ORDER BY {elements} ROWS UNBOUNDED PRECEDING) AS upto
              FROM mergeTreeIndex(currentDatabase(), {{table:String}})
             WHERE rows_in_granule > 0 AND startsWith(part_name, concat({{partition:String}}, '_'))
        ) WHERE intDiv(upto, {ROWS_PER_COPY_MAX}) != intDiv(upto - rows, {ROWS_PER_COPY_MAX}) ORDER BY upto"
    );
    let parameters = [("table".to_owned(), table.to_owned()), ("partition".to_owned(), partition.to_owned())];
    let found: Vec<BoundRow> = session.rows(&sql, &parameters).await?;
    let bounds: Vec<Bound> = found.into_iter().map(|row| row.texts.into_iter().zip(row.types).collect()).collect();
    Ok(cut(key, &bounds))
}

fn cut(key: &[String], bounds: &[Bound]) -> Vec<Slice> {
    let lower = std::iter::once(None).chain(bounds.iter().map(Some));
    let upper = bounds.iter().map(Some).chain(std::iter::once(None));
    lower.zip(upper).map(|(lower, upper)| between(key, lower, upper)).collect()
}

fn between(key: &[String], lower: Option<&Bound>, upper: Option<&Bound>) -> Slice {
    let mut slice = Slice { condition: "true".to_owned(), parameters: Vec::new() };
    for (name, bound, compare) in [("lower", lower, '>'), ("upper", upper, '<')] {
        let Some(bound) = bound else { continue };
        slice.condition = format!("{} AND {}", slice.condition, beyond(key, bound, name, compare));
        let values = bound.iter().enumerate().map(|(at, (text, _))| (format!("{name}{at}"), text.clone()));
        slice.parameters.extend(values);
    }
    slice
}

/// SQL for `key >= bound` or `key < bound`, in the order of tuples.
fn beyond(key: &[String], bound: &Bound, name: &str, compare: char) -> String {
    let mut condition = None;
    for (at, (element, (_, ty))) in key.iter().zip(bound).enumerate().rev() {
        let value = format!("CAST({{{name}{at}:String}} AS {ty})");
        condition = Some(match condition {
            // The last element: the lower bound itself belongs to the slice, the upper one does not.
            None if compare == '>' => format!("{element} >= {value}"),
            None => format!("{element} < {value}"),
            Some(rest) => format!("({element} {compare} {value} OR ({element} = {value} AND {rest}))"),
        });
    }
    condition.unwrap_or_else(|| "true".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_conditions_compare_key_columns_so_that_the_index_is_used() {
        let key = ["a".to_owned(), "toDate(b)".to_owned()];
        let bound = |a: &str, b: &str| vec![(a.to_owned(), "UInt8".to_owned()), (b.to_owned(), "Date".to_owned())];
        let slices = cut(&key, &[bound("1", "2026-01-01"), bound("2", "2026-02-01")]);
        assert_eq!(slices.len(), 3);
        assert_eq!(
            slices[0].condition,
            "true AND (a < CAST({upper0:String} AS UInt8) OR (a = CAST({upper0:String} AS UInt8) AND \
             toDate(b) < CAST({upper1:String} AS Date)))"
        );
        assert!(slices[1].condition.contains("toDate(b) >= CAST({lower1:String} AS Date)"), "{:?}", slices[1]);
        let names: Vec<_> = slices[1].parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(names, ["lower0=1", "lower1=2026-01-01", "upper0=2", "upper1=2026-02-01"]);
        assert!(!slices[2].condition.contains("upper"), "{:?}", slices[2]);
        assert_eq!(cut(&key, &[]), [Slice { condition: "true".to_owned(), parameters: Vec::new() }]);
    }
}
