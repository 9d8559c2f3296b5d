//! `migrate` killed at every single request to a store, on either side of it; the next `up` makes up for it.

use std::sync::Arc;

use schema::migrate::Stores;
use tokio::task::{JoinSet, LocalSet};

use crate::catalogue::{assert_same, catalogue};
use crate::proxy::{End, KillAt, Moment, Proxy};
use crate::support::{clickhouse_schema, empty, migrate, must, owner, stores};

/// How many runs are killed at the same time.
const AT_ONCE: usize = 6;

/// Kills run after run, each at a later request, until one completes; `one` is a run and what must hold after it, and
/// says how it ended. Returns how many were killed.
async fn at_every_request<F: Future<Output = End> + 'static>(one: impl Fn(KillAt) -> F) -> usize {
    LocalSet::new().run_until(kill_each(one)).await
}

async fn kill_each<F: Future<Output = End> + 'static>(one: impl Fn(KillAt) -> F) -> usize {
    let mut killed = 0;
    for moment in [Moment::BeforeTheServerHears, Moment::BeforeTheClientHears] {
        let mut running = JoinSet::new();
        let (mut nth, mut completed) = (0, false);
        while !completed || !running.is_empty() {
            if !completed && running.len() < AT_ONCE {
                nth += 1;
                running.spawn_local(one(KillAt { nth, moment }));
                continue;
            }
            match running.join_next().await.unwrap().unwrap() {
                End::Killed => killed += 1,
                End::Completed(ran) => {
                    assert_eq!(ran.code, Some(0), "{ran:?}");
                    completed = true;
                }
            }
        }
    }
    killed
}

/// A run of which `store` goes through a proxy.
async fn killed(stores: &Stores, store: &str, at: KillAt, args: &[&str]) -> End {
    let mut through = stores.clone();
    let url = if store == "postgres" { &mut through.postgres } else { &mut through.clickhouse };
    let proxy = Proxy::to(url.as_ref().unwrap(), at).await;
    *url = Some(proxy.url().to_owned());
    proxy.run(migrate(&through, &[args, &["--target", store]].concat())).await
}

/// What two ways of going up, and of down and up again, ended as.
fn both(up: End, down: End) -> End {
    match (up, down) {
        (End::Completed(up), End::Completed(down)) => End::Completed(if up.code == Some(0) { down } else { up }),
        (End::Completed(ran), End::Killed) | (End::Killed, End::Completed(ran)) if ran.code != Some(0) => {
            End::Completed(ran)
        }
        _ => End::Killed,
    }
}

#[tokio::test]
async fn postgres_converges_wherever_migrate_was_killed() {
    let db = empty().await;
    must(&stores(&db), &["up", "--target", "postgres"]).await;
    let undisturbed = Arc::new(catalogue(&mut owner(&db).await).await);
    let killed = at_every_request(move |at| {
        let undisturbed = Arc::clone(&undisturbed);
        async move {
            let db = empty().await;
            let stores = stores(&db);
            let up = killed(&stores, "postgres", at, &["up"]).await;
            must(&stores, &["up", "--target", "postgres"]).await;
            assert_same(&catalogue(&mut owner(&db).await).await, &undisturbed, &format!("up, {at:?}"));
            let down = killed(&stores, "postgres", at, &["down", "--all", "--yes"]).await;
            must(&stores, &["up", "--target", "postgres"]).await;
            assert_same(&catalogue(&mut owner(&db).await).await, &undisturbed, &format!("down, {at:?}"));
            both(up, down)
        }
    })
    .await;
    println!("killed at {killed} requests");
    assert!(killed > 100, "{killed}");
}

#[tokio::test]
async fn clickhouse_converges_wherever_migrate_was_killed() {
    let db = empty().await;
    must(&stores(&db), &["up"]).await;
    let undisturbed = Arc::new(clickhouse_schema(&db.clickhouse_url).await);
    let versions = Arc::new(must(&stores(&db), &["version", "--target", "clickhouse"]).await.stdout);
    let killed = at_every_request(move |at| {
        let (undisturbed, versions) = (Arc::clone(&undisturbed), Arc::clone(&versions));
        async move {
            let db = empty().await;
            let stores = stores(&db);
            let check = async |when: &str| {
                must(&stores, &["up", "--target", "clickhouse"]).await;
                let found = clickhouse_schema(&db.clickhouse_url).await;
                for (found, wanted) in found.iter().zip(undisturbed.iter()) {
                    assert_eq!(found, wanted, "{when}, {at:?}");
                }
                assert_eq!(found.len(), undisturbed.len(), "{when}, {at:?}");
                let found = must(&stores, &["version", "--target", "clickhouse"]).await.stdout;
                assert_eq!(found, *versions, "{when}, {at:?}");
            };
            let up = killed(&stores, "clickhouse", at, &["up"]).await;
            check("up").await;
            let down = killed(&stores, "clickhouse", at, &["down", "--all", "--yes"]).await;
            check("down").await;
            both(up, down)
        }
    })
    .await;
    println!("killed at {killed} requests");
    assert!(killed > 50, "{killed}");
}
