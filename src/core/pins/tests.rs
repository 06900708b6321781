use proptest::prelude::*;

use super::*;

const T: u64 = 1_700_000_000_000;
const FIRST: Rules = Rules { trust: Trust::FirstUse, on_change: OnChange::Hide };
const PINNED: Rules = Rules { trust: Trust::Pinned, on_change: OnChange::Hide };

fn tool(name: &str, description: &str) -> String {
    format!(r#"{{"name":"{name}","description":"{description}","inputSchema":{{"type":"object"}}}}"#)
}

fn standing(book: &Book, name: &str, text: &str) -> Standing {
    let document = Document::parse(text.as_bytes(), Limits { bytes_max: 16 << 20, ..Limits::default() }).unwrap();
    book.standing(name, document.root())
}

/// One list as the response phase handles it: what it records, and what each tool comes to then.
fn list(book: &mut Book, tools: &[(&str, &str)], is_last_page: bool) -> Vec<Standing> {
    let texts: Vec<(&str, String)> = tools.iter().map(|(name, text)| (*name, tool(name, text))).collect();
    let mut sighting = Sighting { seen: Vec::new(), is_last_page };
    for (name, text) in &texts {
        if let Standing::Record(observed) = standing(book, name, text) {
            sighting.seen.push(observed);
        }
    }
    let mut pins = Pins::clone(book.pins());
    pins.note(&sighting, book.rules.trust, &book.bounds, T);
    *book = Book::new(Arc::new(pins), book.rules, book.bounds);
    texts.iter().map(|(name, text)| standing(book, name, text)).collect()
}

fn book(rules: Rules) -> Book {
    Book::new(Arc::default(), rules, Bounds::default())
}

fn approve(book: &mut Book, name: &str, text: &str) -> Result<(), Refusal> {
    let text = tool(name, text);
    let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
    let mut pins = Pins::clone(book.pins());
    pins.approve(name, Digest::of(document.root()), &book.bounds)?;
    *book = Book::new(Arc::new(pins), book.rules, book.bounds);
    Ok(())
}

use Standing::{Approved, Hidden, Reported};

#[test]
fn first_use_trusts_one_complete_list_and_nothing_after_it() {
    let mut book = book(FIRST);
    assert!(book.may_be_called("a"), "nothing was listed yet");
    assert_eq!(list(&mut book, &[("a", "1")], false), [Approved]);
    assert!(book.expects_last_page());
    assert_eq!(list(&mut book, &[("b", "1")], true), [Approved], "the second page");
    assert!(!book.expects_last_page());
    assert_eq!(list(&mut book, &[("a", "1"), ("b", "1"), ("c", "1")], true), [Approved, Approved, Hidden]);
    assert!(book.may_be_called("a") && !book.may_be_called("c") && !book.may_be_called("never seen"));
}

#[test]
fn a_changed_tool_is_hidden_until_it_is_approved_or_back() {
    let mut book = book(FIRST);
    list(&mut book, &[("a", "1")], true);
    assert_eq!(list(&mut book, &[("a", "2")], true), [Hidden]);
    assert!(!book.may_be_called("a"));
    assert_eq!(standing(&book, "a", &tool("a", "2")), Hidden, "it is not recorded twice");
    assert_eq!(list(&mut book, &[("a", "1")], true), [Approved], "it is back");
    assert!(book.may_be_called("a"));
    list(&mut book, &[("a", "2")], true);
    assert_eq!(approve(&mut book, "a", "3"), Err(Refusal::Changed));
    assert_eq!(approve(&mut book, "b", "2"), Err(Refusal::Unknown));
    approve(&mut book, "a", "2").unwrap();
    assert_eq!(list(&mut book, &[("a", "2")], true), [Approved]);
    assert_eq!(approve(&mut book, "a", "2"), Err(Refusal::Unknown), "nothing waits any more");
    assert_eq!(list(&mut book, &[("a", "1")], true), [Hidden], "what was approved before is not approved for ever");
}

#[test]
fn pinned_trusts_nothing_by_itself() {
    let mut book = book(PINNED);
    assert!(!book.may_be_called("a"));
    assert_eq!(list(&mut book, &[("a", "1")], true), [Hidden]);
    approve(&mut book, "a", "1").unwrap();
    assert_eq!(list(&mut book, &[("a", "1")], true), [Approved]);
    assert!(book.may_be_called("a"));
    // A server that is set to `first_use` later has been listed already.
    book.rules = FIRST;
    assert_eq!(list(&mut book, &[("b", "1")], true), [Hidden]);
}

#[test]
fn report_shows_and_counts() {
    let mut book = book(Rules { trust: Trust::Pinned, on_change: OnChange::Report });
    assert_eq!(list(&mut book, &[("a", "1")], true), [Reported]);
    assert!(book.may_be_called("a") && book.may_be_called("x"));
}

#[test]
fn an_empty_list_completes_nothing() {
    let mut book = book(FIRST);
    list(&mut book, &[], true);
    assert!(!book.pins.is_sealed() && !book.expects_last_page());
    assert_eq!(list(&mut book, &[("a", "1")], true), [Approved]);
}

#[test]
fn two_elements_of_one_name_are_never_both_shown() {
    let mut book = book(FIRST);
    let shown = list(&mut book, &[("a", "1"), ("a", "2")], true);
    assert!(shown.iter().all(|one| *one != Approved), "{shown:?}");
    assert!(!book.may_be_called("a"));
    for _ in 0..3 {
        let shown = list(&mut book, &[("a", "1"), ("a", "2")], true);
        assert_ne!(shown[1], Approved, "the second was never approved");
    }
}

#[test]
fn spelling_is_no_change_and_every_member_counts() {
    let mut book = book(FIRST);
    list(&mut book, &[("a", "1")], true);
    let other = r#"{ "inputSchema": {"type":"object"}, "description": "\u0031", "name": "a" }"#;
    assert_eq!(standing(&book, "a", other), Approved);
    for changed in [
        r#"{"name":"a","description":"1","inputSchema":{"type":"object"},"_meta":{}}"#,
        r#"{"name":"a","description":"1","inputSchema":{"type":"object","x":1}}"#,
        r#"{"name":"a","description":"1\u200b","inputSchema":{"type":"object"}}"#,
        r#"{"name":"a","title":"x","description":"1","inputSchema":{"type":"object"}}"#,
        r#"{"name":"a","description":"1"}"#,
    ] {
        assert!(matches!(standing(&book, "a", changed), Standing::Record(_)), "{changed}");
    }
}

#[test]
fn the_number_of_tools_is_bounded() {
    let bounds = Bounds { tools_max: 2, ..Bounds::default() };
    let mut book = Book::new(Arc::default(), FIRST, bounds);
    assert_eq!(list(&mut book, &[("a", "1"), ("b", "1"), ("c", "1")], true), [Approved, Approved, Hidden]);
    assert_eq!(book.pins.tools().len(), 2);
    assert!(!book.may_be_called("c"));
    assert_eq!(list(&mut book, &[("a", "2"), ("c", "1")], true), [Hidden, Hidden], "a change is seen all the same");
}

#[test]
fn made_up_names_do_not_fill_the_store() {
    let bounds = Bounds { pending_max: 2, ..Bounds::default() };
    let mut book = Book::new(Arc::default(), FIRST, bounds);
    list(&mut book, &[("a", "1")], true);
    assert_eq!(list(&mut book, &[("b", "1"), ("c", "1"), ("d", "1")], true), [Hidden, Hidden, Hidden]);
    assert_eq!(book.pins.tools().len(), 3);
    assert_eq!(list(&mut book, &[("a", "2")], true), [Hidden], "a change of a known tool is no new name");
    assert_eq!(book.pins.pending().count(), 3);
}

#[test]
fn a_definition_has_a_greatest_length() {
    let at = tool("a", "").len() + 7;
    let bounds = Bounds { definition_bytes_max: at, ..Bounds::default() };
    let mut book = Book::new(Arc::default(), FIRST, bounds);
    assert_eq!(list(&mut book, &[("a", "7777777")], true), [Approved]);
    assert_eq!(list(&mut book, &[("a", "88888888")], true), [Hidden]);
    assert!(!book.may_be_called("a"), "that it changed is known");
    assert_eq!(approve(&mut book, "a", "88888888"), Err(Refusal::TooLong));
    assert_eq!(list(&mut book, &[("a", "7777777")], true), [Approved]);
    let mut pins = Pins::default();
    let seen = Observed { name: "n".repeat(NAME_BYTES_MAX).into(), digest: [1; 32], definition: "{}".into() };
    let longer = Observed { name: "n".repeat(NAME_BYTES_MAX + 1).into(), ..seen.clone() };
    let noted = pins.note(&Sighting { seen: vec![seen, longer], is_last_page: true }, Trust::FirstUse, &bounds, T);
    assert_eq!((noted.pinned, noted.left_out), (1, 1));
}

#[test]
fn all_definitions_together_have_a_greatest_length() {
    let each = tool("a", "1").len();
    let bounds = Bounds { bytes_max: 2 * each, ..Bounds::default() };
    let mut book = Book::new(Arc::default(), FIRST, bounds);
    assert_eq!(list(&mut book, &[("a", "1"), ("b", "1"), ("c", "1")], true), [Approved, Approved, Hidden]);
    assert_eq!(approve(&mut book, "c", "1"), Err(Refusal::Full));
    let mut pins = Pins::clone(book.pins());
    assert!(pins.forget("a") && !pins.forget("a"));
    book = Book::new(Arc::new(pins), FIRST, bounds);
    approve(&mut book, "c", "1").unwrap();
    // Of those that wait only so much is kept; the rest is known as another one.
    assert_eq!(list(&mut book, &[("x", "1"), ("y", "1"), ("z", "1")], true), [Hidden, Hidden, Hidden]);
    assert_eq!(approve(&mut book, "z", "1"), Err(Refusal::TooLong));
}

#[test]
fn everything_is_approved_as_it_was_shown_or_not_at_all() {
    let mut book = book(PINNED);
    list(&mut book, &[("a", "1"), ("b", "1")], true);
    let shown = book.pins.pending_digest();
    list(&mut book, &[("a", "1"), ("b", "2")], true);
    let mut pins = Pins::clone(book.pins());
    assert_eq!(pins.approve_all(shown, &book.bounds), Err(Refusal::Changed));
    assert_eq!(pins.approve_all(pins.pending_digest(), &book.bounds), Ok(2));
    assert_eq!(pins.approve_all(pins.pending_digest(), &book.bounds), Err(Refusal::Unknown));
    assert_eq!(pins.pending().count(), 0);
}

#[test]
fn pins_read_back_and_damage_is_noticed() {
    let mut book = book(FIRST);
    list(&mut book, &[("a", "1"), ("b\\u202e", "é \\\" \\u200b")], true);
    list(&mut book, &[("a", "2"), ("new", "1")], true);
    let bytes = book.pins.encode();
    assert_eq!(Pins::decode(&bytes).unwrap(), **book.pins());
    assert_eq!(Pins::decode(&Pins::default().encode()).unwrap(), Pins::default());
    for cut in 0..bytes.len() {
        assert!(Pins::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(Pins::decode(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn what_has_a_good_sum_and_no_sense_is_not_believed() {
    use sha2::{Digest as _, Sha256};
    let image = |content: &str| {
        let sum = super::Digest(Sha256::digest(content.as_bytes()).into());
        format!("mcp-authz pins 1 {}\n{content}", sum.to_string().strip_prefix("sha256:").unwrap()).into_bytes()
    };
    assert!(Pins::decode(&image(r#"{"sealed":true,"tools":[]}"#)).is_ok());
    let definition = format!(r#"{{"digest":"{}","seen_ms":1,"definition":"{{}}"}}"#, "ab".repeat(32));
    assert!(
        Pins::decode(&image(&format!(r#"{{"sealed":true,"tools":[{{"name":"a","pending":{definition}}}]}}"#))).is_ok()
    );
    for bad in [
        String::new(),
        "[]".into(),
        r#"{"tools":[]}"#.into(),
        r#"{"sealed":true}"#.into(),
        r#"{"sealed":1,"tools":[]}"#.into(),
        r#"{"sealed":true,"tools":[{"name":"a"}]}"#.into(),
        format!(r#"{{"sealed":true,"tools":[{{"pending":{definition}}}]}}"#),
        format!(r#"{{"sealed":true,"tools":[{{"name":"a","approved":null,"pending":{definition}}}]}}"#),
        format!(
            r#"{{"sealed":true,"tools":[{{"name":"a","pending":{definition}}},{{"name":"a","pending":{definition}}}]}}"#
        ),
        r#"{"sealed":true,"tools":[{"name":"a","pending":{"digest":"ab","seen_ms":1,"definition":"{}"}}]}"#.into(),
    ] {
        assert_eq!(Pins::decode(&image(&bad)), Err(Corrupt::Content), "{bad}");
    }
}

fn changed(old: &str, new: &str) -> Vec<(String, Option<String>, Option<String>)> {
    let read = |text: &'static str| Document::parse(text.as_bytes(), Limits::default()).unwrap();
    let (old, new) = (read(old.to_owned().leak()), read(new.to_owned().leak()));
    changes(Some(old.root()), new.root()).into_iter().map(|one| (one.pointer, one.old, one.new)).collect()
}

#[test]
fn changes_are_told_member_by_member() {
    let old = r#"{"a":1,"b":{"c":[1,2],"d":"x"},"gone":true}"#;
    let new = r#"{"b":{"d":"y","c":[1.0,3,4]},"a":1,"n/w":null}"#;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        changed(old, new),
        [
            ("/b/d".into(), some("\"x\""), some("\"y\"")),
            ("/b/c/1".into(), some("2"), some("3")),
            ("/b/c/2".into(), None, some("4")),
            ("/n~1w".into(), None, some("null")),
            ("/gone".into(), some("true"), None),
        ]
    );
    assert_eq!(changed(old, r#"{"gone":true,"b":{"d":"\u0078","c":[1,2e0]},"a":1}"#), []);
}

#[test]
fn no_more_changes_are_told_than_anybody_reads() {
    let list = |n: usize| format!("[{}]", vec!["1"; n].join(","));
    assert_eq!(changed("[]", &list(CHANGES_MAX)).len(), CHANGES_MAX);
    assert_eq!(changed("[]", &list(CHANGES_MAX + 1)).len(), CHANGES_MAX);
}

proptest! {
    /// Whatever servers show in whatever order: what is shown was approved, and a sighting twice is no news.
    #[test]
    fn only_what_was_approved_is_shown(
        pages in proptest::collection::vec(
            (proptest::collection::vec(("[a-d]", "[0-2]"), 0..5), any::<bool>(), any::<bool>()), 1..12),
    ) {
        let bounds = Bounds { tools_max: 3, pending_max: 2, ..Bounds::default() };
        let mut book = Book::new(Arc::default(), FIRST, bounds);
        // What the first list showed, and what was approved: name to description.
        let mut trusted = std::collections::BTreeMap::new();
        for (tools, is_last_page, approves) in &pages {
            let was_sealed = book.pins.is_sealed();
            let page: Vec<(&str, &str)> = tools.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let shown = list(&mut book, &page, *is_last_page);
            for ((name, text), standing) in page.iter().zip(shown) {
                if !was_sealed {
                    trusted.entry((*name).to_owned()).or_insert((*text).to_owned());
                }
                if standing == Approved {
                    prop_assert_eq!(trusted.get(*name).map(String::as_str), Some(*text));
                }
            }
            if *approves && book.pins.pending().next().is_some() {
                let mut pins = Pins::clone(book.pins());
                for (name, _, definition) in book.pins.pending() {
                    let document = definition.document().unwrap();
                    let text = document.root().get("description").unwrap().as_str().unwrap().into_owned();
                    trusted.insert(name.to_owned(), text);
                }
                pins.approve_all(pins.pending_digest(), &bounds).unwrap();
                book = Book::new(Arc::new(pins), FIRST, bounds);
            }
            prop_assert_eq!(&Pins::decode(&book.pins.encode()).unwrap(), &**book.pins());
        }
    }
}
