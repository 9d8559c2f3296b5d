//! Kills `migrate` at every single request to a store; the next `up` must finish what it began.

use std::sync::Arc;

use migrate::Stores;
use tokio::task::{JoinSet, LocalSet};

use crate::catalogue::{assert_same, catalogue};
use crate::proxy::{End, KillAt, Moment, Proxy};
use crate::support::{clickhouse_schema, empty, migrate, must, owner, stores};

/// How many runs are killed at the same time.
const AT_ONCE: usize = 6;

/// At which moment of a request to kill a run of `up` and a run of `down`; `up` and `down` are killed only at every
/// n-th request.
#[derive(Clone, Copy)]
struct Plan {
    up: Moment,
    up_every: usize,
    down: Moment,
    down_every: usize,
}

const EDGES: Plan =
    Plan { up: Moment::BeforeTheClientHears, up_every: 1, down: Moment::WhileTheServerWorks, down_every: 3 };
/// The plan for every test run on Postgres. `up` is killed at every boundary between two requests.
const QUICK_POSTGRES: [Plan; 1] = [EDGES];
/// The plan for every test run on ClickHouse. `upgrade::killed` kills `up` at every boundary between two requests, in
/// tables that have rows.
const QUICK_CLICKHOUSE: [Plan; 1] = [Plan { up_every: 2, down_every: 6, ..EDGES }];
/// The plan for the long test: every moment of every request, in both directions.
const THOROUGH: [Plan; 3] = [
    Plan { down_every: 1, ..EDGES },
    Plan { up: Moment::BeforeTheServerHears, down: Moment::BeforeTheClientHears, down_every: 1, ..EDGES },
    Plan { up: Moment::WhileTheServerWorks, down: Moment::BeforeTheServerHears, down_every: 1, ..EDGES },
];

/// Kills run after run, each at a later request, until one completes. `one` makes a run and checks what must hold after
/// it. Returns how many runs were killed.
async fn at_every_request<F: Future<Output = End> + 'static>(plans: &[Plan], one: impl Fn(usize, Plan) -> F) -> usize {
    let mut killed = 0;
    for &plan in plans {
        let mut running = JoinSet::new();
        let (mut nth, mut completed) = (0, false);
        while !completed || !running.is_empty() {
            if !completed && running.len() < AT_ONCE {
                nth += plan.up_every;
                running.spawn_local(one(nth, plan));
                continue;
            }
            match running.join_next().await.unwrap().unwrap() {
                End::Killed => killed += 1,
                End::Completed(_) => completed = true,
            }
        }
    }
    killed
}

/// A run whose requests to `store` go through a proxy. A run that was not killed must have succeeded.
async fn killed(stores: &Stores, store: &str, at: KillAt, args: &[&str]) -> End {
    let mut through = stores.clone();
    let url = if store == "postgres" { &mut through.postgres } else { &mut through.clickhouse };
    let proxy = Proxy::to(url.as_ref().unwrap(), at).await;
    *url = Some(proxy.url().to_owned());
    let end = proxy.run(migrate(&through, &[args, &["--target", store]].concat())).await;
    if let End::Completed(ran) = &end {
        assert_eq!(ran.code, Some(0), "{at:?}: {ran:?}");
    }
    end
}

/// Runs up and kills it; runs up and checks; runs down and kills it; runs up and checks.
async fn up_and_down(stores: &Stores, store: &str, nth: usize, plan: Plan, check: impl AsyncFn(&str)) -> End {
    let (up, down) = (KillAt { nth, moment: plan.up }, KillAt { nth, moment: plan.down });
    let mut end = killed(stores, store, up, &["up"]).await;
    must(stores, &["up", "--target", store]).await;
    check(&format!("up, {up:?}")).await;
    if nth.is_multiple_of(plan.down_every) {
        let down_end = killed(stores, store, down, &["down", "--all", "--yes"]).await;
        must(stores, &["up", "--target", store]).await;
        check(&format!("down, {down:?}")).await;
        // The test ends when neither run had a request left at which to kill it.
        end = if matches!(end, End::Killed) { end } else { down_end };
    }
    end
}

async fn postgres_converges(plans: &[Plan]) {
    let db = empty().await;
    must(&stores(&db), &["up", "--target", "postgres"]).await;
    let undisturbed = Arc::new(catalogue(&mut owner(&db).await).await);
    let killed = at_every_request(plans, |nth, plan| {
        let undisturbed = Arc::clone(&undisturbed);
        async move {
            let db = empty().await;
            let check = async |when: &str| assert_same(&catalogue(&mut owner(&db).await).await, &undisturbed, when);
            up_and_down(&stores(&db), "postgres", nth, plan, check).await
        }
    });
    let killed = LocalSet::new().run_until(killed).await;
    println!("postgres: killed at {killed} requests");
    assert!(killed > 100 * plans.len(), "{killed}");
}

async fn clickhouse_converges(plans: &[Plan]) {
    let db = empty().await;
    must(&stores(&db), &["up", "--target", "clickhouse"]).await;
    let undisturbed = Arc::new(clickhouse_schema(&db.clickhouse_url).await);
    let version = Arc::new(must(&stores(&db), &["version", "--target", "clickhouse"]).await.stdout);
    assert!(!version.contains("dirty"), "{version}");
    let killed = at_every_request(plans, |nth, plan| {
        let (undisturbed, version) = (Arc::clone(&undisturbed), Arc::clone(&version));
        async move {
            let db = empty().await;
            let check = async |when: &str| {
                let found = clickhouse_schema(&db.clickhouse_url).await;
                for (found, wanted) in found.iter().zip(undisturbed.iter()) {
                    assert_eq!(found, wanted, "{when}");
                }
                assert_eq!(found.len(), undisturbed.len(), "{when}");
                let found = must(&stores(&db), &["version", "--target", "clickhouse"]).await.stdout;
                assert_eq!(found, *version, "{when}");
            };
            up_and_down(&stores(&db), "clickhouse", nth, plan, check).await
        }
    });
    let killed = LocalSet::new().run_until(killed).await;
    println!("clickhouse: killed at {killed} requests");
    assert!(killed > 40 * plans.len(), "{killed}");
}

#[tokio::test]
async fn postgres_converges_after_a_kill_at_any_request() {
    postgres_converges(&QUICK_POSTGRES).await;
}

#[tokio::test]
async fn clickhouse_converges_after_a_kill_at_any_request() {
    clickhouse_converges(&QUICK_CLICKHOUSE).await;
}

#[tokio::test]
#[ignore = "takes minutes: every moment of every request"]
async fn postgres_converges_after_a_kill_at_every_moment_of_any_request() {
    postgres_converges(&THOROUGH).await;
}

#[tokio::test]
#[ignore = "takes minutes: every moment of every request"]
async fn clickhouse_converges_after_a_kill_at_every_moment_of_any_request() {
    clickhouse_converges(&THOROUGH).await;
}
