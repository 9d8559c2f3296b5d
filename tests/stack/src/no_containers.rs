//! Servers as containers, in a build without them: what to run instead.

use rustix::process::Signal;

use crate::{Layout, Name, StackError};

fn absent() -> StackError {
    StackError::Setting(
        "this executable was built without containers; instead of `cargo stack up` run: TRACEBILITY_STACK=containers \
         cargo run --package stack --features containers --bin stack -- up"
            .into(),
    )
}

pub(crate) fn check() -> Result<(), StackError> {
    Err(absent())
}

/// Runs one server as a container.
pub async fn look_after(_layout: &Layout, _name: Name) -> Result<(), StackError> {
    Err(absent())
}

pub(crate) async fn remove(_layout: &Layout, _name: Name, _with_data: bool) -> Result<(), StackError> {
    Err(absent())
}

pub(crate) async fn signal(_layout: &Layout, _name: Name, _signal: Signal) -> Result<(), StackError> {
    Err(absent())
}
