//! Reading the description, and making values that it allows and values that it does not.

use std::collections::BTreeSet;

use jsonschema::Validator;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The file as it is in the repository.
pub(super) const TEXT: &str = include_str!("../../../docs/reference/openapi.yaml");

pub(super) struct Description {
    document: Value,
}

impl Description {
    pub(super) fn read() -> Self {
        Self { document: serde_yaml_ng::from_str(TEXT).unwrap() }
    }

    /// Method and path of everything that is described.
    pub(super) fn operations(&self) -> impl Iterator<Item = (String, String)> {
        let methods = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
        let paths = self.document["paths"].as_object().unwrap();
        paths.iter().flat_map(move |(path, item)| {
            let described = item.as_object().unwrap().keys().filter(move |key| methods.contains(&key.as_str()));
            described.map(move |method| (method.to_ascii_uppercase(), path.clone()))
        })
    }

    /// A schema by name.
    pub(super) fn schema(&self, name: &str) -> &Value {
        &self.document["components"]["schemas"][name]
    }

    fn validator(&self, schema: &Value) -> Validator {
        // References are looked up in the document that the schema is in.
        let whole = json!({"allOf": [schema], "components": self.document["components"]});
        jsonschema::options().should_validate_formats(true).build(&whole).unwrap()
    }

    pub(super) fn allows(&self, name: &str, value: &Value) -> bool {
        self.validator(self.schema(name)).is_valid(value)
    }

    /// Panics if a value is not as described.
    pub(super) fn check(&self, name: &str, value: &Value) {
        let validator = self.validator(self.schema(name));
        let errors: Vec<_> = validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "not a {name}: {errors:?}\n{value}");
    }

    /// Values that a property may not have.
    pub(super) fn wrong_values(&self, property: &Value) -> Vec<Value> {
        let validator = self.validator(property);
        let members: Map<String, Value> = (0..8_193).map(|i| (i.to_string(), json!(1))).collect();
        let candidates = [
            json!(null),
            json!(true),
            json!(7),
            json!(-1),
            json!(1.5),
            json!(4_294_967_296_u64),
            json!(1e10),
            json!("dance"),
            json!("00000000-0000-0000-0000-000000000000"),
            json!("2026-11-21"),
            json!([]),
            json!([7]),
            json!(vec!["tag"; 1_025]),
            json!({}),
            json!(members),
        ];
        candidates.into_iter().filter(|candidate| !validator.is_valid(candidate)).collect()
    }

    /// A value as described.
    pub(super) fn make(&self, name: &str, rng: &mut StdRng) -> Value {
        self.value(self.schema(name), rng)
    }

    /// A schema with what it refers to and is made of.
    fn flat(&self, schema: &Value) -> Map<String, Value> {
        let mut flat = Map::new();
        let mut required = BTreeSet::new();
        let mut properties = Map::new();
        let referred = schema["$ref"].as_str().map(|at| self.document.pointer(at.trim_start_matches('#')).unwrap());
        let parts = referred.into_iter().chain(schema["allOf"].as_array().into_iter().flatten());
        for part in parts.map(|part| self.flat(part)).chain([schema.as_object().unwrap().clone()]) {
            let names = part.get("required").and_then(Value::as_array).into_iter().flatten();
            required.extend(names.map(|name| name.as_str().unwrap().to_owned()));
            for (name, property) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let whole = match properties.get(name) {
                    Some(known) => json!({"allOf": [known, property]}),
                    None => property.clone(),
                };
                properties.insert(name.clone(), whole);
            }
            flat.extend(part);
        }
        flat.insert("required".to_owned(), json!(required));
        if !properties.is_empty() {
            flat.insert("properties".to_owned(), properties.into());
        }
        flat
    }

    fn value(&self, schema: &Value, rng: &mut StdRng) -> Value {
        let flat = self.flat(schema);
        if let Some(allowed) = flat.get("enum") {
            return allowed.as_array().unwrap().choose(rng).unwrap().clone();
        }
        if let Some(options) = flat.get("anyOf") {
            return self.value(options.as_array().unwrap().choose(rng).unwrap(), rng);
        }
        let kinds = match flat.get("type") {
            None => return any(rng, 3),
            Some(Value::Array(kinds)) => kinds.clone(),
            Some(kind) => vec![kind.clone()],
        };
        match kinds.choose(rng).and_then(Value::as_str).unwrap() {
            "null" => Value::Null,
            "string" if flat.contains_key("pattern") => json!(rng.random_range(0..1_000_000_000).to_string()),
            "string" => match flat.get("format").and_then(Value::as_str) {
                Some("uuid") => json!(Uuid::from_u128(rng.random())),
                Some("date-time") => json!(time(rng)),
                Some("date") => json!(format!("2026-{:02}-{:02}", rng.random_range(1..=12), rng.random_range(1..=28))),
                None => json!(text(rng)),
                Some(other) => panic!("nothing makes a {other}"),
            },
            kind @ ("integer" | "number") => {
                let bound = |name: &str| flat.get(name).and_then(Value::as_f64);
                let low = bound("minimum").unwrap_or(-1e6);
                let high = bound("maximum").or(bound("exclusiveMaximum").map(|max| max - 1.0)).unwrap_or(1e6);
                let number = *[low, high, rng.random_range(low..=high), low + 3.0].choose(rng).unwrap();
                match (kind, rng.random_bool(0.8)) {
                    ("integer", true) => json!(number.trunc() as i64),
                    ("integer", false) => json!(number.trunc()),
                    _ => json!(number),
                }
            }
            "array" => (0..rng.random_range(0..4)).map(|_| self.value(&flat["items"], rng)).collect(),
            "object" => {
                let Some(properties) = flat.get("properties").and_then(Value::as_object) else { return object(rng, 3) };
                let mut made = Map::new();
                for (name, property) in properties {
                    if rng.random_bool(0.5) || flat["required"].as_array().unwrap().contains(&json!(name)) {
                        made.insert(name.clone(), self.value(property, rng));
                    }
                }
                // Other members are allowed wherever nothing forbids them.
                made.insert(format!("other {}", rng.random::<u8>()), any(rng, 2));
                made.into()
            }
            other => panic!("nothing makes a {other}"),
        }
    }
}

fn text(rng: &mut StdRng) -> String {
    let characters: Vec<char> = "ab \"\\/\n\t\u{0}\u{1f}{}[],:é漢😀\u{2028}".chars().collect();
    (0..rng.random_range(0..12)).map(|_| characters.choose(rng).unwrap()).collect()
}

fn time(rng: &mut StdRng) -> String {
    let (month, day, hour, minute) =
        (rng.random_range(1..=12), rng.random_range(1..=28), rng.random_range(0..24), rng.random_range(0..60));
    let fraction = ["", ".5", ".123456", ".123456789"].choose(rng).unwrap();
    let zone = ["Z", "+00:00", "-03:30", "+14:00"].choose(rng).unwrap();
    format!("{}-{month:02}-{day:02}T{hour:02}:{minute:02}:59{fraction}{zone}", rng.random_range(1970..2262))
}

fn any(rng: &mut StdRng, depth: u8) -> Value {
    match rng.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random::<i64>()),
        3 => json!(rng.random::<f64>()),
        4 => json!(text(rng)),
        5 => (0..rng.random_range(0..4)).map(|_| any(rng, depth - 1)).collect(),
        _ => object(rng, depth - 1),
    }
}

fn object(rng: &mut StdRng, depth: u8) -> Value {
    let members = (0..rng.random_range(0..4)).map(|i| (format!("{i}{}", text(rng)), any(rng, depth)));
    Value::Object(members.collect())
}
