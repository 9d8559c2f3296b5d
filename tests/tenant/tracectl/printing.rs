//! What goes where: data to standard output, in two forms; secrets once; nothing that a terminal obeys.

use std::fs::File;
use std::process::Stdio;

use super::{Run, feed, json, key, program, run, with};
use crate::support::World;

/// Gives the org `acme` one of everything, and returns a key's public id.
fn furnish(world: &World) -> String {
    run(world, &["workspaces", "create", "acme", "research", "--name", "Research & more"]).done();
    run(world, &["products", "set", "acme", "replay", "--config", "{}"]).done();
    let idp = r#"{"issuer":"https://id.example","client_secret":"hunter2"}"#;
    feed(world, &["idp", "set", "acme", "oidc", "--config-file", "-"], idp).done();
    key(world, "site")
}

/// Every command that shows something.
const SHOWS: [(&[&str], &[&str]); 10] = [
    (&["orgs", "list"], &["next", "orgs"]),
    (&["orgs", "plans"], &["next", "plans"]),
    (&["orgs", "audit", "acme"], &["events", "next"]),
    (&["workspaces", "list", "acme"], &["next", "workspaces"]),
    (&["projects", "list", "acme"], &["next", "projects"]),
    (&["products", "list", "acme"], &["next", "products"]),
    (&["keys", "list", "acme"], &["keys", "next"]),
    (&["limits", "show", "acme"], &["burst", "eval_slots", "meters", "over_quota", "rps"]),
    (&["idp", "show", "acme"], &["config", "enabled", "kind", "updated_at"]),
    (
        &["orgs", "show", "acme"],
        &[
            "created_at",
            "kind",
            "limits",
            "live_keys",
            "name",
            "org_id",
            "plan",
            "projects",
            "retention_days",
            "slug",
            "status",
            "trial_ends_at",
            "workspaces",
        ],
    ),
];

#[tokio::test]
async fn every_show_command_prints_a_table_or_json() {
    let world = World::new().await;
    furnish(&world);
    for (args, fields) in SHOWS {
        let shown = run(&world, args);
        assert_eq!(shown.err, "", "{args:?}");
        let table = shown.done();
        assert!(table.lines().count() >= 2, "{args:?} shows a header and something:\n{table}");
        assert!(table.lines().all(|line| line == line.trim_end()), "{args:?}:\n{table}");
        let document = json(&world, args);
        let found: Vec<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, fields, "{args:?}");
        let by_env = with(&world).env("TRACECTL_OUTPUT", "json").args(args).output().unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&by_env.stdout).unwrap(), document, "{args:?}");
    }
}

#[tokio::test]
async fn every_change_command_reports_its_change_in_json() {
    let world = World::new().await;
    let public_id = furnish(&world);
    let org = ["changed", "org_id", "slug"];
    let changes: [(&[&str], &[&str]); 14] = [
        (&["orgs", "set-plan", "acme", "free"], &org),
        (&["orgs", "set-retention", "acme", "7"], &org),
        (&["orgs", "freeze", "acme", "--reason", "test", "--yes"], &org),
        (&["orgs", "thaw", "acme"], &org),
        (&["limits", "set", "acme", "--rps", "1"], &org),
        (&["limits", "clear", "acme", "--rps"], &org),
        (&["products", "set", "acme", "replay", "--disabled"], &["changed", "enabled", "org_id", "product"]),
        (&["workspaces", "create", "acme", "staging"], &["name", "org_id", "slug", "workspace_id"]),
        (&["workspaces", "archive", "acme", "staging", "--yes"], &["changed", "org_id", "slug", "workspace_id"]),
        (&["projects", "create", "acme", "app"], &["name", "org_id", "project_id", "slug", "workspace_id"]),
        (&["projects", "archive", "acme", "app", "--yes"], &["changed", "org_id", "project_id", "slug"]),
        (
            &["keys", "create", "acme", "site", "--name", "k"],
            &["expires_at", "key", "name", "org_id", "project_id", "public_id", "scopes"],
        ),
        (&["keys", "rotate", &public_id], &["expires_at", "key", "old_ends_at", "old_public_id", "public_id"]),
        (&["orgs", "archive", "acme", "--yes"], &org),
    ];
    for (args, fields) in changes {
        let document = json(&world, args);
        let found: Vec<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, fields, "{args:?}");
        assert!(document.get("changed").is_none_or(|changed| changed == true), "{args:?}");
    }
    let noted = run(&world, &["orgs", "archive", "acme", "--yes"]);
    assert_eq!((noted.out.as_str(), noted.err.as_str()), ("", "acme is archived, as before; nothing changed\n"));
}

#[tokio::test]
async fn tables_are_aligned() {
    let world = World::new().await;
    furnish(&world);
    let workspaces = json(&world, &["workspaces", "list", "acme"]);
    let of = |n: usize, field: &str| workspaces["workspaces"][n][field].as_str().unwrap().to_owned();
    let created = |n| format!("{}Z", &of(n, "created_at")[.."2026-11-21T12:00:00".len()]);
    let expected = format!(
        "SLUG      ID                                    STATUS  CREATED               NAME\n\
         main      {}  active  {}  Main\n\
         research  {}  active  {}  Research & more\n",
        of(0, "workspace_id"),
        created(0),
        of(1, "workspace_id"),
        created(1),
    );
    assert_eq!(run(&world, &["workspaces", "list", "acme"]).done(), expected);
    run(&world, &["limits", "set", "acme", "--rps", "7"]).done();
    assert_eq!(
        run(&world, &["limits", "show", "acme"]).done(),
        "LIMIT              VALUE         PER     FROM\n\
         rps                7             second  override\n\
         burst              2000          -       plan\n\
         eval_slots         16            -       plan\n\
         span_ingested      50000000      month   plan\n\
         span_bytes         268435456000  month   plan\n\
         eval_judge_call    500000        month   plan\n\
         eval_judge_tokens  unlimited     month   default\n\
         replay_run         unlimited     month   default\n\
         over_quota         park                  org\n"
    );
    assert_eq!(run(&world, &["keys", "list", "acme", "--after", "nobody"]).done().lines().count(), 1, "only a header");
}

#[tokio::test]
async fn a_truncated_list_says_where_to_continue() {
    let world = World::new().await;
    world
        .execute(
            "DO $$ DECLARE new uuid; BEGIN FOR n IN 1..1001 LOOP
                 new := gen_random_uuid();
                 PERFORM set_config('app.current_tenant', new::text, true);
                 INSERT INTO tenants (id, slug, name, plan) VALUES (new, 'org-' || lpad(n::text, 4, '0'), 'Org', 'free');
             END LOOP; END $$",
        )
        .await;
    // `acme` is the first.
    let first = json(&world, &["orgs", "list"]);
    assert_eq!((first["orgs"].as_array().unwrap().len(), first["next"].as_str()), (1000, Some("org-0999")));
    let table = run(&world, &["orgs", "list"]);
    assert_eq!(table.err, "there may be more: --after org-0999\n");
    let rest = json(&world, &["orgs", "list", "--after", "org-0999"]);
    let slugs: Vec<_> = rest["orgs"].as_array().unwrap().iter().map(|org| org["slug"].as_str().unwrap()).collect();
    assert_eq!((slugs, rest["next"].as_str()), (vec!["org-1000", "org-1001"], None));
}

#[tokio::test]
async fn secrets_are_printed_once_and_never_again() {
    let world = World::new().await;
    let rotated_id = furnish(&world);
    let mut secrets = vec!["hunter2".to_owned()];
    let mut keep = |run: Run| {
        let (out, err) = (run.out.clone(), run.err.clone());
        run.done();
        let key = out.split(['"', '\n']).find(|word| word.starts_with("tb_") && word.contains('.')).unwrap().to_owned();
        let secret = key.split_once('.').unwrap().1.to_owned();
        assert_eq!(out.matches(&secret).count(), 1);
        assert!(!err.contains(&secret) && err.contains("it is not shown again"), "{err}");
        secrets.push(secret);
        key
    };
    let create = ["keys", "create", "acme", "site", "--name", "another"];
    let created = run(&world, &create);
    assert_eq!(created.out.lines().count(), 1, "the key is alone on its line");
    let key = keep(created);
    keep(run(&world, &[&create[..], &["--output", "json"]].concat()));
    keep(run(&world, &["keys", "rotate", &rotated_id, "--output", "json"]));

    // Everything else, and errors that are made of what holds a secret.
    let mut printed = String::new();
    let errors: [&[&str]; 6] = [
        &["keys", "revoke", &key],
        &["keys", "rotate", &key, "--overlap", "0s"],
        &["keys", "revoke", &key, "--yes"],
        &["keys", "rotate", &key],
        &["keys", "rotate", &rotated_id],
        &["keys", "list", "acme", "--all"],
    ];
    for args in SHOWS.iter().map(|(args, _)| *args).chain(errors) {
        for output in ["table", "json"] {
            let run = run(&world, &[args, &["--output", output]].concat());
            printed = printed + &run.out + &run.err;
        }
    }
    assert!(printed.contains("***") && printed.contains("that is no key's public id"), "{printed}");
    for secret in secrets {
        assert!(!printed.contains(&secret) && !printed.contains(&secret[..secret.len() / 2]), "{printed}");
    }
}

#[tokio::test]
async fn a_key_whose_secret_could_not_be_printed_is_an_error_with_a_way_out() {
    let world = World::new().await;
    run(&world, &["projects", "create", "acme", "site"]).done();
    let mut create = with(&world);
    create.args(["keys", "create", "acme", "site", "--name", "lost"]);
    let lost: Run = create.stdout(File::create("/dev/full").unwrap()).output().unwrap().into();
    assert_eq!(lost.code, Some(1));
    let keys = json(&world, &["keys", "list", "acme"]);
    let public_id = keys["keys"][0]["public_id"].as_str().unwrap();
    let hint = format!("remove it with tracectl keys revoke {public_id} --yes");
    assert!(lost.err.contains("tracectl: the secret could not be printed") && lost.err.contains(&hint), "{}", lost.err);

    // What is told to do next can be done: a key is not rotated twice.
    let mut rotate = with(&world);
    rotate.args(["keys", "rotate", public_id]);
    let lost: Run = rotate.stdout(File::create("/dev/full").unwrap()).output().unwrap().into();
    assert!(lost.code == Some(1) && lost.err.contains("make another with tracectl keys create"), "{}", lost.err);
    assert_eq!(run(&world, &["keys", "rotate", public_id]).code, Some(1));
}

#[tokio::test]
async fn a_closed_output_pipe_is_no_failure() {
    let world = World::new().await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run: Run = with(&world).args(["orgs", "list"]).stdout(Stdio::from(writer)).output().unwrap().into();
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn names_cannot_control_the_terminal() {
    let world = World::new().await;
    let hostile = "Evil\u{1b}[2J\u{9b}31m\r\nacme\u{202e}\u{7}";
    run(&world, &["orgs", "create", "evil", "--name", hostile]).done();
    run(&world, &["projects", "create", "evil", "site", "--name", hostile]).done();
    run(&world, &["keys", "create", "evil", "site", "--name", hostile]).done();
    run(&world, &["orgs", "freeze", "evil", "--reason", hostile, "--yes", "--actor", hostile]).done();
    run(&world, &["orgs", "thaw", "evil"]).done();
    let commands: [&[&str]; 6] = [
        &["orgs", "list"],
        &["orgs", "show", "evil"],
        &["orgs", "audit", "evil"],
        &["projects", "list", "evil"],
        &["keys", "list", "evil"],
        &["orgs", "show", hostile],
    ];
    for args in commands {
        for output in ["table", "json"] {
            let run = run(&world, &[args, &["--output", output]].concat());
            let printed = run.out + &run.err;
            let obeyed = printed.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(obeyed, None, "{args:?}: {printed:?}");
            assert!(printed.contains("Evil"), "{args:?}: {printed}");
        }
    }
    assert_eq!(json(&world, &["orgs", "show", "evil"])["name"], hostile, "a program gets the name as it is");
    let table = run(&world, &["orgs", "list"]).done();
    assert_eq!(table.lines().count(), 3, "a name stays on its line:\n{table}");
}

/// The commands that a help text lists. What is indented further goes on describing one.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !["", "help"].contains(name)).map(str::to_owned).collect()
}

#[test]
fn every_help_has_examples_and_needs_no_registry() {
    let mut waiting = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let shown: Run = program().args(&path).arg("--help").output().unwrap().into();
        let help = shown.done();
        assert!(help.contains("\nExamples:\n  tracectl "), "{path:?}\n{help}");
        waiting.extend(listed(&help).into_iter().map(|name| [&path[..], &[name]].concat()));
        seen += 1;
    }
    assert_eq!(seen, 62, "tracectl, its nouns and their commands");
}
