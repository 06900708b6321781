//! A list that shows what the pins do not know waits for the store.

use super::*;
use crate::pins::{Book, Bounds, OnChange, Pins, Rules, Sighting, Trust};

fn book(pins: &Arc<Pins>, on_change: OnChange) -> View {
    Arc::new(Book::new(Arc::clone(pins), Rules { trust: Trust::FirstUse, on_change }, Bounds::default()))
}

fn pinned(pins: &Arc<Pins>, on_change: OnChange, asked: Asked) -> Job {
    Job { pins: Some(book(pins, on_change)), ..job(POLICY, asked) }
}

fn begin(job: Job, head: &Head<'_>) -> Box<Exchange> {
    match Exchange::begin(job, head) {
        Begun::Body(exchange) => exchange,
        begun @ (Begun::Pass | Begun::Withheld(..)) => panic!("{begun:?}"),
    }
}

fn sighting(step: Step) -> Sighting {
    match step {
        Step::Record(sighting) => sighting,
        step @ (Step::Same | Step::Bytes(_)) => panic!("{step:?}"),
    }
}

/// What a store makes of a sighting.
fn noted(pins: &Arc<Pins>, sighting: &Sighting) -> Arc<Pins> {
    let mut next = (**pins).clone();
    next.note(sighting, Trust::FirstUse, &Bounds::default(), 1);
    Arc::new(next)
}

#[test]
fn a_list_waits_for_the_store_and_teaches_it_what_the_policy_hides_too() {
    let none = Arc::new(Pins::default());
    for (head, before, after) in [(JSON, "", ""), (SSE, "id: 1\ndata: ", "\n\n")] {
        let mut exchange = begin(pinned(&none, OnChange::Hide, Asked::Request(Method::ToolsList)), &head);
        let body = format!("{before}{LIST}{after}");
        let told = sighting(exchange.chunk(body.as_bytes(), true));
        let names: Vec<&str> = told.seen.iter().map(|seen| &*seen.name).collect();
        assert_eq!((names, told.is_last_page), (vec!["echo", "rm", "add"], true));
        assert!(exchange.held_bytes() >= LIST.len() && exchange.report().hidden == 0);
        let pins = noted(&none, &told);
        assert_eq!(
            exchange.recorded(Some(book(&pins, OnChange::Hide))),
            Step::Bytes(format!("{before}{SHOWN}{after}").into())
        );
        let report = exchange.report();
        assert_eq!((report.hidden, report.unapproved, report.withheld, exchange.held_bytes()), (1, 0, None, 0));
        // The second time nothing is news.
        let changed = LIST.replace("\"add\"", "\"add\",\"description\":\"x\"");
        assert_eq!(text(pinned(&pins, OnChange::Hide, Asked::Request(Method::ToolsList)), &JSON, LIST).0, SHOWN);
        let mut exchange = begin(pinned(&pins, OnChange::Hide, Asked::Request(Method::ToolsList)), &JSON);
        let told = sighting(exchange.chunk(changed.as_bytes(), true));
        let pins = noted(&pins, &told);
        let Step::Bytes(out) = exchange.recorded(Some(book(&pins, OnChange::Hide))) else { panic!() };
        assert_eq!(json(std::str::from_utf8(&out).unwrap())["result"]["tools"], serde_json::json!([{"name": "echo"}]));
        assert_eq!((exchange.report().hidden, exchange.report().unapproved), (1, 1));
        let (out, report) = text(pinned(&pins, OnChange::Report, Asked::Request(Method::ToolsList)), &JSON, &changed);
        assert!(out.contains("description"));
        assert_eq!((report.unapproved, report.reported), (0, 1));
    }
}

#[test]
fn without_the_store_the_list_is_withheld_and_nothing_else() {
    let none = Arc::new(Pins::default());
    let mut exchange = begin(pinned(&none, OnChange::Hide, Asked::Request(Method::ToolsList)), &JSON);
    sighting(exchange.chunk(LIST.as_bytes(), true));
    let Step::Bytes(out) = exchange.recorded(None) else { panic!() };
    assert!(is_withheld(std::str::from_utf8(&out).unwrap(), Withheld::Pins));
    assert_eq!(exchange.recorded(Some(book(&none, OnChange::Hide))), Step::Bytes(vec![]), "once");

    let progress = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n";
    let body = format!("{progress}id: 1\ndata: {LIST}\n\n{progress}");
    for goes_on in [false, true] {
        let mut exchange = begin(pinned(&none, OnChange::Hide, Asked::Request(Method::ToolsList)), &SSE);
        sighting(exchange.chunk(body.as_bytes(), false));
        let step = if goes_on { exchange.chunk(b"", true) } else { exchange.recorded(None) };
        let Step::Bytes(out) = step else { panic!() };
        let out = String::from_utf8(out).unwrap();
        let answer = out.strip_prefix(progress).and_then(|rest| rest.strip_suffix(progress)).unwrap();
        assert!(is_withheld(answer.trim_end().strip_prefix("id: 1\ndata: ").unwrap(), Withheld::Pins), "{out}");
    }
}

/// The store may keep less than it was shown: what it does not know then is hidden, not waited for again.
#[test]
fn what_is_still_not_known_is_hidden() {
    let none = Arc::new(Pins::default());
    let mut exchange = begin(pinned(&none, OnChange::Hide, Asked::Request(Method::ToolsList)), &JSON);
    sighting(exchange.chunk(LIST.as_bytes(), true));
    let Step::Bytes(out) = exchange.recorded(Some(book(&none, OnChange::Hide))) else { panic!() };
    assert_eq!(json(std::str::from_utf8(&out).unwrap())["result"]["tools"], serde_json::json!([]));
    assert_eq!((exchange.report().hidden, exchange.report().unapproved), (1, 2));
}

#[test]
fn a_stream_with_two_lists_waits_twice() {
    let none = Arc::new(Pins::default());
    let mut exchange = begin(pinned(&none, OnChange::Hide, Asked::Stream), &SSE);
    let other = LIST.replace("echo", "echo2");
    let first = sighting(exchange.chunk(format!("data: {LIST}\n\ndata: {other}\n\n").as_bytes(), false));
    let pins = noted(&none, &first);
    let second = sighting(exchange.recorded(Some(book(&pins, OnChange::Hide))));
    assert_eq!(second.seen.iter().map(|seen| &*seen.name).collect::<Vec<_>>(), ["echo2"]);
    let Step::Bytes(out) = exchange.recorded(None) else { panic!() };
    assert_eq!(String::from_utf8(out).unwrap(), format!("data: {SHOWN}\n\n: withheld\n\n"));
}

#[test]
fn an_answer_to_another_request_teaches_nothing() {
    let none = Arc::new(Pins::default());
    let (out, report) = text(pinned(&none, OnChange::Hide, Asked::Request(Method::PromptsList)), &JSON, LIST);
    assert_eq!(json(&out)["result"]["tools"], serde_json::json!([]));
    assert_eq!((report.hidden, report.unapproved), (1, 2));
}
