//! Whatever makes ClickHouse refuse an insert, or look as if it did: what it means, and that nothing is stored twice.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stack::TestDb;
use stores::clickhouse::{
    ClickHouseUrl, InsertError, InsertStatement, Inserter, Records, Refusal, SERVER_DEADLINE, known_codes,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::clickhouse::{block, raw_client};
use crate::support::empty;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How a chunked body ends.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A database of its own, with a table `numbers` of one column `n`.
struct Server {
    db: TestDb,
    raw: clickhouse::Client,
}

impl Server {
    async fn new() -> Self {
        let db = empty().await;
        let raw = raw_client(&db.clickhouse_url);
        let server = Self { db, raw };
        server.table("numbers", "n UInt64", "").await;
        server
    }

    /// Creates a table that remembers tokens.
    async fn table(&self, name: &str, columns: &str, settings: &str) {
        let sql = format!(
            "CREATE TABLE {name} ({columns}) ENGINE = MergeTree ORDER BY tuple()
             SETTINGS non_replicated_deduplication_window = 100{settings}"
        );
        self.raw.query_raw(&sql).execute().await.unwrap();
    }

    fn url(&self) -> Url {
        Url::parse(&self.db.clickhouse_url).unwrap()
    }

    async fn count(&self, what: &str) -> u64 {
        self.raw.query_raw(&format!("SELECT count() FROM {what}")).fetch_one().await.unwrap()
    }

    /// Waits until the server has no insert into that table in its hands.
    async fn idle(&self, table: &str) {
        let begun = Instant::now();
        let running = format!(
            "system.processes WHERE query_kind = 'Insert' AND current_database = currentDatabase() AND query LIKE '%INTO `{table}`%'"
        );
        while self.count(&running).await > 0 {
            assert!(begun.elapsed() < PATIENCE, "an insert runs for more than {PATIENCE:?}");
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

fn inserter(url: &Url) -> Inserter {
    Inserter::new(&url.as_str().parse::<ClickHouseUrl>().unwrap())
}

async fn insert(url: &Url, table: &'static str, column: &'static str, body: Bytes) -> Result<(), InsertError> {
    insert_as("token", url, table, column, body).await
}

async fn insert_as(
    token: &str,
    url: &Url,
    table: &'static str,
    column: &'static str,
    body: Bytes,
) -> Result<(), InsertError> {
    inserter(url).insert_native(&InsertStatement::new(table, [column]), token, &[body], 1).await
}

/// A block of one column and one row, of any type.
fn one(name: &str, kind: &str, value: &[u8]) -> Bytes {
    let mut bytes = vec![1, 1];
    for text in [name, kind] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes.extend(value);
    bytes.into()
}

#[tokio::test]
async fn every_code_has_the_name_that_clickhouse_gives_it() {
    let server = Server::new().await;
    for (code, name, _) in known_codes() {
        let query = server.raw.query_raw(&format!("SELECT errorCodeToName({code})"));
        assert_eq!(query.fetch_one::<String>().await.unwrap(), name, "{code}");
    }
}

#[tokio::test]
async fn errors_caused_by_the_rows_are_permanent() {
    let server = Server::new().await;
    server.table("kinds", "n UInt64, e Enum8('a' = 1), a Array(UInt8)", "").await;
    let url = server.url();
    let cases = [
        ("a text for a number", "n", one("n", "String", b"\x03abc"), 6),
        ("a column that was not announced", "n", one("k", "UInt64", &[0; 8]), 117),
        ("a type that there is not", "n", one("n", "Strong", b"\x03abc"), 50),
        ("a word that is not of the enum", "e", one("e", "String", b"\x01z"), 691),
        ("an array of more than there can be", "a", one("a", "Array(UInt8)", &[0xff; 8]), 128),
    ];
    for (what, column, body, code) in cases {
        let error = insert(&url, "kinds", column, body).await.unwrap_err();
        assert_eq!((error.code(), error.refusal()), (Some(code), Refusal::Permanent), "{what}: {error}");
    }
    // A body that ends in the middle may have been cut on its way.
    let torn = insert(&url, "kinds", "n", block(&[1, 2]).slice(..20)).await.unwrap_err();
    assert_eq!(torn.refusal(), Refusal::Unknown, "{torn}");
    assert_eq!(server.count("kinds").await, 0);
}

/// What is wrong with the server, or with how it is set up, is no row's fault, and the same rows are stored once it is
/// well.
#[tokio::test]
async fn errors_caused_by_the_server_are_outages() {
    let server = Server::new().await;
    let url = server.url();
    let number = || block(&[7]);
    let outage = |what: &str, code, result: Result<(), InsertError>| {
        let error = result.expect_err(what);
        assert_eq!((error.code(), error.refusal()), (Some(code), Refusal::Outage), "{what}: {error}");
    };
    outage("no such table", 60, insert(&url, "absent", "n", number()).await);
    outage("no such column", 16, insert(&url, "numbers", "m", number()).await);
    let mut elsewhere = url.clone();
    elsewhere.set_path("/absent_database");
    outage("no such database", 81, insert(&elsewhere, "numbers", "n", number()).await);
    let mut stranger = url.clone();
    stranger.set_password(Some("hunter2")).unwrap();
    outage("a wrong password", 516, insert(&stranger, "numbers", "n", number()).await);

    let read_only = Proxy::to(&url, Meddle::Settings("readonly=1")).await;
    outage("a user who may only read", 164, insert(&read_only, "numbers", "n", number()).await);
    let no_memory = Proxy::to(&url, Meddle::Settings("max_memory_usage=1000")).await;
    outage("no memory", 241, insert(&no_memory, "numbers", "n", number()).await);
    server.table("slow", "n UInt64, m UInt8 MATERIALIZED sleepEachRow(1)", "").await;
    let no_time = Proxy::to(&url, Meddle::Settings("max_execution_time=0.2")).await;
    outage("no time", 159, insert(&no_time, "slow", "n", number()).await);
    assert_eq!(server.count("slow").await, 0, "what was late is not stored");

    server.table("closed", "n UInt64", ", table_readonly = 1").await;
    outage("a read-only table", 774, insert(&url, "closed", "n", number()).await);
    server.table("crowded", "n UInt64", ", parts_to_throw_insert = 1").await;
    insert(&url, "crowded", "n", number()).await.unwrap();
    outage("too many parts", 252, insert_as("other", &url, "crowded", "n", number()).await);

    insert(&url, "numbers", "n", number()).await.unwrap();
    assert_eq!(server.count("numbers").await, 1);
}

#[tokio::test]
async fn a_200_answer_that_carries_an_exception_is_a_failure() {
    let server = Server::new().await;
    let url = server.url();
    let text = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) (version 26.7.2.1 (official build))\n";
    let answer = |headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    };
    let tagged =
        format!("\r\n__exception__\r\nabcdefghijklmnop\r\n{text}{} abcdefghijklmnop\r\n__exception__\r\n", text.len());
    let answers = [
        ("in a header", answer("X-ClickHouse-Exception-Code: 241\r\n", "")),
        ("in a header and the body", answer("X-ClickHouse-Exception-Code: 241\r\n", text)),
        ("in the body", answer("", text)),
        ("in the body, with its mark", answer("X-ClickHouse-Exception-Tag: abcdefghijklmnop\r\n", &tagged)),
    ];
    for (what, answer) in answers {
        let proxy = Proxy::to(&url, Meddle::Answer(answer)).await;
        let error = insert(&proxy, "numbers", "n", block(&[1])).await.expect_err(what);
        assert_eq!((error.code(), error.refusal()), (Some(241), Refusal::Outage), "{what}: {error}");
    }
    let proxy =
        Proxy::to(&url, Meddle::Answer("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_owned())).await;
    let error = insert(&proxy, "numbers", "n", block(&[1])).await.unwrap_err();
    assert_eq!((error.code(), error.refusal()), (None, Refusal::Outage), "{error}");
}

/// Cut anywhere, and repeated under the same token: stored once.
#[tokio::test]
async fn a_cut_connection_neither_loses_nor_doubles_an_insert() {
    let server = Server::new().await;
    let url = server.url();
    let cuts = [
        (Meddle::CutBody(0.5), 0, "in the middle of the body"),
        (Meddle::CutBody(1.0), 0, "before the last chunk"),
        (Meddle::LoseReply, 3, "when all was done"),
    ];
    for (n, (cut, stored, when)) in cuts.into_iter().enumerate() {
        let token = n.to_string();
        let send = async |url: &Url| insert_as(&token, url, "numbers", "n", block(&[1, 2, 3])).await;
        let before = server.count("numbers").await;
        let error = send(&Proxy::to(&url, cut).await).await.expect_err(when);
        assert_eq!((error.code(), error.refusal()), (None, Refusal::Outage), "{when}: {error}");
        server.idle("numbers").await;
        assert_eq!(server.count("numbers").await - before, stored, "{when}");
        for _ in 0..2 {
            send(&url).await.unwrap();
        }
        assert_eq!(server.count("numbers").await - before, 3, "{when}");
    }
}

/// An insert that is still in the server's hands when its client has gone, and the next owner's, which is there first
/// or at the same time: stored once.
#[tokio::test]
async fn an_insert_that_lands_late_is_dropped() {
    let server = Server::new().await;
    let url = server.url();
    server.table("slow", "n UInt64, m UInt8 MATERIALIZED sleepEachRow(0.2)", "").await;
    let gone = Proxy::to(&url, Meddle::GoAway).await;
    let error = insert(&gone, "slow", "n", block(&[1, 2, 3])).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    let (first, second) =
        tokio::join!(insert(&url, "slow", "n", block(&[1, 2, 3])), insert(&url, "slow", "n", block(&[1, 2, 3])));
    first.unwrap();
    second.unwrap();
    server.idle("slow").await;
    assert_eq!(server.count("slow").await, 3);
}

#[tokio::test]
async fn an_insert_abandoned_midway_stores_nothing() {
    let server = Server::new().await;
    let (inserter, numbers) = (inserter(&server.url()), InsertStatement::new("numbers", ["n"]));
    let whole = block(&[1, 2, 3]);
    let pieces = [whole.slice(..10), whole.slice(10..20), whole.slice(20..)];
    for allowed in 0..=pieces.len() {
        let asked = std::cell::Cell::new(0);
        let still = || asked.replace(asked.get() + 1) < allowed;
        let error = inserter.insert_native_while(&numbers, "token", &pieces, 3, still).await.unwrap_err();
        assert!(error.is_abandoned() && !error.is_outage(), "{error}");
    }
    server.idle("numbers").await;
    assert_eq!(server.count("numbers").await, 0);
    inserter.insert_native_while(&numbers, "token", &pieces, 3, || true).await.unwrap();
    assert_eq!(server.count("numbers").await, 3);
}

#[tokio::test]
async fn an_insert_sets_its_deadline_on_the_server() {
    let server = Server::new().await;
    server
        .table("limits", "n UInt64, seconds Float64 MATERIALIZED toFloat64(getSetting('max_execution_time'))", "")
        .await;
    insert(&server.url(), "limits", "n", block(&[1])).await.unwrap();
    let limit = server.raw.query_raw("SELECT seconds FROM limits").fetch_one::<f64>().await.unwrap();
    assert_eq!(limit, SERVER_DEADLINE.as_secs_f64());
}

#[tokio::test]
async fn the_fullest_partition_is_found() {
    let server = Server::new().await;
    let url = server.url();
    let records = Records::new(&url.as_str().parse().unwrap());
    assert_eq!(records.fullest_partition().await.unwrap(), None);
    let run = |sql: &'static str| server.raw.query_raw(sql).execute();
    // Tables of ours by name; `numbers` is none.
    run("CREATE TABLE span (n UInt64) ENGINE = MergeTree PARTITION BY n ORDER BY n").await.unwrap();
    run("CREATE TABLE run (n UInt64) ENGINE = MergeTree PARTITION BY n ORDER BY n SETTINGS parts_to_throw_insert = 10")
        .await
        .unwrap();
    for stop in ["SYSTEM STOP MERGES span", "SYSTEM STOP MERGES run", "SYSTEM STOP MERGES numbers"] {
        run(stop).await.unwrap();
    }
    let parts = [("numbers", 0, 5), ("span", 5, 4), ("run", 1, 1), ("run", 8, 2), ("run", 9, 1)];
    for (table, value, parts) in parts {
        for n in 0..parts {
            insert_as(&format!("{value}/{n}"), &url, table, "n", block(&[value])).await.unwrap();
        }
    }
    let fullest = records.fullest_partition().await.unwrap().unwrap();
    assert_eq!((fullest.table.as_str(), fullest.partition.as_str(), fullest.parts), ("run", "8", 2), "{fullest:?}");
    assert_eq!((fullest.delayed_from, fullest.refused_from), (1000, 10), "{fullest:?}");
    assert!((fullest.share() - 0.2).abs() < 1e-9);
}

/// What happens to a request between its sender and ClickHouse.
#[derive(Clone)]
enum Meddle {
    /// It is sent with these settings, too.
    Settings(&'static str),
    /// This much of its body arrives, of 1, and never its last chunk.
    CutBody(f64),
    /// It arrives, and is answered, but the answer is lost.
    LoseReply,
    /// It arrives, and its sender goes away at once.
    GoAway,
    /// It is not passed on: this is the answer to it.
    Answer(String),
}

struct Proxy;

impl Proxy {
    /// A proxy for one request per connection.
    async fn to(url: &Url, meddle: Meddle) -> Url {
        let target = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxied = url.clone();
        proxied.set_host(Some("127.0.0.1")).unwrap();
        proxied.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(pass_on(client, server, meddle.clone()));
            }
        });
        proxied
    }
}

async fn pass_on(mut client: TcpStream, mut server: TcpStream, meddle: Meddle) {
    let mut request = Vec::new();
    while !request.ends_with(LAST_CHUNK) {
        if client.read_buf(&mut request).await.unwrap() == 0 {
            return;
        }
    }
    let body = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let end = request.len() - LAST_CHUNK.len();
    match meddle {
        Meddle::Settings(settings) => {
            let line = request.windows(9).position(|version| version == b" HTTP/1.1").unwrap();
            request.splice(line..line, format!("&{settings}").into_bytes());
            server.write_all(&request).await.unwrap();
            drop(copy(&mut server, &mut client).await);
        }
        Meddle::CutBody(share) => {
            let sent = body + ((end - body) as f64 * share) as usize;
            server.write_all(&request[..sent]).await.unwrap();
        }
        Meddle::LoseReply => {
            server.write_all(&request).await.unwrap();
            server.read_u8().await.unwrap();
        }
        Meddle::GoAway => server.write_all(&request).await.unwrap(),
        Meddle::Answer(answer) => client.write_all(answer.as_bytes()).await.unwrap(),
    }
}
