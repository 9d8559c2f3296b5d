//! Licences, sources and bans of `deny.toml`, as far as they can be checked without `cargo-deny`, which also knows of
//! vulnerabilities and second copies (`just deny`).

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// How the source of a package from crates.io ends.
const CRATES_IO: &str = "/crates.io-index";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The quoted words after `start`, up to the bracket that closes the list. Of a table only the value of `crate`.
fn listed(deny: &str, start: &str) -> Vec<String> {
    let list = deny.split_once(start).unwrap_or_else(|| panic!("deny.toml has no {start}")).1;
    let list = list.split_once(']').unwrap().0;
    match list.contains('{') {
        true => list.split("crate = \"").skip(1).map(|rest| rest.split_once('"').unwrap().0.to_owned()).collect(),
        false => list.split('"').skip(1).step_by(2).map(str::to_owned).collect(),
    }
}

/// Whether one licence of each part of an SPDX expression is allowed. Parentheses are ignored, which may refuse what
/// could be allowed, and not the other way round.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace(['(', ')'], "").replace('/', " OR ");
    expression.split(" AND ").all(|part| part.split(" OR ").any(|licence| allowed.iter().any(|a| a == licence.trim())))
}

#[test]
fn every_dependency_has_a_permitted_licence_and_source() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    let (allowed, banned) = (listed(&deny, "\nallow = ["), listed(&deny, "\ndeny = ["));
    assert!(
        allowed.contains(&"MIT".to_owned()) && banned.contains(&"openssl-sys".to_owned()),
        "{allowed:?} {banned:?}"
    );
    let target = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = Command::new(cargo)
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(target)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let used: Vec<&Value> = metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect();
    let packages = metadata["packages"].as_array().unwrap();
    let packages: Vec<&Value> = packages.iter().filter(|package| used.contains(&&package["id"])).collect();
    assert!(packages.len() > 200, "{} packages: not all that are compiled", packages.len());
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence, &allowed), "{name}: licence {licence} is not in deny.toml");
        assert!(!banned.iter().any(|banned| banned == name), "{name} is banned in deny.toml");
        let source = package["source"].as_str();
        assert!(source.is_none_or(|source| source.ends_with(CRATES_IO)), "{name} comes from {source:?}");
    }
}

#[test]
fn a_licence_is_allowed_if_one_alternative_of_each_part_is() {
    let allowed = ["MIT".to_owned(), "Zlib".to_owned()];
    for (expression, wanted) in [
        ("MIT", true),
        ("Apache-2.0/MIT", true),
        ("(GPL-3.0 OR MIT) AND Zlib", true),
        ("MIT AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("none", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), wanted, "{expression}");
    }
}
