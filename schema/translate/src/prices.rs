//! Computes the cost of a model call, if the client did not send it, from a table of prices, and marks it as computed.
//!
//! A call has no cost if the table does not have its model, or if its tokens are not known: unknown is never 0.
//! `docs/reference/prices.md` is for people who maintain the table.

mod file;
mod providers;

use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use model::trace::{Attribute, Kind, Llm, Tokens, Value};

pub use file::{FILE_BYTES_MAX, PriceFileError};

/// The attribute that says where a cost comes from that the client did not send.
pub const COST_SOURCE: &str = "tracebility.cost_source";

/// Most bytes of provider and model together. Longer names have no price.
const NAMES_BYTES_MAX: usize = 256;

/// The number of tokens that a price is for.
const PER_TOKENS: u128 = 1_000_000;

/// The prices of [`PER_TOKENS`] tokens of a model, each in US dollars times 10^8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Price {
    input: u64,
    cached_input: u64,
    cache_write: u64,
    /// `None` for models that have no output.
    output: Option<u64>,
}

impl Price {
    /// The cost of a call, in US dollars times 10^8, rounded to the nearest. `None` if its tokens are not known or
    /// contradict each other.
    fn cost_e8(&self, kind: Kind, tokens: &Tokens) -> Option<i64> {
        if tokens.doubtful {
            return None;
        }
        let completion = tokens.completion.unwrap_or(0);
        // A call that has only input may be sent with only a total.
        let total = tokens.total.filter(|_| kind != Kind::Llm && completion == 0);
        // Every call has input.
        let prompt = tokens.prompt.filter(|prompt| *prompt > 0).or(total).filter(|prompt| *prompt > 0)?;
        let output = match (kind, tokens.completion) {
            (Kind::Llm, None) => return None,
            (_, None | Some(0)) => 0,
            (_, Some(_)) => self.output?,
        };
        let (cached, cache_write) = (tokens.cached.unwrap_or(0), tokens.cache_write.unwrap_or(0));
        let plain = prompt.checked_sub(cached)?.checked_sub(cache_write)?;
        let parts =
            [(plain, self.input), (cached, self.cached_input), (cache_write, self.cache_write), (completion, output)];
        let sum: u128 = parts.into_iter().map(|(tokens, price)| u128::from(tokens) * u128::from(price)).sum();
        i64::try_from((sum + PER_TOKENS / 2) / PER_TOKENS).ok().filter(|cost| *cost < DECIMAL_18_MAX)
    }
}

/// The limit of `Decimal(18, 8)`, in units of its last digit.
const DECIMAL_18_MAX: i64 = 1_000_000_000_000_000_000;

/// A table of prices.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Where the prices come from, and when they were valid.
    pub source: String,
    /// The prices by provider, a zero byte, and model, all in lower case. The empty provider has the price for a call
    /// that names no provider: the one at which all providers sell the model, or `None` if their prices differ.
    by_name: HashMap<Box<[u8]>, Option<Price>, FixedState>,
}

impl Prices {
    /// The table that is built into this program.
    fn built_in() -> Self {
        // A test parses it, so this cannot fail.
        Self::parse(include_str!("../../prices.csv")).unwrap_or_default()
    }

    /// Fills in the cost of a call, if it is known and the client did not send it, and the attribute that says so.
    pub fn fill(&self, llm: &mut Llm<'_>, attributes: &mut Vec<Attribute<'_>>) {
        if llm.cost_usd_e8.is_some() || !matches!(llm.kind, Kind::Llm | Kind::Embedding | Kind::Reranker) {
            return;
        }
        let models = [&llm.response_model, &llm.model];
        let Some(price) = models.into_iter().find_map(|model| self.price(&llm.provider, model)) else { return };
        llm.cost_usd_e8 = price.cost_e8(llm.kind, &llm.tokens);
        if llm.cost_usd_e8.is_some() {
            attributes.push(Attribute { key: COST_SOURCE.into(), value: Value::Str(self.source.clone().into()) });
        }
    }

    /// The price of a model: by the provider's name as it was sent, else by the provider that the name stands for.
    fn price(&self, provider: &str, model: &str) -> Option<Price> {
        self.price_of(provider, model).or_else(|| self.price_of(providers::meant_by(provider)?, model))
    }

    /// The price of a model: by its name, else by the longest beginning of its name after which only a version follows.
    fn price_of(&self, provider: &str, model: &str) -> Option<Price> {
        let names_len = provider.len() + 1 + model.len();
        let mut buffer = [0; NAMES_BYTES_MAX];
        let names = buffer.get_mut(..names_len).filter(|_| !model.is_empty())?;
        names[..provider.len()].copy_from_slice(provider.as_bytes());
        names[provider.len() + 1..].copy_from_slice(model.as_bytes());
        names.make_ascii_lowercase();
        let names: &[u8] = names;
        if let Some(price) = self.by_name.get(names) {
            return *price;
        }
        let starts = (provider.len() + 2..names_len).rev().filter(|at| matches!(names[*at], b'-' | b'@' | b':'));
        let mut shorter = starts.filter(|at| is_version(&names[*at..])).filter_map(|at| self.by_name.get(&names[..at]));
        *shorter.next()?
    }
}

/// Whether the end of a model's name is only a version: `@…`, `:…`, or `-` and a date, at least three digits, `latest`,
/// or `v1`; or several of these.
fn is_version(mut rest: &[u8]) -> bool {
    let mut in_date = false;
    while let [separator, after @ ..] = rest {
        if *separator != b'-' {
            return true;
        }
        let end = after.iter().position(|b| matches!(b, b'-' | b'@' | b':')).unwrap_or(after.len());
        let (word, next) = after.split_at(end);
        let is_number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
        let numbered = is_number(word) && (word.len() >= 3 || in_date && word.len() == 2);
        if !numbered && word != b"latest" && !word.strip_prefix(b"v").is_some_and(is_number) {
            return false;
        }
        (in_date, rest) = (numbered, next);
    }
    true
}

static CURRENT: LazyLock<RwLock<Arc<Prices>>> = LazyLock::new(|| RwLock::new(Arc::new(Prices::built_in())));

/// The prices that are used now.
pub fn current() -> Arc<Prices> {
    Arc::clone(&CURRENT.read().unwrap_or_else(PoisonError::into_inner))
}

/// Replaces the prices that are used from now on.
pub fn replace(prices: Prices) {
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(prices);
}

#[cfg(test)]
mod tests;
