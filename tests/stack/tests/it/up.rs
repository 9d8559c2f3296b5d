//! `cargo stack`, servers only: what it promises about repetition, crashes and cleaning up.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stack")).args(args).arg("--dir").arg(dir).output().unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let done = run(dir, args);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The processes that run, by name.
fn running(dir: &Path) -> Vec<(String, u64)> {
    let status: Value = serde_json::from_slice(&run(dir, &["status", "--output", "json"]).stdout).unwrap();
    let processes = status.as_array().unwrap().iter();
    processes.filter_map(|p| Some((p["name"].as_str()?.to_owned(), p["pid"].as_u64()?))).collect()
}

#[test]
fn up_is_repeatable_survives_kill_9_and_down_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = &parent.path().join("stack");
    assert_eq!(run(dir, &["status"]).status.code(), Some(4), "no stack yet");

    ok(dir, &["up", "--servers-only"]);
    let (first, env) = (running(dir), std::fs::read_to_string(dir.join("stack.env")).unwrap());
    assert_eq!(first.len(), 3);
    assert_eq!(run(dir, &["status"]).status.code(), Some(3), "the services do not run");

    ok(dir, &["up", "--servers-only"]);
    assert_eq!(running(dir), first, "what runs is left alone");

    for (_, pid) in &first {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }
    ok(dir, &["up", "--servers-only"]);
    assert_eq!(running(dir).len(), 3);
    assert_eq!(std::fs::read_to_string(dir.join("stack.env")).unwrap(), env, "same ports and passwords");

    ok(dir, &["kill", "redis"]);
    assert_eq!(running(dir).len(), 2);
    ok(dir, &["start", "redis"]);
    let last = running(dir);
    assert_eq!(last.len(), 3);

    ok(dir, &["down"]);
    assert!(!dir.exists());
    for (name, pid) in last {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{name} still runs");
    }
    ok(dir, &["down"]);
}
