//! Tests of the table of settings, its errors and its printed form.

use std::time::Duration;

use stores::secret::Secret;

use super::*;

const SECRET: &str = "hunter2";

const WAIT: Setting<Duration> =
    Setting::new("TRACEBILITY_T_WAIT", parse::duration::<1, 60_000>, "How long.").default("500ms");
const NAME: Setting<String> = Setting::new("TRACEBILITY_T_NAME", parse::text, "A name.");
const TOKEN: Setting<Secret<String>> =
    Setting::new("TRACEBILITY_T_TOKEN", |text| Ok(Secret::new(text.to_owned())), "A token.").secret();
const ROWS: Setting<u64> = Setting::new("TRACEBILITY_T_ROWS", parse::count::<1, 10>, "Rows.").default("5");

const PROGRAM: Program = Program {
    name: "prog",
    version: "1.2.3",
    about: "Does something.",
    example: "prog",
    settings: &[&WAIT, &NAME, &TOKEN, &ROWS, &PG_DSN, &REDIS_URL, &CLICKHOUSE_URL],
};

fn start(args: &[&str], env: &[(&str, &str)]) -> Start<(Duration, Option<String>, u64)> {
    PROGRAM
        .start(args.to_vec(), env.to_vec(), |values| Ok((values.get(&WAIT)?, values.find(&NAME)?, values.get(&ROWS)?)))
}

fn exit(args: &[&str], env: &[(&str, &str)]) -> Exit {
    match start(args, env) {
        Start::Exit(exit) => exit,
        Start::Run(config) => panic!("started with {config:?}"),
    }
}

const STORES: [(&str, &str); 3] = [
    ("TRACEBILITY_PG_DSN", "postgres://app:hunter2@db/t"),
    ("TRACEBILITY_REDIS_URL", "redis://:hunter2@cache/0"),
    ("TRACEBILITY_CLICKHOUSE_URL", "http://w:hunter2@ch:8123/t"),
];

#[test]
fn the_three_store_urls_suffice_and_a_blank_setting_is_unset() {
    let mut env = STORES.to_vec();
    env.extend([("TRACEBILITY_T_WAIT", "  "), ("TRACEBILITY_T_NAME", ""), ("HOME", "/")]);
    match start(&[], &env) {
        Start::Run(config) => assert_eq!(config, (Duration::from_millis(500), None, 5)),
        Start::Exit(exit) => panic!("{}", exit.stderr),
    }
}

#[test]
fn every_error_is_reported_at_once_and_none_shows_a_secret() {
    let env = [
        ("TRACEBILITY_T_WAIT", "5"),
        ("TRACEBILITY_T_ROWS", "11"),
        ("TRACEBILITY_PG_DSN", "mysql://app:hunter2@db/t"),
        ("TRACEBILITY_CLICKHOUSE_URL", "http//w:hunter2@ch"),
    ];
    let exit = exit(&[], &env);
    assert_eq!(exit.code, 2);
    assert_eq!(exit.stdout, "");
    for expected in [
        "5 settings are missing or invalid:",
        "TRACEBILITY_T_WAIT is not a duration from 1ms to 60000ms, such as 500ms or 20s (got \"5\"); unset it for the default, 500ms",
        "TRACEBILITY_T_ROWS is not a whole number from 1 to 10 (got \"11\")",
        "TRACEBILITY_PG_DSN is not a postgres:// URL",
        "TRACEBILITY_REDIS_URL is not set; set it like redis://",
        "TRACEBILITY_CLICKHOUSE_URL",
    ] {
        assert!(exit.stderr.contains(expected), "{expected:?} is not in:\n{}", exit.stderr);
    }
    assert!(!exit.stderr.contains(SECRET), "{}", exit.stderr);
}

#[test]
fn check_config_prints_effective_values_without_secrets() {
    let mut env = STORES.to_vec();
    env.extend([("TRACEBILITY_T_TOKEN", SECRET), ("TRACEBILITY_T_WAIT", "2s"), ("TRACEBILITY_T_TOKNE", SECRET)]);
    let exit = exit(&["--check-config"], &env);
    assert_eq!(exit.code, 0, "{}", exit.stderr);
    assert_eq!(
        exit.stdout,
        "TRACEBILITY_T_WAIT=2s\nTRACEBILITY_T_NAME=  # unset\nTRACEBILITY_T_TOKEN=***\n\
         TRACEBILITY_T_ROWS=5  # default\nTRACEBILITY_PG_DSN=postgres://app:***@db/t\n\
         TRACEBILITY_REDIS_URL=redis://:***@cache/0\nTRACEBILITY_CLICKHOUSE_URL=http://w:***@ch:8123/t\n\
         # TRACEBILITY_T_TOKNE is no setting of prog\n"
    );
}

#[test]
fn check_config_lists_errors_and_exits_2() {
    let exit = exit(&["--check-config"], &[]);
    assert_eq!(exit.code, 2);
    assert!(exit.stderr.starts_with("3 settings are missing or invalid:"), "{}", exit.stderr);
}

#[test]
fn help_names_every_setting_with_its_default() {
    let help = exit(&["--help"], &[]).stdout;
    for setting in PROGRAM.settings {
        assert!(help.contains(setting.name()) && help.contains(setting.help()), "{help}");
    }
    assert!(
        help.contains("[default 500ms]")
            && help.contains("[optional]")
            && help.contains("required, for example redis://")
    );
    assert_eq!(exit(&["-V"], &[]).stdout, "prog 1.2.3\n");
}

#[test]
fn unknown_arguments_are_refused_without_repeating_their_values() {
    for args in [&["--token=hunter2"][..], &["serve", SECRET], &["--help", "--version"]] {
        let exit = exit(args, &STORES);
        assert_eq!(exit.code, 2);
        assert!(exit.stderr.contains("unexpected arguments") && !exit.stderr.contains(SECRET), "{}", exit.stderr);
    }
}

#[test]
fn a_rule_over_several_settings_reads_like_the_others() {
    let start = PROGRAM.start(Vec::<String>::new(), STORES, |_| -> Result<(), Errors> {
        Err(Errors::one(&ROWS, "must not be above TRACEBILITY_T_WAIT"))
    });
    let Start::Exit(exit) = start else { panic!("started") };
    assert!(
        exit.stderr.contains("1 setting is missing or invalid:\n  TRACEBILITY_T_ROWS must not be above"),
        "{}",
        exit.stderr
    );
}

#[test]
fn setting_values_are_not_in_debug_output() {
    let values = Values::read(&[&TOKEN], [("TRACEBILITY_T_TOKEN", SECRET)]).unwrap();
    assert!(!format!("{values:?}").contains(SECRET));
    assert_eq!(values.get(&TOKEN).unwrap().expose(), SECRET);
}

#[test]
fn a_setting_that_is_not_utf8_is_reported_once() {
    use std::os::unix::ffi::OsStringExt;
    let env = [(OsString::from("TRACEBILITY_PG_DSN"), OsString::from_vec(vec![0xff]))];
    let errors = Values::read(&[&PG_DSN], env).unwrap_err();
    assert_eq!(errors.names().collect::<Vec<_>>(), ["TRACEBILITY_PG_DSN"]);
    assert!(errors.to_string().contains("TRACEBILITY_PG_DSN is not UTF-8"), "{errors}");
}
