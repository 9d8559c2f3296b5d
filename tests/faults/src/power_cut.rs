//! A power cut: a server is killed, and its files lose what would not have survived.
//!
//! `power/layer.c` is loaded into the server and notes what it makes, renames, removes and syncs; `tree` knows what
//! of that survives; this takes the rest out of the files. No disk is asked: a page cache that happens to be written in
//! time helps nobody here.

mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use self::tree::Tree;

/// How long a sync takes, in milliseconds. A busy server is killed in the middle of one, so that there is something to
/// lose.
const SYNC_MS: u32 = 20;
const LAYER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/power/layer.c");

/// What watches one server's directory.
#[derive(Debug)]
pub struct PowerCut {
    watched: PathBuf,
    settled: Tree,
    dir: TempDir,
}

/// What a power cut took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Files and directories that are not there any more.
    pub removed: usize,
    /// Those that have an older name again.
    pub renamed: usize,
    /// Those that end earlier.
    pub shortened: usize,
}

impl PowerCut {
    /// Builds the layer, for a server that works in that directory.
    pub fn build(watched: &Path) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("tracebility-power-")?;
        fs::create_dir_all(watched)?;
        // As the kernel names it, which is what the layer compares with.
        let watched = watched.canonicalize()?;
        let mut cc = Command::new("cc");
        cc.args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"]).arg(dir.path().join("layer.so"));
        let built = cc.arg(LAYER).arg("-ldl").output();
        let built = built.context("cannot run cc, which power cuts need; install a C compiler")?;
        ensure!(built.status.success(), "cc failed: {}", String::from_utf8_lossy(&built.stderr));
        let mut cut = Self { watched, settled: Tree::default(), dir };
        cut.settle()?;
        Ok(cut)
    }

    /// What the server must have in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.dir.path().join("layer.so"))),
            ("POWER_DIR".to_owned(), text(&self.watched)),
            ("POWER_JOURNAL".to_owned(), text(&self.journal())),
            ("POWER_SYNC_MS".to_owned(), SYNC_MS.to_string()),
        ]
    }

    /// Whatever is there now has reached the disk, as it has some seconds later at any server.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        File::create(self.journal()).context("the journal")?;
        self.settled = Tree::of(&self.watched)?;
        Ok(())
    }

    /// The power is cut: to be called when the server has been killed. What was not synced goes, except for what
    /// `written` names: the kernel may write anything early.
    pub fn cut(&mut self, written: impl Fn(&Path) -> bool) -> anyhow::Result<Dropped> {
        let journal = fs::read_to_string(self.journal()).context("the journal")?;
        let mut tree = std::mem::take(&mut self.settled);
        for line in journal.lines() {
            tree.note(line, &self.watched)?;
        }
        let mut dropped = Dropped::default();
        for node in tree.all() {
            let path = self.watched.join(node.path());
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_file() && found.len() > node.synced() && !written(&path) {
                OpenOptions::new().write(true).open(&path)?.set_len(node.synced())?;
                dropped.shortened += 1;
            }
        }
        self.names(&tree, &written, &mut dropped)?;
        self.settle()?;
        Ok(dropped)
    }

    /// Gives everything the name that it would have.
    fn names(&self, tree: &Tree, written: &impl Fn(&Path) -> bool, dropped: &mut Dropped) -> anyhow::Result<()> {
        let mut lost = BTreeSet::new();
        for node in tree.all().filter(|node| node.is_nameless()) {
            let path = self.watched.join(node.path());
            // With its directory.
            if written(&path) || path.ancestors().any(|above| lost.contains(above)) {
                continue;
            }
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path)?,
                Ok(_) => fs::remove_file(&path)?,
                Err(_) => continue,
            }
            dropped.removed += 1;
            lost.insert(path);
        }
        // Directories before what is in them: a renamed one takes its files with it.
        for (now, before) in tree.renames() {
            let (now, before) = (self.watched.join(now), self.watched.join(before));
            if written(&now) || fs::symlink_metadata(&now).is_err() {
                continue;
            }
            fs::rename(&now, &before).with_context(|| format!("{} to {}", now.display(), before.display()))?;
            dropped.renamed += 1;
        }
        Ok(())
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a shell command with the layer in it.
    fn run(cut: &PowerCut, script: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(&cut.watched).envs(cut.environment());
        assert!(shell.status().unwrap().success(), "{script}");
    }

    fn found(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                found.extend(self::found(&path).iter().map(|inner| format!("{name}/{inner}")));
                found.push(format!("{name}/"));
            } else {
                found.push(format!("{name}={}", fs::read_to_string(&path).unwrap().trim_end()));
            }
        }
        found.sort();
        found
    }

    /// What is left of what a script did to a directory that had `old` in it.
    fn left_of(script: &str) -> Vec<String> {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("old"), "1\n").unwrap();
        let mut cut = PowerCut::build(dir.path()).unwrap();
        run(&cut, script);
        cut.cut(|_| false).unwrap();
        found(&cut.watched)
    }

    #[test]
    fn a_file_survives_up_to_its_last_sync() {
        assert_eq!(left_of("echo 2 >> old"), ["old=1"]);
        assert_eq!(left_of("echo 2 >> old; sync old; echo 3 >> old"), ["old=1\n2"]);
        assert_eq!(left_of("echo 2 > new"), ["old=1"]);
        assert_eq!(left_of("echo 2 > new; sync new"), ["new=2", "old=1"]);
        assert_eq!(left_of("echo 2 > old"), ["old="], "cut off, and not written again");
    }

    #[test]
    fn a_file_name_survives_after_a_sync_of_the_file_or_its_directory() {
        let made = "mkdir tmp; echo 2 > tmp/a; sync tmp/a";
        assert_eq!(left_of(made), ["old=1", "tmp/", "tmp/a=2"], "its directories are there as well");
        assert_eq!(left_of(&format!("{made}; mv tmp final")), ["old=1", "tmp/", "tmp/a=2"]);
        assert_eq!(left_of(&format!("{made}; mv tmp final; sync final/a")), ["old=1", "tmp/", "tmp/a=2"]);
        assert_eq!(left_of(&format!("{made}; mv tmp final; sync final")), ["final/", "final/a=2", "old=1"]);
        assert_eq!(left_of(&format!("{made}; mv tmp final; sync .")), ["final/", "final/a=2", "old=1"]);
        assert_eq!(left_of("mkdir tmp; echo 2 > tmp/a; sync tmp"), ["old=1", "tmp/", "tmp/a="], "but not its bytes");
        assert_eq!(left_of("mkdir tmp; echo 2 > tmp/a; mv tmp final"), ["old=1"]);
    }

    #[test]
    fn removed_and_replaced_files_are_gone() {
        assert_eq!(left_of("rm old"), [""; 0]);
        assert_eq!(left_of("echo 2 > new; sync new; mv new old"), ["old=2"]);
        assert_eq!(left_of("mv old older; echo 2 > old; sync old"), ["old=2", "older=1"]);
    }

    #[test]
    fn some_unsynced_writes_may_survive() {
        let dir = TempDir::new().unwrap();
        let mut cut = PowerCut::build(dir.path()).unwrap();
        run(&cut, "mkdir d; echo 2 > d/log; echo 3 > d/data; sync d");
        let dropped = cut.cut(|path| path.ends_with("log")).unwrap();
        assert_eq!(found(&cut.watched), ["d/", "d/data=", "d/log=2"]);
        assert_eq!(dropped, Dropped { removed: 0, renamed: 0, shortened: 1 });
    }
}
