//! What a directory of migrations must look like. `build.rs` uses this too, when it embeds the files: a migration is
//! its two files and nothing else.

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

/// The common part of both file names, such as `0001_init`, before `.up.sql` and `.down.sql`.
pub(crate) fn stem(version: u32, name: &str) -> String {
    format!("{version:04}_{name}")
}

/// The names of the migrations in a directory with these files, from version 1 on. Every file must belong to a
/// migration, every migration must have both of its files, and every number must exist exactly once.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[&str]) -> Result<Vec<String>, String> {
        names(&files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn up_and_down_files_are_paired_by_number_in_any_order() {
        let files = ["0002_b.down.sql", "0001_a_1.up.sql", "0002_b.up.sql", "0001_a_1.down.sql"];
        assert_eq!(of(&files).unwrap(), ["a_1", "b"]);
        assert!(of(&[]).unwrap().is_empty());
        assert_eq!(stem(12, "add_teams"), "0012_add_teams");
    }

    #[test]
    fn missing_and_misnumbered_migration_files_are_named() {
        let refused = |files: &[&str], part: &str| {
            let problem = of(files).unwrap_err();
            assert!(problem.contains(part), "{files:?}: {problem}");
        };
        refused(&["0001_a.up.sql"], "0001_a.down.sql is missing");
        refused(&["0001_a.down.sql"], "0001_a.down.sql has no .up.sql file");
        refused(&["0001_a.up.sql", "0001_b.down.sql"], "0001_a.down.sql is missing");
        refused(&["0001_a.up.sql", "0001_a.down.sql", "0001_b.down.sql"], "0001_b.down.sql has no .up.sql");
        let (a, gap) = (["0001_a.up.sql", "0001_a.down.sql"], ["0003_c.up.sql", "0003_c.down.sql"]);
        refused(&[a, gap].concat(), "0003_c.up.sql: its number should be 0002");
        let twice = ["0001_b.up.sql", "0001_b.down.sql"];
        refused(&[a, twice].concat(), "0001_b.up.sql: its number should be 0002");
        refused(&["0000_a.up.sql", "0000_a.down.sql"], "its number should be 0001");
        refused(&["1_a.up.sql", "1_a.down.sql"], "four digits");
        refused(&["0001.up.sql"], "cannot name a migration");
        refused(&["0001_A.up.sql"], "cannot name a migration");
        refused(&["0001_a.sql"], "end in .up.sql and .down.sql");
        refused(&["README.md"], "end in .up.sql and .down.sql");
    }

    #[test]
    fn a_name_is_short_and_plain() {
        for name in ["a", "add_teams_2", &"x".repeat(NAME_LEN_MAX)] {
            check_name(name).unwrap();
        }
        for name in ["", "Add", "a-b", "a b", "../a", "é", "a'", &"x".repeat(NAME_LEN_MAX + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
