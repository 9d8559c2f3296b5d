//! Crashes on demand, so that tests see what becomes of the rest. Not in a release build.

use std::sync::LazyLock;

use crate::window::Held;

/// `<org>:panic` or `<org>:abort`: what happens when an envelope of that org is looked at.
const SETTING: &str = "TEST_CRASH_ON_ORG";

// It is no setting: a release build does not know it.
#[allow(clippy::disallowed_methods)]
static CRASH: LazyLock<Option<(String, bool)>> = LazyLock::new(|| {
    let setting = std::env::var(SETTING).ok()?;
    let (org, how) = setting.split_once(':')?;
    Some((org.to_owned(), how == "abort"))
});

#[allow(clippy::panic)]
pub(crate) fn on(held: &Held) {
    let Some((org, aborts)) = &*CRASH else { return };
    if held.org.to_string() == *org {
        if *aborts {
            std::process::abort();
        }
        panic!("a test asked for it");
    }
}
