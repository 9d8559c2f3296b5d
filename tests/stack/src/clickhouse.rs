//! ClickHouse: the genuine HTTP interface, out of `libchdb.so`, through our launcher.

use crate::install::Programs;
use crate::process::{Launch, ProcessId};
use crate::stack::Extra;
use crate::state::{State, write_private};
use crate::{Layout, Name, StackError, User, binaries, http, redis};

/// Starts the server; the caller has made sure that none runs on this data.
pub(crate) fn start(
    layout: &Layout,
    state: &State,
    programs: &Programs,
    on_parent_death: Option<&'static str>,
    extra: &Extra,
) -> Result<ProcessId, StackError> {
    let home = layout.home(Name::Clickhouse);
    let data = home.join("data");
    std::fs::create_dir_all(&home).map_err(StackError::file("create directory", &home))?;
    let (config, users) = (home.join("config.xml"), home.join("users.xml"));
    write_private(&config, CONFIG.as_bytes())?;
    write_private(&users, users_xml(state).as_bytes())?;
    let port = |port: u16| port.to_string().into();
    let mut launch = Launch::new(binaries::path(Name::Clickhouse.program())?, &home, &layout.log(Name::Clickhouse))
        .args([
            "--lib".into(),
            programs.libchdb()?.as_os_str().to_owned(),
            "--data".into(),
            data.into_os_string(),
            "--config".into(),
            config.into_os_string(),
            "--http-port".into(),
            port(state.ports.clickhouse_http),
            "--tcp-port".into(),
            port(state.ports.clickhouse_tcp),
        ]);
    launch.on_parent_death = on_parent_death;
    launch.env.clone_from(&extra.environment);
    launch.spawn()
}

/// Two cores and two gigabytes are plenty here. There is no `query_log`, so that nothing grows by itself.
const CONFIG: &str = "<clickhouse>
    <max_server_memory_usage>2147483648</max_server_memory_usage>
    <mark_cache_size>67108864</mark_cache_size>
    <background_pool_size>2</background_pool_size>
    <background_schedule_pool_size>8</background_schedule_pool_size>
    <users_config>users.xml</users_config>
    <!-- As in the configuration of a server's package: system tables are granted one by one. -->
    <access_control_improvements>
        <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
        <table_engines_require_grant>true</table_engines_require_grant>
    </access_control_improvements>
</clickhouse>
";

/// `default` is the user of the launcher's own script and must exist without a password. The script makes three
/// queries, the last of which lasts as long as the server, and the quota allows no fourth: so nobody else is `default`.
fn users_xml(state: &State) -> String {
    let grants = ["SYSTEM LISTEN ON *.*", "READ ON FILE", "CREATE TEMPORARY TABLE ON *.*"];
    format!(
        "<clickhouse>\n    <profiles><default/></profiles>\n    <quotas>\n        <default/>\n        <launcher><interval>\
         <duration>2147483647</duration><queries>3</queries></interval></launcher>\n    </quotas>\n    <users>\n{}{}    \
         </users>\n</clickhouse>\n",
        user_xml("default", "", "127.0.0.1", "launcher", &grants),
        our_users_xml(state, "127.0.0.1"),
    )
}

/// What the documentation grants to whom.
const GRANTS: &str = include_str!("../../../deploy/clickhouse-users.sql");
/// The databases in which they are granted: users are in a file here, which is read once, so nothing can be granted
/// later.
const DATABASES: u16 = redis::DATABASES;

/// The database of a test that has a logical database of Redis.
pub(crate) fn database(number: u16) -> String {
    format!("test_{number}")
}

/// The users that connect from `network`. `tracebility` may do everything. `tracebility_reader` can log in and see
/// nothing until a table is granted to it. The others have what is documented.
pub(crate) fn our_users_xml(state: &State, network: &str) -> String {
    let (password, reader) = (&state.secrets.clickhouse, &state.secrets.clickhouse_reader);
    // For the reader an empty list of grants would mean all of them.
    user_xml("tracebility", password, network, "default", &["ALL ON *.*"])
        + &user_xml("tracebility_reader", reader, network, "default", &["SHOW TABLES ON nothing.*"])
        + &documented_users(state, network)
}

fn documented_users(state: &State, network: &str) -> String {
    let ours = state.secrets.users.iter().filter(|(user, _)| user.store() == Name::Clickhouse);
    ours.map(|(user, password)| documented_xml(*user, password, network)).collect()
}

fn documented_xml(user: User, password: &str, network: &str) -> String {
    let databases = (1..DATABASES).map(database).chain(["tracebility".to_owned()]);
    let grants: Vec<String> = databases.flat_map(|database| documented(user, &database)).collect();
    user_xml(user.name(), password, network, "default", &grants.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What the documentation grants to a user, in that database. Without `GRANT` and without the user.
fn documented(user: User, database: &str) -> Vec<String> {
    let lines = GRANTS.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ");
    let to = format!(" TO {}", user.name());
    let granted =
        lines.split(';').filter_map(|sql| sql.trim().strip_prefix("GRANT ")?.strip_suffix(&to).map(str::to_owned));
    granted.map(|grant| grant.replace(" tracebility.", &format!(" {database}."))).collect()
}

fn user_xml(name: &str, password: &str, network: &str, quota: &str, grants: &[&str]) -> String {
    let grants: String = grants.iter().map(|grant| format!("<query>GRANT {grant}</query>")).collect();
    format!(
        "        <{name}><password>{password}</password><networks><ip>{network}</ip></networks>\
         <profile>default</profile><quota>{quota}</quota><grants>{grants}</grants></{name}>\n"
    )
}

/// Whether the server answers a query.
pub(crate) async fn probe(state: &State) -> Result<(), StackError> {
    http::clickhouse(&with_database(&state.urls().clickhouse_url, "default")?, "SELECT 1").await.map(drop)
}

/// Creates the database, where it is missing.
pub(crate) async fn provision(state: &State) -> Result<(), StackError> {
    let url = with_database(&state.urls().clickhouse_url, "default")?;
    http::clickhouse(&url, "CREATE DATABASE IF NOT EXISTS tracebility").await.map(drop)
}

/// The same server and user, another database.
pub(crate) fn with_database(url: &str, database: &str) -> Result<String, StackError> {
    let mut url = url::Url::parse(url).map_err(|e| StackError::server("clickhouse", e))?;
    url.set_path(&format!("/{database}"));
    Ok(url.into())
}
