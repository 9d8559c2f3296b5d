use super::*;

const HEAD: &str = "source: test\ndate: 2026-01-31\ncurrency: USD\nper_tokens: 1000000\n";
const COLUMNS: &str = "provider,model,input,cached_input,cache_write,output\n";

fn table() -> Prices {
    let rows = "acme,big,3,0.3,3.75,15\nacme,big-2,4,,,20\nacme,words,0.02,,,\nother,big,5,,,5\nthird,extra,3,,,15\nacme,tiny,0.00000001,,,0\n";
    Prices::parse(&format!("# said\n{HEAD}\n Reseller = acme, third\n{COLUMNS}{rows}")).unwrap()
}

fn call(provider: &'static str, model: &'static str) -> Llm<'static> {
    let tokens = Tokens { prompt: Some(1_000), completion: Some(100), total: Some(1_100), ..Tokens::default() };
    Llm { kind: Kind::Llm, provider: provider.into(), model: model.into(), tokens, ..Llm::default() }
}

fn cost(mut llm: Llm<'static>) -> Option<i64> {
    let mut attributes = Vec::new();
    let before = llm.cost_usd_e8;
    table().fill(&mut llm, &mut attributes);
    let said: Vec<_> = attributes.iter().map(|a| (&*a.key, a.value.clone())).collect();
    let ours = llm.cost_usd_e8.is_some() && before.is_none();
    let wanted = [(COST_SOURCE, Value::Str("test 2026-01-31".into()))];
    assert_eq!(said, if ours { &wanted[..] } else { &[] }, "{llm:?}");
    llm.cost_usd_e8
}

#[test]
fn a_call_costs_its_tokens_at_their_prices() {
    let with = |change: fn(&mut Tokens)| {
        let mut llm = call("acme", "big");
        change(&mut llm.tokens);
        cost(llm)
    };
    // 1000 tokens at 3 and 100 at 15 dollars per million.
    assert_eq!(with(|_| ()), Some(450_000));
    assert_eq!(with(|t| t.reasoning = Some(90)), Some(450_000), "part of the output");
    assert_eq!(with(|t| t.cached = Some(600)), Some(120_000 + 18_000 + 150_000));
    assert_eq!(with(|t| (t.cached, t.cache_write) = (Some(600), Some(400))), Some(18_000 + 150_000 + 150_000));
    assert_eq!(with(|t| (t.prompt, t.completion) = (Some(u32::MAX), Some(u32::MAX))), Some(7_730_941_131_000));
    assert_eq!(with(|t| t.completion = Some(0)), Some(300_000), "nothing came out, which is not unknown");
    let without_discount = Tokens { cached: Some(600), cache_write: Some(100), ..call("", "").tokens };
    assert_eq!(cost(Llm { tokens: without_discount, ..call("acme", "big-2") }), Some(600_000));
}

#[test]
fn a_cost_is_rounded_to_the_nearest_digit_of_its_column() {
    // 10^-8 dollars per million tokens.
    for (prompt, wanted) in [(499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2)] {
        let tokens = Tokens { prompt: Some(prompt), completion: Some(1), ..Tokens::default() };
        assert_eq!(cost(Llm { tokens, ..call("acme", "tiny") }), Some(wanted), "{prompt}");
    }
}

#[test]
fn a_call_with_an_unknown_model_provider_or_count_costs_null() {
    let unknown: [fn(&mut Llm<'static>); 13] = [
        |llm| llm.model = "unheard-of".into(),
        |llm| llm.model = "".into(),
        |llm| llm.provider = "unheard-of".into(),
        // Sold at two prices, and the call does not name a provider.
        |llm| llm.provider = "".into(),
        |llm| llm.model = "x".repeat(NAMES_BYTES_MAX).into(),
        |llm| llm.tokens.prompt = None,
        |llm| llm.tokens.prompt = Some(0),
        |llm| llm.tokens.completion = None,
        |llm| llm.tokens = Tokens { total: Some(5), ..Tokens::default() },
        |llm| llm.tokens.cached = Some(1_001),
        |llm| (llm.tokens.cached, llm.tokens.cache_write) = (Some(600), Some(401)),
        |llm| llm.tokens.doubtful = true,
        // A model without output.
        |llm| llm.model = "words".into(),
    ];
    for (i, change) in unknown.into_iter().enumerate() {
        let mut llm = call("acme", "big");
        change(&mut llm);
        assert_eq!(cost(llm), None, "{i}");
    }
}

#[test]
fn only_model_calls_are_priced_and_costs_that_were_sent_are_kept() {
    for (kind, _) in Kind::ALL {
        let wanted = matches!(kind, Kind::Llm | Kind::Embedding | Kind::Reranker).then_some(450_000);
        assert_eq!(cost(Llm { kind, ..call("acme", "big") }), wanted, "{kind:?}");
        assert_eq!(cost(Llm { kind, cost_usd_e8: Some(7), ..call("acme", "big") }), Some(7), "{kind:?}");
        assert_eq!(cost(Llm { kind, cost_usd_e8: Some(0), ..call("acme", "big") }), Some(0), "{kind:?}");
    }
}

#[test]
fn embeddings_and_rerankers_are_priced_by_prompt_or_total_tokens() {
    let (total, prompt) = (Some(500), Some(500));
    for tokens in [Tokens { total, ..Tokens::default() }, Tokens { prompt, ..Tokens::default() }] {
        for kind in [Kind::Embedding, Kind::Reranker] {
            assert_eq!(cost(Llm { kind, tokens, ..call("acme", "words") }), Some(1_000));
        }
    }
}

#[test]
fn a_model_is_known_by_its_name_without_its_version() {
    let (big, big2) = (Some(450_000), Some(600_000));
    for (provider, model, wanted) in [
        ("acme", "big", big),
        ("ACME", "Big", big),
        ("reseller", "big", big),
        ("reseller", "extra", big),
        ("", "big-2", big2),
        ("acme", "big-2024-08-06", big),
        ("acme", "big-20240806", big),
        ("acme", "big-0806", big),
        ("acme", "big-latest", big),
        ("acme", "big-20240806-v1:0", big),
        ("acme", "big@20240806", big),
        ("acme", "big:free-of-charge", big),
        ("acme", "big-2-latest", big2),
        ("acme", "big-2@x", big2),
        ("acme", "big-3", None),
        ("acme", "big-08-06", None),
        ("acme", "big-mini", None),
        ("acme", "big-2024-08-06-mini", None),
        ("acme", "bigger", None),
        ("acme", "big-", None),
        ("acme", "-latest", None),
        ("acme", "my-big", None),
        ("acm", "ebig", None),
    ] {
        assert_eq!(cost(call(provider, model)), wanted, "{provider} {model}");
    }
    let answered = |model: &'static str| Llm { response_model: model.into(), ..call("acme", "big") };
    assert_eq!(cost(answered("big-2-2026-01-01")), big2, "what answered is what is paid for");
    assert_eq!(cost(answered("a-deployment")), big);
}

#[test]
fn a_bad_price_file_names_the_wrong_line() {
    for (text, wanted) in [
        ("", "line 0: there is no line"),
        ("source", "line 1: neither `name: value` nor"),
        ("sauce: x", "line 1: \"sauce\" is none of"),
        (&format!("source: x\n{COLUMNS}"), "line 2: `date` is missing"),
        (&format!("{HEAD}date: 31.1.2026\n{COLUMNS}"), "line 6: date: \"31.1.2026\""),
        (&format!("{HEAD}currency: EUR\n{COLUMNS}"), "line 6: currency: \"EUR\" is not USD"),
        (&format!("{HEAD}per_tokens: 1000\n{COLUMNS}"), "line 6: per_tokens: \"1000\" is not 1000000"),
        (&format!("{HEAD}{COLUMNS}a,b,1,,2"), "line 6: 5 fields"),
        (&format!("{HEAD}{COLUMNS}a,b,,,,2"), "line 6: the price of input is missing"),
        (&format!("{HEAD}{COLUMNS},b,1,,,2"), "line 6: a provider and a model"),
        (&format!("{HEAD}{COLUMNS}a,b,1,,,2\n#\nA,B,1,,,2"), "line 8: A has a price for B already"),
        (&format!("{HEAD}x = acme\n{COLUMNS}a,b,1,,,2"), "line 7: x has the prices of \"acme\", of which"),
        (&format!("{HEAD}{COLUMNS}a,b,1000001,,,2"), "line 6: 1000001 is over"),
        (&format!("{HEAD}{COLUMNS}{},b,1,,,2", "a".repeat(300)), "line 6: provider and model have more"),
    ] {
        let error = Prices::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
    for price in ["-1", "1.", ".5", "1e3", "0.123456789", "1 0", "$1", "١"] {
        let error = Prices::parse(&format!("{HEAD}{COLUMNS}a,b,{price},,,2")).unwrap_err().to_string();
        assert!(error.contains("is not a price"), "{error}");
    }
}

#[test]
fn the_built_in_prices_can_be_read() {
    let prices = Prices::parse(include_str!("../../../prices.csv")).unwrap();
    assert_eq!(prices, Prices::built_in());
    for (provider, model, input, output) in [
        ("openai", "gpt-4o-mini-2024-07-18", 15_000_000, Some(60_000_000)),
        ("openai", "gpt-4o-2024-05-13", 500_000_000, Some(1_500_000_000)),
        ("azure.ai.openai", "gpt-4o", 250_000_000, Some(1_000_000_000)),
        ("openai", "text-embedding-3-small", 2_000_000, None),
        ("anthropic", "claude-sonnet-4-5-20250929", 300_000_000, Some(1_500_000_000)),
        ("gcp.vertex_ai", "claude-3-5-sonnet@20240620", 300_000_000, Some(1_500_000_000)),
        ("aws.bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0", 300_000_000, Some(1_500_000_000)),
        ("", "gemini-2.0-flash-001", 10_000_000, Some(40_000_000)),
    ] {
        let price = prices.price(provider, model).unwrap();
        assert_eq!((price.input, price.output), (input, output), "{provider} {model}");
    }
    for (provider, model) in
        [("openai", "gpt-4o-audio-preview"), ("anthropic", "claude-opus-4-9"), ("ollama", "gpt-4o")]
    {
        assert_eq!(prices.price(provider, model), None, "{provider} {model}");
    }
}

/// Every name that an SDK has for a provider must be decided on in the file, and a decided name leads to prices.
#[test]
fn every_sdk_provider_name_maps_to_a_priced_provider_or_to_none() {
    let prices = Prices::built_in();
    let is_priced = |provider: &str| {
        let mut start = provider.as_bytes().to_vec();
        start.push(0);
        prices.by_name.keys().any(|names| names.starts_with(&start))
    };
    let mut before = "";
    for (name, provider) in providers::names() {
        assert!(before < name, "{name} is not in order, or there twice");
        assert!(name == name.to_ascii_lowercase() && name.len() <= 64, "{name}");
        assert_ne!(provider, "?", "nobody has decided whose prices {name} has");
        assert!(provider.is_empty() || is_priced(provider), "{name} has the prices of {provider}, which has none");
        let whose = if is_priced(name) { name } else { providers::meant_by(name).unwrap_or("") };
        assert_eq!(whose.is_empty(), provider.is_empty(), "{name}");
        before = name;
    }
    assert!(providers::names().count() > 100);
}

#[test]
fn a_provider_is_priced_under_every_name_that_sdks_use() {
    let prices = Prices::built_in();
    for (provider, model) in [
        ("azure.chat", "gpt-4o-mini-2024-07-18"),
        ("azure.responses", "gpt-4o"),
        ("azure-openai.chat", "gpt-4o"),
        ("azure.embeddings", "text-embedding-3-small"),
        ("azure_openai", "gpt-4o"),
        ("OpenAI", "gpt-4o"),
        ("openai.responses", "gpt-4o"),
        ("anthropic.messages", "claude-sonnet-4-5"),
        ("googleVertex.anthropic.messages", "claude-sonnet-4-5"),
        ("vertex.anthropic.messages", "claude-sonnet-4-5"),
        ("google.vertex.chat", "gemini-2.0-flash"),
        ("google.generative-ai", "gemini-2.0-flash"),
        ("google_genai", "gemini-2.0-flash"),
        ("google_vertexai", "gemini-2.0-flash"),
        ("Google", "gemini-2.0-flash"),
        ("amazon-bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0"),
        ("amazon_bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0"),
        ("bedrock_converse", "anthropic.claude-3-5-sonnet-20240620-v1:0"),
    ] {
        assert!(prices.price(provider, model).is_some(), "{provider} {model}");
    }
    for provider in ["openai-compatible.chat", "my.chat", "ollama", "openai.", "openai.chat.", &"x".repeat(300)] {
        assert_eq!(prices.price(provider, "gpt-4o"), None, "{provider}");
    }
    // An operator's own table may have prices for such a name itself.
    let own =
        Prices::parse(&format!("{HEAD}{COLUMNS}azure.chat,gpt-4o,1,,,1\nazure.ai.openai,gpt-4o,2,,,2\n")).unwrap();
    let input = |provider| own.price(provider, "gpt-4o").map(|price| price.input);
    assert_eq!((input("azure.chat"), input("azure.responses")), (Some(100_000_000), Some(200_000_000)));
}
