//! Properties that hold for any counts and costs.

use proptest::prelude::*;

use super::*;

/// A value that is a count or a cost, or neither.
fn any_value() -> impl Strategy<Value = Json> {
    prop_oneof![
        6 => (0_u32..5_000).prop_map(|n| json!(n)),
        2 => (0_u32..5_000).prop_map(|n| json!(n.to_string())),
        1 => (0_u32..5_000).prop_map(|n| json!(f64::from(n))),
        1 => prop_oneof![Just(json!(null)), Just(json!(""))],
        1 => proptest::sample::select(vec![json!(-1), json!("x"), json!(0.5), json!(true), json!(4_294_967_296_u64)]),
    ]
}

fn is_readable(name: &str, value: &Json) -> bool {
    let said = SentNumber::json(value);
    if name.contains("cost") { said.usd().is_ok() } else { said.count().is_ok() }
}

proptest! {
    #[test]
    fn the_order_of_attributes_does_not_matter(
        (values, order) in proptest::sample::subsequence(attribute_names().collect::<Vec<_>>(), 0..12)
            .prop_flat_map(|names| {
                let values = proptest::collection::vec(any_value(), names.len());
                values.prop_map(move |values| names.iter().map(|(name, _)| *name).zip(values).collect::<Vec<_>>())
            })
            .prop_flat_map(|values| (Just(values.clone()), Just(values).prop_shuffle()))
    ) {
        prop_assert_eq!(stored(of_span(&attributes(&values))), stored(of_span(&attributes(&order))));
    }

    /// Every known count is one that was sent: none is made up, and a count that could not be read has no price.
    #[test]
    fn doubtful_counts_are_never_priced(
        values in proptest::sample::subsequence(names::MEMBERS.to_vec(), 0..12)
            .prop_flat_map(|names| {
                let values = proptest::collection::vec(any_value(), names.len());
                values.prop_map(move |values| names.iter().map(|name| name.name).zip(values).collect::<Vec<_>>())
            })
    ) {
        let flat: Vec<_> = values.iter().filter(|(name, _)| !name.contains('/')).cloned().collect();
        let members = flat.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let members: serde_json::Map<_, _> = members.collect();
        let usage = Usage::of_members(&members);
        let mut llm = Llm { kind: Kind::Llm, provider: "acme".into(), model: "big".into(), ..Llm::default() };
        usage.fill(&mut llm);
        let Tokens { prompt, completion, total, cached, cache_write, reasoning, doubtful } = llm.tokens;
        let sent_cost = llm.cost_usd_e8;
        prices().fill(&mut llm, &mut Vec::new());
        let priced = llm.cost_usd_e8.is_some() && sent_cost.is_none();
        prop_assert!(!(priced && doubtful), "{:?} {:?}", llm, flat);
        if priced {
            let (prompt, completion) = (u64::from(prompt.unwrap()), u64::from(completion.unwrap()));
            prop_assert_eq!(total.map(u64::from), Some(prompt + completion));
            let cache = u64::from(cached.unwrap_or(0)) + u64::from(cache_write.unwrap_or(0));
            prop_assert!(cache <= prompt && u64::from(reasoning.unwrap_or(0)) <= completion);
        }
        if flat.iter().all(|(name, value)| is_readable(name, value)) && !doubtful {
            let sent = |n: u32| flat.iter().any(|(_, value)| SentNumber::json(value) == SentNumber::Number(n.into()));
            for count in [cached, reasoning].into_iter().flatten() {
                prop_assert!(sent(count), "{} was not sent: {:?}", count, flat);
            }
        }
    }

    #[test]
    fn cost_parts_are_summed_unless_there_is_a_total(
        parts in proptest::collection::btree_map("[a-z_]{1,9}", 0_u32..1_000, 1..8)
    ) {
        prop_assume!(!parts.contains_key("total") && !parts.contains_key("total_cost"));
        let cost = |details: &Json| span(&[("langfuse.observation.cost_details", details.clone())]).cost_e8;
        let mut details = json!(parts);
        prop_assert_eq!(cost(&details), Some(i64::from(parts.values().sum::<u32>()) * 100_000_000));
        details["total"] = json!("7");
        prop_assert_eq!(cost(&details), Some(700_000_000));
    }
}
