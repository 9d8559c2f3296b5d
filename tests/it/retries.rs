//! What a client sends again, because it has not heard the answer, is there once and billed once.

use ledger::{Hours, Scope};
use load::corpus::Corpus;
use stores::clock::unix_hour;
use tests::{World, now};

use crate::ledger::books;

const SPANS: u64 = 10;
const STORED: &str = "SELECT count() FROM span FINAL";
const BILLED: &str = "SELECT sum(quantity) FROM billing_meter WHERE meter = 'span_ingested'";

/// Answered with a 2xx each time: to the client a retry is like any other request.
async fn send(world: &World, key: &str, body: &[u8]) -> anyhow::Result<()> {
    let answer = world.post_otlp(key, body.to_vec()).await?;
    anyhow::ensure!(answer.status.is_success(), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_request_is_stored_and_billed_once() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let (org, other) = (world.org("sends-again").await?, world.org("another").await?);
    let body = Corpus::new(1).request(SPANS as usize, now()).body;

    // In one batch: nothing is stored while the worker is stopped.
    world.worker.stop().await?;
    for _ in 0..3 {
        send(&world, &org.key, &body).await?;
    }
    world.worker.start().await?;
    world.until_drained().await?;
    assert_eq!((world.clickhouse.number(STORED).await?, world.clickhouse.number(BILLED).await?), (SPANS, SPANS));

    // In a later batch, of the same owner of the shard, and of the next one.
    send(&world, &org.key, &body).await?;
    world.until_drained().await?;
    world.worker.kill().await?;
    world.worker.start().await?;
    send(&world, &org.key, &body).await?;
    world.until_drained().await?;
    assert_eq!((world.clickhouse.number(STORED).await?, world.clickhouse.number(BILLED).await?), (SPANS, SPANS));

    // Nothing is missing to the ledger.
    let balance = books(&world).await?.balance(Scope::Org(org.org_id), &Hours::up_to(unix_hour(), 2)).await?;
    assert_eq!(balance.imbalance(), 0, "{balance:?}");

    // The same content of another key is another request, and so is other content of the same key.
    send(&world, &other.key, &body).await?;
    send(&world, &org.key, &Corpus::new(2).request(SPANS as usize, now()).body).await?;
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number(BILLED).await?, 3 * SPANS);
    Ok(())
}
