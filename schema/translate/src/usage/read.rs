//! Computes the usage of a call from names and numbers.

use model::trace::{Attribute, Value};
use serde_json::{Map, Value as Json};

use super::names::{ATTRIBUTES, MEMBERS, Name, OBJECTS, Object, PARTS, Part, Reach};
use super::{OBJECT_BYTES_MAX, SentNumber, TokenCount, Usage, ai_sdk, names};

const PLACES: usize = ATTRIBUTES.len() + OBJECTS.len();

/// The places of a span's attributes that hold counts and costs.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The places that were noted, one bit each. There are few of them, and the first one is searched for.
    noted: u128,
    at: [u16; PLACES],
}

const _: () = assert!(PLACES <= u128::BITS as usize, "a place has no bit");

impl Default for Seen {
    fn default() -> Self {
        Self { noted: 0, at: [0; PLACES] }
    }
}

impl Seen {
    /// Notes the attribute at `index`, whose name has this place in [`super::attribute_names`]. If a name occurs again,
    /// the last one counts.
    pub fn note(&mut self, place: u8, index: usize) {
        if let (Some(at), Ok(index)) = (self.at.get_mut(usize::from(place)), u16::try_from(index)) {
            *at = index;
            self.noted |= 1 << place;
        }
    }

    /// The usage in the noted attributes: from attributes of their own, else from Langfuse's object, else from
    /// LangSmith's.
    pub fn read(&self, attributes: &[Attribute<'_>]) -> Usage {
        let value = |place: usize| attributes.get(usize::from(self.at[place])).map(|attribute| &attribute.value);
        let said = |place: usize| (place, value(place).map_or(SentNumber::Nothing, SentNumber::value));
        let found = Found::read(ATTRIBUTES, bits(self.noted & OF_NAMES).map(said));
        let mut usage = found.usage(|_, _| Ok(0));
        if self.noted & !OF_NAMES == 0 {
            return usage;
        }
        let object = |object: Object| {
            let place = ATTRIBUTES.len() + object as usize;
            value(place).filter(|_| self.noted & (1 << place) != 0)
        };
        if let Some(metadata) = object(Object::ProviderMetadata).filter(|_| !found.says_cache_in_detail()) {
            usage = ai_sdk::with_metadata(usage, metadata);
        }
        let mut or = |said: Option<Usage>| usage = usage.or(said.unwrap_or_default());
        or(object(Object::LangfuseUsage).map(Usage::of_value));
        or(object(Object::LangfuseCost).map(Usage::of_cost_details));
        or(object(Object::LangsmithUsage).map(Usage::of_value));
        or(object(Object::InputDetails).map(|details| Usage::of_details("input_token_details", details)));
        or(object(Object::OutputDetails).map(|details| Usage::of_details("output_token_details", details)));
        usage
    }
}

/// The bits of the places in [`ATTRIBUTES`].
const OF_NAMES: u128 = (1 << ATTRIBUTES.len()) - 1;

/// The numbers of the bits that are set, from the lowest on.
fn bits(mut set: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then_some(set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(lowest)
    })
}

impl Usage {
    /// The usage in a JSON object of counts and costs; `None` if the text is not an object, or has no members.
    pub fn of_json(json: &str) -> Option<Self> {
        object(json).filter(|members| !members.is_empty()).map(|members| Self::of_members(&members))
    }

    /// The usage in an attribute that is such an object.
    fn of_value(value: &Value<'_>) -> Self {
        attribute_object(value).map_or_else(Self::in_doubt, |members| Self::of_members(&members))
    }

    /// The usage in an attribute that is one of the objects inside of such an object.
    fn of_details(outer: &str, value: &Value<'_>) -> Self {
        let members = |inner: Map<_, _>| Map::from_iter([(outer.to_owned(), inner.into())]);
        attribute_object(value).map_or_else(Self::in_doubt, |inner| Self::of_members(&members(inner)))
    }

    /// The usage when something was sent that cannot be read.
    fn in_doubt() -> Self {
        Self { doubtful: true, ..Self::default() }
    }

    /// The costs in Langfuse's `cost_details`: a total, else the sum of all, which do not include each other.
    fn of_cost_details(value: &Value<'_>) -> Self {
        let Some(members) = attribute_object(value) else { return Self::in_doubt() };
        let mut usage = Self::default();
        let usd = |name: &str| members.get(name).map_or(Ok(None), |value| SentNumber::json(value).usd());
        for total in ["total", "total_cost"].map(usd) {
            usage.doubtful |= total.is_err();
            usage.total_cost = usage.total_cost.or(total.ok().flatten());
        }
        let parts = members.keys().filter(|name| !matches!(name.as_str(), "total" | "total_cost"));
        let parts: Result<Vec<_>, _> = parts.map(|name| usd(name)).collect();
        usage.doubtful |= parts.is_err();
        usage.cost_parts = parts.unwrap_or_default().into_iter().flatten().reduce(|sum, part| sum + part);
        usage
    }

    /// The usage in the members of such an object.
    pub fn of_members(members: &Map<String, Json>) -> Self {
        let mut said = [SentNumber::Nothing; MEMBERS.len()];
        for (name, value) in members {
            if let Some(place) = names::member(name, "") {
                let is_outer = value.is_object() && names::has_members(name);
                said[place] = if is_outer { SentNumber::Nothing } else { SentNumber::json(value) };
            }
            for (inner, value) in value.as_object().into_iter().flatten() {
                if let Some(place) = names::member(name, inner) {
                    said[place] = SentNumber::json(value);
                }
            }
        }
        Found::read(MEMBERS, said.into_iter().enumerate()).usage(|whole, is_part| {
            let parts = members.iter().filter(|(name, _)| *name != whole && is_part(name));
            // An object is not a count itself; its members have names of their own.
            let counts =
                parts.filter(|(_, value)| !value.is_object()).map(|(_, value)| SentNumber::json(value).count());
            counts.map(|count| Ok(u64::from(count?.unwrap_or(0)))).sum()
        })
    }
}

/// The object in an attribute; without members if the attribute has no value.
fn attribute_object(value: &Value<'_>) -> Option<Map<String, Json>> {
    match value {
        Value::Str(json) | Value::Map(json) if !json.is_empty() => object(json),
        Value::Str(_) | Value::Map(_) | Value::Empty => Some(Map::new()),
        _ => None,
    }
}

pub(super) fn object(json: &str) -> Option<Map<String, Json>> {
    let json = Some(json).filter(|json| json.len() <= OBJECT_BYTES_MAX)?;
    serde_json::from_str(json).ok()
}

/// Per part, the first name that has a value.
struct Found {
    parts: [Option<(f64, &'static Name)>; PARTS],
    /// Whether a count or a total could not be read.
    doubtful: bool,
    /// Whether a part of a cost could not be read.
    doubtful_cost: bool,
}

/// Whether a member's name says that it is a part of another member.
type IsPart = fn(&str) -> bool;

impl Found {
    /// Reads the number of each name; `said` has the numbers in the order of the names' places.
    fn read(names: &'static [Name], said: impl Iterator<Item = (usize, SentNumber)>) -> Self {
        let mut found = Self { parts: [None; PARTS], doubtful: false, doubtful_cost: false };
        for (place, said) in said {
            let name = &names[place];
            let slot = &mut found.parts[name.part as usize];
            if said == SentNumber::Nothing || slot.is_some() {
                continue;
            }
            let number = if name.part.is_cost() { said.usd() } else { said.count().map(|n| n.map(f64::from)) };
            match number {
                Ok(number) => *slot = number.map(|number| (number, name)),
                Err(_) if name.part.is_cost() && name.part != Part::TotalCost => found.doubtful_cost = true,
                Err(_) => found.doubtful = true,
            }
        }
        found
    }

    fn count(&self, part: Part) -> Option<u32> {
        self.parts[part as usize].map(|(number, _)| number as u32)
    }

    fn usd(&self, part: Part) -> Option<f64> {
        self.parts[part as usize].map(|(number, _)| number)
    }

    fn is_apart(&self, part: Part) -> bool {
        self.parts[part as usize].is_some_and(|(_, name)| name.reach == Reach::Apart)
    }

    /// Whether cache reads or writes have a name that makes clear what they are part of.
    fn says_cache_in_detail(&self) -> bool {
        let by = |part: Part| self.parts[part as usize].map(|(_, name)| name.name);
        by(Part::CacheWrite).is_some() || by(Part::CacheRead).is_some_and(|name| name != ai_sdk::CACHE_READ)
    }

    /// Computes the usage. `rest` sums up the members that are parts of a member of [`Reach::Rest`].
    fn usage(&self, rest: impl Fn(&str, IsPart) -> Result<u64, super::InvalidNumber>) -> Usage {
        let mut usage = Usage {
            total: self.count(Part::Total),
            cached: self.count(Part::CacheRead),
            cache_write: self.cache_write(),
            reasoning: self.count(Part::Reasoning),
            total_cost: self.usd(Part::TotalCost),
            cost_parts: self.cost_parts(),
            doubtful: self.doubtful || self.doubtful_cost,
            ..Usage::default()
        };
        let more = self.count(Part::MorePrompt).map_or(0, u64::from);
        let written = [Part::CacheWrite, Part::CacheWriteShort, Part::CacheWriteLong].map(|part| self.is_apart(part));
        let cached = if self.is_apart(Part::CacheRead) { self.count(Part::CacheRead) } else { None };
        let cache_write = if written.contains(&true) { usage.cache_write } else { None };
        let cache = u64::from(cached.unwrap_or(0)) + cache_write.unwrap_or(0);
        let reasoning = if self.is_apart(Part::Reasoning) { usage.reasoning.unwrap_or(0).into() } else { 0 };
        let mut side = |part: Part, apart: u64, is_part: IsPart| {
            let (number, name) = self.parts[part as usize]?;
            let beside = match name.reach {
                Reach::Whole => Ok(0),
                Reach::Apart => Ok(apart),
                Reach::Rest => rest(name.name, is_part),
            };
            usage.doubtful |= beside.is_err();
            Some(TokenCount { sent: number as u32, whole: number as u64 + beside.ok()? })
        };
        let prompt = side(Part::Prompt, cache, is_input).map(|side| TokenCount { whole: side.whole + more, ..side });
        let completion = side(Part::Completion, reasoning, is_output);
        Usage { prompt, completion, ..usage }
    }

    /// All cache writes, or their sum by how long they are kept: some clients send zero for one of the two.
    fn cache_write(&self) -> Option<u64> {
        let [short, long] = [Part::CacheWriteShort, Part::CacheWriteLong].map(|part| self.count(part).map(u64::from));
        let by_time = short.or(long).map(|_| short.unwrap_or(0) + long.unwrap_or(0));
        self.count(Part::CacheWrite).map(u64::from).filter(|all| *all > 0 || by_time.is_none()).or(by_time)
    }

    /// The sum of the costs that do not include each other; unknown if one of them is.
    fn cost_parts(&self) -> Option<f64> {
        use Part::*;
        if self.doubtful_cost {
            return None;
        }
        let inside =
            |whole: Part, part: Part| self.usd(part).filter(|_| self.usd(whole).is_none() || self.is_apart(part));
        let parts = [
            self.usd(PromptCost),
            inside(PromptCost, PlainInputCost),
            inside(PromptCost, CacheReadCost),
            inside(PromptCost, CacheWriteCost),
            inside(PromptCost, AudioInputCost),
            self.usd(CompletionCost),
            inside(CompletionCost, PlainOutputCost),
            inside(CompletionCost, ReasoningCost),
            inside(CompletionCost, AudioOutputCost),
            self.usd(OtherCost),
        ];
        parts.into_iter().flatten().reduce(|sum, part| sum + part)
    }
}

/// The service tier of a token is not a part of its own, and neither is another name of the whole.
fn is_part(name: &str, of: &str, whole: &str) -> bool {
    name.contains(of) && name != whole && !name.contains("priority") && !name.contains("cost")
}

fn is_input(name: &str) -> bool {
    is_part(name, "input", "input_tokens") || is_part(name, "cache_", "")
}

fn is_output(name: &str) -> bool {
    is_part(name, "output", "output_tokens")
}
