//! What SDKs call those who serve models: gathered from the SDKs themselves into `schema/provider-names.csv`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::sdk;

const COLUMNS: &str = "name,provider,said by";
/// What stands for a provider until somebody has decided.
pub const UNDECIDED: &str = "?";

/// Names in lower case, and the packages that say them.
pub type Names = BTreeMap<String, BTreeSet<String>>;

/// The file as it is checked in.
pub struct File {
    /// What stands before the names.
    head: String,
    /// The provider of each name.
    pub providers: BTreeMap<String, String>,
    /// The packages of each name.
    pub names: Names,
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schema/provider-names.csv")
}

/// Asks the packages of npm and PyPI that are pinned for it.
pub async fn gather() -> anyhow::Result<Names> {
    let mut names = Names::new();
    let said = [
        sdk::node("provider-names-js", "names.mjs", &[], &[]).await?,
        sdk::python("provider-names-python", "names.py", &[], &[]).await?,
    ];
    for said in said {
        let said: BTreeMap<String, BTreeSet<String>> = serde_json::from_str(&said)?;
        for (name, packages) in said {
            ensure!(!name.contains([',', '\n']), "{name:?} does not fit into the file");
            names.entry(name.to_ascii_lowercase()).or_default().extend(packages);
        }
    }
    Ok(names)
}

impl File {
    /// Reads the file, and fails on a line that is not of its form.
    pub fn read() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path())?;
        let (head, lines) = text.split_once(COLUMNS).with_context(|| format!("no line {COLUMNS:?}"))?;
        let mut file = Self { head: head.to_owned(), providers: BTreeMap::new(), names: Names::new() };
        for line in lines.lines().filter(|line| !line.is_empty()) {
            let [name, provider, said_by] = line.split(',').collect::<Vec<_>>()[..] else {
                anyhow::bail!("{line:?} is not {COLUMNS:?}");
            };
            file.providers.insert(name.to_owned(), provider.to_owned());
            file.names.insert(name.to_owned(), said_by.split(' ').map(str::to_owned).collect());
        }
        Ok(file)
    }

    /// Writes these names, with what is decided of them; returns those of which nothing is.
    pub fn write(&self, names: &Names) -> anyhow::Result<Vec<String>> {
        let mut text = format!("{}{COLUMNS}\n", self.head);
        let mut undecided = Vec::new();
        for (name, packages) in names {
            let provider = self.providers.get(name).map_or(UNDECIDED, String::as_str);
            if provider == UNDECIDED {
                undecided.push(name.clone());
            }
            let packages: Vec<_> = packages.iter().map(String::as_str).collect();
            writeln!(text, "{name},{provider},{}", packages.join(" "))?;
        }
        std::fs::write(path(), text)?;
        Ok(undecided)
    }
}
