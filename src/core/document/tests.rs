use super::*;

fn yaml(text: &str) -> Result<Node, Vec<Defect>> {
    parse("f.yaml", text.as_bytes(), Format::Yaml)
}

fn json(text: &str) -> Result<Node, Vec<Defect>> {
    parse("f.json", text.as_bytes(), Format::Json)
}

fn texts(result: Result<Node, Vec<Defect>>) -> Vec<String> {
    result.expect_err("should be refused").iter().map(ToString::to_string).collect()
}

fn shape_of(scalar: &str) -> Shape {
    let node = yaml(&format!("k: {scalar}\n")).unwrap();
    let Shape::Map(mut members) = node.shape else { panic!("not a map") };
    members.remove(0).1.shape
}

#[test]
fn both_formats_give_the_same_tree() {
    let same = |node: Node| {
        fn strip(node: &mut Node) {
            node.line = None;
            match &mut node.shape {
                Shape::List(items) => items.iter_mut().for_each(strip),
                Shape::Map(members) => members.iter_mut().for_each(|(_, value)| strip(value)),
                Shape::Bool(_) | Shape::Null | Shape::Number(_) | Shape::String(_) => {}
            }
        }
        let mut node = node;
        strip(&mut node);
        node
    };
    let from_json = json(r#"{"a": [1, -2.5e3, true, null, "x\u00e9"], "b": {"c": "", "d": []}}"#).unwrap();
    let from_yaml = yaml("a: [1, -2.5e3, true, null, 'xé']\nb:\n  c: ''\n  d: []\n").unwrap();
    assert_eq!(same(from_json), same(from_yaml));
}

#[test]
fn a_members_line_is_that_of_its_key() {
    for node in [
        json("{\n \"a\" :\n\n  [\n1,\n \"x\"]\n, \"b\": {}}").unwrap(),
        yaml("\na:\n\n - \n  1\n - 'x'\nb: {}\n").unwrap(),
    ] {
        let Shape::Map(members) = node.shape else { panic!() };
        let Shape::List(items) = &members[0].1.shape else { panic!() };
        let lines: Vec<_> =
            [&members[0].1, &items[0], &items[1], &members[1].1].iter().map(|n| n.line.unwrap()).collect();
        assert!(lines == [2, 5, 6, 7], "{lines:?}");
    }
}

#[test]
fn only_two_words_are_booleans() {
    assert_eq!(shape_of("true"), Shape::Bool(true));
    assert_eq!(shape_of("false"), Shape::Bool(false));
    for word in ["yes", "no", "on", "off", "y", "n", "Yes", "2026-01-01T00:00:00Z", "12:30:45", "1.2.3", "1e", "0x"] {
        assert_eq!(shape_of(word), Shape::String(word.into()));
    }
    assert_eq!(shape_of("'true'"), Shape::String("true".into()));
    assert_eq!(shape_of("\"010\""), Shape::String("010".into()));
    assert_eq!(shape_of("|\n  10"), Shape::String("10\n".into()));
    for null in ["", "~", "null"] {
        assert_eq!(shape_of(null), Shape::Null);
    }
}

#[test]
fn a_number_keeps_its_literal() {
    for literal in ["0", "-0", "1", "12345678901234567890123", "1.50", "-1e9", "1E+2", "0.1e-7"] {
        assert_eq!(shape_of(literal), Shape::Number(literal.into()));
    }
}

#[test]
fn a_scalar_that_parsers_read_differently_is_refused() {
    let numbers = [
        "010", "0777", "-010", "+1", "1_000", "0x10", "0X1F", "0o17", "0b11", ".5", "5.", "+.5", ".inf", "-.inf",
        "+.INF", ".nan", ".NaN", "1_0.5", "01.5", "00", "+1e3", "1.e3",
    ];
    for text in numbers {
        assert_eq!(
            texts(yaml(&format!("a:\n  - {text}\n"))),
            [format!(
                "f.yaml:2: /a/0: `{text}` is a number in some YAML versions (quote it or write a plain decimal number)"
            )]
        );
    }
    for text in ["True", "TRUE", "False", "FALSE", "Null", "NULL"] {
        assert_eq!(
            texts(yaml(&format!("a: {text}\n"))),
            [format!(
                "f.yaml:1: /a: `{text}` is a word in some YAML versions and a string in others (write it in lower case, or quote it)"
            )]
        );
    }
}

#[test]
fn anchors_aliases_tags_and_merge_keys_are_refused_all_at_once() {
    assert_eq!(
        texts(yaml("a: &x 1\nb: *x\nc: *unknown\nd: !!str 5\ne:\n  <<: {f: 1}\n~: 2\n")),
        [
            "f.yaml:1: /a: anchors are not accepted (remove the `&name`)",
            "f.yaml:2: /b: aliases are not accepted (write the value out)",
            "f.yaml:3: /c: aliases are not accepted (write the value out)",
            "f.yaml:4: /d: tags are not accepted (remove the `!tag`; quote the value to make it a string)",
            "f.yaml:6: /e: merge keys are not accepted (write the keys out)",
            "f.yaml:7: a key is missing or null (quote it to make it a string)",
        ]
    );
    assert_eq!(texts(yaml("*x : 1\n")), ["f.yaml:1: aliases are not accepted (write the value out)"]);
    assert_eq!(texts(yaml("? [a]\n: 1\n")), ["f.yaml:1: a key must be a plain text"]);
    assert_eq!(
        texts(yaml("%YAML 1.1\n---\na: 1\n")),
        ["f.yaml:1: directives are not accepted (remove the line that starts with `%`)"]
    );
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..2_000 {
        let last = level - 1;
        text.push_str(&format!("a{level}: &a{level} [*a{last}, *a{last}, *a{last}]\n"));
    }
    assert_eq!(texts(yaml(&text)).len(), 100);
}

#[test]
fn a_second_document_is_refused() {
    assert_eq!(texts(yaml("a: 1\n---\nb: 2\n")), ["f.yaml:2: a second document starts here (one document a file)"]);
    assert!(yaml("---\na: 1\n...\n").is_ok());
    assert_eq!(texts(json("{} {}")), ["f.json:1: is not JSON: unexpected `{`"]);
}

#[test]
fn every_equal_key_is_reported_in_both_formats() {
    assert_eq!(
        texts(json("{\"a\": 1,\n\"b\": [{\"x/y\": 1, \"x\\u002fy\": 2}],\n\"a\": 2,\n\"a\": 3}")),
        [
            "f.json:2: /b/0/x~1y: duplicate key `x/y`, first on line 2",
            "f.json:3: /a: duplicate key `a`, first on line 1",
            "f.json:4: /a: duplicate key `a`, first on line 1",
        ]
    );
    assert_eq!(
        texts(yaml("a: 1\n\"a\": 2\nb: {c: 1, c: 2}\n")),
        ["f.yaml:2: /a: duplicate key `a`, first on line 1", "f.yaml:3: /b/c: duplicate key `c`, first on line 3"]
    );
}

#[test]
fn the_size_limit_is_exact() {
    for (format, name) in [(Format::Json, "f.json"), (Format::Yaml, "f.yaml")] {
        let mut text = format!("\"{}\"", "x".repeat(1_048_574));
        assert!(parse(name, text.as_bytes(), format).is_ok());
        text.push('\n');
        let defects = parse(name, text.as_bytes(), format).unwrap_err();
        assert_eq!(defects[0].to_string(), format!("{name}: is larger than 1048576 bytes: it has 1048577"));
    }
}

#[test]
fn the_depth_limit_is_exact() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(json(&nested(32)).is_ok());
    assert!(yaml(&nested(32)).is_ok());
    assert_eq!(texts(json(&nested(33))), ["f.json:1: nested deeper than 32 levels"]);
    for levels in [33, 64, 65, 66, 200, 100_000] {
        let defects = texts(yaml(&nested(levels)));
        assert_eq!(defects.len(), 1);
        assert!(defects[0].ends_with(": nested deeper than 32 levels"), "{}", defects[0]);
    }
    let block = |levels: usize| (0..levels).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>();
    assert!(yaml(&block(32)).is_ok());
    assert!(texts(yaml(&block(33)))[0].ends_with("nested deeper than 32 levels"));
    assert!(texts(yaml(&"- ".repeat(5_000)))[0].ends_with("nested deeper than 32 levels"));
}

#[test]
fn the_node_limit_is_exact() {
    let limits = Limits { nodes_max: 5, ..LIMITS };
    let defects = |text: &str, format| read(&Arc::from("f"), text.as_bytes(), format, limits).defects;
    for format in [Format::Json, Format::Yaml] {
        assert!(defects("[1, 2, 3, 4]", format).is_empty());
        let message = &defects("[1, 2, 3, 4, 5]", format)[0].message;
        assert_eq!(message, "holds more than 5 values");
    }
}

#[test]
fn what_is_no_text_is_refused() {
    assert_eq!(
        parse("f.yaml", b"a: 1\nb: \xff\n", Format::Yaml).unwrap_err()[0].to_string(),
        "f.yaml:2: is not UTF-8 text"
    );
    for format in [Format::Json, Format::Yaml] {
        assert_eq!(
            parse("f", b"\xef\xbb\xbf{}", format).unwrap_err()[0].to_string(),
            "f:1: starts with a byte order mark (save it as UTF-8 without one)"
        );
        for empty in ["", " \n "] {
            assert_eq!(parse("f", empty.as_bytes(), format).unwrap_err()[0].to_string(), "f: is empty");
        }
    }
    assert_eq!(texts(yaml("# nothing but a comment\n")), ["f.yaml: is empty"]);
}

#[test]
fn a_syntax_error_tells_its_line() {
    assert_eq!(
        texts(json("{\n\"a\": 1,\n}")),
        ["f.json:3: is not JSON: unexpected `}` (JSON allows no comma after the last one)"]
    );
    assert_eq!(texts(json("// x\n{}")), ["f.json:1: is not JSON: unexpected `/` (JSON has no comments)"]);
    assert_eq!(
        texts(json("{'a': 1}")),
        ["f.json:1: is not JSON: unexpected `'` (JSON strings stand in double quotes)"]
    );
    assert_eq!(
        texts(json("[\"a\nb\"]")),
        ["f.json:1: is not JSON: unexpected `\\n` (inside a JSON string write \\n, \\r or \\t)"]
    );
    assert_eq!(texts(json("[1,\n2")), ["f.json:2: ends in the middle of a value"]);
    assert_eq!(texts(json("[\"\\ud800\"]")), ["f.json:1: escape of half a surrogate pair"]);
    assert_eq!(texts(json("{\"a\\u0000\": 1}")), ["f.json:1: control character in a key"]);
    assert_eq!(texts(yaml("\"a\\0\": 1\n")), ["f.yaml:1: control character in a key"]);
    assert_eq!(texts(yaml("a: [1, 2\nb: 3\n")).len(), 1);
    let tab = texts(yaml("a:\n\tb: 1\n"));
    assert!(tab[0].starts_with("f.yaml:2: "), "{tab:?}");
    assert!(tab[0].contains("tab"), "{tab:?}");
}

#[test]
fn a_message_carries_nothing_that_a_terminal_obeys() {
    assert_eq!(quoted("a\u{1b}[31m\u{202e}\n"), "`a\\u{1b}[31m\\u{202e}\\n`");
    assert_eq!(quoted(&"é".repeat(81)), format!("`{}…`", "é".repeat(80)));
    assert_eq!(quoted(&"é".repeat(80)), format!("`{}`", "é".repeat(80)));
}

fn report(text: &str) -> Report {
    Report::read("f.yaml", text.as_bytes(), Format::Yaml)
}

fn defects(report: Report) -> Vec<String> {
    report.finish().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_reader_collects_every_defect() {
    let report =
        report("name: 5\ndeny_iff: []\nzzz: 1\ncount: 11\nflag: yes\nmode: opne\nlist: {}\nnull_one: null\nmap: x\n");
    let root = report.root().unwrap();
    let fields =
        root.fields(&["name", "deny_if", "count", "flag", "mode", "list", "null_one", "map", "missing"]).unwrap();
    assert!(fields.required("name").unwrap().string().is_none());
    assert!(fields.required("count").unwrap().u64_in(&(1..=10)).is_none());
    assert!(fields.required("flag").unwrap().bool().is_none());
    assert!(fields.required("mode").unwrap().one_of(&["open", "closed"]).is_none());
    assert!(fields.required("list").unwrap().items().is_none());
    assert!(fields.optional("null_one").unwrap().string().is_none());
    assert!(fields.required("map").unwrap().entries().is_none());
    assert!(fields.required("missing").is_none());
    assert!(fields.optional("deny_if").is_none());
    assert!(!report.is_clean());
    assert_eq!(
        defects(report),
        [
            "f.yaml:1: missing key `missing`",
            "f.yaml:1: /name: expected a string, found a number (quote it)",
            "f.yaml:2: unknown key `deny_iff` (did you mean `deny_if`?)",
            "f.yaml:3: unknown key `zzz` (known: `name`, `deny_if`, `count`, `flag`, `mode`, `list`, `null_one`, `map`, `missing`)",
            "f.yaml:4: /count: expected a whole number from 1 to 10, found `11`",
            "f.yaml:5: /flag: expected `true` or `false`, found a string (only these two words, unquoted)",
            "f.yaml:6: /mode: expected one of `open`, `closed`, found `opne` (did you mean `open`?)",
            "f.yaml:7: /list: expected a list, found a map",
            "f.yaml:8: /null_one: expected a string, found null",
            "f.yaml:9: /map: expected a map, found a string",
        ]
    );
}

#[test]
fn a_reader_goes_on_after_a_defect_of_syntax_and_reports_it_once() {
    let report = report("a: *x\nb: 010\nbogus: 1\n");
    let fields = report.root().unwrap().fields(&["a", "b"]).unwrap();
    assert!(fields.required("a").unwrap().string().is_none());
    assert!(fields.required("b").unwrap().u64_in(&(0..=9)).is_none());
    assert_eq!(
        defects(report),
        [
            "f.yaml:1: /a: aliases are not accepted (write the value out)",
            "f.yaml:2: /b: `010` is a number in some YAML versions (quote it or write a plain decimal number)",
            "f.yaml:3: unknown key `bogus` (known: `a`, `b`)",
        ]
    );
}

#[test]
fn a_range_is_exact_and_only_a_plain_integer_fits_it() {
    for (literal, fits) in [
        ("1", true),
        ("10", true),
        ("0", false),
        ("11", false),
        ("-1", false),
        ("1.0", false),
        ("1e0", false),
        ("99999999999999999999999", false),
        ("'5'", false),
    ] {
        let report = report(&format!("n: {literal}\n"));
        let found = report.root().unwrap().fields(&["n"]).unwrap().required("n").unwrap().u64_in(&(1..=10));
        assert_eq!(found.is_some(), fits, "{literal}");
        assert_eq!(report.is_clean(), fits, "{literal}");
    }
}

#[test]
fn a_report_lists_a_thousand_findings_and_counts_the_rest() {
    let text: String = (0..1_002).map(|n| format!("k{n}: 1\n")).collect();
    let report = report(&text);
    assert!(report.root().unwrap().fields(&[]).is_some());
    let defects = defects(report);
    assert_eq!(defects.len(), 1_001);
    assert_eq!(defects[1_000], "f.yaml: 2 more findings are not listed");
    assert_eq!(defects[0], "f.yaml:1: unknown key `k0` (no key may stand here)");
    let text = "a: 1\n".repeat(1_502);
    let defects = self::defects(self::report(&text));
    assert_eq!((defects.len(), defects[1_000].as_str()), (1_001, "f.yaml: 501 more findings are not listed"));
}

#[test]
fn a_suggestion_is_close_or_none() {
    let keys = ["require", "deny_if", "limits"];
    for (written, expected) in [
        ("denyif", Some("deny_if")),
        ("deny-if", Some("deny_if")),
        ("DenyIf", Some("deny_if")),
        ("requires", Some("require")),
        ("reqiure", Some("require")),
        ("limit", Some("limits")),
        ("quota", None),
        ("", None),
    ] {
        assert_eq!(suggestion(written, keys.into_iter()), expected, "{written}");
    }
    assert_eq!(suggestion(&"x".repeat(100_000), keys.into_iter()), None);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[-a-c0-9:\\[\\]{},&*!|>'\"#%?~ \n\t.<_\\\\]{0,60}") {
        for format in [Format::Json, Format::Yaml] {
            if let Err(defects) = parse("f", text.as_bytes(), format) {
                proptest::prop_assert!(!defects.is_empty());
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        for format in [Format::Json, Format::Yaml] {
            if let Err(defects) = parse("f", &bytes, format) {
                proptest::prop_assert!(!defects.is_empty());
            }
        }
    }
}
