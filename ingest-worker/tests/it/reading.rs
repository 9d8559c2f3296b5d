//! Measures on the wire how many bytes one read makes Redis send at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ingest_worker::reader::{READ_WAIT_MAX, Reader};
use ingest_worker::stream::Stream;
use model::entry_id::EntryId;
use model::shard::Shard;
use service::settings::parse;
use stores::entries::{LARGE_BYTES, PageMax, READ_BYTES_MAX, page};
use stores::keys::RedisKey;
use stores::redis::{Redis, connect, connect_waiting};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::envelope::{ENVELOPE_FIELD, ENVELOPE_KEY_BYTES, EnvelopeKey};

const SMALL: usize = 4 << 10;
const LARGE: usize = 4 << 20;
/// Bytes of names, ids and lengths around the entries of a reply.
const FRAME: usize = 64 << 10;

/// A proxy to Redis that measures the most bytes that came back between two commands.
#[derive(Clone, Default)]
struct Meter {
    most: Arc<AtomicUsize>,
}

impl Meter {
    async fn start(redis_url: &str) -> (Self, String) {
        let mut url = url::Url::parse(redis_url).unwrap();
        let target = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        let (meter, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let passing = meter.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(target.clone()).await.unwrap();
                let meter = passing.clone();
                tokio::spawn(async move { meter.pass(client, server).await });
            }
        });
        (meter, url.into())
    }

    async fn pass(&self, mut client: TcpStream, mut server: TcpStream) {
        let (mut up, mut down, mut reply) = (vec![0; 1 << 16], vec![0; 1 << 16], 0);
        loop {
            tokio::select! {
                Ok(n @ 1..) = client.read(&mut up) => {
                    reply = 0;
                    if server.write_all(&up[..n]).await.is_err() { return }
                }
                Ok(n @ 1..) = server.read(&mut down) => {
                    reply += n;
                    self.most.fetch_max(reply, Ordering::Relaxed);
                    if client.write_all(&down[..n]).await.is_err() { return }
                }
                else => return,
            }
        }
    }

    fn take(&self) -> usize {
        self.most.swap(0, Ordering::Relaxed)
    }
}

async fn append(redis: &mut Redis, shard: Shard, count: usize, bytes: usize) -> Vec<EntryId> {
    let (key, value, mut ids) = (RedisKey::shard_stream(shard), vec![7_u8; bytes], Vec::new());
    for _ in 0..count {
        let mut add = redis::cmd("XADD");
        let id: String = add.arg(&key).arg("*").arg(ENVELOPE_FIELD).arg(&value).query_async(redis).await.unwrap();
        ids.push(id.parse().unwrap());
    }
    ids
}

/// Reads until nothing is left, and returns the ids in order.
async fn read_all(reader: &mut Reader, wanted: usize) -> Vec<EntryId> {
    let mut read = Vec::new();
    while read.len() < wanted {
        tokio::time::timeout(Duration::from_secs(60), reader.read(READ_WAIT_MAX)).await.unwrap().unwrap();
        read.extend(std::iter::from_fn(|| reader.queue.pop()).map(|held| held.id));
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn read_replies_stay_under_their_bound_when_entries_grow_a_thousandfold() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let (meter, url) = Meter::start(&db.redis_url).await;
    let (direct, metered) = (parse::redis_url(&db.redis_url).unwrap(), parse::redis_url(&url).unwrap());
    let (mut redis, shard) = (connect(&direct).unwrap(), Shard::FIRST);
    let key = EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
    let mut reader = Reader::new(shard, connect_waiting(&metered, READ_WAIT_MAX).unwrap(), key.clone(), 16 << 20);

    let mut ids = append(&mut redis, shard, 2_000, SMALL).await;
    assert_eq!(read_all(&mut reader, 2_000).await, ids);
    let bound = READ_BYTES_MAX + SMALL + FRAME;
    let most = meter.take();
    assert!((READ_BYTES_MAX / 2..bound).contains(&most), "small entries are read many at a time: {most}");

    ids.extend(append(&mut redis, shard, 16, LARGE).await);
    ids.extend(append(&mut redis, shard, 200, SMALL).await);
    assert_eq!(read_all(&mut reader, 216).await, ids[2_000..]);
    let bound = READ_BYTES_MAX + LARGE + FRAME;
    let most = meter.take();
    assert!((LARGE..bound).contains(&most), "{most} bytes in one reply");

    // Entries that are read again because the fair queue was too small for them.
    let mut small = Reader::new(shard, connect_waiting(&metered, READ_WAIT_MAX).unwrap(), key, LARGE + 1);
    assert_eq!(read_all(&mut small, ids.len()).await, ids);
    let most = meter.take();
    assert!((LARGE..bound).contains(&most), "{most} bytes in one reply");

    // Entries that are fetched by their ids; some of them do not exist.
    let stream = Stream::new(shard, connect(&metered).unwrap(), 1 << 30);
    let gone = [EntryId::new(1, 0), EntryId::new(u64::MAX / 2, 0)];
    let asked: Vec<EntryId> = gone.iter().chain(&ids).copied().collect();
    let found = stream.fetch(&asked).await.unwrap();
    let most = meter.take();
    assert!((LARGE..bound).contains(&most), "{most} bytes in one reply");
    assert_eq!(found.len(), ids.len());
    assert!(ids[2_000..2_016].iter().all(|id| found[id].len() == LARGE));
}

#[tokio::test]
async fn a_page_ends_with_the_entry_that_reaches_its_bound_and_says_if_more_follow() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let mut redis = connect(&parse::redis_url(&db.redis_url).unwrap()).unwrap();
    let (shard, stream) = (Shard::FIRST, RedisKey::shard_stream(Shard::FIRST));
    let mut ids = append(&mut redis, shard, 3, 1_000).await;
    ids.extend(append(&mut redis, shard, 1, LARGE_BYTES).await);
    ids.extend(append(&mut redis, shard, 2, 1_000).await);
    let mut read = async |from: EntryId, to, entries, bytes| {
        let max = PageMax { entries, bytes };
        let page = page(&mut redis, &stream, ENVELOPE_FIELD, from, to, max).await.unwrap();
        (page.entries.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), page.has_more)
    };
    let all = PageMax::ALL;
    assert_eq!(read(ids[0], None, all.entries, all.bytes).await, (ids[..4].to_vec(), true), "ends with a large entry");
    assert_eq!(read(ids[4], None, all.entries, all.bytes).await, (ids[4..].to_vec(), false));
    assert_eq!(read(ids[0], Some(ids[1]), all.entries, all.bytes).await, (ids[..2].to_vec(), false));
    assert_eq!(read(ids[0], None, 2, all.bytes).await, (ids[..2].to_vec(), true));
    assert_eq!(read(ids[0], None, all.entries, 1_500).await, (ids[..2].to_vec(), true));
    assert_eq!(read(ids[5].next(), None, all.entries, all.bytes).await, (vec![], false));
}
