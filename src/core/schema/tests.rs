use super::*;

fn schema(text: &str) -> Result<Schema, SchemaError> {
    Schema::of_tool(&format!(r#"{{"name":"t","inputSchema":{text}}}"#))
}

fn check(text: &str, arguments: &str) -> Result<(), Violation> {
    let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
    schema(text).unwrap_or_else(|error| panic!("{text}: {error}")).check(Some(document.root()))
}

/// What fits and what does not, by keyword.
#[track_caller]
fn judged(text: &str, good: &[&str], bad: &[(&str, &str)]) {
    for arguments in good {
        assert_eq!(check(text, arguments), Ok(()), "{text} {arguments}");
    }
    for (arguments, wanted) in bad {
        let violation = check(text, arguments).expect_err(arguments);
        assert_eq!(format!("{} {}", violation.pointer, violation.keyword), *wanted, "{text} {arguments}");
    }
}

#[test]
fn types_are_those_of_json() {
    for (name, good, bad) in [
        ("null", &["null"][..], &["0", "false", "\"\"", "[]", "{}"][..]),
        ("boolean", &["true", "false"], &["0", "null", "\"true\""]),
        ("object", &["{}"], &["[]", "null"]),
        ("array", &["[]"], &["{}", "\"\""]),
        ("string", &["\"\""], &["0", "null"]),
        ("number", &["1", "1.5", "-0", "1e300"], &["\"1\"", "null"]),
        ("integer", &["1", "1.0", "10e-1", "12345678901234567890"], &["1.5", "\"1\"", "1e-1"]),
    ] {
        let text = format!(r#"{{"type":"{name}"}}"#);
        let bad: Vec<(&str, &str)> = bad.iter().map(|one| (*one, " type")).collect();
        judged(&text, good, &bad);
    }
    judged(r#"{"type":["string","null"]}"#, &["\"\"", "null"], &[("1", " type")]);
    judged("true", &["1", "{}"], &[]);
    judged("false", &[], &[("1", " false")]);
    judged("{}", &["1", "{}"], &[]);
}

#[test]
fn numbers_are_compared_exactly() {
    judged(r#"{"minimum":1,"maximum":2.5}"#, &["1", "2.5", "\"x\""], &[("0.99", " minimum"), ("2.51", " maximum")]);
    judged(
        r#"{"exclusiveMinimum":1,"exclusiveMaximum":2}"#,
        &["1.1"],
        &[("1", " exclusiveMinimum"), ("2.0", " exclusiveMaximum")],
    );
    judged(r#"{"multipleOf":0.01}"#, &["0.07", "-19.99", "0", "1e3"], &[("0.075", " multipleOf")]);
    judged(r#"{"multipleOf":3}"#, &["9", "-9"], &[("10", " multipleOf")]);
    judged(
        r#"{"enum":[1,"a",{"b":[2]},null]}"#,
        &["1.0", "\"a\"", r#"{"b":[2e0]}"#, "null"],
        &[("2", " enum"), ("\"1\"", " enum"), ("false", " enum")],
    );
    judged(r#"{"const":100}"#, &["1e2"], &[("99", " const")]);
}

#[test]
fn numbers_that_servers_read_otherwise_cannot_be_judged() {
    let unjudged = " (cannot be judged)";
    for (text, arguments) in [
        (r#"{"type":"integer"}"#, "42.00000000000000000001"),
        (r#"{"not":{"const":9007199254740992}}"#, "9007199254740993"),
        (r#"{"maximum":9007199254740993}"#, "9007199254740993"),
        (r#"{"not":{"maximum":10}}"#, "10.0000000000000000001"),
        (r#"{"anyOf":[{"minimum":3},{"type":"number"}]}"#, "9007199254740993"),
        (r#"{"type":"number"}"#, "1e400"),
        (r#"{"type":"number"}"#, "1e99999"),
        (r#"{"multipleOf":1e-300}"#, "1e300"),
        (r#"{"pattern":"a"}"#, &format!("\"{}\"", "a".repeat(crate::pattern::SUBJECT_BYTES_MAX + 1))),
    ] {
        judged(text, &[], &[(arguments, unjudged)]);
    }
    judged(r#"{"uniqueItems":true}"#, &[], &[("[9007199254740993]", "/0 (cannot be judged)")]);
    // Nothing depends on how these are read.
    judged(r#"{"type":"integer"}"#, &["9007199254740993", "1234567890123456789"], &[]);
    judged(r#"{"maximum":1,"minimum":0}"#, &["0.30000000000000004", "0.1"], &[]);
    judged(r#"{"pattern":"a"}"#, &[&format!("\"{}\"", "a".repeat(crate::pattern::SUBJECT_BYTES_MAX))], &[]);
}

#[test]
fn texts_are_counted_in_characters() {
    judged(
        r#"{"minLength":2,"maxLength":3}"#,
        &["\"éé\"", "\"\\ud83d\\ude00a\""],
        &[("\"é\"", " minLength"), ("\"abcd\"", " maxLength")],
    );
    judged(r#"{"pattern":"^a+$"}"#, &["\"aa\"", "1"], &[("\"b\"", " pattern"), ("\"aa\\n\"", " pattern")]);
}

#[test]
fn lists_are_judged_by_place_and_by_number() {
    let text = r#"{"prefixItems":[{"type":"string"},{"type":"number"}],"items":false,"minItems":1}"#;
    judged(text, &[r#"["a"]"#, r#"["a",1]"#], &[("[]", " minItems"), ("[1]", "/0 type"), (r#"["a",1,2]"#, "/2 items")]);
    let old = r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}],"additionalItems":{"type":"null"}}"#;
    judged(old, &[r#"["a",null]"#], &[("[1]", "/0 type"), (r#"["a",1]"#, "/1 type")]);
    judged(
        r#"{"items":{"type":"string"},"maxItems":2}"#,
        &["[]"],
        &[(r#"["","",""]"#, " maxItems"), (r#"["",1]"#, "/1 type")],
    );
    judged(
        r#"{"uniqueItems":true}"#,
        &[r#"[1,"1",[1],{"a":1}]"#],
        &[("[1,1.0]", " uniqueItems"), (r#"[{"a":1,"b":2},{"b":2,"a":1}]"#, " uniqueItems")],
    );
    judged(r#"{"contains":{"type":"null"}}"#, &["[1,null]"], &[("[]", " contains"), ("[1]", " contains")]);
    judged(
        r#"{"contains":{"type":"null"},"minContains":2,"maxContains":3}"#,
        &["[null,null]"],
        &[("[null]", " minContains"), ("[null,null,null,null]", " maxContains")],
    );
    judged(r#"{"contains":{"type":"null"},"minContains":0}"#, &["[]"], &[]);
}

#[test]
fn members_are_judged_by_name() {
    let text = r#"{"type":"object","required":["a"],"properties":{"a":{"type":"string"}},"patternProperties":{"^x-":{"type":"number"}},"additionalProperties":false}"#;
    judged(
        text,
        &[r#"{"a":"1"}"#, r#"{"a":"1","x-b":2}"#],
        &[
            ("{}", " required"),
            (r#"{"a":1}"#, "/a type"),
            (r#"{"a":"","b":1}"#, "/b additionalProperties"),
            (r#"{"a":"","x-b":""}"#, "/x-b type"),
        ],
    );
    judged(r#"{"additionalProperties":{"type":"string"}}"#, &[r#"{"a":""}"#], &[(r#"{"a/b":1}"#, "/a~1b type")]);
    judged(
        r#"{"minProperties":1,"maxProperties":2}"#,
        &[r#"{"a":1}"#],
        &[("{}", " minProperties"), (r#"{"a":1,"b":1,"c":1}"#, " maxProperties")],
    );
    judged(r#"{"propertyNames":{"maxLength":1}}"#, &[r#"{"a":1}"#], &[(r#"{"ab":1}"#, "/ab propertyNames")]);
    judged(
        r#"{"dependentRequired":{"a":["b"]}}"#,
        &[r#"{"b":1}"#, r#"{"a":1,"b":1}"#],
        &[(r#"{"a":1}"#, " dependentRequired")],
    );
    judged(r#"{"dependentSchemas":{"a":{"required":["b"]}}}"#, &["{}"], &[(r#"{"a":1}"#, " required")]);
    judged(
        r#"{"dependencies":{"a":["b"],"c":{"required":["d"]}}}"#,
        &["{}"],
        &[(r#"{"a":1}"#, " dependentRequired"), (r#"{"c":1}"#, " required")],
    );
}

#[test]
fn schemas_are_combined() {
    judged(r#"{"allOf":[{"minimum":1},{"maximum":2}]}"#, &["1"], &[("3", " maximum")]);
    judged(r#"{"anyOf":[{"type":"string"},{"minimum":2}]}"#, &["\"\"", "2", "null"], &[("1", " anyOf")]);
    judged(r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#, &["1", "2.5"], &[("3", " oneOf"), ("1.5", " oneOf")]);
    judged(r#"{"not":{"type":"string"}}"#, &["1"], &[("\"\"", " not")]);
    judged(
        r#"{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}"#,
        &[r#"{"a":1,"b":1}"#, r#"{"c":1}"#],
        &[(r#"{"a":1}"#, " required"), ("{}", " required")],
    );
}

#[test]
fn references_lead_within_the_schema() {
    let tree = r##"{"$defs":{"n":{"type":"object","properties":{"k":{"type":"array","items":{"$ref":"#/$defs/n"}}},"additionalProperties":false}},"$ref":"#/$defs/n"}"##;
    judged(tree, &[r#"{"k":[{"k":[{}]}]}"#], &[(r#"{"k":[{"x":1}]}"#, "/k/0/x additionalProperties")]);
    judged(
        r##"{"properties":{"a":{"$ref":"#"}},"maxProperties":1}"##,
        &[r#"{"a":{"a":{}}}"#],
        &[(r#"{"a":{"b":1,"c":1}}"#, "/a maxProperties")],
    );
    judged(
        r##"{"$defs":{"a b":{"$anchor":"x","type":"null"}},"properties":{"p":{"$ref":"#x"},"q":{"$ref":"#/$defs/a%20b"}}}"##,
        &[r#"{"p":null,"q":null}"#],
        &[(r#"{"p":1}"#, "/p type"), (r#"{"q":1}"#, "/q type")],
    );
    // Beside a reference the new drafts have rules, the old ones have not.
    judged(r##"{"$defs":{"a":{}},"$ref":"#/$defs/a","type":"null"}"##, &["null"], &[("1", " type")]);
    judged(
        r##"{"$schema":"https://json-schema.org/draft-07/schema","definitions":{"a":{}},"$ref":"#/definitions/a","type":"null"}"##,
        &["null", "1"],
        &[],
    );
}

#[test]
fn what_nobody_looked_at_can_be_refused() {
    let text = r#"{"allOf":[{"properties":{"a":true}}],"anyOf":[{"required":["b"],"properties":{"b":true}},true],"unevaluatedProperties":false}"#;
    judged(text, &[r#"{"a":1}"#, r#"{"a":1,"b":1}"#], &[(r#"{"a":1,"c":1}"#, "/c unevaluatedProperties")]);
    // What stands beside a schema is none of its business.
    let cousins = r#"{"properties":{"a":true},"allOf":[{"unevaluatedProperties":false}]}"#;
    judged(cousins, &["{}"], &[(r#"{"a":1}"#, "/a unevaluatedProperties")]);
    judged(r#"{"prefixItems":[true],"unevaluatedItems":false}"#, &["[1]"], &[("[1,2]", "/1 unevaluatedItems")]);
    judged(
        r#"{"contains":{"type":"string"},"unevaluatedItems":{"type":"null"}}"#,
        &[r#"["a",null]"#],
        &[(r#"["a",1]"#, "/1 type")],
    );
    judged(
        r#"{"not":{"properties":{"a":{"type":"string"}}},"unevaluatedProperties":false}"#,
        &[],
        &[(r#"{"a":1}"#, "/a unevaluatedProperties")],
    );
    judged(
        r#"{"if":{"properties":{"a":{"const":1}},"required":["a"]},"then":{"properties":{"b":true}},"unevaluatedProperties":false}"#,
        &[r#"{"a":1,"b":2}"#],
        &[(r#"{"a":2}"#, "/a unevaluatedProperties")],
    );
}

#[test]
fn what_cannot_be_enforced_is_said_and_where() {
    for (text, pointer, what) in [
        ("[]", "", "object or a boolean"),
        (r#"{"properties":{"a":{"type":"strng"}}}"#, "/properties/a/type", "no type"),
        (r#"{"type":[]}"#, "/type", "no type"),
        (r#"{"properties":{"a":1}}"#, "/properties/a", "object or a boolean"),
        (r#"{"properties":[]}"#, "/properties", "expected an object"),
        (r#"{"required":"a"}"#, "/required", "list of names"),
        (r#"{"required":[1]}"#, "/required", "list of names"),
        (r#"{"enum":1}"#, "/enum", "expected a list"),
        (r#"{"minimum":"1"}"#, "/minimum", "number"),
        (r#"{"exclusiveMinimum":true}"#, "/exclusiveMinimum", "number"),
        (r#"{"maximum":1e999}"#, "/maximum", "number"),
        (r#"{"multipleOf":0}"#, "/multipleOf", "above zero"),
        (r#"{"minLength":-1}"#, "/minLength", "whole number"),
        (r#"{"minLength":1.5}"#, "/minLength", "whole number"),
        (r#"{"uniqueItems":1}"#, "/uniqueItems", "true"),
        (r#"{"anyOf":[]}"#, "/anyOf", "list of schemas"),
        (r#"{"pattern":1}"#, "/pattern", "linear"),
        (r#"{"pattern":"(?=a)b"}"#, "/pattern", "linear"),
        (r#"{"pattern":"(a)\\1"}"#, "/pattern", "linear"),
        (r#"{"patternProperties":{"(?<!a)b":{}}}"#, "/patternProperties", "linear"),
        (r#"{"$ref":"https://example.com/schema"}"#, "/$ref", "leads out"),
        (r#"{"$ref":"other.json"}"#, "/$ref", "leads out"),
        (r#"{"$ref":"file:///etc/passwd"}"#, "/$ref", "leads out"),
        (r##"{"$ref":"#/$defs/none"}"##, "/$ref", "leads nowhere"),
        (
            r##"{"properties":{"a":{"$ref":"#/$defs/b"}},"$defs":{"b":{"type":1}}}"##,
            "/properties/a/$ref/type",
            "no type",
        ),
        (r#"{"$schema":"https://example.com/mine"}"#, "/$schema", "no draft"),
        (r#"{"properties":{"a":{"$id":"b"}}}"#, "/properties/a/$id", "names of their own"),
        (r#"{"items":[{}],"prefixItems":[{}]}"#, "/items", "prefixItems"),
    ] {
        let error = schema(text).expect_err(text);
        assert_eq!(error.pointer, pointer, "{text}");
        assert!(error.what.contains(what), "{text}: {error}");
    }
    assert!(Schema::of_tool(r#"{"name":"t"}"#).unwrap_err().what.contains("inputSchema"));
    assert!(Schema::of_tool("no json").is_err());
}

#[test]
fn a_violation_names_names_and_no_value() {
    let violation =
        check(r#"{"properties":{"a":{"enum":["CANARY-A"]}},"required":["b"]}"#, r#"{"b":1,"a":"CANARY-B"}"#);
    let text = violation.unwrap_err().to_string();
    assert_eq!(text, "The arguments do not fit the schema of the tool: the value at \"/a\" breaks `enum`");
    let text = check(r#"{"required":["b\u202e"]}"#, "{}").unwrap_err().to_string();
    assert_eq!(
        text,
        "The arguments do not fit the schema of the tool: the value at \"\" breaks `required`: \"b\\u202e\" is missing"
    );
    let long = format!(r#"{{"{}":1}}"#, "n".repeat(5_000));
    let text = check(r#"{"additionalProperties":false}"#, &long).unwrap_err().to_string();
    assert!(text.len() < 400, "{}", text.len());
}

#[test]
fn no_arguments_are_an_empty_object() {
    assert!(schema(r#"{"type":"object"}"#).unwrap().check(None).is_ok());
    assert_eq!(schema(r#"{"required":["a"]}"#).unwrap().check(None).unwrap_err().keyword, "required");
}

/// Schemas that make naive checkers run for ever, or off the stack.
#[test]
fn hostile_schemas_cost_no_more_than_the_budget() {
    let unjudged = "(cannot be judged)";
    let circle = check(r##"{"$ref":"#"}"##, "{}").unwrap_err();
    assert_eq!(circle.keyword, unjudged);
    let round =
        r##"{"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}"##;
    assert_eq!(check(round, "{}").unwrap_err().keyword, unjudged);
    // Doubling at each of 40 levels.
    let mut defs = String::from(r#""d0":{"type":"object"}"#);
    for n in 1..40 {
        let before = n - 1;
        defs.push_str(&format!(
            r##","d{n}":{{"allOf":[{{"$ref":"#/$defs/d{before}"}},{{"$ref":"#/$defs/d{before}"}}]}}"##
        ));
    }
    assert_eq!(
        check(&format!(r##"{{"$defs":{{{defs}}},"$ref":"#/$defs/d39"}}"##), "{}").unwrap_err().keyword,
        unjudged
    );
    // Doubling at each level of the arguments.
    let twice = r##"{"allOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}"##;
    let deep = format!("{}{}", r#"{"a":"#.repeat(60), "{}".to_owned() + &"}".repeat(60));
    assert_eq!(check(twice, &deep).unwrap_err().keyword, unjudged);
    // A chain of references as long as fits: compiled without stack, refused when it is followed.
    let links: Vec<String> = (0..1_500).map(|n| format!(r##""d{n}":{{"$ref":"#/$defs/d{}"}}"##, n + 1)).collect();
    let chain = format!(r##"{{"$defs":{{{},"d1500":true}},"$ref":"#/$defs/d0"}}"##, links.join(","));
    assert_eq!(check(&chain, "{}").unwrap_err().keyword, unjudged);
}

#[test]
fn every_bound_of_a_schema_holds_at_it_and_not_above() {
    let patterns = |n: usize| format!(r#"{{"allOf":[{}]}}"#, vec![r#"{"pattern":"a"}"#; n].join(","));
    assert!(schema(&patterns(SCHEMA_PATTERNS_MAX)).is_ok());
    assert!(schema(&patterns(SCHEMA_PATTERNS_MAX + 1)).unwrap_err().what.contains("patterns"));
    let schemas = |n: usize| format!(r#"{{"allOf":[{}]}}"#, vec!["true"; n - 1].join(","));
    assert!(schema(&schemas(SCHEMAS_MAX)).is_ok());
    assert!(schema(&schemas(SCHEMAS_MAX + 1)).unwrap_err().what.contains("schemas"));
    let sized = |n: usize| format!("{{\"inputSchema\":{{}}{}}}", " ".repeat(n - 18));
    assert_eq!(sized(100).len(), 100);
    assert!(Schema::of_tool(&sized(SCHEMA_BYTES_MAX)).is_ok());
    assert!(Schema::of_tool(&sized(SCHEMA_BYTES_MAX + 1)).is_err());
    // The definition itself is one level more.
    let deep = |n: usize| format!("{}true{}", r#"{"not":"#.repeat(n), "}".repeat(n));
    assert!(schema(&deep(SCHEMA_DEPTH_MAX - 1)).is_ok());
    assert!(schema(&deep(SCHEMA_DEPTH_MAX)).is_err());
    let chain = |n: u32| {
        let links: Vec<String> = (0..n).map(|n| format!(r##""d{n}":{{"$ref":"#/$defs/d{}"}}"##, n + 1)).collect();
        format!(r##"{{"$defs":{{{},"d{n}":true}},"$ref":"#/$defs/d0"}}"##, links.join(","))
    };
    assert!(check(&chain(CHECK_DEPTH_MAX - 1), "{}").is_ok());
    assert!(check(&chain(CHECK_DEPTH_MAX), "{}").is_err());
    let list = |n: u32| format!("[{}]", vec!["1"; usize::try_from(n).unwrap()].join(","));
    let wide = |n| {
        let text = list(n);
        let limits = Limits { nodes_max: 1_000_000, ..Limits::default() };
        let document = Document::parse(text.as_bytes(), limits).unwrap();
        schema(r#"{"items":true}"#).unwrap().check(Some(document.root()))
    };
    assert!(wide(STEPS_MAX - 1).is_ok());
    assert!(wide(STEPS_MAX).is_err());
}

#[test]
fn patterns_mean_what_they_mean_in_ecmascript() {
    for (pattern, good, bad) in [
        (r"^\d+$", &["12"][..], &["١٢", ""][..]),
        (r"^\w+$", &["a_1"], &["é"]),
        (r"^\s$", &[" ", "\u{a0}", "\u{feff}", "\t", "\u{2028}"], &["a", "\u{85}"]),
        (r"^[\s\d]+$", &["1 2\u{a0}"], &["a"]),
        (r"^\S+$", &["é"], &["a b", "a\u{a0}b"]),
        (r"^.$", &["é"], &["\n", "\r", "\u{2028}", "ab"]),
        (r"^[^/]+$", &["a"], &["a/b"]),
        (r"^[[]$", &["["], &["]"]),
        (r"^a/b\/c\-d$", &["a/b/c-d"], &["a"]),
        (r"^\u0041\x42\u{43}$", &["ABC"], &["abc"]),
        (r"^(?<year>\d{4})-(?:0[1-9]|1[0-2])$", &["2024-12"], &["2024-13"]),
        (r"^[a-z0-9]+(?:-[a-z0-9]+)*$", &["a-b-1"], &["-a"]),
        (r"^\p{L}+$", &["é"], &["1"]),
        ("a", &["bab"], &["b"]),
    ] {
        let pattern = regex::compile(pattern).unwrap_or_else(|| panic!("{pattern}"));
        good.iter().for_each(|text| assert_eq!(pattern.is_match(text), Some(true), "{pattern:?} {text:?}"));
        bad.iter().for_each(|text| assert_eq!(pattern.is_match(text), Some(false), "{pattern:?} {text:?}"));
    }
    for refused in [
        "(?=a)",
        "(?!a)",
        "(?<=a)b",
        "(?<!a)b",
        r"(a)\1",
        r"\k<a>",
        "[]",
        "[^]",
        "(?i)a",
        r"\u12",
        r"\xg1",
        r"\cA",
        "[[:alpha:]]",
        r"\A",
        r"\z",
        r"\Q",
        r"[\S]",
        "(",
        r"\",
        r"\ud800",
        r"\u{110000}",
    ] {
        assert!(regex::compile(refused).is_none(), "{refused}");
    }
}
