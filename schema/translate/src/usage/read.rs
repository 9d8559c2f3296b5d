//! From names and numbers to what was used.

use serde_json::{Map, Value as Json};

use super::names::{self, ATTRIBUTES, MEMBERS, Name, OBJECTS, Object, PARTS, Part, Reach};
use super::{OBJECT_BYTES_MAX, Said, Side, Usage, ai_sdk};
use model::trace::{Attribute, Value};

const PLACES: usize = ATTRIBUTES.len() + OBJECTS.len();

/// Where a span's attributes of counts and costs are.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The places that were noted, one bit each: there are few of them, and the first is looked for.
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
    /// Notes the attribute at `index`, whose name has this place in [`super::attribute_names`]. The last one of a name
    /// counts.
    pub fn note(&mut self, place: u8, index: usize) {
        if let (Some(at), Ok(index)) = (self.at.get_mut(usize::from(place)), u16::try_from(index)) {
            *at = index;
            self.noted |= 1 << place;
        }
    }

    /// What the noted ones of a span's attributes say: by a name of their own, else in Langfuse's object, else in
    /// LangSmith's.
    pub fn read(&self, attributes: &[Attribute<'_>]) -> Usage {
        let value = |place: usize| attributes.get(usize::from(self.at[place])).map(|attribute| &attribute.value);
        let said = |place: usize| (place, value(place).map_or(Said::Nothing, Said::value));
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

/// The bits of places in [`ATTRIBUTES`].
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
    /// What a JSON object of counts and costs says; `None` if the text is none, or has no members.
    pub fn of_json(json: &str) -> Option<Self> {
        object(json).filter(|members| !members.is_empty()).map(|members| Self::of_members(&members))
    }

    /// What an attribute says that is such an object.
    fn of_value(value: &Value<'_>) -> Self {
        attribute_object(value).map_or_else(Self::in_doubt, |members| Self::of_members(&members))
    }

    /// What an attribute says that is one of the objects inside of such an object.
    fn of_details(outer: &str, value: &Value<'_>) -> Self {
        let members = |inner: Map<_, _>| Map::from_iter([(outer.to_owned(), inner.into())]);
        attribute_object(value).map_or_else(Self::in_doubt, |inner| Self::of_members(&members(inner)))
    }

    /// Something was said, but what?
    fn in_doubt() -> Self {
        Self { doubtful: true, ..Self::default() }
    }

    /// What Langfuse's `cost_details` say: a total, else all of them, which do not include each other.
    fn of_cost_details(value: &Value<'_>) -> Self {
        let Some(members) = attribute_object(value) else { return Self::in_doubt() };
        let mut usage = Self::default();
        let usd = |name: &str| members.get(name).map_or(Ok(None), |value| Said::json(value).usd());
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

    /// What the members of such an object say.
    pub fn of_members(members: &Map<String, Json>) -> Self {
        let mut said = [Said::Nothing; MEMBERS.len()];
        for (name, value) in members {
            if let Some(place) = names::member(name, "") {
                let is_outer = value.is_object() && names::has_members(name);
                said[place] = if is_outer { Said::Nothing } else { Said::json(value) };
            }
            for (inner, value) in value.as_object().into_iter().flatten() {
                if let Some(place) = names::member(name, inner) {
                    said[place] = Said::json(value);
                }
            }
        }
        Found::read(MEMBERS, said.into_iter().enumerate()).usage(|whole, is_part| {
            let parts = members.iter().filter(|(name, _)| *name != whole && is_part(name));
            // An object is no count of its own, its members are in other words.
            let counts = parts.filter(|(_, value)| !value.is_object()).map(|(_, value)| Said::json(value).count());
            counts.map(|count| Ok(u64::from(count?.unwrap_or(0)))).sum()
        })
    }
}

/// The object that an attribute is; no members where it says nothing.
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

/// Per part, the first name that says something.
struct Found {
    parts: [Option<(f64, &'static Name)>; PARTS],
    /// A count or a total was not understood.
    doubtful: bool,
    /// A part of a cost was not.
    doubtful_cost: bool,
}

/// Says whether a member is called a part of another one.
type IsPart = fn(&str) -> bool;

impl Found {
    /// `said` is what each name says, in the order of their places.
    fn read(names: &'static [Name], said: impl Iterator<Item = (usize, Said)>) -> Self {
        let mut found = Self { parts: [None; PARTS], doubtful: false, doubtful_cost: false };
        for (place, said) in said {
            let name = &names[place];
            let slot = &mut found.parts[name.part as usize];
            if said == Said::Nothing || slot.is_some() {
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

    /// Whether cache reads or writes were said by a name that leaves no question what they are part of.
    fn says_cache_in_detail(&self) -> bool {
        let by = |part: Part| self.parts[part as usize].map(|(_, name)| name.name);
        by(Part::CacheWrite).is_some() || by(Part::CacheRead).is_some_and(|name| name != ai_sdk::CACHE_READ)
    }

    /// `rest` sums the members that are parts of one that is what is left beside them.
    fn usage(&self, rest: impl Fn(&str, IsPart) -> Result<u64, super::Doubt>) -> Usage {
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
            Some(Side { sent: number as u32, whole: number as u64 + beside.ok()? })
        };
        let prompt = side(Part::Prompt, cache, is_input).map(|side| Side { whole: side.whole + more, ..side });
        let completion = side(Part::Completion, reasoning, is_output);
        Usage { prompt, completion, ..usage }
    }

    /// All writes, or what they are by how long they are kept: of some clients one of the two is zero.
    fn cache_write(&self) -> Option<u64> {
        let [short, long] = [Part::CacheWriteShort, Part::CacheWriteLong].map(|part| self.count(part).map(u64::from));
        let by_time = short.or(long).map(|_| short.unwrap_or(0) + long.unwrap_or(0));
        self.count(Part::CacheWrite).map(u64::from).filter(|all| *all > 0 || by_time.is_none()).or(by_time)
    }

    /// The sum of all that does not include each other; unknown if one of them is.
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

/// How fast a token was asked for is no part of its own, nor is another name of the whole.
fn is_part(name: &str, of: &str, whole: &str) -> bool {
    name.contains(of) && name != whole && !name.contains("priority") && !name.contains("cost")
}

fn is_input(name: &str) -> bool {
    is_part(name, "input", "input_tokens") || is_part(name, "cache_", "")
}

fn is_output(name: &str) -> bool {
    is_part(name, "output", "output_tokens")
}
