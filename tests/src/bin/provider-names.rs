//! Writes what SDKs call providers into `schema/provider-names.csv`; what people decided about them stays.

use tests::provider_names::{File, gather};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let names = gather().await?;
    let undecided = File::read()?.write(&names)?;
    println!(
        "{} names; to be decided: {}",
        names.len(),
        if undecided.is_empty() { "none".to_owned() } else { undecided.join(", ") }
    );
    Ok(())
}
