//! Everything that crosses a boundary, as data: ids, the run/span model, the row encoders with their column lists, the
//! envelope codec and the migrations. Pure except for the `migrate` binary: nothing here opens a connection.

pub mod ids;
pub mod model;
