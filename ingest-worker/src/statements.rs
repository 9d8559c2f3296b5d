//! The `INSERT` statement of each table, built once.

use stores::clickhouse::InsertStatement;
use wire::tables::{STAMPS, Table};

/// The statements that were used so far, by table.
#[derive(Debug, Default)]
pub(crate) struct Statements(Vec<(&'static Table, InsertStatement)>);

impl Statements {
    /// The statement that names exactly the columns of a block of that table, in their order.
    pub(crate) fn of(&mut self, table: &'static Table) -> InsertStatement {
        if let Some((_, statement)) = self.0.iter().find(|(known, _)| *known == table) {
            return statement.clone();
        }
        let statement = InsertStatement::new(table.name, STAMPS.iter().chain(table.columns).map(|column| column.name));
        self.0.push((table, statement.clone()));
        statement
    }
}
