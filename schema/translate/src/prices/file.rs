//! Reads a table of prices. `docs/reference/prices.md` describes the format.

use std::collections::HashSet;

use super::{NAMES_BYTES_MAX, PER_TOKENS, Price, Prices};

/// Most bytes of a file of prices.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most prices in one table, counted per provider.
const PRICES_MAX: usize = 100_000;
/// Most providers that sell at the prices of others.
const ALIASES_MAX: usize = 1_000;
/// Most bytes of the source's name.
const SOURCE_BYTES_MAX: usize = 200;
/// Most digits after the point of a price.
const DECIMALS: usize = 8;
/// The highest price, in US dollars. A higher one is a mistake.
const USD_MAX: u64 = 1_000_000;

const COLUMNS: &str = "provider,model,input,cached_input,cache_write,output";

/// Why a text is not a table of prices.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub struct PriceFileError {
    line: usize,
    reason: String,
}

/// The lines before the prices.
#[derive(Default)]
struct Head<'t> {
    source: Option<&'t str>,
    date: Option<&'t str>,
    currency: Option<&'t str>,
    per_tokens: Option<&'t str>,
    /// A provider, and the provider whose prices it has.
    aliases: Vec<(&'t str, &'t str)>,
    /// The providers that have prices, in lower case.
    priced: HashSet<String>,
}

impl Prices {
    /// Parses a whole file.
    pub fn parse(text: &str) -> Result<Self, PriceFileError> {
        let (mut head, mut prices) = (Head::default(), None);
        let mut number = 0;
        for line in text.lines() {
            number += 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = match &mut prices {
                None if line == COLUMNS => {
                    head.check().map(|source| prices = Some(Prices { source, ..Prices::default() }))
                }
                None => head.read(line),
                Some(prices) => prices.add(&mut head, line),
            };
            read.map_err(|reason| PriceFileError { line: number, reason })?;
        }
        let whole = prices.ok_or_else(|| format!("there is no line {COLUMNS:?}")).and_then(|prices| {
            let sold = |provider: &str| head.priced.contains(provider.to_ascii_lowercase().as_str());
            match head.aliases.iter().find(|(_, of)| !sold(of)) {
                Some((seller, of)) => Err(format!("{seller} has the prices of {of:?}, of which there are none")),
                None => Ok(prices),
            }
        });
        whole.map_err(|reason| PriceFileError { line: number, reason })
    }

    fn add(&mut self, head: &mut Head<'_>, line: &str) -> Result<(), String> {
        let fields: Vec<_> = line.split(',').map(str::trim).collect();
        let &[provider, model, input, cached_input, cache_write, output] = fields.as_slice() else {
            return Err(format!("{} fields, where {COLUMNS:?} are wanted", fields.len()));
        };
        if provider.is_empty() || model.is_empty() {
            return Err("a provider and a model must be named".to_owned());
        }
        head.priced.insert(provider.to_ascii_lowercase());
        let input = usd_e8(input)?.ok_or("the price of input is missing")?;
        let price = Price {
            input,
            cached_input: usd_e8(cached_input)?.unwrap_or(input),
            cache_write: usd_e8(cache_write)?.unwrap_or(input),
            output: usd_e8(output)?,
        };
        let sellers =
            head.aliases.iter().filter(|(_, of)| of.eq_ignore_ascii_case(provider)).map(|(seller, _)| *seller);
        for seller in std::iter::once(provider).chain(sellers) {
            if self.by_name.insert(names(seller, model)?, Some(price)).is_some() {
                return Err(format!("{seller} has a price for {model} already"));
            }
        }
        let anywhere = self.by_name.entry(names("", model)?).or_insert(Some(price));
        if *anywhere != Some(price) {
            *anywhere = None;
        }
        if self.by_name.len() > PRICES_MAX {
            return Err(format!("more than {PRICES_MAX} prices, each provider's counted"));
        }
        Ok(())
    }
}

impl<'t> Head<'t> {
    fn read(&mut self, line: &'t str) -> Result<(), String> {
        if let Some((seller, of)) = line.split_once('=') {
            let seller = seller.trim();
            self.aliases.extend(of.split(',').map(|of| (seller, of.trim())));
            return match self.aliases.len() {
                0..=ALIASES_MAX => Ok(()),
                _ => Err(format!("more than {ALIASES_MAX} providers that have the prices of others")),
            };
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("neither `name: value` nor {COLUMNS:?}"))?;
        let field = match name.trim() {
            "source" => &mut self.source,
            "date" => &mut self.date,
            "currency" => &mut self.currency,
            "per_tokens" => &mut self.per_tokens,
            name => return Err(format!("{name:?} is none of source, date, currency, per_tokens")),
        };
        *field = Some(value.trim()).filter(|value| !value.is_empty());
        Ok(())
    }

    /// Checks that the lines before the prices say everything about the source that they must, and returns that as
    /// text.
    fn check(&self) -> Result<String, String> {
        let missing = |name| format!("`{name}` is missing before the prices");
        let (source, date) = (self.source.ok_or(missing("source"))?, self.date.ok_or(missing("date"))?);
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!("the source's name has more than {SOURCE_BYTES_MAX} bytes"));
        }
        let is_date = date.len() == 10
            && date.bytes().enumerate().all(|(i, b)| if matches!(i, 4 | 7) { b == b'-' } else { b.is_ascii_digit() });
        if !is_date {
            return Err(format!("date: {date:?} is not of the form 2026-01-31"));
        }
        for (name, value, wanted) in
            [("currency", self.currency, "USD"), ("per_tokens", self.per_tokens, &*PER_TOKENS.to_string())]
        {
            let value = value.ok_or(missing(name))?;
            if value != wanted {
                return Err(format!("{name}: {value:?} is not {wanted}"));
            }
        }
        Ok(format!("{source} {date}"))
    }
}

fn names(provider: &str, model: &str) -> Result<Box<[u8]>, String> {
    let mut names = [provider.as_bytes(), b"\0", model.as_bytes()].concat();
    if names.len() > NAMES_BYTES_MAX {
        return Err(format!("provider and model have more than {NAMES_BYTES_MAX} bytes"));
    }
    names.make_ascii_lowercase();
    Ok(names.into())
}

/// US dollars in units of 10^-8; `None` if the text is empty. Without floating point, so that a price is exactly as
/// written.
fn usd_e8(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("{text:?} is not a price: digits, and up to {DECIMALS} more after a point");
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS {
        return Err(wrong());
    }
    let dollars: Option<u64> = whole.parse().ok().filter(|usd| *usd <= USD_MAX);
    let dollars = dollars.ok_or_else(|| format!("{text} is over {USD_MAX} dollars"))?;
    let fraction: u64 = format!("{decimals:0<DECIMALS$}").parse().map_err(|_| wrong())?;
    Ok(Some(dollars * 10_u64.pow(DECIMALS as u32) + fraction))
}
