//! How the code is laid out, held to what `docs/architecture.md` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a crate's `src/`: more than this is two subjects.
const CRATE_LINES_MAX: usize = 6_000;
const COLUMNS_MAX: usize = 120;
/// What every request and every batch goes through.
const HOT_PATH: [&str; 12] = [
    "model",
    "wire",
    "translate",
    "otlp",
    "stores",
    "auth",
    "admission",
    "outcomes",
    "queue",
    "lease",
    "delivery",
    "ingest-api",
];

pub(crate) struct Package {
    name: String,
    pub(crate) directory: PathBuf,
    /// The packages of this workspace that it needs.
    dependencies: BTreeSet<String>,
    /// The packages from elsewhere that it needs.
    external: BTreeSet<String>,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every member of the workspace.
pub(crate) fn packages() -> BTreeMap<String, Package> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once("\n]").unwrap().0;
    let directories =
        members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty());
    let mut found: Vec<(Package, BTreeSet<String>)> = Vec::new();
    for directory in directories {
        let directory = root().join(directory);
        let manifest = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"').to_owned();
        let mut all = BTreeSet::new();
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if ["[dependencies]", "[dev-dependencies]"].contains(&section) {
                all.extend(line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()).map(str::to_owned));
            }
        }
        let package = Package { name, directory, dependencies: BTreeSet::new(), external: BTreeSet::new() };
        found.push((package, all));
    }
    let ours: BTreeSet<String> = found.iter().map(|(package, _)| package.name.clone()).collect();
    let sorted = found.into_iter().map(|(mut package, all)| {
        (package.dependencies, package.external) = all.into_iter().partition(|name| ours.contains(name));
        (package.name.clone(), package)
    });
    sorted.collect()
}

/// The crates that are shipped.
pub(crate) fn product(packages: &BTreeMap<String, Package>) -> impl Iterator<Item = &Package> {
    packages.values().filter(|package| !package.directory.starts_with(root().join("tests")))
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    files(directory, "rs")
}

/// The files with that extension, at any depth.
pub(crate) fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target" && name != "node_modules") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// A cycle, if there is one.
fn cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if path.iter().any(|name| name == at) {
            path.push(at.to_owned());
            return true;
        }
        if done.contains(at) {
            return false;
        }
        path.push(at.to_owned());
        if edges.get(at).into_iter().flatten().any(|next| visit(next, edges, path, done)) {
            return true;
        }
        path.pop();
        done.insert(at.to_owned());
        false
    }
    let (mut path, mut done) = (Vec::new(), BTreeSet::new());
    edges.keys().any(|at| visit(at, edges, &mut path, &mut done)).then_some(path)
}

/// Names after `prefix` in a file's code, tests and comments left out.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| is_name(c) || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{').and_then(|group| group.split_once('}')) {
            Some((group, _)) => names.extend(
                group.split(',').map(|item| item.trim().split(|c| !is_name(c)).next().unwrap_or_default().to_owned()),
            ),
            None => _ = names.insert(rest.split(|c| !is_name(c)).next().unwrap_or_default().to_owned()),
        }
    }
    names
}

/// Which modules of a crate's top level import which others. The root is their parent, and no module of its own.
fn module_imports(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut imports = BTreeMap::<String, BTreeSet<String>>::new();
    for path in rust_files(source) {
        let within = path.strip_prefix(source).unwrap();
        let top = within.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs" || name == "interleavings.rs");
        if is_test || ["lib", "main", "bin"].contains(&top.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\n").next().unwrap_or_default();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let mut names = names_after(&code, "crate::");
        if within.components().count() == 1 {
            names.extend(names_after(&code, "super::"));
        }
        imports.entry(top).or_default().extend(names);
    }
    let modules: BTreeSet<String> = imports.keys().cloned().collect();
    for (module, names) in &mut imports {
        names.retain(|name| modules.contains(name) && name != module);
    }
    imports
}

#[test]
fn crates_and_their_modules_import_in_one_direction() {
    let packages = packages();
    let crates = product(&packages).map(|package| (package.name.clone(), package.dependencies.clone())).collect();
    assert_eq!(cycle(&crates), None, "crates depend on each other");
    for package in product(&packages) {
        let modules = module_imports(&package.directory.join("src"));
        assert_eq!(cycle(&modules), None, "modules of {} import each other", package.name);
    }
}

#[test]
fn a_cycle_is_found() {
    let edges = |of: &[(&str, &str)]| {
        let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
        of.iter().for_each(|(from, to)| _ = edges.entry((*from).to_owned()).or_default().insert((*to).to_owned()));
        edges
    };
    assert_eq!(cycle(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(cycle(&edges(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap(), ["a", "b", "c", "b"]);
    let code = "use crate::{one, two::Three};\nuse super::four::Five;\nlet x = crate::six::seven(); $crate::eight";
    assert_eq!(names_after(code, "crate::"), ["one", "six", "two"].map(str::to_owned).into());
    assert_eq!(names_after(code, "super::"), ["four"].map(str::to_owned).into());
}

#[test]
fn a_crate_has_one_subject() {
    for package in product(&packages()) {
        let files = rust_files(&package.directory.join("src"));
        let lines: usize = files.iter().map(|file| fs::read_to_string(file).unwrap().lines().count()).sum();
        assert!(lines <= CRATE_LINES_MAX, "{} has {lines} lines, at most {CRATE_LINES_MAX}: cut it", package.name);
        assert!(lines > 0, "{}: nothing was counted", package.name);
    }
}

#[test]
fn the_hot_path_knows_neither_the_command_line_nor_the_registry() {
    let packages = packages();
    for name in HOT_PATH {
        let (mut known, mut next) = (BTreeSet::new(), vec![name.to_owned()]);
        while let Some(at) = next.pop() {
            let is_new = known.insert(at.clone());
            if let Some(package) = packages.get(&at).filter(|_| is_new) {
                // What tests need is not on the path.
                let dependencies = package.dependencies.iter().filter(|name| *name != "stack");
                next.extend(dependencies.cloned());
                known.extend(package.external.iter().cloned());
            }
        }
        for unwanted in ["clap", "registry", "tracectl"] {
            assert!(!known.contains(unwanted), "{name} needs {unwanted}");
        }
        if ["model", "wire", "translate", "otlp", "delivery"].contains(&name) {
            for store in ["redis", "sqlx", "clickhouse", "tokio"] {
                assert!(!known.contains(store), "{name} is pure, and needs {store}");
            }
        }
    }
}

#[test]
fn commands_name_packages_that_exist() {
    let packages = packages();
    for file in ["deploy/Dockerfile", ".cargo/config.toml", "justfile", "CONTRIBUTING.md", "README.md"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_matches(['"', '`', ',', ';'])).collect();
        for pair in words.windows(2).filter(|pair| ["--package", "-p"].contains(&pair[0])) {
            assert!(packages.contains_key(pair[1]), "{file}: there is no package {}", pair[1]);
        }
    }
}

#[test]
fn files_are_named_and_formatted_one_way() {
    for file in rust_files(&root()) {
        assert!(!file.ends_with("mod.rs"), "{}: call it after its directory, beside it", file.display());
        let text = fs::read_to_string(&file).unwrap();
        // Code is rustfmt's, and a text stays in one piece, so that it can be searched for.
        let is_row_of_a_table = |line: &str| line.trim_start_matches(['/', '!', ' ']).starts_with('|');
        let is_comment = |line: &str| line.trim_start().starts_with("//") && !is_row_of_a_table(line);
        for (line, number) in text.lines().zip(1..).filter(|(line, _)| is_comment(line)) {
            let columns = line.chars().count();
            assert!(columns <= COLUMNS_MAX, "{}:{number}: {columns} columns, at most {COLUMNS_MAX}", file.display());
        }
    }
}

/// The steps of a walk in `docs/architecture.md`: file and function.
fn walk(heading: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let section = text.split_once(heading).unwrap_or_else(|| panic!("no {heading}")).1;
    let steps = section.lines().skip(1).skip_while(|line| line.trim().is_empty() || !line.starts_with("1. "));
    let steps = steps.take_while(|line| !line.starts_with('#') && !line.starts_with("**"));
    let step = |line: &str| {
        let (_, step) = line.split_once(". `").filter(|(number, _)| number.parse::<u8>().is_ok())?;
        let (file, rest) = step.split_once("`, `")?;
        Some((file.to_owned(), rest.split_once('`')?.0.to_owned()))
    };
    steps.filter_map(step).collect()
}

#[test]
fn the_documented_walks_follow_the_calls() {
    for (heading, steps_max) in [("**A request", 7), ("**A batch", 8)] {
        let steps = walk(heading);
        assert!((4..=steps_max).contains(&steps.len()), "{heading}: {} steps", steps.len());
        for (at, (file, function)) in steps.iter().enumerate() {
            let code = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let name = function.rsplit("::").next().unwrap();
            assert!(code.contains(&format!("fn {name}")), "{file} has no function {function}");
            if let Some((_, next)) = steps.get(at + 1) {
                let next = next.rsplit("::").next().unwrap();
                let is_called = code.contains(&format!("{next}(")) || code.contains(&format!("{next}::<"));
                assert!(is_called, "{file}: {function} does not call {next}, which the walk has next");
            }
        }
    }
}
