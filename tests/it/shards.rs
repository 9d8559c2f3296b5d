//! An org's envelopes go to the shard that its golden vector says.

use load::corpus::Corpus;
use model::ids::OrgId;
use tests::{World, now};

#[tokio::test(flavor = "multi_thread")]
async fn two_orgs_land_in_their_shards() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    // The worker would empty the streams.
    world.worker.stop().await?;
    // hashlib.blake2b(uuid.UUID(...).bytes, digest_size=8), big-endian, mod 16.
    let vectors = [("11111111-1111-1111-1111-111111111111", 11), ("22222222-2222-2222-2222-222222222222", 4)];
    for (n, (id, _)) in vectors.into_iter().enumerate() {
        let org = world.org_with_id(id.parse::<OrgId>()?, &format!("golden-{n}")).await?;
        for _ in 0..=n {
            let answer = world.post_otlp(&org.key, Corpus::new(n as u64).request(2, now()).body).await?;
            assert!(answer.status.is_success());
        }
    }
    let waiting = world.waiting().await?;
    let mut wanted = vec![0; 16];
    wanted[vectors[0].1] += 1;
    wanted[vectors[1].1] += 2;
    assert_eq!(waiting, wanted);
    world.worker.start().await?;
    world.until_drained().await?;
    for (id, _) in vectors {
        let query = format!("SELECT count() > 0 FROM span WHERE org_id = '{id}'");
        assert_eq!(world.clickhouse.number(&query).await?, 1, "{id}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_serves_all_shards() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    let cluster = stack::RedisCluster::start().await?;
    let urls = stack::Urls { redis_url: cluster.url().to_owned(), ..(*db).clone() };
    let world = World::on(&urls, &[], &[]).await?;
    for number in 0..8 {
        let org = world.org(&format!("org-{number}")).await?;
        let answer = world.post_otlp(&org.key, Corpus::new(number).request(10, now()).body).await?;
        assert!(answer.status.is_success());
    }
    world.until_number("SELECT count() FROM span", 80).await?;
    world.until_number("SELECT uniqExact(org_id) FROM span", 8).await?;
    world.until_drained().await
}
