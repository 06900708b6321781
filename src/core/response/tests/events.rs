//! Streams of events: what is dropped, what is answered in its place, and that nothing is held back.

use super::*;

const PROGRESS: &str = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#;
const REQUEST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#;

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// The stream in one chunk, in two and byte by byte, which must come to the same.
fn both(job: &Job, stream: &[u8]) -> (String, Report) {
    let (out, report) = run(job.clone(), &SSE, &[stream]);
    let single: Vec<&[u8]> = stream.chunks(1).collect();
    let halves = (0..stream.len()).map(|cut| stream.split_at(cut)).map(|(a, b)| vec![a, b]);
    for chunks in halves.chain([single].into_iter().filter(|single| !single.is_empty())) {
        assert_eq!(run(job.clone(), &SSE, &chunks), (out.clone(), report.clone()), "{}", stream.escape_ascii());
    }
    (String::from_utf8(out).unwrap(), report)
}

/// The one event whose data is no comment.
fn only_data(out: &str) -> &str {
    let mut data = out.lines().filter_map(|line| line.strip_prefix("data: "));
    let first = data.next().unwrap_or_default();
    assert_eq!(data.next(), None, "{out}");
    first
}

#[test]
fn messages_of_the_server_pass_and_only_the_answer_is_the_answer() {
    let stream = [event(PROGRESS), event(REQUEST), ": ping\n\n".into(), event(LIST), event(PROGRESS)].concat();
    let (out, report) = both(&list(), stream.as_bytes());
    assert_eq!(out, stream.replace(LIST, SHOWN));
    assert_eq!((report.hidden, report.dropped, report.withheld), (1, 0, None));
}

#[test]
fn every_event_leaves_before_the_next_one_comes() {
    let Begun::Body(mut exchange) = Exchange::begin(list(), &SSE) else { panic!() };
    assert_eq!(exchange.chunk(event(PROGRESS).as_bytes(), false), Step::Same);
    assert_eq!(exchange.chunk(b": ping\n", false), Step::Same);
    assert_eq!(exchange.chunk(b"id: 1\n", false), Step::Bytes(vec![]));
    let rest = format!("data: {PROGRESS}\n\ndata: {{");
    assert_eq!(exchange.chunk(rest.as_bytes(), false), Step::Bytes(format!("id: 1\ndata: {PROGRESS}\n\n").into()));
    assert_eq!(exchange.held_bytes(), "data: {".len());
}

#[test]
fn an_event_that_may_be_the_answer_and_cannot_be_read_is_answered_once() {
    for (body, why) in BROKEN.iter().filter(|(body, _)| !body.trim().is_empty()) {
        let answer = json(body_or_null(body));
        let is_stray = *why == Withheld::Shape && answer["method"].is_null() && is_response(&answer);
        let is_other = answer["method"].is_string() && answer["result"].is_null();
        let (out, report) = both(&list(), [event(body), event(PROGRESS), event(LIST)].concat().as_bytes());
        if is_other {
            assert_eq!(out, [event(body), event(PROGRESS), event(SHOWN)].concat());
        } else if is_stray {
            assert_eq!(out, [": withheld\n\n".into(), event(PROGRESS), event(SHOWN)].concat(), "{body}");
            assert_eq!((report.dropped, report.withheld), (1, Some(Withheld::Shape)));
        } else {
            let (first, rest) = out.split_once("\n\n").unwrap();
            assert!(is_withheld(first.strip_prefix("data: ").unwrap(), *why), "{body}: {first}");
            assert_eq!(rest, format!("data: {PROGRESS}\n\n: withheld\n\n"), "{body}: the late answer is one too many");
            assert_eq!((report.withheld, report.came), (Some(*why), None));
        }
    }
}

fn body_or_null(body: &str) -> &str {
    if serde_json::from_str::<serde_json::Value>(body).is_ok() { body } else { "null" }
}

/// A sound answer, if to another request.
fn is_response(value: &serde_json::Value) -> bool {
    let sound = value["jsonrpc"] == "2.0" && value.get("id").is_some() && value["id"] != 1;
    sound && (value["result"].is_object() != value["error"].is_object())
}

#[test]
fn an_answer_to_something_else_is_dropped_and_the_request_not_left_waiting() {
    let stray = r#"{"jsonrpc":"2.0","id":"1","result":{"tools":[{"name":"rm"}]}}"#;
    let (out, report) = both(&list(), event(stray).as_bytes());
    let (dropped, answer) = out.split_once("\n\n").unwrap();
    assert_eq!(dropped, ": withheld");
    assert!(is_withheld(only_data(answer), Withheld::Shape), "{out}");
    assert_eq!((report.dropped, report.withheld), (1, Some(Withheld::Shape)));
    let (out, _) = both(&list(), format!("{}: left over", event(stray)).as_bytes());
    assert!(out.starts_with(": withheld\n\n: left over\n\ndata: {"), "{out}");
}

#[test]
fn a_second_answer_is_dropped() {
    let (out, report) = both(&list(), [event(LIST), event(LIST)].concat().as_bytes());
    assert_eq!(out, format!("{}: withheld\n\n", event(SHOWN)));
    assert_eq!((report.hidden, report.dropped, report.withheld), (1, 1, Some(Withheld::Shape)));
}

/// A server may end a stream before the answer and have the client come back for it (2025-11-25, transports).
#[test]
fn a_stream_that_ends_without_an_answer_stays_without_one() {
    let stream = format!("id: 1\nretry: 100\ndata: \n\n{}", event(PROGRESS));
    assert_eq!(both(&list(), stream.as_bytes()).0, stream);
    assert_eq!(both(&list(), b"").0, "");
}

#[test]
fn what_is_left_without_its_end_is_judged_like_any_event() {
    let data = |data: &str| format!("id: 1\ndata: {data}");
    for end in ["", "\n", "\r\n", "\r", "\nretry: 1"] {
        assert_eq!(both(&list(), format!("{}{end}", data(LIST)).as_bytes()).0, format!("{}{end}", data(SHOWN)));
    }
    let (out, report) = both(&list(), data(&LIST[..40]).as_bytes());
    assert!(out.ends_with("\n\n") && is_withheld(only_data(&out), Withheld::Json), "{out}");
    assert_eq!(report.withheld, Some(Withheld::Json));
    assert_eq!(both(&stream(), data(&LIST[..40]).as_bytes()).0, ": withheld\n\n");
}

#[test]
fn a_long_event_is_lost_and_the_stream_goes_on() {
    let size = event(LIST).len();
    let limits = |bytes_max| Limits { bytes_max, ..LIMITS };
    assert_eq!(both(&Job { limits: limits(size), ..list() }, event(LIST).as_bytes()).0, event(SHOWN));
    let stream_of = [event(LIST), event(PROGRESS)].concat();
    let (out, report) = both(&Job { limits: limits(size - 1), ..list() }, stream_of.as_bytes());
    let (answer, rest) = out.split_once("\n\n").unwrap();
    assert!(is_withheld(only_data(answer), Withheld::Size));
    assert_eq!((rest, report.withheld), (&*event(PROGRESS), Some(Withheld::Size)));
    let (out, _) = both(&Job { limits: limits(size - 1), ..stream() }, stream_of.as_bytes());
    assert_eq!(out, format!(": withheld\n\n{}", event(PROGRESS)));
}

#[test]
fn an_endless_event_is_answered_and_not_kept() {
    let Begun::Body(mut exchange) = Exchange::begin(list(), &SSE) else { panic!() };
    let mut out = Vec::new();
    for at in 0..100 {
        match exchange.chunk(&[b'x'; 65_536], false) {
            Step::Bytes(bytes) => out.extend(bytes),
            step @ (Step::Same | Step::Record(_)) => panic!("{step:?}"),
        }
        assert!(exchange.held_bytes() <= LIMITS.bytes_max);
        assert_eq!(out.is_empty(), at < 16, "the answer does not wait for the end");
    }
    assert!(is_withheld(only_data(std::str::from_utf8(&out).unwrap()), Withheld::Size));
}

#[test]
fn what_some_readers_would_read_otherwise_does_not_pass() {
    let smuggled = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"rm"}]}}"#;
    for prefix in [": \u{2028}data: ", ": \u{b}data: ", "id: 1\u{85}data: ", "Data: ", " data: ", "x: \u{1c}data:"] {
        let (out, report) = both(&stream(), format!("{prefix}{smuggled}\n\n").as_bytes());
        assert!(!out.contains("rm") && report.withheld == Some(Withheld::Events), "{prefix:?}: {out}");
    }
    // A lone carriage return ends a line, and two an event, for every reader that follows the standard.
    let (out, _) = both(&stream(), format!(": x\r\rdata: {smuggled}\r\r").as_bytes());
    assert_eq!(out, ": x\r\rdata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}}\r\r");
    let (out, _) = both(&stream(), format!("data: {}\r{}\n\n", &LIST[..20], &LIST[20..]).as_bytes());
    assert_eq!(out, format!(": withheld\r{}\n\n", &LIST[20..]), "the rest of the line is a field that nobody knows");
}

#[test]
fn events_of_other_types_are_no_answer() {
    let (out, report) = both(&list(), format!("event: endpoint\ndata: /x\n\n{}", event(LIST)).as_bytes());
    assert_eq!(out, format!("event: endpoint\n: withheld\n\n{}", event(SHOWN)));
    assert_eq!(report.dropped, 1);
}

#[test]
fn data_of_many_lines_is_one_text() {
    let split = LIST.replace(r#","result":"#, ",\ndata: \"result\":").replace(", {", ",\ndata: {");
    let stream = format!("data: {split}\nid: 3\n\n");
    let (out, report) = both(&list(), stream.as_bytes());
    let expected = SHOWN.replace(r#","result":"#, ", \"result\":");
    assert_eq!(out, format!("data: {expected}\nid: 3\n\n"));
    assert_eq!(report.sha256, Some(sha2::Sha256::digest(&expected).into()));
    let open = format!("data: {}\nid: 3\n\n", split.replace("rm", "echo2"));
    let policy = r#"{"version":"1","default":"allow","hide":["rm"]}"#;
    assert_eq!(
        both(&job(policy, Asked::Request(Method::ToolsList)), open.as_bytes()).0,
        open,
        "unchanged is untouched"
    );
}

/// On a GET stream anything may be answered: it replays what another stream lost.
#[test]
fn a_stream_filters_lists_by_their_shape_and_answers_nothing() {
    for id in ["1", "\"x\"", "77"] {
        let (sent, shown) =
            (LIST.replace(r#""id":1"#, &format!("\"id\":{id}")), SHOWN.replace(r#""id":1"#, &format!("\"id\":{id}")));
        let sent = [event(&sent), event(&sent), event(PROGRESS), event(REQUEST)].concat();
        assert_eq!(
            both(&stream(), sent.as_bytes()).0,
            [event(&shown), event(&shown), event(PROGRESS), event(REQUEST)].concat()
        );
    }
    for (body, _) in BROKEN.iter().filter(|(body, why)| !body.trim().is_empty() && *why == Withheld::Json) {
        let (out, report) = both(&stream(), format!("id: 9\n{}{}", event(body), event(PROGRESS)).as_bytes());
        assert_eq!(out, format!("id: 9\n: withheld\n\n{}", event(PROGRESS)), "{body}");
        assert_eq!((report.dropped, report.withheld), (1, Some(Withheld::Json)));
    }
}

#[test]
fn bytes_that_are_no_text_are_dropped() {
    for raw in
        [&b"data: {\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}\n\n"[..], b": \xff\n", b"id: \xff\n\n", b"data: \0\n\n"]
    {
        let (out, report) = both(&stream(), raw);
        assert_eq!((out.trim_end(), report.dropped), (": withheld", 1), "{}", raw.escape_ascii());
    }
    let (out, _) = both(&list(), format!("\u{feff}{}", event(LIST)).as_bytes());
    assert_eq!(out, format!("\u{feff}{}", event(SHOWN)));
    let (out, _) = both(&stream(), format!("\u{feff}\u{feff}{}", event(LIST)).as_bytes());
    assert_eq!(out, ": withheld\n\n");
}

#[test]
fn an_event_given_up_for_want_of_room_is_gone_and_the_stream_goes_on() {
    let Begun::Body(mut exchange) = Exchange::begin(list(), &SSE) else { panic!() };
    assert_eq!(exchange.give_up(), Step::Bytes(vec![]), "nothing is held");
    assert_eq!(exchange.chunk(&event(LIST).as_bytes()[..50], false), Step::Bytes(vec![]));
    let Step::Bytes(out) = exchange.give_up() else { panic!() };
    assert!(is_withheld(only_data(std::str::from_utf8(&out).unwrap()), Withheld::Size));
    assert_eq!(exchange.held_bytes(), 0);
    let rest = [&event(LIST)[50..], &event(PROGRESS)].concat();
    assert_eq!(exchange.chunk(rest.as_bytes(), true), Step::Bytes(event(PROGRESS).into()), "not the rest of the event");
    assert_eq!(exchange.chunk(b"more", false), Step::Bytes(vec![]), "after the end");
}
