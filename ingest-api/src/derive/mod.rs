//! What is stored beyond what was sent: costs that the client left out, and calls as a replayer looks for them. It is the
//! same for every protocol, and made where rows are added to a [`crate::batch`].

mod canonical;
pub mod prices;
pub(crate) mod provider;
pub mod replay;
