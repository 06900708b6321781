use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpResponseProperties, ResponseFlags,
};
use envoy_types::pb::google::protobuf::{Duration, Struct, UInt32Value, Value, value::Kind};

use super::{Kind as AnswerKind, *};

/// An entry as Envoy writes it for a call that was answered well; tests change what they are about.
fn entry() -> HttpAccessLogEntry {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = [("decision", text("allow")), ("settle", text("TOKEN")), ("n", Value::default())];
    let ours = Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() };
    let filter_metadata = [("envoy.filters.http.ext_authz".to_owned(), ours), ("other".to_owned(), Struct::default())];
    HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            metadata: Some(Metadata { filter_metadata: filter_metadata.into(), ..Metadata::default() }),
            time_to_first_upstream_tx_byte: Some(Duration::default()),
            time_to_last_upstream_tx_byte: Some(Duration::default()),
            time_to_first_upstream_rx_byte: Some(Duration::default()),
            response_flags: Some(ResponseFlags::default()),
            upstream_request_attempt_count: 1,
            upstream_wire_bytes_sent: 300,
            upstream_wire_bytes_received: 200,
            access_log_type: AccessLogType::DownstreamEnd.into(),
            ..AccessLogCommon::default()
        }),
        response: response(200, "via_upstream"),
        ..HttpAccessLogEntry::default()
    }
}

fn response(code: u32, details: &str) -> Option<HttpResponseProperties> {
    Some(HttpResponseProperties {
        response_code: Some(UInt32Value { value: code }),
        response_code_details: details.to_owned(),
        ..HttpResponseProperties::default()
    })
}

fn common(entry: &mut HttpAccessLogEntry) -> &mut AccessLogCommon {
    entry.common_properties.as_mut().unwrap()
}

fn flags(entry: &mut HttpAccessLogEntry) -> &mut ResponseFlags {
    common(entry).response_flags.as_mut().unwrap()
}

/// No byte of an answer, and Envoy's own in its place.
fn unanswered(entry: &mut HttpAccessLogEntry, code: u32) {
    common(entry).time_to_first_upstream_rx_byte = None;
    common(entry).upstream_wire_bytes_received = 0;
    entry.response = response(code, "made_by_envoy");
}

/// No byte to a server.
fn unsent(entry: &mut HttpAccessLogEntry) {
    unanswered(entry, 503);
    let common = common(entry);
    (common.time_to_first_upstream_tx_byte, common.time_to_last_upstream_tx_byte) = (None, None);
    common.upstream_wire_bytes_sent = 0;
}

fn read(change: impl FnOnce(&mut HttpAccessLogEntry)) -> Option<(Bytes, Seen)> {
    let mut entry = entry();
    change(&mut entry);
    seen(&LogEntry::decode(&entry.encode_to_vec()[..]).unwrap())
}

fn fate(change: impl FnOnce(&mut HttpAccessLogEntry)) -> Fate {
    let Some((_, Seen::Ended(facts))) = read(change) else { panic!("the entry settles") };
    facts.fate
}

#[test]
fn the_token_is_found_among_what_filters_left() {
    let (token, seen) = read(|_| {}).unwrap();
    assert_eq!(&token[..], b"TOKEN");
    assert_eq!(seen, Seen::Ended(Facts { fate: Fate::Answered(200), attempts: 1, came: None }));
    let without = |name: &'static str| {
        read(|entry| {
            let metadata = common(entry).metadata.as_mut().unwrap();
            metadata.filter_metadata.get_mut("envoy.filters.http.ext_authz").unwrap().fields.remove(name);
        })
    };
    assert!(without("decision").is_some());
    assert_eq!(without("settle"), None);
    assert_eq!(read(|entry| common(entry).metadata = None), None);
    assert_eq!(read(|entry| entry.common_properties = None), None);
}

#[test]
fn each_end_of_a_call_has_its_fate() {
    assert_eq!(fate(|entry| entry.response = response(500, "via_upstream")), Fate::Answered(500));
    assert_eq!(fate(|entry| entry.response = response(404, "via_upstream")), Fate::Answered(404));
    assert_eq!(fate(unsent), Fate::NotSent);
    let reset = |flag: fn(&mut ResponseFlags)| {
        fate(|entry| {
            unanswered(entry, 503);
            flag(flags(entry));
        })
    };
    assert_eq!(reset(|flags| flags.upstream_connection_termination = true), Fate::Reset);
    assert_eq!(reset(|flags| flags.upstream_remote_reset = true), Fate::Reset);
    assert_eq!(reset(|flags| flags.upstream_request_timeout = true), Fate::TimedOut);
    assert_eq!(reset(|flags| flags.stream_idle_timeout = true), Fate::TimedOut);
    assert_eq!(reset(|flags| flags.upstream_max_stream_duration_reached = true), Fate::TimedOut);
    assert_eq!(reset(|flags| flags.duration_timeout = true), Fate::TimedOut);
    assert_eq!(reset(|flags| flags.upstream_protocol_error = true), Fate::Unanswered);
    assert_eq!(reset(|_| {}), Fate::Unanswered);
}

#[test]
fn a_caller_that_left_explains_every_end_without_an_answer() {
    for flag in [
        (|flags| flags.downstream_connection_termination = true) as fn(&mut ResponseFlags),
        |flags| flags.downstream_remote_reset = true,
        |flags| flags.downstream_protocol_error = true,
    ] {
        let gone = fate(|entry| {
            unanswered(entry, 504);
            flags(entry).upstream_request_timeout = true;
            flag(flags(entry));
        });
        assert_eq!(gone, Fate::ClientGone);
    }
    assert_eq!(fate(|entry| unanswered(entry, 0)), Fate::ClientGone);
    assert_eq!(
        fate(|entry| {
            unanswered(entry, 0);
            entry.response = None;
        }),
        Fate::ClientGone
    );
    let cut_stream = fate(|entry| {
        flags(entry).downstream_connection_termination = true;
        entry.response = response(200, "downstream_remote_disconnect");
    });
    assert_eq!(cut_stream, Fate::Answered(200), "it had its answer");
}

#[test]
fn a_failure_is_the_servers_only_if_envoy_says_so() {
    let replaced = fate(|entry| {
        entry.response = response(502, "made_by_envoy");
        flags(entry).upstream_connection_termination = true;
    });
    assert_eq!(replaced, Fate::Unanswered);
    let odd = fate(|entry| entry.response = response(700, "via_upstream"));
    assert_eq!(odd, Fate::Unanswered);
}

/// Each trace of a byte, alone, is enough to doubt.
#[test]
fn one_trace_of_a_byte_is_enough_to_doubt() {
    for trace in [
        (|common| common.time_to_first_upstream_tx_byte = Some(Duration::default())) as fn(&mut AccessLogCommon),
        |common| common.time_to_last_upstream_tx_byte = Some(Duration::default()),
        |common| common.time_to_first_upstream_rx_byte = Some(Duration::default()),
        |common| common.upstream_wire_bytes_sent = 1,
        |common| common.upstream_wire_bytes_received = 1,
    ] {
        let doubted = fate(|entry| {
            unsent(entry);
            trace(common(entry));
        });
        assert_ne!(doubted, Fate::NotSent);
    }
    for attempts in [0, 1, 3] {
        let unsent = fate(|entry| {
            unsent(entry);
            common(entry).upstream_request_attempt_count = attempts;
        });
        assert_eq!(unsent, Fate::NotSent, "{attempts}");
    }
}

#[test]
fn only_the_end_of_a_request_ends_it() {
    let of = |log_type: AccessLogType, intermediate: bool| {
        let read = read(|entry| {
            common(entry).access_log_type = log_type.into();
            #[expect(deprecated, reason = "older versions of Envoy say it this way only")]
            let flag = &mut common(entry).intermediate_log_entry;
            *flag = intermediate;
        });
        read.map(|(_, seen)| matches!(seen, Seen::Ended(_)))
    };
    assert_eq!(of(AccessLogType::DownstreamEnd, false), Some(true));
    assert_eq!(of(AccessLogType::NotSet, false), Some(true), "an Envoy that does not say");
    assert_eq!(of(AccessLogType::DownstreamPeriodic, true), Some(false));
    assert_eq!(of(AccessLogType::DownstreamPeriodic, false), Some(false));
    assert_eq!(of(AccessLogType::NotSet, true), Some(false), "an older Envoy");
    for (log_type, intermediate) in [
        (AccessLogType::DownstreamStart, true),
        (AccessLogType::DownstreamStart, false),
        (AccessLogType::DownstreamEnd, true),
        (AccessLogType::UpstreamEnd, false),
        (AccessLogType::UpstreamPoolReady, false),
        (AccessLogType::UpstreamPeriodic, true),
    ] {
        assert_eq!(of(log_type, intermediate), None, "{log_type:?}");
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// What is read of these fields beside a sound token.
fn answer(fields: &[(&str, Value)]) -> Option<Came> {
    let said = Struct { fields: fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect() };
    let (token, seen) = read(|entry| {
        let metadata = common(entry).metadata.as_mut().unwrap();
        metadata.filter_metadata.insert("mcp_authz".to_owned(), said);
    })
    .unwrap();
    let Seen::Ended(facts) = seen else { panic!("the call has ended") };
    assert_eq!((&token[..], facts.fate, facts.attempts), (&b"TOKEN"[..], Fate::Answered(200), 1));
    facts.came
}

fn sound() -> [(&'static str, Value); 3] {
    [("kind", text("tool_error")), ("bytes", text("18446744073709551615")), ("usage", text("tokens=7,a.b:c-d_e=0"))]
}

#[test]
fn what_was_seen_of_an_answer_comes_back_as_it_left() {
    for kind in [AnswerKind::Ok, AnswerKind::ProtocolError, AnswerKind::ServerError, AnswerKind::ToolError] {
        for usage in
            [vec![], vec![(Arc::from("a"), 0)], vec![(Arc::from("a.b:c-d_e"), AMOUNT_MAX), (Arc::from("b"), 1)]]
        {
            let came = Came { kind, bytes: 12_345, usage };
            let sent = outcome_metadata(&came);
            let ours = Struct::decode(&sent.encode_to_vec()[..]).unwrap();
            let fields: Vec<(&str, Value)> = ours.fields.iter().map(|(name, value)| (&**name, value.clone())).collect();
            assert_eq!(answer(&fields), Some(came));
        }
    }
}

#[test]
fn a_doubt_about_one_field_is_a_doubt_about_all() {
    assert!(answer(&sound()).is_some());
    assert_eq!(answer(&sound()).unwrap().usage, [(Arc::from("tokens"), 7), (Arc::from("a.b:c-d_e"), 0)]);
    assert_eq!(answer(&[]), None);
    let with = |name: &str, value: Value| {
        let mut fields = sound().to_vec();
        fields.retain(|(known, _)| *known != name);
        fields.push((
            if name == "kind" {
                "kind"
            } else if name == "bytes" {
                "bytes"
            } else {
                "usage"
            },
            value,
        ));
        answer(&fields)
    };
    for kind in ["", "OK", "ok ", "tool_error\0", "error", "protocol-error"] {
        assert_eq!(with("kind", text(kind)), None, "{kind}");
    }
    for bytes in ["", "-1", "+1", " 1", "1.0", "1e3", "0x1", "18446744073709551616", "\u{661}"] {
        assert_eq!(with("bytes", text(bytes)), None, "{bytes}");
    }
    for usage in ["", ",", "a", "a=", "=1", "a=1,", ",a=1", "a=1,,b=2", "a=-1", "a=+1", "a=1,a=2", "a=4503599627370497"]
    {
        assert_eq!(with("usage", text(usage)), None, "{usage}");
    }
    let number = Value { kind: Some(Kind::NumberValue(7.0)) };
    for name in ["kind", "bytes", "usage"] {
        assert_eq!(with(name, number.clone()), None, "{name}");
        assert_eq!(with(name, Value::default()), None, "{name}");
    }
    for missing in [0, 1] {
        let mut fields = sound().to_vec();
        fields.remove(missing);
        assert_eq!(answer(&fields), None);
    }
}

#[test]
fn amounts_of_as_many_counters_as_a_call_has_limits_are_read() {
    let with = |count: usize| {
        let usage: Vec<String> = (0..count).map(|index| format!("c{index}=1")).collect();
        answer(&[("kind", text("ok")), ("bytes", text("1")), ("usage", text(&usage.join(",")))])
    };
    assert_eq!(with(USAGE_MAX).unwrap().usage.len(), 16);
    assert_eq!(with(USAGE_MAX + 1), None);
}

/// On the wire a field may come twice, and need not be text at all.
#[test]
fn no_bytes_in_place_of_an_answer_make_reading_panic() {
    use crate::envoy::wire::{Entry, Metadata};
    let ours = outcome_metadata(&Came { kind: AnswerKind::ProtocolError, bytes: 9, usage: vec![(Arc::from("a"), 1)] });
    let bytes = ours.encode_to_vec();
    let came_of = |value: Vec<u8>| {
        let entry = Entry { key: Bytes::from_static(b"mcp_authz"), value: value.into() };
        let common = LogCommon { metadata: Some(Metadata { filter_metadata: vec![entry] }), ..LogCommon::default() };
        came(&common)
    };
    assert!(came_of(bytes.clone()).is_some());
    assert_eq!(came_of([&bytes[..], &bytes[..]].concat()), None, "every field twice");
    for cut in 0..bytes.len() {
        if let Some(came) = came_of(bytes[..cut].to_vec()) {
            assert!(came.usage.is_empty(), "cut to {cut}: a field is whole or not there");
        }
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            drop(came_of(damaged));
        }
    }
    assert_eq!(came_of(vec![0xff; 64]), None);
}

#[test]
fn a_response_that_nobody_looked_at_is_noticed() {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let read = |entry: &HttpAccessLogEntry| is_unseen(&LogEntry::decode(&entry.encode_to_vec()[..]).unwrap());
    let asked = || {
        let mut entry = entry();
        let metadata = common(&mut entry).metadata.as_mut().unwrap();
        let ours = metadata.filter_metadata.get_mut("envoy.filters.http.ext_authz").unwrap();
        ours.fields.insert("respond".to_owned(), text("TICKET"));
        entry
    };
    assert!(!read(&entry()), "nobody asked");
    assert!(read(&asked()));
    let mut seen = asked();
    let fields = [("seen".to_owned(), text("1"))].into();
    let metadata = common(&mut seen).metadata.as_mut().unwrap();
    metadata.filter_metadata.insert("mcp_authz".to_owned(), Struct { fields });
    assert!(!read(&seen));
    let mut own = asked();
    own.response = response(503, "upstream_reset_before_response_started");
    assert!(!read(&own), "an answer of Envoy's own");
    let mut running = asked();
    common(&mut running).access_log_type = AccessLogType::DownstreamPeriodic.into();
    assert!(!read(&running));
}
