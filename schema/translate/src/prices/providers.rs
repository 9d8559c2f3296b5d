//! The names that SDKs have for model providers: `schema/provider-names.csv`, which is collected from the SDKs
//! themselves.

use std::sync::LazyLock;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

const FILE: &str = include_str!("../../../provider-names.csv");
/// The first line of the file, before the names.
const COLUMNS: &str = "name,provider,said by";
/// Most bytes of a name. A longer name stands for no provider.
const NAME_BYTES_MAX: usize = 64;

/// Every name in lower case, with the provider whose prices apply to it; empty = no provider.
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = FILE.lines().skip_while(|line| *line != COLUMNS).skip(1);
    lines.filter_map(|line| line.split_once(',')).map(|(name, rest)| (name, rest.split(',').next().unwrap_or("")))
}

static PROVIDERS: LazyLock<HashMap<&[u8], &str, FixedState>> = LazyLock::new(|| {
    let known = names().filter(|(name, provider)| !provider.is_empty() && name != provider);
    known.map(|(name, provider)| (name.as_bytes(), provider)).collect()
});

/// The provider that another name of it stands for.
pub(super) fn meant_by(name: &str) -> Option<&'static str> {
    let mut buffer = [0; NAME_BYTES_MAX];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    PROVIDERS.get(&*lower).copied()
}
