//! What later commands know about a process.

use std::process::Command;

use stack::process::{ProcessId, signal_named};

#[test]
fn an_ended_process_is_not_alive_even_before_it_is_reaped() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let id = ProcessId::of(child.id()).unwrap();
    assert!(id.is_alive());
    assert!(id.signal(signal_named("SIGKILL").unwrap()).unwrap());
    for _ in 0..500 {
        if !id.is_alive() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(!id.is_alive());
    child.wait().unwrap();
    assert!(!id.signal(signal_named("KILL").unwrap()).unwrap());
}

#[test]
fn a_process_that_got_the_number_of_an_old_one_is_not_signalled() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let now = ProcessId::of(child.id()).unwrap();
    let mut old = serde_json::to_value(now).unwrap();
    old["started"] = 1.into();
    let old: ProcessId = serde_json::from_value(old).unwrap();
    assert!(!old.is_alive());
    assert!(!old.signal(signal_named("KILL").unwrap()).unwrap());
    assert!(now.is_alive());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_unknown_signal_names_the_known_ones() {
    assert!(signal_named("SIGNAL").unwrap_err().to_string().contains("KILL, TERM"));
}
