//! Holding one message on its way, until a scenario has done what it wants to do meanwhile.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;

/// How long a message that is waited for may not come before a scenario has failed.
const CAUGHT_WITHIN: Duration = Duration::from_secs(60);

/// Which side of a message is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The request: it has no effect yet.
    Before,
    /// The reply: the request has taken effect.
    After,
}

/// A message that will be held. When this is dropped, it is lost with its connection.
#[derive(Debug)]
pub struct Hold {
    caught: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

/// The proxy's side of a [`Hold`].
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) when: When,
    caught: oneshot::Sender<()>,
    release: oneshot::Receiver<()>,
}

impl Hold {
    pub(crate) fn new(when: When) -> (Self, Held) {
        let ((caught, is_caught), (release, released)) = (oneshot::channel(), oneshot::channel());
        (Self { caught: is_caught, release }, Held { when, caught, release: released })
    }

    /// Waits until it is there.
    pub async fn caught(&mut self) -> anyhow::Result<()> {
        let caught = tokio::time::timeout(CAUGHT_WITHIN, &mut self.caught).await;
        caught.context("what was to be held never came")?.context("the proxy is gone")
    }

    /// Lets it go on.
    pub fn release(self) {
        // Whoever sent it may be gone.
        _ = self.release.send(());
    }
}

impl Held {
    /// Says that it is there, and waits. False if it is to be lost.
    pub(crate) async fn wait(self) -> bool {
        _ = self.caught.send(());
        self.release.await.is_ok()
    }
}
