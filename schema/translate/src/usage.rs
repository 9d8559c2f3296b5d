//! Token counts and costs of model calls, read in one place whatever protocol and convention they came by.
//!
//! A convention is its names ([`names`]) and what its numbers include; what comes out means the same for all: input
//! with what was cached, output with what was reasoned. Three rules hold throughout:
//!
//! - A number that cannot be one (negative, not finite, no whole count, more than its column holds, no number) is
//!   unknown, and never made to fit. The next name is asked.
//! - Unknown is not zero.
//! - Where something was sent that was not understood, or that contradicts itself, the counts are
//!   [doubtful](Tokens::doubtful) and no price is made of them.

mod ai_sdk;
mod names;
mod read;

use model::trace::{Llm, Tokens, Value};

pub use names::attribute_names;
pub use read::Seen;

/// A JSON object of counts or costs, in bytes. A larger one is no such object.
pub const OBJECT_BYTES_MAX: usize = 16 << 10;

/// A number as it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Said {
    /// Nothing was, or `null`, or an empty text.
    #[default]
    Nothing,
    /// Something that is no number.
    Unclear,
    /// Finite.
    Number(f64),
}

impl Said {
    fn number(n: f64) -> Self {
        if n.is_finite() { Said::Number(n) } else { Said::Unclear }
    }

    fn text(text: &str) -> Self {
        match text.trim_ascii() {
            "" => Said::Nothing,
            text => text.parse().map_or(Said::Unclear, Said::number),
        }
    }

    /// What an attribute says.
    pub fn value(value: &Value<'_>) -> Self {
        match value {
            Value::Empty => Said::Nothing,
            Value::Int(n) => Said::Number(*n as f64),
            Value::Double(n) => Said::number(*n),
            Value::Str(text) => Said::text(text),
            Value::Bool(_) | Value::Bytes(_) | Value::Array(_) | Value::Map(_) => Said::Unclear,
        }
    }

    /// What a JSON value says.
    pub fn json(value: &serde_json::Value) -> Self {
        use serde_json::Value::*;
        match value {
            Null => Said::Nothing,
            Number(n) => n.as_f64().map_or(Said::Unclear, Said::number),
            String(text) => Said::text(text),
            Bool(_) | Array(_) | Object(_) => Said::Unclear,
        }
    }

    /// A whole number that a column of counts holds; `Err` if something else was said.
    pub fn count(self) -> Result<Option<u32>, Doubt> {
        match self {
            Said::Nothing => Ok(None),
            Said::Number(n) if n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&n) => Ok(Some(n as u32)),
            _ => Err(Doubt),
        }
    }

    /// US dollars that `Decimal(18, 8)` holds; `Err` if something else was said.
    pub fn usd(self) -> Result<Option<f64>, Doubt> {
        match self {
            Said::Nothing => Ok(None),
            Said::Number(n) if (0.0..USD_LIMIT).contains(&n) => Ok(Some(n)),
            _ => Err(Doubt),
        }
    }
}

/// US dollars, of which a column of costs holds less.
pub const USD_LIMIT: f64 = 1e10;

/// Something was said that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt;

/// Input tokens, or output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Side {
    /// As they were sent.
    sent: u32,
    /// With what their convention counts apart.
    whole: u64,
}

/// What a model call used, as one source or several say it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    prompt: Option<Side>,
    completion: Option<Side>,
    total: Option<u32>,
    cached: Option<u32>,
    cache_write: Option<u64>,
    reasoning: Option<u32>,
    /// In US dollars.
    total_cost: Option<f64>,
    /// The sum of costs that do not include each other.
    cost_parts: Option<f64>,
    doubtful: bool,
}

impl Usage {
    /// Counts and a cost that are given by names of our own.
    pub fn known(prompt: Option<u32>, completion: Option<u32>, total: Option<u32>, usd: Option<f64>) -> Self {
        let side = |n: u32| Side { sent: n, whole: n.into() };
        Self { prompt: prompt.map(side), completion: completion.map(side), total, total_cost: usd, ..Self::default() }
    }

    /// What this one says, and for what it does not say the other one.
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

    /// Whether neither input nor output is known.
    pub fn has_no_counts(&self) -> bool {
        self.prompt.is_none() && self.completion.is_none()
    }

    /// Input tokens that a cache had to do with.
    fn cache(&self) -> u64 {
        u64::from(self.cached.unwrap_or(0)) + self.cache_write.unwrap_or(0)
    }

    /// Fills in counts and cost.
    pub fn fill(mut self, llm: &mut Llm<'_>) {
        llm.cost_usd_e8 = self.cost_e8();
        llm.tokens = self.tokens();
    }

    /// US dollars in units of 10^-8. A total is what was sent; without one, it is the sum of the parts.
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
            // One that we made says nothing that its parts do not.
            total: total.and_then(|total| u32::try_from(total).ok()),
            cached: fit(cached),
            cache_write: fit(self.cache_write),
            reasoning: fit(reasoning),
            doubtful: self.doubtful,
        }
    }

    /// The total of input and output. One that was sent says what they include where their names do not: xAI sends
    /// output without reasoning, and what passes on Bedrock's words sends input without what was cached.
    fn reconciled_total(&mut self) -> Option<u64> {
        let sum = match (self.prompt, self.completion) {
            (None, None) => return self.total.map(u64::from),
            (prompt, completion) => prompt.unwrap_or_default().whole + completion.unwrap_or_default().whole,
        };
        // Some send a zero for a total that they do not know.
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
        let inside = |side: &Side, part: u64| if side.whole == u64::from(side.sent) { part } else { 0 };
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
