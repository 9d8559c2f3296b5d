//! What a directory of migrations must look like. Shared with `build.rs`, which embeds what is found, so that a migration
//! is its two files and nothing else.

/// The longest name of a migration, in characters.
pub(crate) const NAME_LEN_MAX: usize = 64;
const UP: &str = ".up.sql";
const DOWN: &str = ".down.sql";

/// Checks the name of a migration, which becomes part of file names.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if (1..=NAME_LEN_MAX).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(format!("{name:?} cannot name a migration: use 1 to {NAME_LEN_MAX} of a-z, 0-9 and _"))
}

/// `0001_init`, the part of both file names before `.up.sql` and `.down.sql`.
pub(crate) fn stem(version: u32, name: &str) -> String {
    format!("{version:04}_{name}")
}

/// The migrations of a directory with these files: the name of version 1, of version 2 and so on. Every file must belong
/// to one, every migration must have both of its files, and no number may be missing or taken twice.
pub(crate) fn names(files: &[String]) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for file in files {
        if let Some(stem) = file.strip_suffix(UP) {
            found.push(parse(stem).map_err(|problem| format!("{file}: {problem}"))?);
        } else if !file.ends_with(DOWN) {
            return Err(format!("{file}: a migration's files end in {UP} and {DOWN}"));
        }
    }
    found.sort();
    for (version, (number, name)) in (1..).zip(&found) {
        if *number != version {
            return Err(format!("{}{UP}: its number should be {version:04}", stem(*number, name)));
        }
        let down = stem(version, name) + DOWN;
        if !files.contains(&down) {
            return Err(format!("{down} is missing"));
        }
    }
    if files.len() != 2 * found.len() {
        let has_up = |file: &&String| files.contains(&file.replace(DOWN, UP));
        let alone = files.iter().find(|file| !has_up(file)).map_or("a file", String::as_str);
        return Err(format!("{alone} has no {UP} file"));
    }
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

fn parse(stem: &str) -> Result<(u32, String), String> {
    let (digits, name) = stem.split_once('_').unwrap_or((stem, ""));
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it must start with a number of four digits and _".to_owned());
    }
    check_name(name)?;
    Ok((digits.parse().unwrap_or(0), name.to_owned()))
}
