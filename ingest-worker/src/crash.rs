//! Crashes on demand, for tests of what happens to the other shards and workers. Not in a release build.

use std::sync::LazyLock;

use crate::fair_queue::ReadEntry;

/// `<org>:panic` or `<org>:abort`: how the worker crashes when it looks at an envelope of that org.
const SETTING: &str = "TEST_CRASH_ON_ORG";

// Not one of the program's settings: a release build does not read it.
#[allow(clippy::disallowed_methods)]
static CRASH: LazyLock<Option<(String, bool)>> = LazyLock::new(|| {
    let setting = std::env::var(SETTING).ok()?;
    let (org, how) = setting.split_once(':')?;
    Some((org.to_owned(), how == "abort"))
});

#[allow(clippy::panic)]
pub(crate) fn on(entry: &ReadEntry) {
    let Some((org, aborts)) = &*CRASH else { return };
    if entry.org.to_string() == *org {
        if *aborts {
            std::process::abort();
        }
        panic!("a test asked for it");
    }
}
