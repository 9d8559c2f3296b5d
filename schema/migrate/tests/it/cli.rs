//! The output and the questions of `migrate`: dry runs, confirmations, repairs by hand, refusals, exit codes.

use std::path::Path;

use migrate::{CLICKHOUSE, Direction, Migration, POSTGRES, Stores};
use sqlx::raw_sql;

use crate::catalogue::{assert_same, catalogue};
use crate::support::{Ran, clickhouse, clickhouse_schema, empty, migrate, must, owner, run, stores};

fn newest(migrations: &[Migration]) -> u32 {
    migrations.last().unwrap().version
}

fn is_in_order(text: &str, parts: &[String]) -> bool {
    let mut rest = text;
    parts.iter().all(|part| {
        let found = rest.find(part.as_str());
        rest = found.map_or("", |at| &rest[at + part.len()..]);
        found.is_some()
    })
}

/// Lines of SQL, without comments, blank lines and the semicolons that end statements.
fn code(text: &str) -> Vec<&str> {
    let lines = text.lines().map(|line| line.trim_end().trim_end_matches(';'));
    lines.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("--")).collect()
}

#[tokio::test]
async fn a_dry_run_prints_every_statement_and_changes_nothing() {
    let db = empty().await;
    let stores = stores(&db);
    let ran = must(&stores, &["up", "--dry-run"]).await;
    assert_eq!(catalogue(&mut owner(&db).await).await, catalogue(&mut owner(&empty().await).await).await);
    assert!(!has_journal(&db.pg_owner_dsn).await, "not even the journal");
    assert!(clickhouse_schema(&db.clickhouse_url).await.is_empty());
    let first = |migrations: &'static [Migration], direction| -> Vec<String> {
        let first = |m: &Migration| format!("-- {}, statement 1 of ", m.file(direction));
        migrations.iter().map(first).collect()
    };
    let up = [first(POSTGRES, Direction::Up), first(CLICKHOUSE, Direction::Up)].concat();
    assert!(is_in_order(&ran.stdout, &up), "{}", ran.stdout);
    let (postgres, clickhouse) = ran.stdout.split_once("-- clickhouse/").unwrap();
    let files: String = POSTGRES.iter().map(|migration| migration.up.to_owned() + "\n").collect();
    assert_eq!(code(postgres), code(&files));
    // The statement that is not SQL is shown here with the statements that it stands for.
    let printed = code(clickhouse);
    for line in CLICKHOUSE.iter().flat_map(|migration| code(migration.up)) {
        assert!(printed.iter().any(|printed| printed.starts_with(line)), "{line}");
    }
    must(&stores, &["up"]).await;
    assert_eq!(must(&stores, &["up", "--dry-run"]).await.stdout, "-- nothing to do\n");
    let (pg, ch) = (catalogue(&mut owner(&db).await).await, clickhouse_schema(&db.clickhouse_url).await);
    let ran = must(&stores, &["down", "--all", "--dry-run"]).await;
    let mut down = [first(POSTGRES, Direction::Down), first(CLICKHOUSE, Direction::Down)].concat();
    down.reverse();
    assert!(is_in_order(&ran.stdout, &down), "{}", ran.stdout);
    // Without its confirmation it names the same files and changes nothing, too.
    let asked = run(&stores, &["down", "--all"]).await;
    assert_eq!((asked.code, asked.stdout.as_str()), (Some(2), ""));
    let files: Vec<_> = CLICKHOUSE.iter().rev().chain(POSTGRES.iter().rev()).map(|m| m.down_file.to_owned()).collect();
    assert!(is_in_order(&asked.stderr, &files), "{}", asked.stderr);
    assert!(asked.stderr.contains("\n    DROP TABLE ") && asked.stderr.contains("add --yes"), "{}", asked.stderr);
    assert_same(&catalogue(&mut owner(&db).await).await, &pg, "nothing was changed");
    assert_eq!(clickhouse_schema(&db.clickhouse_url).await, ch);
    let one = must(&stores, &["down", "--target", "clickhouse", "--dry-run"]).await.stdout;
    let named: Vec<_> = CLICKHOUSE.iter().filter(|m| one.contains(m.down_file)).map(|m| m.version).collect();
    assert_eq!(named, [newest(CLICKHOUSE)]);
}

async fn has_journal(dsn: &str) -> bool {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(dsn).await.unwrap();
    let found = sqlx::query_scalar("SELECT to_regclass('schema_migrations') IS NOT NULL");
    found.fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn down_takes_back_both_databases_or_as_many_as_there_are() {
    let db = empty().await;
    let stores = stores(&db);
    assert_eq!(must(&stores, &["down"]).await.stdout, "nothing to do\n");
    must(&stores, &["up"]).await;
    must(&stores, &["down", "99", "--yes"]).await;
    let empty =
        format!("postgres: empty, {} pending\nclickhouse: empty, {} pending\n", newest(POSTGRES), newest(CLICKHOUSE));
    assert_eq!(must(&stores, &["version"]).await.stdout, empty);
    let left = clickhouse_schema(&db.clickhouse_url).await;
    assert!(left.len() == 1 && left[0].contains("schema_migrations"), "{left:?}");
    must(&stores, &["up"]).await;
    for args in [&["down", "0"][..], &["down", "-1"], &["down", "1", "--all"], &["down", "x"]] {
        assert_eq!(run(&stores, args).await.code, Some(2), "{args:?}");
    }
}

#[tokio::test]
async fn force_explains_itself_and_changes_the_journal_alone() {
    let db = empty().await;
    let stores = stores(&db);
    must(&stores, &["up"]).await;
    let (pg, ch) = (catalogue(&mut owner(&db).await).await, clickhouse_schema(&db.clickhouse_url).await);
    for (store, migrations) in [("postgres", POSTGRES), ("clickhouse", CLICKHOUSE)] {
        let version = async || must(&stores, &["version", "--target", store]).await.stdout;
        let before = version().await;
        let asked = run(&stores, &["force", "1", "--target", store]).await;
        assert_eq!((asked.code, asked.stdout.as_str()), (Some(2), ""));
        assert!(asked.stderr.contains("No SQL of any migration is run"), "{}", asked.stderr);
        assert!(asked.stderr.contains("add --i-verified"), "{}", asked.stderr);
        for migration in &migrations[1..] {
            let line =
                format!("version {} {}: will be removed, as if never applied", migration.version, migration.name);
            assert!(asked.stderr.contains(&line), "{line}: {}", asked.stderr);
        }
        assert_eq!(version().await, before, "nothing was changed");

        must(&stores, &["force", "1", "--target", store, "--i-verified"]).await;
        let state = format!("{store}: 1 {}, {} pending\n", migrations[0].name, newest(migrations) - 1);
        assert_eq!(version().await, state);
        must(&stores, &["force", "0", "--target", store, "--i-verified"]).await;
        assert_eq!(version().await, format!("{store}: empty, {} pending\n", newest(migrations)));
        let newest = newest(migrations).to_string();
        must(&stores, &["force", &newest, "--target", store, "--i-verified"]).await;
        assert_eq!(version().await, before);
        let same = must(&stores, &["force", &newest, "--target", store]).await.stdout;
        assert_eq!(same, format!("{store}: the journal is at version {newest} already; nothing to do\n"));

        let unknown = run(&stores, &["force", "99", "--target", store, "--i-verified"]).await;
        assert_eq!(unknown.code, Some(1));
        let wanted = format!("migrate: {store} has no version 99: this binary knows 0 (nothing applied) to {newest}\n");
        assert_eq!(unknown.stderr, wanted);
    }
    assert_same(&catalogue(&mut owner(&db).await).await, &pg, "no SQL was run");
    assert_eq!(clickhouse_schema(&db.clickhouse_url).await, ch);
    assert!(must(&stores, &["up"]).await.stdout.contains("nothing to do"));
    assert_eq!(run(&stores, &["force", "1"]).await.code, Some(2), "each database has versions of its own");
}

#[tokio::test]
async fn a_dirty_postgres_is_explained_and_repaired_by_force_or_down() {
    let db = empty().await;
    let (stores, newest) = (stores(&db), newest(POSTGRES));
    must(&stores, &["up", "--target", "postgres"]).await;
    let mut connection = owner(&db).await;
    let dirty =
        "UPDATE schema_migrations SET dirty = true WHERE version = (SELECT max(version) FROM schema_migrations)";
    raw_sql(dirty).execute(&mut connection).await.unwrap();
    let version = must(&stores, &["version", "--target", "postgres"]).await.stdout;
    assert!(version.ends_with(", the newest, dirty: begun and not finished\n"), "{version}");
    let refused = run(&stores, &["up"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains(&format!("postgres is dirty at version {newest}")), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("`migrate force {newest} --target postgres`")), "{}", refused.stderr);
    assert!(clickhouse_schema(&db.clickhouse_url).await.is_empty(), "nothing else was begun either");

    let version = newest.to_string();
    let asked = run(&stores, &["force", &version, "--target", "postgres"]).await;
    assert!(asked.stderr.contains(": is dirty, will be marked as applied and clean"), "{}", asked.stderr);
    must(&stores, &["force", &version, "--target", "postgres", "--i-verified"]).await;
    must(&stores, &["up"]).await;

    raw_sql(dirty).execute(&mut connection).await.unwrap();
    must(&stores, &["down", "--target", "postgres", "--yes"]).await;
    let state = must(&stores, &["up", "--target", "postgres"]).await.stdout;
    assert!(state.ends_with(&format!("postgres: at version {newest}, the newest\n")), "{state}");
}

#[tokio::test]
async fn a_dirty_clickhouse_migration_is_run_again_or_undone_by_down() {
    let db = empty().await;
    let (stores, newest) = (stores(&db), newest(CLICKHOUSE));
    must(&stores, &["up"]).await;
    let whole = clickhouse_schema(&db.clickhouse_url).await;
    let dirty = || async {
        let sql = "INSERT INTO schema_migrations (version, name, checksum, dirty) \
                   SELECT version, name, 'of another file', true FROM schema_migrations FINAL ORDER BY version DESC LIMIT 1";
        clickhouse(&db.clickhouse_url).query_raw(sql).execute().await.unwrap();
        let version = must(&stores, &["version", "--target", "clickhouse"]).await.stdout;
        assert!(version.ends_with(", the newest, dirty: begun and not finished\n"), "{version}");
    };
    let state = format!(
        "clickhouse: ran {}\nclickhouse: at version {newest}, the newest\n",
        CLICKHOUSE.last().unwrap().up_file
    );
    dirty().await;
    assert_eq!(must(&stores, &["up", "--target", "clickhouse"]).await.stdout, state);
    assert_eq!(clickhouse_schema(&db.clickhouse_url).await, whole);
    dirty().await;
    must(&stores, &["down", "--target", "clickhouse", "--yes"]).await;
    assert_eq!(must(&stores, &["up", "--target", "clickhouse"]).await.stdout, state);
    assert_eq!(clickhouse_schema(&db.clickhouse_url).await, whole);
    dirty().await;
    must(&stores, &["force", &newest.to_string(), "--target", "clickhouse", "--i-verified"]).await;
    assert!(must(&stores, &["up"]).await.stdout.ends_with(", the newest; nothing to do\n"));
}

#[tokio::test]
async fn a_newer_database_is_left_alone_and_a_changed_file_refused() {
    let db = empty().await;
    let stores = stores(&db);
    must(&stores, &["up"]).await;
    let mut connection = owner(&db).await;
    let newer = "INSERT INTO schema_migrations (version, name, checksum) VALUES (900, 'later', '')";
    raw_sql(newer).execute(&mut connection).await.unwrap();
    let newer = "INSERT INTO schema_migrations (version, name, checksum, dirty) SELECT 901, 'later', '', false";
    clickhouse(&db.clickhouse_url).query_raw(newer).execute().await.unwrap();
    let (pg, ch) = (newest(POSTGRES), newest(CLICKHOUSE));
    assert_eq!(
        must(&stores, &["up"]).await.stdout,
        format!(
            "postgres: at version 900 of a newer release, this one knows {pg}; nothing to do\n\
             clickhouse: at version 901 of a newer release, this one knows {ch}; nothing to do\n"
        )
    );
    let version = must(&stores, &["version"]).await.stdout;
    assert!(
        version.starts_with(&format!("postgres: 900 later, newer than this release, which knows {pg}\n")),
        "{version}"
    );
    let refused = run(&stores, &["down", "--yes"]).await;
    assert_eq!(refused.code, Some(1));
    let wanted = format!("migrate: clickhouse is at version 901, and this binary knows only versions up to {ch}");
    assert!(refused.stderr.starts_with(&wanted), "{}", refused.stderr);
    // A newer version is there, but not all versions that this binary has.
    raw_sql("DELETE FROM schema_migrations WHERE version = 2").execute(&mut connection).await.unwrap();
    assert_eq!(run(&stores, &["up"]).await.code, Some(1));
    raw_sql("DELETE FROM schema_migrations WHERE version = 900").execute(&mut connection).await.unwrap();
    let gap = run(&stores, &["up"]).await;
    assert!(gap.stderr.contains(&format!("the journal of postgres has version {pg} and not 2 in full")), "{gap:?}");

    must(&stores, &["force", &pg.to_string(), "--target", "postgres", "--i-verified"]).await;
    raw_sql("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1").execute(&mut connection).await.unwrap();
    for args in [&["up"][..], &["down", "--target", "postgres", "--yes"]] {
        let changed = run(&stores, args).await;
        assert_eq!(changed.code, Some(1));
        assert!(
            changed.stderr.contains("postgres/0001_init.up.sql is not what was applied as version 1"),
            "{changed:?}"
        );
    }
}

#[tokio::test]
async fn clickhouse_alone_is_migrated_under_the_lock_by_whoever_can_log_in() {
    let db = empty().await;
    let as_app = Stores { postgres: Some(db.pg_app_dsn.clone()), clickhouse: Some(db.clickhouse_url.clone()) };
    must(&as_app, &["up", "--target", "clickhouse"]).await;
    assert!(!has_journal(&db.pg_owner_dsn).await);
    let alone = Stores { postgres: None, clickhouse: Some(db.clickhouse_url.clone()) };
    let refused = run(&alone, &["up", "--target", "clickhouse"]).await;
    assert_eq!(refused.code, Some(2));
    assert_eq!(refused.stderr, "migrate: not set: TRACEBILITY_PG_OWNER_DSN (or TRACEBILITY_PG_DSN)\n");
    must(&alone, &["version", "--target", "clickhouse"]).await;
    must(&alone, &["up", "--target", "clickhouse", "--dry-run"]).await;
}

/// The same number in every release: in a rolling update, old and new processes must wait for each other.
const LOCK_KEY: i64 = 0x7472_6163_6562_696c;

#[tokio::test]
async fn sigterm_ends_a_waiting_run_and_the_next_run_completes() {
    let db = empty().await;
    let stores = stores(&db);
    let mut other = owner(&db).await;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK_KEY).execute(&mut other).await.unwrap();
    let mut command = migrate(&stores, &["up", "--verbose"]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'tracebility-migrate' AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut other).await.unwrap() {
        tokio::task::yield_now().await;
    }
    let pid = child.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let ended = Ran::from(child.wait_with_output().await.unwrap());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(143), ""));
    assert_eq!(ended.stderr, "waiting for another process that migrates\n");
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK_KEY).execute(&mut other).await.unwrap();
    must(&stores, &["up"]).await;
}

#[tokio::test]
async fn progress_names_each_statement() {
    let db = empty().await;
    let quiet = must(&stores(&db), &["up"]).await;
    assert_eq!(quiet.stderr, "", "no terminal, and not asked");
    must(&stores(&db), &["down", "--all", "--yes"]).await;
    let loud = must(&stores(&db), &["up", "--verbose"]).await;
    let firsts = POSTGRES.iter().chain(CLICKHOUSE).map(|m| format!("{}: statement 1 of ", m.up_file));
    assert!(is_in_order(&loud.stderr, &firsts.collect::<Vec<_>>()), "{}", loud.stderr);
}

#[tokio::test]
async fn no_password_is_ever_printed() {
    let secret = |url: &str| url::Url::parse(url).unwrap().password().unwrap().to_owned();
    let db = empty().await;
    let passwords = [secret(&db.pg_owner_dsn), secret(&db.clickhouse_url), "hunter2".to_owned()];
    let clean = |ran: &Ran| {
        for password in &passwords {
            assert!(!ran.stdout.contains(password) && !ran.stderr.contains(password), "{ran:?}");
        }
    };
    let right = stores(&db);
    for args in [
        &["up", "-v"][..],
        &["version"],
        &["up", "--dry-run"],
        &["up", "--help"],
        &["force", "0", "--target", "postgres"],
    ] {
        clean(&run(&right, args).await);
    }
    let with = |postgres: &str, clickhouse: &str| Stores {
        postgres: Some(postgres.to_owned()),
        clickhouse: Some(clickhouse.to_owned()),
    };
    let (pg, ch) = (db.pg_owner_dsn.as_str(), db.clickhouse_url.as_str());
    let wrong_password = |url: &str| {
        let mut url = url::Url::parse(url).unwrap();
        url.set_password(Some("hunter2")).unwrap();
        url.to_string()
    };
    for (wrong, part) in [
        (with("postgres://u:hunter2@127.0.0.1:1/db", ch), "postgres: could not connect: "),
        (with(pg, "http://u:hunter2@127.0.0.1:1/db"), "clickhouse: could not "),
        (with(&wrong_password(pg), ch), "postgres: could not connect: "),
        (with(pg, &wrong_password(ch)), "clickhouse: could not "),
        (with("mysql://u:hunter2@h/db", ch), "the URL for postgres cannot be used: it must start with postgres://"),
        (with("postgres://u:hunter2@h:port/db", ch), "the URL for postgres cannot be used: "),
        (with(pg, "https://u:hunter2@h/db"), "the URL for clickhouse cannot be used: it must start with http://"),
        (with(pg, "http://u:hunter2@h/a-b"), "the URL for clickhouse cannot be used: it must end in a database"),
        (with(pg, "u:hunter2@h"), "the URL for clickhouse cannot be used: "),
    ] {
        let ran = run(&wrong, &["up"]).await;
        clean(&ran);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.starts_with(&format!("migrate: {part}")), "{part}: {}", ran.stderr);
    }
    let nothing = run(&Stores::default(), &["up"]).await;
    assert_eq!(nothing.code, Some(2));
    let wanted = "migrate: not set: TRACEBILITY_PG_OWNER_DSN (or TRACEBILITY_PG_DSN), TRACEBILITY_CLICKHOUSE_URL\n";
    assert_eq!(nothing.stderr, wanted);
}

#[tokio::test]
async fn every_command_shows_examples() {
    for command in [
        &["--help"][..],
        &["up", "--help"],
        &["down", "--help"],
        &["version", "--help"],
        &["force", "--help"],
        &["create", "--help"],
    ] {
        let help = must(&Stores::default(), command).await.stdout;
        assert!(help.contains("Examples:\n  migrate "), "{command:?}: {help}");
    }
    let help = must(&Stores::default(), &["--help"]).await.stdout;
    for code in ["  0  done", "  1  failed", "  2  wrong"] {
        assert!(help.contains(code), "{help}");
    }
}

#[tokio::test]
async fn create_makes_the_next_two_files_and_never_overwrites() {
    let directory = tempfile::tempdir().unwrap();
    for store in ["postgres", "clickhouse"] {
        std::fs::create_dir(directory.path().join(store)).unwrap();
    }
    let dir = directory.path().to_str().unwrap();
    let create = async |store: &str, name: &str| {
        run(&Stores::default(), &["create", name, "--target", store, "--dir", dir]).await
    };
    let read = |path: &str| std::fs::read_to_string(Path::new(dir).join(path)).unwrap();
    for (store, name, stem) in [
        ("postgres", "init", "0001_init"),
        ("postgres", "add_teams", "0002_add_teams"),
        ("clickhouse", "links_2", "0001_links_2"),
    ] {
        let made = create(store, name).await;
        let stem = format!("{store}/{stem}");
        assert_eq!(made.stdout, format!("{dir}/{stem}.up.sql\n{dir}/{stem}.down.sql\n"), "{made:?}");
        for path in [format!("{stem}.up.sql"), format!("{stem}.down.sql")] {
            assert!(read(&path).lines().all(|line| line.starts_with("--")), "{path}");
        }
    }
    // A directory with a gap or half a migration gets no new files.
    std::fs::write(Path::new(dir).join("postgres/0003_mine.down.sql"), "mine").unwrap();
    let refused = create("postgres", "more").await;
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), "migrate: 0003_mine.down.sql has no .up.sql file\n"));
    assert_eq!(read("postgres/0003_mine.down.sql"), "mine");
    for name in ["", "Teams", "add-teams", "../escape", "a b"] {
        let refused = create("clickhouse", name).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("cannot name a migration: use 1 to 64 of a-z, 0-9 and _"), "{refused:?}");
    }
    let nowhere = run(&Stores::default(), &["create", "a", "--target", "postgres", "--dir", "/nonexistent"]).await;
    assert!(nowhere.code == Some(1) && nowhere.stderr.starts_with("migrate: /nonexistent/postgres: "), "{nowhere:?}");
    assert_eq!(std::fs::read_dir(Path::new(dir).join("clickhouse")).unwrap().count(), 2);
}
