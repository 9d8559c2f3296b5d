//! What the code has, held to the lists of it: metrics to `docs/reference/metrics.md`, keys and commands of Redis to
//! `deploy/redis-users.conf`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::structure::{files, packages, product, root};

/// The places whose code runs as one Redis user only. All other code runs as more than one.
const RUN_AS: [(&str, &str); 6] = [
    ("ingest-api/src", "tracebility_api"),
    ("tenant/admission/src", "tracebility_api"),
    ("tenant/auth/src/resolver", "tracebility_api"),
    ("ingest-worker/src", "tracebility_worker"),
    ("tenant/lease/src", "tracebility_worker"),
    ("tenant/tracectl/src", "tracebility_operator"),
];
/// No user may do this: a service that is refused warns that it cannot see how Redis is configured.
const REFUSED: &str = "config";

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the shipped code with one of these extensions: its path below the root, and its text without comments
/// and, if it is Rust, without its tests.
fn code(extensions: &[&str]) -> Vec<(String, String)> {
    let mut code = Vec::new();
    for package in product(&packages()) {
        for extension in extensions {
            for file in files(&package.directory.join("src"), extension) {
                if file.file_name().is_some_and(|name| name == "tests.rs") {
                    continue;
                }
                let text = read(&file);
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                let is_code = |line: &&str| !["//", "--"].iter().any(|mark| line.trim_start().starts_with(mark));
                let lines: Vec<&str> = text.lines().filter(is_code).collect();
                code.push((file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), lines.join("\n")));
            }
        }
    }
    assert!(code.len() > 10, "{} files", code.len());
    code
}

/// What follows each `prefix` in a text, up to `end`.
fn after<'a>(text: &'a str, prefix: &'a str, end: char) -> impl Iterator<Item = &'a str> {
    text.match_indices(prefix).filter_map(move |(at, _)| Some(text[at + prefix.len()..].split_once(end)?.0))
}

/// Type and labels.
type Metric = (String, BTreeSet<String>);

/// The metrics of a text: calls of `counter!`, `gauge!` and `histogram!` with a name.
fn metrics_in(text: &str) -> Vec<(String, Metric)> {
    let mut found = Vec::new();
    for kind in ["counter", "gauge", "histogram"] {
        let call = format!("{kind}!(");
        for (at, _) in text.match_indices(&call) {
            let rest = &text[at + call.len()..];
            let mut open = 1;
            let end = rest.find(|c| {
                open += i32::from(c == '(') - i32::from(c == ')');
                open == 0
            });
            let arguments = rest[..end.unwrap()].trim_start();
            let name = arguments.strip_prefix('"').and_then(|rest| rest.split_once('"'));
            let (name, labels) = name.unwrap_or_else(|| panic!("{kind}!({arguments}) has no name that can be found"));
            let mut labels: Vec<&str> = labels.split("=>").collect();
            labels.pop();
            let label = |before: &&str| before.trim_end().trim_end_matches('"').rsplit('"').next().unwrap().to_owned();
            found.push((name.to_owned(), (kind.to_owned(), labels.iter().map(label).collect())));
        }
    }
    found
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let mut emitted = BTreeMap::<String, Metric>::new();
    for (file, text) in code(&["rs"]) {
        for (name, metric) in metrics_in(&text) {
            assert_eq!(name.ends_with("_total"), metric.0 == "counter", "{file}: {name} is a {}", metric.0);
            let before = emitted.insert(name.clone(), metric.clone());
            assert!(before.is_none_or(|before| before == metric), "{file}: {name} has another type or other labels");
        }
    }
    let mut documented = BTreeMap::<String, Metric>::new();
    for line in read("docs/reference/metrics.md").lines().filter(|line| line.starts_with("| `tracebility_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _unit, meaning] = cells[..] else { panic!("not five columns: {line}") };
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned()).filter(|l| !l.is_empty());
        let is_new =
            documented.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels.collect())).is_none();
        assert!(is_new, "{name} is there twice");
    }
    assert_eq!(emitted, documented);
    // Other pages say when to act on a metric, under its present name.
    let pages = files(&root().join("docs"), "md").into_iter().chain([root().join("deploy/README.md")]);
    for page in pages {
        let text = read(&page);
        for word in text.split(|c: char| !c.is_ascii_lowercase() && c != '_') {
            if word.starts_with("tracebility_") && (word.ends_with("_total") || word.ends_with("_seconds")) {
                assert!(emitted.contains_key(word), "{}: there is no metric {word}", page.display());
            }
        }
    }
}

#[test]
fn a_metric_is_found_with_its_labels() {
    let code =
        "counter!(\"a_total\").increment(1); metrics::gauge!(\n    \"b\",\n    \"x\" => f(1), \"y\" => \"z\"\n).set(1)";
    let labels = |of: &[&str]| of.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<_>>();
    let expected = [("a_total", "counter", labels(&[])), ("b", "gauge", labels(&["x", "y"]))];
    assert_eq!(metrics_in(code), expected.map(|(name, kind, labels)| (name.to_owned(), (kind.to_owned(), labels))));
}

/// What the users of `deploy/redis-users.conf` may do: patterns of keys, and commands.
#[derive(Default)]
struct Rights {
    keys: BTreeSet<String>,
    commands: BTreeSet<String>,
}

/// The rights by user. What a comment adds for some servers is everybody's.
fn rights() -> BTreeMap<String, Rights> {
    let text = read("deploy/redis-users.conf");
    let command = |word: &str| word.strip_prefix('+').map(|word| word.trim_end_matches(['.', ',']).to_owned());
    let comments = text.lines().filter(|line| line.starts_with('#'));
    let everybody: BTreeSet<String> = comments.flat_map(str::split_whitespace).filter_map(command).collect();
    let mut rights = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("user ")) {
        let (name, words) = line.split_once(' ').unwrap();
        let mut user = Rights { commands: everybody.clone(), ..Default::default() };
        for word in words.split(' ') {
            user.commands.extend(command(word));
            user.keys.extend(word.split_once('~').map(|(_, pattern)| pattern.to_owned()));
        }
        rights.insert(name.to_owned(), user);
    }
    rights
}

/// Whether a key is of a pattern, in which `*` stands for anything.
fn is_of(pattern: &str, key: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == key,
        Some((before, rest)) => key
            .strip_prefix(before)
            .is_some_and(|key| key.char_indices().any(|(at, _)| is_of(rest, &key[at..])) || is_of(rest, "")),
    }
}

#[test]
fn every_redis_key_is_described_tested_and_somebodys() {
    let (text, rights) = (read("tenant/stores/src/keys.rs"), rights());
    let (code, tests) = text.split_once("mod tests {").unwrap();
    let mut described = String::new();
    let mut keys = 0;
    for line in code.lines().map(str::trim_start) {
        if let Some(comment) = line.strip_prefix("///") {
            described.push_str(comment);
            continue;
        }
        let comment = std::mem::take(&mut described);
        let Some(name) = line.strip_prefix("pub fn ").filter(|_| line.contains("-> Self")) else { continue };
        let name = name.split('(').next().unwrap();
        let spelled = comment.split('`').skip(1).step_by(2).filter(|word| word.contains(':') && !word.contains("::"));
        let spelled: Vec<&str> = spelled.collect();
        assert!(!spelled.is_empty(), "the comment of {name} does not say how the key is spelled");
        for key in spelled {
            let is_somebodys = rights.values().flat_map(|user| &user.keys).any(|pattern| is_of(pattern, key));
            assert!(is_somebodys, "nobody may use {key}");
        }
        assert!(tests.contains(&format!("RedisKey::{name}(")), "no test spells {name}");
        keys += 1;
    }
    assert!(keys > 20, "{keys} keys");
}

#[test]
fn every_redis_command_is_permitted() {
    let rights = rights();
    for (file, text) in code(&["rs", "lua"]) {
        let runs_as = RUN_AS.iter().find(|(directory, _)| file.starts_with(directory)).map(|(_, user)| *user);
        let commands = ["redis.call('", "redis.pcall('"].into_iter().flat_map(|call| after(&text, call, '\''));
        for command in commands.chain(after(&text, "cmd(\"", '"')) {
            let command = command.to_lowercase();
            let mut users = rights.iter().filter(|(name, _)| runs_as.is_none_or(|user| user == name.as_str()));
            let is_permitted = users.any(|(_, user)| user.commands.contains(&command));
            let user = runs_as.unwrap_or("any user");
            assert!(is_permitted || command == REFUSED, "{file}: {command} is not permitted to {user}");
        }
    }
    for (directory, user) in RUN_AS {
        assert!(root().join(directory).is_dir() && rights.contains_key(user), "{directory}: {user}");
    }
}
