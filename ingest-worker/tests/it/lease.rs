//! Leases in real Redis, on one node and on a cluster.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lease::store::{Acquired, Store};
use lease::{LEASE_TTL, LeaseGuard, Leases};
use model::shard::{SHARDS, Shard};
use redis::AsyncCommands;
use service::settings::parse;
use stack::RedisCluster;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// After this long a test fails. No step takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(10);

fn redis(url: &str) -> Redis {
    connect(&parse::redis_url(url).unwrap()).unwrap()
}

/// Waits until `is_so` is true, and returns how long that took.
async fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL_EVERY).await;
    }
    begun.elapsed()
}

/// The last guard of each shard, of any member, and every breach of the lease's promise.
#[derive(Clone, Default)]
struct Fleet {
    last: Arc<Mutex<HashMap<Shard, LeaseGuard>>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Fleet {
    fn begin(&self, guard: &LeaseGuard) {
        let before = self.last.lock().unwrap().insert(guard.shard(), guard.clone());
        if let Some(before) = before.filter(|before| before.holds() || before.epoch() >= guard.epoch()) {
            self.wrong.lock().unwrap().push(format!("{guard:?} began after {before:?}, holds {}", before.holds()));
        }
    }

    /// Fails if a worker began with a shard while another still held it, or if an epoch was not larger than the one
    /// before.
    fn check(&self) {
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
    }
}

struct Member {
    owner: String,
    /// The guards of the shards that the member works on.
    guards: Arc<Mutex<HashMap<Shard, LeaseGuard>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Member {
    /// Starts a worker that works on every shard it gets until the guard ends.
    fn start(url: &str, fleet: &Fleet) -> Self {
        let leases = Leases::new(redis(url), "worker");
        let (owner, guards) = (leases.owner().to_string(), Arc::<Mutex<HashMap<Shard, LeaseGuard>>>::default());
        let (stop, stopping) = watch::channel(false);
        let (fleet, working) = (fleet.clone(), Arc::clone(&guards));
        let task = tokio::spawn(leases.run(stopping, move |guard| {
            let (fleet, working) = (fleet.clone(), Arc::clone(&working));
            async move {
                fleet.begin(&guard);
                working.lock().unwrap().insert(guard.shard(), guard.clone());
                guard.ended().await;
                working.lock().unwrap().remove(&guard.shard());
            }
        }));
        Self { owner, guards, stop, task }
    }

    fn shards(&self) -> usize {
        self.guards.lock().unwrap().values().filter(|guard| guard.holds() && guard.is_wanted()).count()
    }

    async fn leave(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        assert!(self.guards.lock().unwrap().is_empty(), "its work was waited for");
    }

    /// Ends the worker as if its process had been killed.
    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Waits until these members have all shards, evenly.
async fn even(members: &[&Member]) -> Duration {
    let shards = || members.iter().map(|member| member.shards()).collect::<Vec<_>>();
    let is_even = || {
        let (held, least) = (shards(), usize::from(SHARDS) / members.len());
        held.iter().sum::<usize>() == usize::from(SHARDS) && held.iter().all(|n| *n == least || *n == least + 1)
    };
    until(&format!("{} workers share evenly", members.len()), is_even).await
}

/// Workers come, go and crash; the others take over their shards soon after.
async fn a_fleet_shares(url: &str, what: &str) {
    let fleet = Fleet::default();
    let a = Member::start(url, &fleet);
    println!("{what}: the first has all after {:?}", even(&[&a]).await);
    let b = Member::start(url, &fleet);
    println!("{what}: two share after {:?}", even(&[&a, &b]).await);
    let c = Member::start(url, &fleet);
    println!("{what}: three share after {:?}", even(&[&a, &b, &c]).await);
    let left = Instant::now();
    b.leave().await;
    even(&[&a, &c]).await;
    println!("{what}: all of one that left is taken after {:?}", left.elapsed());
    fleet.check();
    a.crash().await;
    println!("{what}: all of one that crashed is taken after {:?}", even(&[&c]).await);
    fleet.check();
    c.leave().await;
    let members: usize = redis(url).zcard(RedisKey::ingest_workers()).await.unwrap();
    assert_eq!(members, 0, "who left is forgotten at once, who crashed since");
}

#[tokio::test]
async fn a_fleet_shares_the_shards_on_a_node() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    a_fleet_shares(&db.redis_url, "node").await;
}

/// On a cluster where every node is full leases must still work: it is the workers that empty it.
#[tokio::test]
async fn a_fleet_shares_the_shards_on_a_full_cluster() {
    let cluster = RedisCluster::start().await.unwrap();
    let (first, others) = cluster.url().trim_start_matches("redis-cluster://").split_once("/?nodes=").unwrap();
    for node in others.split(',').chain([first]) {
        let client = redis::Client::open(format!("redis://{node}/")).unwrap();
        let mut node = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec_async(&mut node).await.unwrap();
    }
    let refused = redis(cluster.url()).set::<_, _, ()>(RedisKey::api_key_epoch(), 1).await.unwrap_err();
    assert_eq!(refused.code(), Some("OOM"), "{refused}");
    a_fleet_shares(cluster.url(), "full cluster").await;
}

/// A worker that was cut off from Redis knows by its own clock that it holds no lease any more, before another worker
/// begins. When it is back, it gets shards under new epochs.
#[tokio::test]
async fn a_worker_cut_off_from_redis_sees_that_its_leases_expired() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let fleet = Fleet::default();
    let wire = Wire::to(&db.redis_url).await;
    let a = Member::start(&wire.url, &fleet);
    even(&[&a]).await;
    let b = Member::start(&db.redis_url, &fleet);
    even(&[&a, &b]).await;
    let had: Vec<LeaseGuard> = a.guards.lock().unwrap().values().cloned().collect();
    assert!(had.iter().all(|guard| guard.owner() == a.owner));
    wire.cut().await;
    println!("cut off: the other has all after {:?}", even(&[&b]).await);
    assert!(had.iter().all(|guard| !guard.holds()) && a.guards.lock().unwrap().is_empty());
    wire.mend();
    println!("mended: two share after {:?}", even(&[&a, &b]).await);
    assert!(had.iter().all(|guard| !guard.holds()), "what is over stays over");
    fleet.check();
    a.leave().await;
    b.leave().await;
}

/// A worker that stood still, as after SIGSTOP, knows that it lost its lease before it asks Redis.
#[tokio::test]
async fn a_stalled_worker_sees_that_its_lease_expired() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let fleet = Fleet::default();
    let (stands_still, has_stopped) = oneshot::channel();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let (url, of_a) = (db.redis_url.clone(), fleet.clone());
    let a = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let a = Member::start(&url, &of_a);
            even(&[&a]).await;
            let had: Vec<LeaseGuard> = a.guards.lock().unwrap().values().cloned().collect();
            stands_still.send(()).unwrap();
            // Blocks the thread, and with it the whole worker.
            waits.recv().unwrap();
            let knew = had.iter().all(|guard| !guard.holds());
            let lost = || had.iter().all(|guard| !guard.is_wanted());
            until("the work on each shard is told", lost).await;
            a.leave().await;
            knew
        })
    });
    has_stopped.await.unwrap();
    let b = Member::start(&db.redis_url, &fleet);
    println!("stood still: the other has all after {:?}", even(&[&b]).await);
    go_on.send(()).unwrap();
    let knew = tokio::task::spawn_blocking(|| a.join().unwrap()).await.unwrap();
    assert!(knew, "its clock has gone on");
    even(&[&b]).await;
    fleet.check();
    b.leave().await;
}

/// When the work on a shard returns or fails, the shard is given back and the work begins again.
#[tokio::test]
async fn shard_work_that_ends_or_fails_is_restarted() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let (stop, stopping) = watch::channel(false);
    let (fleet, begun) = (Fleet::default(), Arc::new(Mutex::new(HashMap::<Shard, u32>::new())));
    let leases = Leases::new(redis(&db.redis_url), "worker");
    let (log, counts) = (fleet.clone(), Arc::clone(&begun));
    let task = tokio::spawn(leases.run(stopping, move |guard| {
        log.begin(&guard);
        let times = *counts.lock().unwrap().entry(guard.shard()).and_modify(|n| *n += 1).or_insert(1);
        async move {
            match times {
                1 => {}
                2 if guard.shard().number() == 0 => panic!("as it is meant to"),
                2 => {}
                _ => guard.ended().await,
            }
        }
    }));
    until("every shard's work begins a third time", || {
        let begun = begun.lock().unwrap();
        begun.len() == usize::from(SHARDS) && begun.values().all(|times| *times == 3)
    })
    .await;
    stop.send_replace(true);
    task.await.unwrap();
    fleet.check();
}

#[tokio::test]
async fn an_epoch_only_grows_and_fences_out_late_owners() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let mut redis = redis(&db.redis_url);
    let shard = Shard::new(5).unwrap();
    let owner = |name: &str| Store::new(redis.clone(), Arc::from(name));
    let (a, b) = (owner("a"), owner("b"));
    let taken = async |store: &Store, wanted: Option<&str>, crashed: u32| match store.acquire(shard).await.unwrap() {
        Acquired::Taken { epoch, from, crashes } => {
            assert_eq!((from.as_deref(), crashes), (wanted, crashed));
            epoch
        }
        held => panic!("{held:?}"),
    };

    let lost = taken(&a, None, 0).await;
    let one = taken(&a, None, 0).await;
    assert!(one > lost, "the reply was lost: nobody works under that epoch");
    assert!(matches!(b.acquire(shard).await.unwrap(), Acquired::Held { by, left } if by == "a" && left <= LEASE_TTL));
    assert!(a.renew(shard, one).await.unwrap());
    assert!(!b.renew(shard, one).await.unwrap() && !a.renew(shard, lost).await.unwrap());
    assert!(!b.release(shard, one, false).await.unwrap() && !a.release(shard, lost, false).await.unwrap());
    assert_eq!(b.holder(shard).await.unwrap().as_deref(), Some("a"));
    assert!(a.release(shard, one, false).await.unwrap() && !a.release(shard, one, false).await.unwrap());
    assert_eq!(b.holder(shard).await.unwrap(), None);
    let two = taken(&b, None, 0).await;
    assert!(two > one);

    let run_out = async |mut redis: Redis| redis.hset::<_, _, _, ()>(RedisKey::shard_lease(shard), "until", 1).await;
    run_out(redis.clone()).await.unwrap();
    assert!(!b.renew(shard, two).await.unwrap(), "nobody has taken it, but its owner has stopped to rely on it");
    let three = taken(&b, Some("b"), 1).await;
    assert!(three > two, "for the same owner as well");
    run_out(redis.clone()).await.unwrap();
    assert_eq!(a.holder(shard).await.unwrap(), None);
    let four = taken(&a, Some("b"), 2).await;
    assert!(four > three);
    assert!(!b.renew(shard, three).await.unwrap() && !b.release(shard, three, true).await.unwrap());
    assert_eq!(a.holder(shard).await.unwrap().as_deref(), Some("a"));
    assert!(a.release(shard, four, true).await.unwrap());
    // A panic counts as a crash; work that was fenced does not.
    taken(&b, None, 3).await;

    assert_eq!(b.join().await.unwrap(), ["b"]);
    assert_eq!(a.join().await.unwrap(), ["a", "b"]);
    redis.zadd::<_, _, _, ()>(RedisKey::ingest_workers(), "b", 1).await.unwrap();
    assert_eq!(a.join().await.unwrap(), ["a"], "who is silent is forgotten");
    a.leave().await.unwrap();
    assert_eq!(b.join().await.unwrap(), ["b"]);
}

/// A failover to a replica that lagged behind brings back older leases: an owner that had given its lease up finds it
/// running, and epochs are counted from an older number.
#[tokio::test]
async fn an_epoch_is_never_reused_after_a_failover_that_lost_leases() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let mut redis = redis(&db.redis_url);
    let shard = Shard::new(5).unwrap();
    let owner = |name: &str| Store::new(redis.clone(), Arc::from(name));
    let (a, b) = (owner("a"), owner("b"));
    let taken = async |store: &Store| match store.acquire(shard).await.unwrap() {
        Acquired::Taken { epoch, .. } => epoch,
        held => panic!("{held:?}"),
    };
    let of_a = taken(&a).await;
    let key = RedisKey::shard_lease(shard);
    let replicated: HashMap<String, String> = redis.hgetall(&key).await.unwrap();
    assert!(a.release(shard, of_a, false).await.unwrap());
    let of_b = taken(&b).await;

    // A failover takes longer than the millisecond that epochs are counted in.
    tokio::time::sleep(Duration::from_millis(5)).await;
    redis.del::<_, ()>(&key).await.unwrap();
    redis.hset_multiple::<_, _, _, ()>(&key, &replicated.into_iter().collect::<Vec<_>>()).await.unwrap();
    assert!(!b.renew(shard, of_b).await.unwrap(), "its lease is forgotten");
    let again = taken(&a).await;
    assert!(again > of_a, "what was done under the old epoch is over, although its lease seems to run");
    assert!(again > of_b, "nor is it one that somebody had meanwhile");
    assert!(!a.renew(shard, of_a).await.unwrap() && a.renew(shard, again).await.unwrap());

    tokio::time::sleep(Duration::from_millis(5)).await;
    redis.del::<_, ()>(&key).await.unwrap();
    assert!(taken(&b).await > again, "also when nothing at all is left");
    assert!(!a.renew(shard, again).await.unwrap(), "and owners are compared as well");
}

/// A TCP proxy to Redis that a test can cut.
struct Wire {
    url: String,
    is_cut: Arc<AtomicBool>,
    /// Ends every open connection.
    cutting: Arc<Notify>,
}

impl Wire {
    async fn to(url: &str) -> Self {
        let (front, rest) = url.rsplit_once('@').unwrap();
        let (target, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{front}@{}/{database}", listener.local_addr().unwrap());
        let wire = Self { url, is_cut: Arc::default(), cutting: Arc::default() };
        let (is_cut, cutting, target) = (Arc::clone(&wire.is_cut), Arc::clone(&wire.cutting), target.to_owned());
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    () = cutting.notified() => connections.shutdown().await,
                    accepted = listener.accept() => {
                        let (mut client, _) = accepted.unwrap();
                        if is_cut.load(Ordering::SeqCst) {
                            continue;
                        }
                        let mut server = TcpStream::connect(&target).await.unwrap();
                        connections.spawn(async move { drop(copy_bidirectional(&mut client, &mut server).await) });
                    }
                }
            }
        });
        wire
    }

    async fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cutting.notify_one();
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}
