//! What of a directory survives a power cut: the rules.
//!
//! As Linux's journaling file systems have it, at their least:
//!
//! * The bytes of a file survive as far as it reached when it was synced last.
//! * A name survives once what has it is synced, or the directory that it is in. Directories above that had no name
//!   survive with it; one that was renamed since has its older name.
//! * What is removed stays removed, and what takes the place of something else, by a rename or an exchange, has it at
//!   once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};

/// The directory that everything else is in.
const ROOT: usize = 0;

/// Files and directories, with the names that they have and those that survive.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    places: BTreeMap<Place, usize>,
    /// Whose the names are that survive.
    surviving: BTreeMap<Place, usize>,
}

/// A name in a directory.
type Place = (usize, String);

#[derive(Debug)]
struct Node {
    /// None once it is removed.
    now: Option<Place>,
    survives: Option<Place>,
    /// How much of a file survives, in bytes.
    synced: u64,
}

/// A file or directory of a tree.
#[derive(Debug)]
pub(super) struct Seen<'t> {
    tree: &'t Tree,
    node: &'t Node,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { now: Some((ROOT, String::new())), survives: None, synced: 0 };
        Self { nodes: vec![root], places: BTreeMap::new(), surviving: BTreeMap::new() }
    }
}

impl Tree {
    /// What is in a directory; all of it survives.
    pub(super) fn of(dir: &Path) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        tree.read(dir, ROOT)?;
        Ok(tree)
    }

    fn read(&mut self, dir: &Path, at: usize) -> anyhow::Result<()> {
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            // Gone since, by a server that goes on.
            let Ok(found) = entry.metadata() else { continue };
            let place = (at, entry.file_name().to_string_lossy().into_owned());
            let node = self.put(place);
            self.nodes[node].synced = found.len();
            self.keep(node);
            if found.is_dir() {
                // As above.
                self.read(&entry.path(), node).ok();
            }
        }
        Ok(())
    }

    /// One line of the journal; `root` is the directory that is watched.
    pub(super) fn note(&mut self, line: &str, root: &Path) -> anyhow::Result<()> {
        let (what, rest) = line.split_once(' ').with_context(|| format!("not a line of a journal: {line}"))?;
        let inner = |path: &str| Ok::<_, anyhow::Error>(Path::new(path).strip_prefix(root)?.to_owned());
        let two = || rest.split_once('\t').context("one path");
        let sized = || rest.split_once(' ').context("no size");
        match what {
            "N" => {
                let place = self.place(&inner(rest)?)?;
                self.forget(&place);
                self.put(place);
            }
            "D" => {
                let place = self.place(&inner(rest)?)?;
                self.forget(&place);
            }
            "R" => {
                let (from, to) = two()?;
                self.rename(&inner(from)?, &inner(to)?)?;
            }
            "X" => {
                let (one, other) = two()?;
                self.exchange(&inner(one)?, &inner(other)?)?;
            }
            "T" => {
                let (size, path) = sized()?;
                let node = self.find(&inner(path)?)?;
                self.nodes[node].synced = self.nodes[node].synced.min(size.parse()?);
            }
            "S" => {
                let (size, path) = sized()?;
                let node = self.find(&inner(path)?)?;
                self.sync(node, size.parse()?);
            }
            _ => bail!("not a line of a journal: {line}"),
        }
        Ok(())
    }

    /// All that is there, each directory before what is in it.
    pub(super) fn all(&self) -> impl Iterator<Item = Seen<'_>> {
        let there = self.nodes[1..].iter().filter(|node| node.now.is_some());
        let mut all: Vec<Seen<'_>> = there.map(|node| Seen { tree: self, node }).collect();
        all.sort_by_key(Seen::path);
        all.into_iter()
    }

    /// From which path to which: to be done in this order.
    pub(super) fn renames(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut places: Vec<Option<Place>> = self.nodes.iter().map(|node| node.now.clone()).collect();
        let mut renames = Vec::new();
        for (at, node) in self.nodes.iter().enumerate().skip(1) {
            if node.now.is_none() || node.survives.is_none() || node.now == node.survives {
                continue;
            }
            let before = path(places[at].as_ref(), |node| places[node].as_ref());
            places[at].clone_from(&node.survives);
            renames.push((before, path(places[at].as_ref(), |node| places[node].as_ref())));
        }
        renames
    }

    fn put(&mut self, place: Place) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node { now: Some(place.clone()), survives: None, synced: 0 });
        self.places.insert(place, node);
        node
    }

    fn forget(&mut self, place: &Place) -> bool {
        let gone = self.places.remove(place);
        if let Some(node) = gone {
            self.nodes[node].now = None;
        }
        gone.is_some()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let (node, from, to) = (self.find(from)?, self.place(from)?, self.place(to)?);
        self.places.remove(&from);
        let replaces = self.forget(&to);
        self.nodes[node].now = Some(to.clone());
        self.places.insert(to, node);
        if replaces {
            self.keep(node);
        }
        Ok(())
    }

    fn exchange(&mut self, one: &Path, other: &Path) -> anyhow::Result<()> {
        let (first, second) = (self.find(one)?, self.find(other)?);
        let (one, other) = (self.place(one)?, self.place(other)?);
        for (node, place) in [(first, other), (second, one)] {
            self.nodes[node].now = Some(place.clone());
            self.places.insert(place, node);
        }
        self.keep(first);
        self.keep(second);
        Ok(())
    }

    fn sync(&mut self, node: usize, size: u64) {
        self.nodes[node].synced = size;
        self.keep(node);
        let mut above = self.nodes[node].now.as_ref().map_or(ROOT, |place| place.0);
        while above != ROOT {
            if self.nodes[above].survives.is_none() {
                self.keep(above);
            }
            above = self.nodes[above].now.as_ref().map_or(ROOT, |place| place.0);
        }
        let inside = (node, String::new())..(node + 1, String::new());
        for inner in self.places.range(inside).map(|(_, inner)| *inner).collect::<Vec<_>>() {
            self.keep(inner);
        }
    }

    /// Its name survives. Whoever had that name before has left it, and that survives as well.
    fn keep(&mut self, node: usize) {
        let now = self.nodes[node].now.clone();
        self.nodes[node].survives.clone_from(&now);
        let Some(place) = now else { return };
        if let Some(before) = self.surviving.insert(place, node).filter(|before| *before != node) {
            self.keep(before);
        }
    }

    fn place(&mut self, path: &Path) -> anyhow::Result<Place> {
        let name = path.file_name().context("the directory that is watched")?.to_string_lossy().into_owned();
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// What has a path. What was never heard of was there before all that is noted.
    fn find(&mut self, path: &Path) -> anyhow::Result<usize> {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { bail!("{} is not a plain path", path.display()) };
            let place = (at, name.to_string_lossy().into_owned());
            at = match self.places.get(&place) {
                Some(node) => *node,
                None => {
                    let node = self.put(place);
                    self.nodes[node].synced = u64::MAX;
                    self.keep(node);
                    node
                }
            };
        }
        Ok(at)
    }
}

impl Seen<'_> {
    /// Where it is now, from the directory that the tree is of.
    pub(super) fn path(&self) -> PathBuf {
        path(self.node.now.as_ref(), |node| self.tree.nodes[node].now.as_ref())
    }

    /// How much of a file survives, in bytes.
    pub(super) fn synced(&self) -> u64 {
        self.node.synced
    }

    /// Whether no name of it survives.
    pub(super) fn is_nameless(&self) -> bool {
        self.node.survives.is_none()
    }
}

fn path<'t>(mut place: Option<&'t Place>, place_of: impl Fn(usize) -> Option<&'t Place>) -> PathBuf {
    let mut parts = Vec::new();
    while let Some((above, name)) = place.filter(|(_, name)| !name.is_empty()) {
        parts.push(name.as_str());
        place = place_of(*above);
    }
    parts.iter().rev().collect()
}
