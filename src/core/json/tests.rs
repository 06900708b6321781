use super::*;
use proptest::prelude::*;

#[track_caller]
fn defect(text: impl AsRef<[u8]>) -> Option<JsonDefect> {
    Document::parse(text.as_ref(), Limits::default()).err().map(|error| error.defect)
}

#[test]
fn sound_texts_are_read() {
    for text in [
        "{}",
        " [] ",
        "0",
        "-0",
        "1.5e-3",
        "1E+2",
        "\"\"",
        "null",
        "true",
        "false",
        "{\"a\":[1,{\"b\":null}],\"c\":\"\\u00e9\"}\n",
        "{\"\u{a0}\u{e9}\":\"\u{7f}\u{9f}\"}",
    ] {
        assert_eq!(defect(text), None, "{text}");
    }
}

#[test]
fn texts_that_two_parsers_read_differently_are_refused() {
    use JsonDefect::*;
    for (text, expected) in [
        (&b"{\"a\":1,\"a\":2}"[..], DuplicateKey),
        (b"{\"a\":1,\"\\u0061\":2}", DuplicateKey),
        (b"{\"x\":{\"y\":[0,1,2,{\"k\":1,\"k\":1}]}}", DuplicateKey),
        (b"{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,\"a\":10}", DuplicateKey),
        (b"{\"a\\u0000\":1}", Control),
        (b"{\"a\\n\" :1}", Control),
        (b"{\"a\x7f\":1}", Control),
        (b"{\"a\xc2\x80\":1}", Control),
        (b"{\"a\xc2\x9f\":1}", Control),
        (b"{\"\xc3\xa9\":\"\xc2\xa0\",\"\x7f\":1}", Control),
        (b"{}{}", Syntax),
        (b"{} x", Syntax),
        (b"\xef\xbb\xbf{}", Utf8),
        (b"{\"a\":\"\xff\"}", Utf8),
        (b"\"\xc0\xaf\"", Utf8),
        (b"\"\\ud800\"", Utf8),
        (b"\"\\udc00\"", Utf8),
        (b"\"\\ud800\\u0041\"", Utf8),
        (b"{\0\"\0a\0", Syntax),
        (b"[1,]", Syntax),
        (b"{\"a\":1,}", Syntax),
        (b"{,}", Syntax),
        (b"[,1]", Syntax),
        (b"/**/{}", Syntax),
        (b"NaN", Syntax),
        (b"-Infinity", Syntax),
        (b"01", Syntax),
        (b"+1", Syntax),
        (b"0x10", Syntax),
        (b"1.", Truncated),
        (b".5", Syntax),
        (b"1e", Truncated),
        (b"'a'", Syntax),
        (b"\"a\nb\"", Syntax),
        (b"\"\\x41\"", Syntax),
        (b"{\"a\"", Truncated),
        (b"{\"a\":", Truncated),
        (b"[1", Truncated),
        (b"\"abc", Truncated),
        (b"tru", Truncated),
        (b"truE", Syntax),
        (b"", Empty),
        (b" \n", Empty),
        (b"{]", Syntax),
        (b"[}", Syntax),
        (b"[1 2]", Syntax),
        (b"{\"a\" 1}", Syntax),
        (b"\x0b{}", Syntax),
    ] {
        assert_eq!(defect(text), Some(expected), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn control_characters_stay_legal_in_values() {
    let text = br#"{"a":"x\u0000\n","b":["\u007f"]}"#;
    let document = Document::parse(text, Limits::default()).unwrap();
    assert_eq!(document.root().get("a").unwrap().as_str().unwrap(), "x\0\n");
}

#[test]
fn each_limit_holds_at_it_and_one_above() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert_eq!(defect(nested(64)), None);
    assert_eq!(defect(nested(65)), Some(JsonDefect::Depth));
    assert_eq!(defect(nested(100_000)), Some(JsonDefect::Depth));
    let limits = Limits { nodes_max: 4, bytes_max: 16, ..Limits::default() };
    let parse = |text: &str| Document::parse(text.as_bytes(), limits).err().map(|error| error.defect);
    assert_eq!(parse("[1,2,3]"), None);
    assert_eq!(parse("[1,2,3,4]"), Some(JsonDefect::Nodes));
    assert_eq!(parse("\"12345678901234\""), None);
    assert_eq!(parse("\"123456789012345\""), Some(JsonDefect::Size));
}

#[test]
fn values_keep_their_exact_text() {
    let text = r#"{"id":"a\u0062","n":-0.10e+5,"o":{"k":[1, 2]},"s":"\ud83d\ude00\/"}"#;
    let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
    let root = document.root();
    assert_eq!(root.get("id").unwrap().source(), r#""a\u0062""#);
    assert_eq!(root.get("id").unwrap().as_str().unwrap(), "ab");
    assert_eq!(root.get("n").unwrap().number_text().unwrap(), "-0.10e+5");
    assert_eq!(root.get("o").unwrap().raw(), r#"{"k":[1, 2]}"#);
    assert_eq!(root.get("o").unwrap().get("k").unwrap().elements().map(Value::raw).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(root.get("s").unwrap().as_str().unwrap(), "\u{1f600}/");
    assert_eq!(root.members().map(|(key, _)| key.into_owned()).collect::<Vec<_>>(), ["id", "n", "o", "s"]);
    assert!(root.get("missing").is_none());
    assert!(root.get("n").unwrap().get("x").is_none());
}

fn tree() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(serde_json::Value::String),
    ];
    leaf.prop_recursive(5, 64, 12, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..12).prop_map(serde_json::Value::Array),
            prop::collection::btree_map("[a-zA-Zé\"\\\\/]{0,4}", inner, 0..12)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn same(ours: Value<'_>, theirs: &serde_json::Value) -> bool {
    match theirs {
        serde_json::Value::Null => ours.kind() == Kind::Null,
        serde_json::Value::Bool(b) => ours.as_bool() == Some(*b),
        serde_json::Value::Number(n) => ours.number_text() == Some(n.to_string().as_str()),
        serde_json::Value::String(s) => ours.as_str().is_some_and(|text| text == s.as_str()),
        serde_json::Value::Array(a) => ours.len() == a.len() && ours.elements().zip(a).all(|(x, y)| same(x, y)),
        serde_json::Value::Object(o) => {
            ours.kind() == Kind::Object
                && ours.len() == o.len()
                && o.iter().all(|(k, v)| ours.get(k).is_some_and(|x| same(x, v)))
        }
    }
}

proptest! {
    #[test]
    fn what_serde_json_writes_is_read_alike(value in tree()) {
        let text = value.to_string();
        let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
        prop_assert!(same(document.root(), &value));
    }

    #[test]
    fn whatever_we_accept_serde_json_accepts_alike(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\u0019aetrufalsn. -+E\n\xc3\xa9".to_vec()), 0..40)) {
        if let Ok(document) = Document::parse(&bytes, Limits::default()) {
            let theirs: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
            // serde_json refuses a number beyond f64, which we keep as text.
            match theirs {
                Ok(value) => if !value.to_string().contains(['.', 'e', 'E']) && !String::from_utf8_lossy(&bytes).contains(['.', 'e', 'E', '-']) { prop_assert!(same(document.root(), &value)) },
                Err(error) => prop_assert!(error.to_string().contains("out of range"), "{error}"),
            }
        }
    }

    #[test]
    fn a_string_ends_where_a_bytewise_scan_says(bytes in prop::collection::vec(prop::sample::select(vec![b'a', b'"', b'\\', 0x1f, 0x20, 0x21, 0x23, 0x7f, 0x80, 0xff, 0xa2, 0xdc]), 0..40)) {
        let slow = bytes.iter().position(|b| matches!(b, b'"' | b'\\') || *b < 0x20).unwrap_or(bytes.len());
        prop_assert_eq!(plain_prefix(&bytes), slow);
    }

    #[test]
    fn a_long_string_ends_where_a_bytewise_scan_says(
        plain in 0usize..200, odd in prop::sample::select(vec![b'"', b'\\', 0x00, 0x1f, 0x20, 0x21, 0x23, 0x7f, 0xa2, 0xdc]), rest in 0usize..80,
    ) {
        let bytes = [vec![b'a'; plain], vec![odd], vec![b'b'; rest]].concat();
        let slow = bytes.iter().position(|b| matches!(b, b'"' | b'\\') || *b < 0x20).unwrap_or(bytes.len());
        prop_assert_eq!(plain_prefix(&bytes), slow);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(Document::parse(&bytes, Limits::default()));
    }
}
