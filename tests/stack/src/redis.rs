//! Redis: configured never to evict, because evicting a stream is losing acknowledged data.

use std::time::Duration;

use crate::install::Programs;
use crate::process::{Launch, ProcessId};
use crate::stack::Extra;
use crate::state::{State, write_private};
use crate::{Layout, Name, StackError};

const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Number 0 is for whoever takes part in a stack; the others are handed out to tests.
pub(crate) const DATABASES: u16 = 64;

/// Starts the server; the caller has made sure that none runs on this data.
pub(crate) fn start(
    layout: &Layout,
    state: &State,
    programs: &Programs,
    on_parent_death: Option<&'static str>,
    extra: &Extra,
) -> Result<ProcessId, StackError> {
    let home = layout.home(Name::Redis);
    std::fs::create_dir_all(&home).map_err(StackError::file("create directory", &home))?;
    // A file, because a password among the arguments would be shown to everybody.
    let config = home.join("redis.conf");
    let settings = settings(state, "127.0.0.1", state.ports.redis) + &extra.redis_conf;
    write_private(&config, settings.as_bytes())?;
    let mut launch =
        Launch::new(programs.redis_server()?, &home, &layout.log(Name::Redis)).args([config.into_os_string()]);
    launch.on_parent_death = on_parent_death;
    launch.env.clone_from(&extra.environment);
    launch.spawn()
}

/// Paths are relative to the working directory.
pub(crate) fn settings(state: &State, bind: &str, port: u16) -> String {
    let password = &state.secrets.redis;
    format!(
        "bind {bind}\n\
         port {port}\n\
         requirepass {password}\n\
         databases {DATABASES}\n\
         maxmemory 512mb\n\
         maxmemory-policy noeviction\n\
         appendonly yes\n\
         appendfsync everysec\n\
         auto-aof-rewrite-min-size 512mb\n\
         save \"\"\n"
    ) + &users(state)
}

/// The users that the documentation describes.
fn users(state: &State) -> String {
    const DOCUMENTED: &str = include_str!("../../../deploy/redis-users.conf");
    let with_password = |line: &str| {
        let name = line.strip_prefix("user ")?.split(' ').next()?;
        let (_, password) = state.secrets.users.iter().find(|(user, _)| user.name() == name)?;
        let words =
            line.split(' ').map(|word| if word.starts_with('>') { format!(">{password}") } else { word.to_owned() });
        Some(words.collect::<Vec<_>>().join(" ") + "\n")
    };
    DOCUMENTED.lines().filter_map(with_password).collect()
}

/// Whether the server answers; while it still reads its data it says so instead.
pub(crate) async fn probe(state: &State) -> Result<(), StackError> {
    command(&state.urls().redis_url, redis::cmd("PING")).await.map(|_: String| ())
}

/// Runs one command on a connection of its own, within [`ANSWER_LIMIT`].
pub(crate) async fn command<T: redis::FromRedisValue>(url: &str, command: redis::Cmd) -> Result<T, StackError> {
    let run = async {
        let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        command.query_async(&mut connection).await
    };
    let answered = tokio::time::timeout(ANSWER_LIMIT, run).await;
    let timeout = |_| StackError::Timeout { what: "an answer of redis".into(), limit: ANSWER_LIMIT };
    answered.map_err(timeout)?.map_err(|e: redis::RedisError| StackError::server("redis", e))
}

/// The same server, another logical database.
pub(crate) fn with_database(url: &str, number: u16) -> Result<String, StackError> {
    let mut url = url::Url::parse(url).map_err(|e| StackError::server("redis", e))?;
    url.set_path(&format!("/{number}"));
    Ok(url.into())
}
