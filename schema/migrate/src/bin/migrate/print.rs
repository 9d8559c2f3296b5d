//! The output of `migrate`. Results go to standard output, questions to standard error.

use migrate::{JournalChange, Outcome, Preview, Store, Version};

pub(crate) fn outcomes(outcomes: &[Outcome]) {
    for Outcome { store, files, version, newest } in outcomes {
        for file in files {
            println!("{store}: ran {file}");
        }
        println!("{store}: {}", state(*version, *newest, files.is_empty()));
    }
}

fn state(version: u32, newest: u32, nothing_done: bool) -> String {
    let nothing = if nothing_done { "; nothing to do" } else { "" };
    if version > newest {
        format!("at version {version} of a newer release, this one knows {newest}{nothing}")
    } else if version == newest {
        format!("at version {version}, the newest{nothing}")
    } else {
        format!("at version {version} of {newest}{nothing}")
    }
}

/// Prints every statement, in a form that can be read and executed.
pub(crate) fn previews(previews: &[Preview]) {
    if previews.is_empty() {
        println!("-- nothing to do");
    }
    for Preview { file, statements, .. } in previews {
        for (number, sql) in (1..).zip(statements) {
            println!("-- {file}, statement {number} of {}\n{sql};\n", statements.len());
        }
    }
}

pub(crate) fn versions(versions: &[Version]) {
    for Version { store, current, newest } in versions {
        let Some(current) = current else {
            println!("{store}: empty, {newest} pending");
            continue;
        };
        let dirty = if current.dirty { ", dirty: begun and not finished" } else { "" };
        let pending = match newest.checked_sub(current.version) {
            None => format!("newer than this release, which knows {newest}"),
            Some(0) => "the newest".to_owned(),
            Some(pending) => format!("{pending} pending"),
        };
        println!("{store}: {} {}, {pending}{dirty}", current.version, current.name);
    }
}

/// Prints what `down` would run and how to confirm it. False when there is nothing to take back.
pub(crate) fn asks_to_confirm_down(previews: &[Preview]) -> bool {
    if previews.is_empty() {
        println!("nothing to do");
        return false;
    }
    eprintln!("This would take back, and delete all that is in the tables it drops:");
    for Preview { store, file, statements } in previews {
        eprintln!("{store}: {file}");
        for sql in statements {
            eprintln!("    {}", sql.lines().next().unwrap_or_default());
        }
    }
    eprintln!("Nothing was changed. To do it, add --yes; to see the statements in full, --dry-run.");
    true
}

/// Prints what `force` would change and what that means.
pub(crate) fn asks_to_confirm_force(store: Store, version: u32, changes: &[JournalChange]) {
    eprintln!("This would change the journal of {store}, the table schema_migrations, and nothing else:");
    for change in changes {
        eprintln!("    {change}");
    }
    eprintln!(
        "No SQL of any migration is run. Afterwards `migrate up` believes that the schema is that of version {version}\n\
         and begins with the one after it; if that is wrong, it fails, or seems to work. Look at the schema yourself.\n\
         Nothing was changed. To do it, add --i-verified."
    );
}

pub(crate) fn forced(store: Store, version: u32, changes: &[JournalChange]) {
    if changes.is_empty() {
        println!("{store}: the journal is at version {version} already; nothing to do");
        return;
    }
    for change in changes {
        println!("{store}: {change}");
    }
    println!("{store}: the journal is at version {version}");
}
