//! What SDKs call providers is what prices know them by.

use tests::provider_names::{File, gather};

#[tokio::test(flavor = "multi_thread")]
async fn provider_names_match_the_sdk_packages() -> anyhow::Result<()> {
    let file = File::read()?;
    assert_eq!(file.names, gather().await?, "`just provider-names` writes them anew");
    Ok(())
}
