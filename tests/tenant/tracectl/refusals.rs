//! What is refused: with which exit status, and which words.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Run, feed, json, key, program, run, tracectl_path};
use crate::support::{World, empty};

#[tokio::test]
async fn bad_input_is_refused_with_its_reason() {
    let world = World::new().await;
    run(&world, &["orgs", "create", "other"]).done();
    run(&world, &["workspaces", "create", "other", "elsewhere"]).done();
    run(&world, &["projects", "create", "acme", "site"]).done();
    let elsewhere = json(&world, &["workspaces", "list", "other"])["workspaces"][0]["workspace_id"].clone();
    let elsewhere = elsewhere.as_str().unwrap();
    let too_long = "a".repeat(41);
    let slug = |slug: &str, reason: &str| format!("the slug {slug:?} is not valid: {reason}");
    let length = "it must have 3 to 40 characters";
    let config = "it must be a JSON object of at most 65536 bytes";
    let before = world.count("SELECT count(*) FROM audit_outbox").await;
    let cases: [(&[&str], String); 32] = [
        (&["orgs", "create", "ab"], slug("ab", length)),
        (&["orgs", "create", &too_long], slug(&too_long, length)),
        (&["orgs", "create", "--", "-abc"], slug("-abc", "it must not start or end with -")),
        (&["orgs", "create", "abc-"], slug("abc-", "it must not start or end with -")),
        (&["orgs", "create", "Acme", "--name", "A"], slug("Acme", "only a-z, 0-9 and - are allowed")),
        (&["orgs", "create", "a_b"], slug("a_b", "only a-z, 0-9 and - are allowed")),
        (&["orgs", "create", "admin"], slug("admin", "it is reserved")),
        (&["orgs", "create", "acme"], "the slug \"acme\" is taken by another organization; choose another one".into()),
        (
            &["orgs", "create", "gold", "--plan", "gold"],
            "there is no plan \"gold\"; tracectl orgs plans shows them".into(),
        ),
        (&["orgs", "set-plan", "acme", "gold"], "there is no plan \"gold\"; tracectl orgs plans shows them".into()),
        (
            &["orgs", "create", "dry", "--retention-days", "0"],
            "a retention of 0 days is not possible: it must be 1 to 3650".into(),
        ),
        (&["orgs", "set-retention", "acme", "0"], "a retention of 0 days is not possible: it must be 1 to 3650".into()),
        (
            &["orgs", "create", "ice", "--status", "frozen"],
            "an organization cannot begin as frozen; it can be demo, trial or active".into(),
        ),
        (&["orgs", "show", "nobody"], "there is no organization \"nobody\"; tracectl orgs list shows them".into()),
        (
            &["orgs", "thaw", "acme"],
            "the organization is active and not frozen; tracectl orgs show ORG says where it stands".into(),
        ),
        (
            &["orgs", "freeze", "acme", "--reason", " ", "--yes"],
            "a reason is needed: at most 200 characters, not only blanks".into(),
        ),
        (
            &["limits", "set", "acme", "--rps", "2147483648"],
            "the limit \"2147483648\" is not valid: it must be `unlimited` or 0 (nothing) to 2147483647".into(),
        ),
        (
            &["workspaces", "create", "acme", "main"],
            "the slug \"main\" is taken by another workspace; choose another one".into(),
        ),
        (
            &["workspaces", "archive", "acme", "main", "--yes"],
            "the workspace \"main\" cannot be archived: every organization has it; archive the organization".into(),
        ),
        (
            &["projects", "create", "acme", "site"],
            "the slug \"site\" is taken by another project; choose another one".into(),
        ),
        (
            &["projects", "create", "acme", "app", "--workspace", "elsewhere"],
            "the organization has no workspace \"elsewhere\"; tracectl workspaces list ORG shows them".into(),
        ),
        (
            &["projects", "create", "acme", "app", "--workspace", elsewhere],
            format!("the organization has no workspace {elsewhere:?}; tracectl workspaces list ORG shows them"),
        ),
        (
            &["projects", "archive", "other", "site", "--yes"],
            "the organization has no project \"site\"; tracectl projects list ORG shows them".into(),
        ),
        (
            &["products", "set", "acme", "Replay", "--config", "{}"],
            "the product \"Replay\" is not valid: its name has 1 to 63 of a-z, 0-9 and _, and starts with a letter"
                .into(),
        ),
        (
            &["products", "set", "acme", "replay", "--config", "[]"],
            format!("the config of the product \"replay\" is not valid: it is no object; {config}"),
        ),
        (
            &["products", "set", "acme", "replay", "--config", "{\n  'hunter2'}"],
            "--config is not JSON: it cannot be read at line 2, column 3; give one JSON object, such as {\"model\":\"small\"}"
                .into(),
        ),
        (
            &["products", "set", "acme", "replay", "--disabled"],
            "the organization has no product \"replay\"; --config '{}' gives it one with an empty configuration".into(),
        ),
        (
            &["idp", "set", "acme", "oidc", "--config-file", "/dev/null"],
            "/dev/null is not JSON: it cannot be read at line 1, column 0; give one JSON object, such as {\"model\":\"small\"}"
                .into(),
        ),
        (
            &["idp", "set", "acme", "oidc", "--config-file", "/dev/zero"],
            "/dev/zero has more than 1048576 bytes; check that it is the right file".into(),
        ),
        (
            &["idp", "show", "acme"],
            "acme has no identity provider; tracectl idp set acme oidc --config-file FILE gives it one".into(),
        ),
        (
            &["keys", "create", "acme", "site", "--name", "k", "--scopes", "everything"],
            "the scope \"everything\" is not valid: a key has at most 32 scopes, each like ingest:write or admin:*"
                .into(),
        ),
        (
            &["keys", "revoke", "0123456789abcdef01234567", "--yes"],
            "there is no API key \"0123456789abcdef01234567\"; the public id is what is between tb_ and the dot; \
             tracectl keys list ORG shows them"
                .into(),
        ),
    ];
    for (args, error) in cases {
        run(&world, args).refused(1, &format!("tracectl: {error}\n"));
    }
    assert_eq!(world.count("SELECT count(*) FROM audit_outbox").await, before, "what was refused left no trace");
    assert_eq!(json(&world, &["orgs", "list"])["orgs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_archived_org_and_an_ended_key_stay_as_they_are() {
    let world = World::new().await;
    let public_id = key(&world, "site");
    run(&world, &["keys", "revoke", &public_id, "--yes"]).done();
    run(&world, &["keys", "rotate", &public_id])
        .refused(1, &format!("tracectl: the API key {public_id} was revoked before; create a new one\n"));
    let past = run(&world, &["keys", "create", "acme", "site", "--name", "k", "--expires", "2020-01-31"]);
    assert_eq!(past.code, Some(1));
    assert!(past.err.starts_with("tracectl: a key cannot end at 2020-01-31"), "{}", past.err);
    run(&world, &["projects", "archive", "acme", "site", "--yes"]).done();
    run(&world, &["keys", "create", "acme", "site", "--name", "k"]).refused(
        1,
        "tracectl: the project is archived; nothing can be added to it; archiving is for good; create another one\n",
    );
    run(&world, &["orgs", "archive", "acme", "--yes"]).done();
    let archived = "tracectl: the organization is archived and cannot be changed; archiving is for good; create another \
                    org\n";
    let changes: [&[&str]; 5] = [
        &["orgs", "thaw", "acme"],
        &["orgs", "set-plan", "acme", "free"],
        &["limits", "set", "acme", "--rps", "1"],
        &["projects", "create", "acme", "app"],
        &["products", "set", "acme", "replay", "--config", "{}"],
    ];
    for args in changes {
        run(&world, args).refused(1, archived);
    }
}

#[test]
fn a_usage_error_has_another_exit_status_than_a_failure() {
    let overlap = ["keys", "rotate", "0123456789abcdef01234567", "--overlap"];
    let limits = "it must be `unlimited` or 0 (nothing) to 9223372036854775807";
    let cases: [(&[&str], &str); 11] = [
        (&[], "Usage: tracectl"),
        (&["orgs"], "Usage: tracectl orgs"),
        (&["orgs", "explode"], "unrecognized subcommand 'explode'"),
        (&["orgs", "list", "--status", "gone"], "expected one of demo, trial, active, frozen, archived"),
        (&["orgs", "set-retention", "acme", "-1"], "is no number of days"),
        (&["limits", "set", "acme", "--rps", "-1"], limits),
        (&["limits", "set", "acme", "--meter", "span_bytes=-1"], limits),
        (&["limits", "set", "acme", "--meter", "spans=1"], "invalid meter \"spans\": expected one of span_ingested,"),
        (&["limits", "clear", "acme"], "required arguments were not provided"),
        (&[&overlap[..], &["1"]].concat(), "a whole number and s, m, h or d, such as 24h"),
        (&["keys", "create", "acme", "site", "--name", "k", "--expires", "soon"], "a day such as 2027-01-31"),
    ];
    for (args, error) in cases {
        let refused: Run = program().args(args).output().unwrap().into();
        assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""), "{args:?}");
        assert!(refused.err.contains(error), "{args:?}: {}", refused.err);
    }
}

#[tokio::test]
async fn a_registry_that_cannot_be_used_is_reported_without_its_password() {
    let asks = |dsn: &str| -> Run {
        let asked = program().env("TRACEBILITY_PG_OPERATOR_DSN", dsn).args(["orgs", "list"]).output().unwrap();
        let asked = Run::from(asked);
        assert!(!asked.err.contains("hunter2") && asked.out.is_empty(), "{}{}", asked.out, asked.err);
        asked
    };
    let set = "set TRACEBILITY_PG_OPERATOR_DSN, for example to postgres://tracebility_operator:…@db:5432/tracebility";
    let missing: Run = program().args(["orgs", "list"]).output().unwrap().into();
    missing.refused(2, &format!("tracectl: it is not known where the registry is; {set}\n"));
    asks("  ").refused(2, &format!("tracectl: it is not known where the registry is; {set}\n"));
    let wrong = asks("mysql://u:hunter2@h/db");
    assert!(wrong.code == Some(2) && wrong.err.contains("is not a postgres:// URL"), "{}", wrong.err);
    asks("postgres://u:hunter2@127.0.0.1:1/db").refused(
        1,
        "tracectl: Postgres cannot be reached at postgres://u:***@127.0.0.1:1/db: Connection refused (os error 111); check \
         that it runs and that TRACEBILITY_PG_OPERATOR_DSN names it\n",
    );

    let db = empty().await;
    let unmigrated = asks(&db.pg_operator_dsn);
    assert_eq!(unmigrated.code, Some(1));
    assert!(
        unmigrated.err.ends_with("; run migrate up: the database is older than this program\n"),
        "{}",
        unmigrated.err
    );
    let mut url = crate::support::url(&db.pg_operator_dsn).expose().clone();
    url.set_password(Some("hunter2")).unwrap();
    let refused = asks(url.as_str());
    let cause = "password authentication failed for user \"tracebility_operator\"; check the user, the password and the \
                 database in TRACEBILITY_PG_OPERATOR_DSN\n";
    assert!(refused.code == Some(1) && refused.err.ends_with(cause), "{}", refused.err);
}

#[tokio::test]
async fn tracectl_refuses_to_manage_orgs_as_the_services_role_or_the_owner() {
    let world = World::new().await;
    let create = |dsn: &str| -> Run {
        program().env("TRACEBILITY_PG_OPERATOR_DSN", dsn).args(["orgs", "create", "globex"]).output().unwrap().into()
    };
    for dsn in [&world.db.pg_app_dsn, &world.db.pg_owner_dsn] {
        let refused = create(dsn);
        assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""));
        assert!(refused.err.starts_with("tracectl: ") && refused.err.contains("operator"), "{}", refused.err);
    }
    create(&world.db.pg_operator_dsn).done();
}

/// Every command that makes something stop working.
fn endings(public_id: &str) -> [(Vec<&str>, String); 6] {
    [
        (
            vec!["keys", "rotate", public_id, "--overlap", "0s"],
            format!(
                "rotating the key {public_id} without an overlap needs a yes, because what uses it is refused until it has \
                 the new one"
            ),
        ),
        (
            vec!["keys", "revoke", public_id],
            format!("revoking the key {public_id} needs a yes, because what uses it is refused for good, within a minute"),
        ),
        (
            vec!["projects", "archive", "acme", "site"],
            "archiving the project site of acme needs a yes, because its keys stop working for good, within a minute".into(),
        ),
        (
            vec!["workspaces", "archive", "acme", "research"],
            "archiving the workspace research of acme needs a yes, because the keys of all its projects stop working for \
             good, within a minute"
                .into(),
        ),
        (
            vec!["orgs", "freeze", "acme", "--reason", "test"],
            "freezing acme needs a yes, because its key is refused (403) within a minute, until it is thawed".into(),
        ),
        (
            vec!["orgs", "archive", "acme"],
            "archiving acme needs a yes, because its key is refused (403) within a minute, and there is no way back".into(),
        ),
    ]
}

#[tokio::test]
async fn without_a_terminal_destructive_commands_need_yes() {
    let world = World::new().await;
    run(&world, &["workspaces", "create", "acme", "research"]).done();
    let public_id = key(&world, "site");
    let before = world.count("SELECT count(*) FROM audit_outbox").await;
    for (args, error) in endings(&public_id) {
        run(&world, &args).refused(2, &format!("tracectl: {error}; repeat it with --yes\n"));
    }
    assert_eq!(world.count("SELECT count(*) FROM audit_outbox").await, before, "nothing was changed");
    // What ends nothing at once asks nothing.
    run(&world, &["keys", "rotate", &public_id, "--overlap", "1h"]).done();
}

/// Runs a command with a terminal as its standard input, on which somebody types `typed`.
fn typing(world: &World, args: &[&str], typed: &str) -> (Option<i32>, String) {
    let line = [&[tracectl_path().to_str().unwrap()], args].concat().join(" ");
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TRACEBILITY_PG_OPERATOR_DSN", &world.db.pg_operator_dsn)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of util-linux");
    script.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn on_a_terminal_destructive_commands_ask() {
    let world = World::new().await;
    let public_id = key(&world, "site");
    let revoke = ["keys", "revoke", public_id.as_str()];
    let question = format!("revoking the key {public_id}: what uses it is refused for good, within a minute.");
    for no in ["n\n", "\n", "yessir\n", "\u{4}"] {
        let (code, printed) = typing(&world, &revoke, no);
        assert!(printed.contains(&question) && printed.contains("Go on? [y/N]"), "{printed}");
        assert!(printed.contains("tracectl: nothing was changed"), "{printed}");
        assert_eq!(code, Some(1), "{no:?}");
    }
    assert_eq!(json(&world, &["keys", "list", "acme"])["keys"].as_array().unwrap().len(), 1);
    let (code, printed) = typing(&world, &revoke, "y\n");
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(json(&world, &["keys", "list", "acme"])["keys"].as_array().unwrap().len(), 0);
    let (code, printed) = typing(&world, &[&revoke[..], &["--yes"]].concat(), "");
    assert!(code == Some(0) && !printed.contains("Go on?"), "{printed}");
}

#[tokio::test]
async fn a_configuration_may_come_from_standard_input() {
    let world = World::new().await;
    let set = |config| feed(&world, &["idp", "set", "acme", "saml", "--config-file", "-"], config);
    set(r#"{"metadata_url":"https://id.example"}"#).done();
    let shown = json(&world, &["idp", "show", "acme"]);
    assert_eq!((&shown["kind"], &shown["config"]["metadata_url"]), (&"saml".into(), &"https://id.example".into()));
    let refused = set("\"hunter2\"");
    assert!(refused.code == Some(1) && !refused.err.contains("hunter2"), "{}", refused.err);
    assert!(
        refused.err.contains("the config of the identity provider is not valid: it is no object"),
        "{}",
        refused.err
    );
}
