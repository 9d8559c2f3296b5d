//! Reads token counts and costs of model calls, in one place for all protocols and conventions.
//!
//! A convention has its own names (`names`), and its numbers include different things. The result means the same for
//! all: input includes cached tokens, and output includes reasoning. Three rules always apply:
//!
//! - A number that is not possible (negative, not finite, not a whole count, larger than its column, not a number) is
//!   unknown, and is never changed to fit. The next name is asked.
//! - Unknown is not zero.
//! - If the client sent something that cannot be read or contradicts itself, the counts are
//!   [doubtful](Tokens::doubtful) and no price is computed from them.

mod ai_sdk;
mod names;
mod read;

use model::trace::{Llm, Tokens, Value};

pub use names::attribute_names;
pub use read::Seen;

/// Most bytes of a JSON object of counts or costs. A larger object is not read.
pub const OBJECT_BYTES_MAX: usize = 16 << 10;

/// A number as the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum SentNumber {
    /// Nothing was sent, or `null`, or an empty text.
    #[default]
    Nothing,
    /// Something was sent that is not a number.
    Unclear,
    /// A finite number was sent.
    Number(f64),
}

impl SentNumber {
    fn number(n: f64) -> Self {
        if n.is_finite() { SentNumber::Number(n) } else { SentNumber::Unclear }
    }

    fn text(text: &str) -> Self {
        match text.trim_ascii() {
            "" => SentNumber::Nothing,
            text => text.parse().map_or(SentNumber::Unclear, SentNumber::number),
        }
    }

    /// The number in an attribute.
    pub fn value(value: &Value<'_>) -> Self {
        match value {
            Value::Empty => SentNumber::Nothing,
            Value::Int(n) => SentNumber::Number(*n as f64),
            Value::Double(n) => SentNumber::number(*n),
            Value::Str(text) => SentNumber::text(text),
            Value::Bool(_) | Value::Bytes(_) | Value::Array(_) | Value::Map(_) => SentNumber::Unclear,
        }
    }

    /// The number in a JSON value.
    pub fn json(value: &serde_json::Value) -> Self {
        use serde_json::Value::*;
        match value {
            Null => SentNumber::Nothing,
            Number(n) => n.as_f64().map_or(SentNumber::Unclear, SentNumber::number),
            String(text) => SentNumber::text(text),
            Bool(_) | Array(_) | Object(_) => SentNumber::Unclear,
        }
    }

    /// A whole number that fits a column of counts; `Err` if something else was sent.
    pub fn count(self) -> Result<Option<u32>, InvalidNumber> {
        match self {
            SentNumber::Nothing => Ok(None),
            SentNumber::Number(n) if n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&n) => Ok(Some(n as u32)),
            _ => Err(InvalidNumber),
        }
    }

    /// US dollars that fit `Decimal(18, 8)`; `Err` if something else was sent.
    pub fn usd(self) -> Result<Option<f64>, InvalidNumber> {
        match self {
            SentNumber::Nothing => Ok(None),
            SentNumber::Number(n) if (0.0..USD_LIMIT).contains(&n) => Ok(Some(n)),
            _ => Err(InvalidNumber),
        }
    }
}

/// US dollars; a column of costs holds only values below this.
pub const USD_LIMIT: f64 = 1e10;

/// A number was sent that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNumber;

/// The input tokens, or the output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TokenCount {
    /// The number as it was sent.
    sent: u32,
    /// The number with the tokens that its convention counts apart.
    whole: u64,
}

/// The usage of a model call, from one source or from several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    prompt: Option<TokenCount>,
    completion: Option<TokenCount>,
    total: Option<u32>,
    cached: Option<u32>,
    cache_write: Option<u64>,
    reasoning: Option<u32>,
    /// Total cost in US dollars, as it was sent.
    total_cost: Option<f64>,
    /// The sum of the costs that do not include each other, in US dollars.
    cost_parts: Option<f64>,
    doubtful: bool,
}

impl Usage {
    /// Counts and a cost from our own protocol.
    pub fn known(prompt: Option<u32>, completion: Option<u32>, total: Option<u32>, usd: Option<f64>) -> Self {
        let side = |n: u32| TokenCount { sent: n, whole: n.into() };
        Self { prompt: prompt.map(side), completion: completion.map(side), total, total_cost: usd, ..Self::default() }
    }

    /// This usage, with the other one's values for everything that this one does not have.
    pub fn or(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.or(other.prompt),
            completion: self.completion.or(other.completion),
            total: self.total.or(other.total),
            cached: self.cached.or(other.cached),
            cache_write: self.cache_write.or(other.cache_write),
            reasoning: self.reasoning.or(other.reasoning),
            total_cost: self.total_cost.or(other.total_cost),
            cost_parts: self.cost_parts.or(other.cost_parts),
            doubtful: self.doubtful || other.doubtful,
        }
    }

    /// Whether neither input nor output tokens are known.
    pub fn has_no_counts(&self) -> bool {
        self.prompt.is_none() && self.completion.is_none()
    }

    /// Input tokens that were read from a cache or written to one.
    fn cache(&self) -> u64 {
        u64::from(self.cached.unwrap_or(0)) + self.cache_write.unwrap_or(0)
    }

    /// Fills in the counts and the cost.
    pub fn fill(mut self, llm: &mut Llm<'_>) {
        llm.cost_usd_e8 = self.cost_e8();
        llm.tokens = self.tokens();
    }

    /// The cost in units of 10^-8 US dollars: the total that was sent, else the sum of the parts.
    fn cost_e8(&mut self) -> Option<i64> {
        let usd = self.total_cost.or(self.cost_parts)?;
        let fits = usd < USD_LIMIT;
        self.doubtful |= !fits;
        fits.then_some((usd * 1e8).round() as i64)
    }

    fn tokens(mut self) -> Tokens {
        let total = self.reconciled_total();
        let [prompt, completion] = [self.prompt, self.completion].map(|side| side.map(|side| side.whole));
        let (cached, reasoning) = (self.cached.map(u64::from), self.reasoning.map(u64::from));
        let more_than = |part: u64, whole: Option<u64>| whole.is_some_and(|whole| part > whole);
        self.doubtful |= more_than(self.cache(), prompt) || more_than(reasoning.unwrap_or(0), completion);
        let mut fit = |n: Option<u64>| {
            let fits = n.and_then(|n| u32::try_from(n).ok());
            self.doubtful |= fits.is_none() && n.is_some();
            fits
        };
        Tokens {
            prompt: fit(prompt),
            completion: fit(completion),
            // A total that we computed adds nothing to its parts.
            total: total.and_then(|total| u32::try_from(total).ok()),
            cached: fit(cached),
            cache_write: fit(self.cache_write),
            reasoning: fit(reasoning),
            doubtful: self.doubtful,
        }
    }

    /// The total of input and output. A total that was sent shows what input and output include, where their names do
    /// not: xAI sends output without reasoning, and SDKs that pass on Bedrock's names send input without cached tokens.
    fn reconciled_total(&mut self) -> Option<u64> {
        let sum = match (self.prompt, self.completion) {
            (None, None) => return self.total.map(u64::from),
            (prompt, completion) => prompt.unwrap_or_default().whole + completion.unwrap_or_default().whole,
        };
        // Some clients send zero for an unknown total.
        let Some(total) = self.total.map(u64::from).filter(|total| *total > 0) else { return Some(sum) };
        let sent = [self.prompt, self.completion].map(|side| u64::from(side.unwrap_or_default().sent));
        // A total may leave out what its input leaves out.
        if total == sum || total == sent[0] + sent[1] {
            return Some(sum);
        }
        let cache = self.cache();
        let (Some(prompt), Some(completion)) = (&mut self.prompt, &mut self.completion) else {
            self.doubtful = true;
            return Some(total);
        };
        let inside = |side: &TokenCount, part: u64| if side.whole == u64::from(side.sent) { part } else { 0 };
        let cache = inside(prompt, cache);
        let reasoning = inside(completion, self.reasoning.unwrap_or(0).into());
        match total.checked_sub(sum) {
            Some(missing) if missing == cache && cache != reasoning => prompt.whole += cache,
            Some(missing) if missing == reasoning && cache != reasoning => completion.whole += reasoning,
            Some(missing) if missing == cache + reasoning => {
                prompt.whole += cache;
                completion.whole += reasoning;
            }
            _ => self.doubtful = true,
        }
        Some(total)
    }
}

#[cfg(test)]
mod tests;
