//! Embeds the migrations: one list per directory, made from the files in it. Files that do not fit together fail the
//! build.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "src/files.rs"]
mod files;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/files.rs");
    // Cargo also watches the files in the directory.
    println!("cargo:rerun-if-changed=../migrations");
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut rust = String::new();
    for store in ["postgres", "clickhouse"] {
        let directory = migrations.join(store);
        let names =
            files::names(&file_names(&directory)?).map_err(|problem| format!("{}: {problem}", directory.display()))?;
        writeln!(rust, "const {}_FILES: &[Migration] = &[", store.to_uppercase())?;
        for (version, name) in (1..).zip(&names) {
            let stem = files::stem(version, name);
            let path = |way: &str| directory.join(format!("{stem}.{way}.sql")).display().to_string();
            writeln!(
                rust,
                "    Migration {{ version: {version}, name: {name:?}, \
                 up_file: \"{store}/{stem}.up.sql\", down_file: \"{store}/{stem}.down.sql\", \
                 up: include_str!({:?}), down: include_str!({:?}) }},",
                path("up"),
                path("down"),
            )?;
        }
        writeln!(rust, "];")?;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    Ok(fs::write(out.join("migrations.rs"), rust)?)
}

fn file_names(directory: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
