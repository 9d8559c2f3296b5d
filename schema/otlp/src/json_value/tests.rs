use super::*;

fn read(json: &str) -> Value<'_> {
    match serde_json::from_str::<Found<'_, AnyValue<'_>>>(json).unwrap() {
        Found::Nothing => Value::Empty,
        Found::It(AnyValue { is_too_deep: true, .. }) => Value::Str("too deep".into()),
        Found::It(given) => given.value,
        Found::Other(value) => value,
    }
}

#[test]
fn values_are_written_in_whatever_order_they_come() {
    for (json, wanted) in [
        ("null", Value::Empty),
        ("{}", Value::Empty),
        (r#"{"other":[1],"intValue":null}"#, Value::Empty),
        (r#"{"intValue":"1","stringValue":"last"}"#, Value::Str("last".into())),
        (r#"{"stringValue":"first","stringValue":"last","intValue":null}"#, Value::Str("last".into())),
        (r#"{"bytesValue":"AQI="}"#, Value::Bytes([1, 2].as_slice().into())),
        (r#"{"bytesValue":"-_8"}"#, Value::Bytes([0xfb, 0xff].as_slice().into())),
        (r#"{"arrayValue":{}}"#, Value::Array("[]".into())),
        (r#"{"arrayValue":null}"#, Value::Empty),
        (
            r#"{"array_value":{"values":[{"intValue":1},{},null,{"doubleValue":"NaN"},{"arrayValue":{"values":[{}]}}]}}"#,
            Value::Array(r#"[1,null,null,"NaN",[null]]"#.into()),
        ),
        (
            r#"{"kvlistValue":{"x":1,"values":[{"value":{"boolValue":true},"key":"a"},{"key":"b"},{},
                {"key":"c","value":{"kvlistValue":{"values":[{"value":{"stringValue":"\u0001"}}]}}}]}}"#,
            Value::Map(r#"{"a":true,"b":null,"":null,"c":{"":"\u0001"}}"#.into()),
        ),
        (
            r#"{"arrayValue":{"values":[{"stringValue":"first","arrayValue":{"values":[]},"intValue":null}]}}"#,
            Value::Array("[[]]".into()),
        ),
        (
            r#"{"kvlistValue":{"values":[{"key":"twice","value":{"intValue":1},"key":"k","value":{"intValue":2}}]}}"#,
            Value::Map(r#"{"k":2}"#.into()),
        ),
        (
            r#"{"arrayValue":{"values":[{"intValue":1}],"values":[{"intValue":2},{"intValue":3}],"values":null}}"#,
            Value::Array("[2,3]".into()),
        ),
    ] {
        assert_eq!(read(json), wanted, "{json}");
    }
}

#[test]
fn numbers_are_read_in_every_form_and_lose_no_digits() {
    for (json, wanted) in [
        (r#"{"intValue":7}"#, Value::Int(7)),
        (r#"{"intValue":"-9223372036854775808"}"#, Value::Int(i64::MIN)),
        (r#"{"intValue":1.0}"#, Value::Int(1)),
        (r#"{"intValue":"1e3"}"#, Value::Int(1_000)),
        (r#"{"intValue":{"low":7,"high":0,"unsigned":false}}"#, Value::Int(7)),
        (r#"{"intValue":1.5}"#, Value::Double(1.5)),
        (r#"{"intValue":1e+300}"#, Value::Double(1e300)),
        (r#"{"intValue":9223372036854775808}"#, Value::Double(9_223_372_036_854_775_808.0)),
        (r#"{"intValue":"9223372036854775808"}"#, Value::Str("9223372036854775808".into())),
        (r#"{"doubleValue":"Infinity"}"#, Value::Double(f64::INFINITY)),
        (r#"{"doubleValue":"-Infinity"}"#, Value::Double(f64::NEG_INFINITY)),
        (r#"{"doubleValue":3}"#, Value::Double(3.0)),
        (r#"{"doubleValue":"0.25"}"#, Value::Double(0.25)),
        (r#"{"doubleValue":null}"#, Value::Empty),
        (r#"{"doubleValue":1e400}"#, Value::Str("1e400".into())),
    ] {
        assert_eq!(read(json), wanted, "{json}");
    }
}

#[test]
fn a_value_that_contradicts_its_declared_type_keeps_its_own_type() {
    for (json, wanted) in [
        ("7", Value::Int(7)),
        (r#""text""#, Value::Str("text".into())),
        ("[1, {\"a\":null}]", Value::Array("[1,{\"a\":null}]".into())),
        (r#"{"boolValue":"true"}"#, Value::Bool(true)),
        (r#"{"boolValue":1}"#, Value::Int(1)),
        (r#"{"boolValue":"yes"}"#, Value::Str("yes".into())),
        (r#"{"stringValue":7}"#, Value::Int(7)),
        (r#"{"stringValue":{"a":1}}"#, Value::Map(r#"{"a":1}"#.into())),
        (r#"{"intValue":"many"}"#, Value::Str("many".into())),
        (r#"{"intValue":true}"#, Value::Bool(true)),
        (r#"{"intValue":{"low":7}}"#, Value::Map(r#"{"low":7}"#.into())),
        (r#"{"doubleValue":"low"}"#, Value::Str("low".into())),
        (r#"{"bytesValue":"no base64"}"#, Value::Str("no base64".into())),
        (r#"{"bytesValue":[1,2]}"#, Value::Array("[1,2]".into())),
        (r#"{"arrayValue":[1]}"#, Value::Array("[1]".into())),
        (r#"{"arrayValue":"x"}"#, Value::Str("x".into())),
        (r#"{"arrayValue":{"values":{"a":1}}}"#, Value::Map(r#"{"a":1}"#.into())),
        (r#"{"arrayValue":{"values":[7,"x",[],{"intValue":"y"}]}}"#, Value::Array(r#"[7,"x",[],"y"]"#.into())),
        (
            r#"{"kvlistValue":{"values":[{"key":7,"value":8},9,null,{"key":"k","value":{"arrayValue":[1]}}]}}"#,
            Value::Map(r#"{"7":8,"":null,"k":[1]}"#.into()),
        ),
    ] {
        assert_eq!(read(json), wanted, "{json}");
    }
}

#[test]
fn the_last_value_of_a_repeated_map_key_wins() {
    let pair = |key: &str, value: &str| format!(r#"{{"key":"{key}","value":{value}}}"#);
    let map = |pairs: &[String]| format!(r#"{{"kvlistValue":{{"values":[{}]}}}}"#, pairs.join(","));
    let int = |n: u32| format!(r#"{{"intValue":{n}}}"#);
    let inner = map(&[pair("x", &int(1)), pair("y", &int(2)), pair("x", &int(3))]);
    let outer = map(&[pair("a", &int(4)), pair("a", &inner), pair("b", &int(5)), pair("b", "null")]);
    assert_eq!(read(&outer), Value::Map(r#"{"a":{"x":3,"y":2},"b":null}"#.into()));
    let many = map(&(0..50_000).map(|n| pair(&format!("k{}", n % 3), &int(n))).collect::<Vec<_>>());
    assert_eq!(read(&many), Value::Map(r#"{"k0":49998,"k1":49999,"k2":49997}"#.into()));
}

#[test]
fn maps_nest_as_deep_as_lists() {
    for (before, after) in
        [(r#"{"arrayValue":{"values":["#, "]}}"), (r#"{"kvlistValue":{"values":[{"key":"k","value":"#, "}]}}")]
    {
        let nested = |levels: usize| format!("{}{{}}{}", before.repeat(levels), after.repeat(levels));
        let max = usize::from(NESTING_MAX);
        for levels in [1, 20, 21, 30, 31, 41, max] {
            let json = nested(levels);
            let (Value::Array(text) | Value::Map(text)) = read(&json) else { panic!("{levels}") };
            let _: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(text.matches(['[', '{']).count(), levels);
        }
        for levels in [max + 1, 500, 100_000] {
            assert_eq!(read(&nested(levels)), Value::Str("too deep".into()), "{levels}");
        }
    }
}
