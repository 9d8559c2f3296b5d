//! The deployment's envelope key, read from Postgres.
//!
//! A process has no other copy and asks until it has it, once. Until then it neither writes nor reads envelopes: the
//! API refuses with 503 and a worker takes no shard, so nothing becomes a dead letter for want of a key. After that
//! Postgres may be away.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::{SetOnce, watch};
use wire::envelope::EnvelopeKey;

/// How long to wait before Postgres is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why there is no key.
#[derive(Debug, Error)]
pub enum EnvelopeKeyError {
    /// Postgres could not be asked, or refuses to say.
    #[error("could not read the envelope key from Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    /// It is not a key.
    #[error("the envelope key in Postgres is of {0} bytes, expected {expected}", expected = wire::envelope::ENVELOPE_KEY_BYTES)]
    Length(usize),
}

/// Asks Postgres once.
pub async fn read(postgres: &PgPool) -> Result<EnvelopeKey, EnvelopeKeyError> {
    let secret: Vec<u8> = sqlx::query_scalar("SELECT envelope_key()").fetch_one(postgres).await?;
    let secret = secret.as_slice().try_into().map_err(|_| EnvelopeKeyError::Length(secret.len()))?;
    Ok(EnvelopeKey::new(secret))
}

/// The key as a service has it: not yet, or for as long as it runs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EnvelopeKeys(Arc<SetOnce<EnvelopeKey>>);

impl EnvelopeKeys {
    /// Begins to ask Postgres, until it has answered or until `stop`.
    pub fn ask(postgres: PgPool, mut stop: watch::Receiver<bool>) -> Self {
        let keys = Self::default();
        let told = keys.clone();
        tokio::spawn(async move {
            loop {
                match read(&postgres).await {
                    // Nobody else sets it.
                    Ok(key) => return drop(told.0.set(key)),
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

    /// The key, if it is there.
    pub fn get(&self) -> Option<&EnvelopeKey> {
        self.0.get()
    }

    /// The key as soon as it is there.
    pub async fn wait(&self) -> &EnvelopeKey {
        self.0.wait().await
    }
}
