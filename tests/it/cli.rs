//! The services' command line: help, and every mistake reported at once without a secret.

use std::path::PathBuf;
use std::process::{Command, Output};

fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let exe = std::env::current_exe().unwrap();
    let path: PathBuf = exe.ancestors().nth(2).unwrap().join(program);
    Command::new(&path)
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_explain_and_check_their_settings() -> anyhow::Result<()> {
    // Building the services is the harness's business.
    let db = stack::shared().await?.fresh_database().await?;
    stack::migrate(&db).await?;
    for program in ["ingest-api", "ingest-worker"] {
        let help = run(program, &["--help"], &[]);
        assert!(help.status.success());
        let help = text(&help.stdout);
        for name in
            ["TRACEBILITY_PG_DSN", "TRACEBILITY_REDIS_URL", "TRACEBILITY_CLICKHOUSE_URL", "TRACEBILITY_DRAIN_MAX"]
        {
            assert!(help.contains(name), "{program} --help does not mention {name}");
        }
        assert!(help.contains("Example:"), "{program} --help has no example");

        let wrong = [
            ("TRACEBILITY_PG_DSN", "mysql://u:hunter2@h/db"),
            ("TRACEBILITY_CLICKHOUSE_URL", "not a url with hunter2"),
            ("TRACEBILITY_DRAIN_MAX", "soon"),
        ];
        let refused = run(program, &["--check-config"], &wrong);
        assert_eq!(refused.status.code(), Some(2));
        let message = text(&refused.stderr);
        for name in
            ["TRACEBILITY_PG_DSN", "TRACEBILITY_REDIS_URL", "TRACEBILITY_CLICKHOUSE_URL", "TRACEBILITY_DRAIN_MAX"]
        {
            assert!(message.contains(name), "{program} does not report {name}: {message}");
        }
        assert!(!message.contains("hunter2"), "a secret is printed: {message}");

        let right = [
            ("TRACEBILITY_PG_DSN", "postgres://app:hunter2@h/db"),
            ("TRACEBILITY_REDIS_URL", "redis://:hunter2@h/0"),
            ("TRACEBILITY_CLICKHOUSE_URL", "http://u:hunter2@h:8123/db"),
            ("TRACEBILITY_ADMIN_KEY", "hunter2hunter2hunter2hunter2hunter2"),
        ];
        let accepted = run(program, &["--check-config"], &right);
        assert!(accepted.status.success(), "{}", text(&accepted.stderr));
        let shown = text(&accepted.stdout);
        assert!(shown.contains("TRACEBILITY_DRAIN_MAX=20s"), "{shown}");
        assert!(!shown.contains("hunter2"), "a secret is printed: {shown}");
    }
    Ok(())
}
