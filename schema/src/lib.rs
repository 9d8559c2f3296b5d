//! Everything that crosses a boundary, as data. Pure except for [`migrate`]: nothing else here opens a connection.
//!
//! * [`ids`]: one newtype per thing that has an id.
//! * [`model`]: runs and spans, which every protocol is translated into.
//! * [`tables`]: the tables' columns, and rows of the model written into them.
//! * [`columns`]: how one column's rows become bytes at the edge.
//! * [`envelope`]: the rows of one request on their way through a stream.
//! * [`block`]: envelopes appended into one ClickHouse Native block.
//! * [`translate`]: what both services need to turn a batch of runs and spans into an envelope.
//! * [`migrate`]: the embedded migrations of both stores, for the binary of that name.

pub mod block;
pub mod columns;
pub mod envelope;
pub mod ids;
pub mod migrate;
pub mod model;
pub mod tables;
pub mod translate;
