//! Free ports on the loopback interface.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;

use crate::StackError;

/// Below the range (32768 and up) from which the kernel takes the local ports of outgoing connections, so that a port
/// stays ours while its server is down for a moment.
const FIRST: u16 = 17_000;
const LAST: u16 = 31_999;

/// A port that nobody listens on, searched from a random start so that two runs rarely want the same one.
pub fn free() -> Result<u16, StackError> {
    let start = rand::rng().random_range(FIRST..=LAST);
    (start..=LAST)
        .chain(FIRST..start)
        .find(|port| is_free(*port))
        .ok_or(StackError::NoPort { first: FIRST, last: LAST })
}

/// The service's documented port if nobody has it, so that examples work as printed; else any free one.
pub fn prefer(port: u16) -> Result<u16, StackError> {
    if is_free(port) { Ok(port) } else { free() }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
