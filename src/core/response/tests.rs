//! Nobody gets what was not judged, whatever the server sends and however it is cut.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    reason = "tests: an overflow or a bad cut is a failure"
)]

use sha2::Digest as _;

use super::*;
use crate::{document::Format, policy::Source};

/// A policy of default deny that shows `echo` and `add`.
const POLICY: &str = r#"{"version":"1","default":"deny","tools":{"echo":{},"add":{}}}"#;
const LIMITS: Limits = Limits { bytes_max: 1 << 20, depth_max: 64, nodes_max: 100_000, list_ttl_max_ms: 60_000 };

fn policy(text: &str) -> Arc<Policy> {
    let source = Source { id: "p", file: "p.json", bytes: text.as_bytes(), format: Format::Json };
    Arc::new(Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {}", defects[0])).policy)
}

fn job(text: &str, asked: Asked) -> Job {
    let id = (asked != Asked::Stream).then(|| "1".into());
    Job {
        policy: policy(text),
        who: Principal::of_grant("g"),
        server: "s".into(),
        asked,
        era: Era::Legacy,
        id,
        pins: None,
        key: MaskKey(Arc::new([7; 32])),
        hashes: true,
        limits: LIMITS,
    }
}

const JSON: Head<'_> = Head {
    status: 200,
    content_types: &[b"application/json"],
    content_encodings: &[],
    content_length: None,
    is_end: false,
};
const SSE: Head<'_> = Head { content_types: &[b"text/event-stream"], ..JSON };

/// What comes out for these chunks, and what is reported.
fn run(job: Job, head: &Head<'_>, chunks: &[&[u8]]) -> (Vec<u8>, Report) {
    let mut exchange = match Exchange::begin(job, head) {
        Begun::Pass => return (chunks.concat(), Report::default()),
        Begun::Body(exchange) => exchange,
        Begun::Withheld(text, report) => return (text.into_bytes(), *report),
    };
    let mut out = Vec::new();
    let mut left = chunks.len();
    for chunk in chunks {
        left = left.saturating_sub(1);
        match exchange.chunk(chunk, left == 0) {
            Step::Same => out.extend_from_slice(chunk),
            Step::Bytes(bytes) => out.extend(bytes),
            Step::Record(sighting) => panic!("{sighting:?}"),
        }
    }
    assert_eq!(exchange.held_bytes(), 0, "held at the end");
    (out, exchange.report().clone())
}

fn text(job: Job, head: &Head<'_>, body: &str) -> (String, Report) {
    let (out, report) = run(job, head, &[body.as_bytes()]);
    (String::from_utf8(out).unwrap(), report)
}

fn list() -> Job {
    job(POLICY, Asked::Request(Method::ToolsList))
}

fn stream() -> Job {
    job(POLICY, Asked::Stream)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Whether the text is the answer that stands in the place of another one, with the request's id.
fn is_withheld(text: &str, why: Withheld) -> bool {
    let answer = json(text);
    let told = &answer["error"]["data"]["mcp-authz.dev/decision"];
    answer["id"] == 1
        && answer["error"]["code"] == -31502
        && told["decision"] == "withhold"
        && told["reason"] == why.name()
}

const LIST: &str =
    r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo"}, {"name":"rm"} ,{"name":"add"}],"x": 1}}"#;
const SHOWN: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo"} ,{"name":"add"}],"x": 1}}"#;

#[test]
fn a_list_loses_what_may_not_be_called() {
    let (out, report) = text(list(), &JSON, LIST);
    assert_eq!((out.as_str(), report.hidden, report.withheld), (SHOWN, 1, None));
    let bytes = LIST.len().try_into().unwrap();
    assert_eq!(report.came, Some(Came { kind: Kind::Ok, bytes, usage: vec![] }));
    assert_eq!(report.sha256, Some(sha2::Sha256::digest(SHOWN).into()), "of what leaves, not of what came");
    let sse = format!("event: message\nid: 7\ndata: {LIST}\n\n");
    let (out, other) = text(list(), &SSE, &sse);
    assert_eq!(out, format!("event: message\nid: 7\ndata: {SHOWN}\n\n"));
    assert_eq!((other.sha256, other.came), (report.sha256, report.came));
}

#[test]
fn heads_are_read_strictly() {
    let begin = |head: &Head<'_>| match Exchange::begin(list(), head) {
        Begun::Pass => "pass",
        Begun::Body(exchange) => match exchange.body {
            Body::Events(_) => "events",
            Body::Over => "over",
            Body::Whole(_) => "whole",
        },
        Begun::Withheld(text, report) => {
            let why = report.withheld.unwrap();
            assert!(is_withheld(&text, why), "{text}");
            why.name()
        }
    };
    let typed = |status, types: &[&[u8]]| begin(&Head { status, content_types: types, ..JSON });
    for json in ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/json ;charset=utf8"] {
        assert_eq!(typed(200, &[json.as_bytes()]), "whole", "{json}");
    }
    assert_eq!(typed(200, &[b"text/event-stream"]), "events");
    assert_eq!(typed(200, &[b"text/event-stream;charset=utf-8"]), "events");
    for odd in [
        "application/json, text/event-stream",
        "application/json; charset=utf-16",
        "application/json; x=text/event-stream",
        "application/jsonl",
        "text/event-stream; x=1",
        "text/plain",
        "text/plain; x=text/event-stream",
        "",
    ] {
        assert_eq!(typed(200, &[odd.as_bytes()]), "media_type", "{odd}");
    }
    assert_eq!(typed(200, &[]), "media_type");
    assert_eq!(typed(200, &[b"application/json", b"application/json"]), "media_type", "two lines");
    assert_eq!(typed(200, &[b"application/json\xff"]), "media_type");
    assert_eq!(typed(404, &[]), "whole");
    assert_eq!(typed(404, &[b"text/html; charset=iso-8859-1"]), "whole");
    assert_eq!(typed(404, &[b"text/html; charset=utf-16"]), "media_type");
    assert_eq!(typed(500, &[b"text/event-stream"]), "events");
    assert_eq!(typed(202, &[]), "whole", "nothing may come");
    assert_eq!((typed(204, &[b"application/json"]), typed(304, &[])), ("pass", "pass"));
    for (encodings, expected) in [
        (&[&b"gzip"[..]][..], "encoding"),
        (&[b"identity"], "whole"),
        (&[b"identity", b"br"], "encoding"),
        (&[b"identity, gzip"], "encoding"),
        (&[b""], "whole"),
    ] {
        assert_eq!(begin(&Head { content_encodings: encodings, ..JSON }), expected);
    }
    assert_eq!(begin(&Head { is_end: true, ..JSON }), "pass");
    assert_eq!(begin(&Head { content_length: Some(0), content_encodings: &[b"gzip"], ..JSON }), "pass");
    assert_eq!(begin(&Head { content_length: Some(1 << 20), ..JSON }), "whole");
    assert_eq!(begin(&Head { content_length: Some((1 << 20) + 1), ..JSON }), "size");
    assert_eq!(
        begin(&Head { content_length: Some(u64::MAX), ..SSE }),
        "events",
        "an endless stream is read event by event"
    );
}

#[test]
fn a_body_of_known_length_does_not_wait_for_the_end_of_the_stream() {
    let Begun::Body(mut exchange) = Exchange::begin(list(), &Head { content_length: Some(LIST.len() as u64), ..JSON })
    else {
        panic!()
    };
    let (a, b) = LIST.as_bytes().split_at(40);
    assert_eq!(exchange.chunk(a, false), Step::Bytes(vec![]));
    assert_eq!(exchange.held_bytes(), 40);
    assert_eq!(exchange.chunk(b, false), Step::Bytes(SHOWN.into()));
    assert_eq!(exchange.chunk(b"more", false), Step::Bytes(vec![]), "what comes after the end is dropped");
    assert_eq!(exchange.chunk(b"", true), Step::Same);
    assert_eq!(exchange.held_bytes(), 0);
}

#[test]
fn a_body_of_another_length_than_announced_is_withheld() {
    for length in [LIST.len() as u64 - 1, LIST.len() as u64 + 1] {
        for (a, b) in [(LIST, ""), (&LIST[..50], &LIST[50..])] {
            let head = Head { content_length: Some(length), ..JSON };
            let (out, report) = run(list(), &head, &[a.as_bytes(), b.as_bytes()]);
            assert!(is_withheld(std::str::from_utf8(&out).unwrap(), report.withheld.unwrap()));
            assert_eq!(report.came, None);
        }
    }
}

/// JSON bodies that must not pass, and why.
const BROKEN: &[(&str, Withheld)] = &[
    ("", Withheld::Json),
    (" ", Withheld::Json),
    ("{", Withheld::Json),
    (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"rm"}]}"#, Withheld::Json),
    (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"rm"}]}}"#, Withheld::Json),
    (
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"rm"}]}}"#,
        Withheld::Json,
    ),
    ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", Withheld::Json),
    ("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\0\":1}}", Withheld::Json),
    (r#"{"jsonrpc":"2.0","id":1,"result":{"a\u0000":1}}"#, Withheld::Json),
    (r#"{"jsonrpc":"2.0","id":1,"result":{"a":"\ud800"}}"#, Withheld::Json),
    (r#"{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}"#, Withheld::Json),
    (r#"[{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}]"#, Withheld::Shape),
    ("[]", Withheld::Shape),
    ("null", Withheld::Shape),
    (r#"{"tools":[{"name":"rm"}]}"#, Withheld::Shape),
    (r#"{"id":1,"result":{}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"1.0","id":1,"result":{}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":1,"result":[{"name":"rm"}]}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{"tools":[]}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":1,"result":{},"Result":{"tools":[{"name":"rm"}]}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":1,"error":"rm"}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":"1","result":{"tools":[]}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[]}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":1.0,"result":{"tools":[]}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":null,"result":{"tools":[]}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","result":{"tools":[]}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#, Withheld::Shape),
    (r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#, Withheld::Shape),
];

#[test]
fn a_list_that_is_none_is_withheld() {
    for result in [r#"{"Tools":[{"name":"rm"}]}"#, r#"{"tools":{"0":{"name":"rm"}}}"#, r#"{"tools":"rm"}"#] {
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{result}}}");
        let (out, report) = text(list(), &JSON, &body);
        assert!(is_withheld(&out, Withheld::Shape), "{out}");
        assert_eq!(report.came.map(|came| came.kind), Some(Kind::Ok), "the server did what it was asked");
    }
}

#[test]
fn a_broken_body_is_withheld_readably() {
    for (body, why) in BROKEN {
        let (out, report) = text(list(), &JSON, body);
        assert!(is_withheld(&out, *why), "{body}: {out}");
        assert_eq!((report.withheld, report.came), (Some(*why), None), "{body}");
        assert_eq!(report.sha256, Some(sha2::Sha256::digest(&out).into()));
    }
    let (out, report) = run(list(), &JSON, &[b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":\"\xff\"}}"]);
    assert!(is_withheld(&String::from_utf8(out).unwrap(), Withheld::Json) && report.withheld == Some(Withheld::Json));
}

#[test]
fn limits_hold_at_the_limit_and_one_above() {
    let with = |limits| Job { limits, ..list() };
    let bytes = LIST.len();
    assert_eq!(text(with(Limits { bytes_max: bytes, ..LIMITS }), &JSON, LIST).0, SHOWN);
    assert!(is_withheld(&text(with(Limits { bytes_max: bytes - 1, ..LIMITS }), &JSON, LIST).0, Withheld::Size));
    assert_eq!(text(with(Limits { depth_max: 4, ..LIMITS }), &JSON, LIST).0, SHOWN);
    assert!(is_withheld(&text(with(Limits { depth_max: 3, ..LIMITS }), &JSON, LIST).0, Withheld::Size));
    assert_eq!(text(with(Limits { nodes_max: 12, ..LIMITS }), &JSON, LIST).0, SHOWN);
    assert!(is_withheld(&text(with(Limits { nodes_max: 11, ..LIMITS }), &JSON, LIST).0, Withheld::Size));
}

#[test]
fn an_endless_body_is_not_kept() {
    let Begun::Body(mut exchange) = Exchange::begin(list(), &JSON) else { panic!() };
    let mut out = Vec::new();
    for _ in 0..100 {
        match exchange.chunk(&[b' '; 65_536], false) {
            Step::Bytes(bytes) => out.extend(bytes),
            step @ (Step::Same | Step::Record(_)) => panic!("{step:?}"),
        }
        assert!(exchange.held_bytes() <= LIMITS.bytes_max);
    }
    assert!(is_withheld(std::str::from_utf8(&out).unwrap(), Withheld::Size));
    assert_eq!(exchange.held_bytes(), 0);
}

#[test]
fn what_is_given_up_for_want_of_room_is_answered() {
    let Begun::Body(mut exchange) = Exchange::begin(list(), &JSON) else { panic!() };
    assert_eq!(exchange.chunk(b"{\"jsonrpc\"", false), Step::Bytes(vec![]));
    let Step::Bytes(out) = exchange.give_up() else { panic!() };
    assert!(is_withheld(std::str::from_utf8(&out).unwrap(), Withheld::Size));
    assert_eq!((exchange.give_up(), exchange.chunk(b":1}", true)), (Step::Bytes(vec![]), Step::Bytes(vec![])));
}

#[test]
fn an_http_error_keeps_its_own_shape() {
    let error = |body: &str| text(list(), &Head { status: 400, ..JSON }, body);
    let own = include_str!("../../../tests/response/recorded/ts1-400.json");
    let (out, report) = error(own);
    assert_eq!((out.as_str(), report.came.map(|came| came.kind)), (own, Some(Kind::ServerError)));
    for body in [r#"{"detail":"Not Found"}"#, "[]", "\"gone\"", ""] {
        assert_eq!(error(body), (body.to_owned(), Report { bytes: body.len() as u64, ..Report::default() }));
    }
    assert_eq!(error(LIST).0, SHOWN, "a list is one under any status");
    for odd in [LIST.replace("\"id\"", "\"kd\""), LIST.replace("\"result\"", "\"Result\""), format!("[{LIST}]")] {
        assert!(is_withheld(&error(&odd).0, Withheld::Shape), "{odd}");
    }
    assert!(is_withheld(&error("{").0, Withheld::Json));
    let page = Head { status: 502, content_types: &[b"text/html"], ..JSON };
    assert_eq!(text(list(), &page, "<p>é</p>").0, "<p>é</p>");
    for body in [&b"\xff"[..], b"{\0}\0"] {
        let out = String::from_utf8(run(list(), &page, &[body]).0).unwrap();
        assert!(is_withheld(&out, Withheld::MediaType), "{out}");
    }
    let accepted = Head { status: 202, content_types: &[], ..JSON };
    assert_eq!(text(list(), &accepted, "").0, "");
    assert!(is_withheld(&text(list(), &accepted, LIST).0, Withheld::MediaType));
}

/// The id as the server writes it is the request's if it has its type and value.
#[test]
fn ids_are_compared_by_type_and_value() {
    for (asked, sent, is_same) in [
        ("1", "1", true),
        ("1", "\"1\"", false),
        ("\"1\"", "1", false),
        ("\"a\"", r#""\u0061""#, true),
        (r#""\u0061\/""#, "\"a/\"", true),
        ("\"a\"", "\"A\"", false),
        ("1", "1e0", false),
        ("-1", "-1", true),
        ("9007199254740992", "9007199254740993", false),
    ] {
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{sent},\"result\":{{}}}}");
        let (out, report) = text(Job { id: Some(asked.into()), ..list() }, &JSON, &body);
        assert_eq!((out == body, report.came.is_some()), (is_same, is_same), "{asked} {sent}");
    }
}

#[test]
fn kinds_of_answers_are_told_apart() {
    let kind = |asked, rest: &str| {
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,{rest}}}");
        text(job(POLICY, asked), &JSON, &body).1.came.map(|came| came.kind)
    };
    let call = || Asked::Call("echo".into());
    assert_eq!(kind(call(), r#""result":{"content":[]}"#), Some(Kind::Ok));
    assert_eq!(kind(call(), r#""result":{"isError":true}"#), Some(Kind::ToolError));
    assert_eq!(kind(call(), r#""result":{"isError":false}"#), Some(Kind::Ok));
    assert_eq!(kind(call(), r#""result":{"isError":"true"}"#), Some(Kind::Ok));
    assert_eq!(kind(Asked::Request(Method::Ping), r#""result":{"isError":true}"#), Some(Kind::Ok));
    for (code, expected) in [
        ("-32700", Kind::ProtocolError),
        ("-32600", Kind::ProtocolError),
        ("-32601", Kind::ProtocolError),
        ("-32602", Kind::ProtocolError),
        ("-32603", Kind::ServerError),
        ("-32602.0", Kind::ServerError),
        ("\"-32602\"", Kind::ServerError),
    ] {
        assert_eq!(kind(call(), &format!(r#""error":{{"code":{code},"message":"m"}}"#)), Some(expected), "{code}");
    }
}

/// Where nothing can be changed every byte passes at once, read or not.
#[test]
fn what_is_only_recorded_passes_at_once() {
    let call = || job(POLICY, Asked::Call("echo".into()));
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
    let Begun::Body(mut exchange) = Exchange::begin(call(), &JSON) else { panic!() };
    let (a, b) = answer.as_bytes().split_at(9);
    assert_eq!((exchange.chunk(a, false), exchange.chunk(b, true)), (Step::Same, Step::Same));
    assert_eq!(exchange.report().sha256, Some(sha2::Sha256::digest(answer).into()));
    for (body, why) in BROKEN {
        let (out, report) = text(call(), &JSON, body);
        assert_eq!(out, *body);
        assert_eq!((report.withheld, report.sha256, report.came), (None, None, None), "{body}");
        assert_eq!(report.unread, Some(*why), "{body}");
    }
    let long = " ".repeat(LIMITS.bytes_max + 1);
    let (out, report) = text(call(), &JSON, &long);
    assert_eq!((out == long, report.unread, report.sha256), (true, Some(Withheld::Size), None));
    let (out, report) = text(call(), &SSE, &format!("data: {long}\n\ndata: {answer}\n\n"));
    assert!(out.ends_with("\n\n") && out.len() == long.len() + answer.len() + 16);
    assert_eq!((report.unread, report.came.map(|came| came.kind)), (Some(Withheld::Size), Some(Kind::Ok)));
    for head in [Head { content_encodings: &[b"gzip"], ..JSON }, Head { content_types: &[b"text/plain"], ..JSON }] {
        assert!(matches!(Exchange::begin(call(), &head), Begun::Pass));
    }
    let open = r#"{"version":"1","default":"allow"}"#;
    assert!(matches!(Exchange::begin(job(open, Asked::Stream), &SSE), Begun::Pass), "nobody asked for what comes");
    let (out, report) = text(job(open, Asked::Request(Method::ToolsList)), &JSON, LIST);
    assert_eq!((out.as_str(), report.came.map(|came| came.kind)), (LIST, Some(Kind::Ok)));
}

mod events;
mod lists;
mod pinned;
mod recorded;
mod rules;
