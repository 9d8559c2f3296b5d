//! What is stored beyond what was sent: calls as a replayer looks for them.

mod canonical;
pub mod replay;
