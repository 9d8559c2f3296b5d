//! A file of prices that replaces the built-in table. It is read again whenever it changes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt;
use tokio::sync::watch::Receiver;
use translate::prices::{FILE_BYTES_MAX, PriceFileError, Prices, replace};

use crate::metrics;

/// How often to check whether the file has changed.
pub const POLL_EVERY: Duration = Duration::from_secs(2);

/// Why the prices in a file were not taken.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("has more than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    Prices(#[from] PriceFileError),
}

/// The file's time of change and its size, which tell one version of it from another.
type Version = (Option<SystemTime>, u64);

/// Takes the prices in the file, if there is one, and again whenever the file changes, until `stopping` is true. If the
/// file is not a table of prices, that is logged and counted, and the prices stay as they were: a mistake in the file
/// must not stop ingest.
pub async fn follow(path: Option<PathBuf>, mut stopping: Receiver<bool>) {
    let Some(path) = path else { return };
    let mut file = PriceFile { path, last_read: None };
    file.reload_if_changed().await;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL_EVERY) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            file.reload_if_changed().await;
        }
    });
}

struct PriceFile {
    path: PathBuf,
    /// The version that was read last, whether its prices were taken or not.
    last_read: Option<Result<Version, ErrorKind>>,
}

impl PriceFile {
    async fn reload_if_changed(&mut self) {
        let path = &self.path;
        // The version is read first: if the file changes while we read it, its version differs and we read it again
        // next time.
        let version = version(path).await;
        if self.last_read.as_ref() == Some(&version) {
            return;
        }
        let read = match &version {
            Ok(_) => read(path).await,
            Err(kind) => Err(ReadError::Io((*kind).into())),
        };
        metrics::prices_read(read.is_ok());
        match read {
            Ok(prices) => {
                tracing::info!(path = %path.display(), source = %prices.source, "prices taken from a file");
                replace(prices);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "no prices taken from the file; those before it stay");
            }
        }
        self.last_read = Some(version);
    }
}

async fn version(path: &Path) -> Result<Version, ErrorKind> {
    let metadata = tokio::fs::metadata(path).await.map_err(|error| error.kind())?;
    Ok((metadata.modified().ok(), metadata.len()))
}

async fn read(path: &Path) -> Result<Prices, ReadError> {
    let mut text = String::new();
    tokio::fs::File::open(path).await?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).await?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge);
    }
    Ok(Prices::parse(&text)?)
}
