//! A table of text, its columns as wide as they need to be.

use std::fmt;

/// The headings, and the rows below them.
#[derive(Clone, Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table of these headings, without rows.
    pub fn new(headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|h| (*h).to_owned()).collect()])
    }

    /// Adds a row, with one cell per heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |c: usize| self.0.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.0 {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
            writeln!(f, "  {}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["three".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "  A      LONG\n  three  x\n");
    }
}
