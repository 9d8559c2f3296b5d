//! Figures with their units, over several rounds.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What one round measured: name → unit and value.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    pub(super) figures: BTreeMap<String, (&'static str, f64)>,
    /// What a reader must know to read the figures.
    pub(super) notes: Vec<String>,
}

impl Round {
    /// Adds a figure.
    pub(super) fn set(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.figures.insert(name.into(), (unit, value));
    }

    /// Adds a figure, if it is known.
    pub(super) fn set_known(&mut self, name: impl Into<String>, unit: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.set(name, unit, value);
        }
    }
}

/// One figure in every round.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) unit: String,
    /// In the order of the rounds.
    pub(super) values: Vec<f64>,
}

impl Figure {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or_default();
        match sorted.len() {
            0 => 0.0,
            n => (at((n - 1) / 2) + at(n / 2)) / 2.0,
        }
    }

    /// The smallest value of any round.
    pub(super) fn min(&self) -> f64 {
        self.values.iter().copied().min_by(f64::total_cmp).unwrap_or_default()
    }

    /// The largest value of any round.
    pub(super) fn max(&self) -> f64 {
        self.values.iter().copied().max_by(f64::total_cmp).unwrap_or_default()
    }
}

/// All figures of one shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shaped {
    /// Everything that makes figures comparable.
    pub(super) label: String,
    /// What differs between the shapes of one run.
    pub(super) short: String,
    pub(super) figures: BTreeMap<String, Figure>,
    pub(super) notes: Vec<String>,
}

impl Shaped {
    /// Puts the rounds of a shape together.
    pub(super) fn new(label: String, short: String, rounds: Vec<Round>) -> Self {
        let (mut figures, mut notes) = (BTreeMap::<String, Figure>::new(), Vec::new());
        for (n, round) in rounds.into_iter().enumerate() {
            for (name, (unit, value)) in round.figures {
                let new = || Figure { unit: unit.to_owned(), values: Vec::new() };
                figures.entry(name).or_insert_with(new).values.push(value);
            }
            notes.extend(round.notes.into_iter().map(|note| format!("round {}: {note}", n + 1)));
        }
        Self { label, short, figures, notes }
    }

    /// The median of a figure.
    pub(super) fn median(&self, name: &str) -> Option<f64> {
        self.figures.get(name).map(Figure::median)
    }

    /// As it is saved.
    pub(super) fn to_json(&self) -> Value {
        let figure = |figure: &Figure| {
            json!({ "unit": figure.unit, "median": figure.median(), "min": figure.min(), "max": figure.max(),
                    "rounds": figure.values })
        };
        let figures: serde_json::Map<_, _> =
            self.figures.iter().map(|(name, one)| (name.clone(), figure(one))).collect();
        json!({ "shape": self.label, "short": self.short, "figures": figures, "notes": self.notes })
    }

    /// What was saved; `None` if it is not that.
    pub(super) fn of_json(saved: &Value) -> Option<Self> {
        let text = |name: &str| Some(saved.get(name)?.as_str()?.to_owned());
        let figure = |(name, saved): (&String, &Value)| {
            let values = saved.get("rounds")?.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
            Some((name.clone(), Figure { unit: saved.get("unit")?.as_str()?.to_owned(), values }))
        };
        let figures = saved.get("figures")?.as_object()?.iter().map(figure).collect::<Option<_>>()?;
        Some(Self { label: text("shape")?, short: text("short")?, figures, notes: Vec::new() })
    }
}

/// A figure for people: three digits, or all before the point.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        large if large >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_a_median_with_its_spread_and_survive_being_saved() {
        let rounds = [3.0, 1.0, 2.0, 10.0].map(|value| {
            let mut round = Round::default();
            round.set("cpu", "us/span", value);
            round
        });
        let shaped = Shaped::new("a".to_owned(), "b".to_owned(), rounds.to_vec());
        let figure = &shaped.figures["cpu"];
        assert_eq!((figure.median(), figure.min(), figure.max()), (2.5, 1.0, 10.0));
        assert_eq!(Shaped::of_json(&shaped.to_json()), Some(shaped));
        assert_eq!(Shaped::of_json(&json!({"shape": 1})), None);
    }

    #[test]
    fn three_digits_are_shown() {
        assert_eq!([0.123, 9.876, 56.78, 1_234.5].map(digits), ["0.12", "9.88", "56.8", "1234"]);
    }
}
