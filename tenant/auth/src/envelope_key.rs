//! The deployment's envelope key, read from Postgres.
//!
//! A process has no other copy and asks Postgres until it gets the key, once. Until then it neither writes nor reads
//! envelopes: the API refuses requests with 503 and a worker takes no shard, so no entry becomes a dead letter because
//! the key is missing. After that the process needs Postgres no more for this.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::{SetOnce, watch};
use wire::envelope::EnvelopeKey;

/// The pause before Postgres is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why the envelope key could not be read.
#[derive(Debug, Error)]
pub enum EnvelopeKeyError {
    /// Postgres did not answer, or denied access.
    #[error("could not read the envelope key from Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    /// The value in Postgres has a wrong length, in bytes.
    #[error("the envelope key in Postgres is of {0} bytes, expected {expected}", expected = wire::envelope::ENVELOPE_KEY_BYTES)]
    Length(usize),
}

/// Reads the key from Postgres once.
pub async fn read(postgres: &PgPool) -> Result<EnvelopeKey, EnvelopeKeyError> {
    let secret: Vec<u8> = sqlx::query_scalar("SELECT envelope_key()").fetch_one(postgres).await?;
    let secret = secret.as_slice().try_into().map_err(|_| EnvelopeKeyError::Length(secret.len()))?;
    Ok(EnvelopeKey::new(secret))
}

/// The key of a running service: unknown at first, then the same for as long as the process runs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EnvelopeKeys(Arc<SetOnce<EnvelopeKey>>);

impl EnvelopeKeys {
    /// Asks Postgres until it has answered or until `stop`.
    pub fn ask(postgres: PgPool, mut stop: watch::Receiver<bool>) -> Self {
        let keys = Self::default();
        let fetched = keys.clone();
        tokio::spawn(async move {
            loop {
                match read(&postgres).await {
                    // Cannot fail: this task alone sets it.
                    Ok(key) => return drop(fetched.0.set(key)),
                    Err(error) => tracing::warn!(%error, "envelopes are neither written nor read; asking again"),
                }
                tokio::select! {
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        });
        keys
    }

    /// The key; `None` until Postgres has answered.
    pub fn get(&self) -> Option<&EnvelopeKey> {
        self.0.get()
    }

    /// Waits for the key.
    pub async fn wait(&self) -> &EnvelopeKey {
        self.0.wait().await
    }
}
