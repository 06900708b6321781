//! The audit record of a response: what it was and what was taken from it, never a value of it.

use super::{KEY_BYTES_MAX, KEYS_MAX, push_hex, push_time, text};
use crate::mask::{Action, Hit};
use crate::response::{Report, Withheld};
use crate::text::{push_json_string_cut, push_number};

/// What one record of a response says. The decision's record has the same `stream_id`.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRecord<'a> {
    /// Unix milliseconds of its end.
    pub time_ms: u64,
    /// From the closed set of the metrics.
    pub outcome: &'static str,
    /// Why it, or a part of it, was withheld; from the closed set of the metrics.
    pub withheld: Option<&'static str>,
    /// Envoy's own id of the stream.
    pub stream_id: Option<&'a str>,
    /// Correlation id, as Envoy passed it on.
    pub request_id: Option<&'a str>,
    /// Server name from the registry.
    pub server: Option<&'a str>,
    /// Policy id.
    pub policy: Option<&'a str>,
    /// Digest of the policy that judged.
    pub policy_digest: Option<&'a str>,
    /// Grant label.
    pub grant: Option<&'a str>,
    /// Method from the closed set, or `GET`.
    pub method: Option<&'a str>,
    /// Tool as called.
    pub tool: Option<&'a str>,
    /// HTTP status of the server; 0 if none came.
    pub status: u16,
    /// What became of it.
    pub report: &'a Report,
    /// From the decision to the head of the response, ms: the time that the server took, and Envoy beside it. By the clocks of the
    /// processes that saw the one and the other.
    pub upstream_ms: Option<u64>,
    /// From the head of the response to its end, ms.
    pub duration_ms: u64,
}

impl ResponseRecord<'_> {
    /// Appends the record as one line, without a line feed.
    pub fn write(&self, out: &mut String) {
        out.push_str("{\"time\":\"");
        push_time(out, self.time_ms);
        out.push_str("\",\"event\":\"response\",\"outcome\":\"");
        out.push_str(self.outcome);
        out.push('"');
        text(out, "withheld", self.withheld);
        text(out, "policy", self.policy);
        text(out, "policy_digest", self.policy_digest);
        text(out, "server", self.server);
        text(out, "grant", self.grant);
        text(out, "method", self.method);
        text(out, "tool", self.tool);
        text(out, "request_id", self.request_id);
        text(out, "stream_id", self.stream_id);
        number(out, "status", u64::from(self.status));
        number(out, "bytes", self.report.bytes);
        if let Some(digest) = &self.report.sha256 {
            out.push_str(",\"result_sha256\":\"");
            digest.iter().for_each(|byte| push_hex(out, *byte));
            out.push('"');
        }
        text(out, "unread", self.report.unread.map(Withheld::name));
        let Report { hidden, unapproved, reported, dropped, .. } = *self.report;
        for (name, count) in
            [("hidden", hidden), ("unapproved", unapproved), ("reported", reported), ("dropped", dropped)]
        {
            if count > 0 {
                number(out, name, u64::from(count));
            }
        }
        self.write_rules(out);
        self.write_new_fields(out);
        if let Some(upstream_ms) = self.upstream_ms {
            number(out, "upstream_ms", upstream_ms);
        }
        number(out, "duration_ms", self.duration_ms);
        out.push('}');
    }

    /// Rules come from the policy; they are bounded all the same, as a policy may have thousands.
    fn write_rules(&self, out: &mut String) {
        let hits: &[Hit] = &self.report.findings.hits;
        if hits.is_empty() {
            return;
        }
        out.push_str(",\"rules\":[");
        for (at, hit) in hits.iter().take(KEYS_MAX).enumerate() {
            out.push_str(if at == 0 { "{\"rule\":" } else { ",{\"rule\":" });
            push_json_string_cut(out, &hit.rule, super::NAME_BYTES_MAX);
            out.push_str(match hit.action {
                Action::Block => ",\"action\":\"block\"",
                Action::Mask => ",\"action\":\"mask\"",
                Action::Report => ",\"action\":\"report\"",
            });
            number(out, "count", u64::from(hit.count));
            out.push('}');
        }
        out.push(']');
        total(out, "rules_total", hits.len());
    }

    fn write_new_fields(&self, out: &mut String) {
        let fields = &self.report.findings.new_fields;
        if fields.is_empty() {
            return;
        }
        out.push_str(",\"new_fields\":[");
        for (at, field) in fields.iter().take(KEYS_MAX).enumerate() {
            if at > 0 {
                out.push(',');
            }
            push_json_string_cut(out, field, KEY_BYTES_MAX);
        }
        out.push(']');
        total(out, "new_fields_total", fields.len());
    }
}

fn number(out: &mut String, name: &str, value: u64) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    push_number(out, value);
}

/// How many there were, where not all are named.
fn total(out: &mut String, name: &str, count: usize) {
    if count > KEYS_MAX {
        number(out, name, u64::try_from(count).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Findings;

    fn record(report: &Report) -> ResponseRecord<'_> {
        ResponseRecord {
            time_ms: 1_781_604_300_007,
            outcome: "ok",
            withheld: None,
            stream_id: Some("9264854546074171864"),
            request_id: Some("r-1"),
            server: Some("demo"),
            policy: Some("p"),
            policy_digest: Some("sha256:00"),
            grant: Some("agent"),
            method: Some("tools/call"),
            tool: Some("find\n\u{202e}"),
            status: 200,
            report,
            upstream_ms: Some(31),
            duration_ms: 12,
        }
    }

    fn written(record: &ResponseRecord<'_>) -> String {
        let mut out = String::new();
        record.write(&mut out);
        out
    }

    #[test]
    fn a_record_says_what_was_taken_and_nothing_of_it() {
        let hits = vec![Hit { rule: "/mask/0".into(), action: Action::Mask, count: 3 }];
        let report = Report {
            sha256: Some([0x0a; 32]),
            bytes: 1234,
            hidden: 2,
            unapproved: 1,
            reported: 3,
            dropped: 4,
            unread: Some(Withheld::Size),
            findings: Findings { hits, new_fields: vec!["result.x\"".into()] },
            ..Report::default()
        };
        let expected = concat!(
            r#"{"time":"2026-06-16T10:05:00.007Z","event":"response","outcome":"ok","policy":"p","policy_digest":"sha256:00","#,
            r#""server":"demo","grant":"agent","method":"tools/call","tool":"find\n\u202e","request_id":"r-1","#,
            r#""stream_id":"9264854546074171864","status":200,"bytes":1234,"#,
            r#""result_sha256":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","unread":"size","hidden":2,"unapproved":1,"reported":3,"dropped":4,"#,
            r#""rules":[{"rule":"/mask/0","action":"mask","count":3}],"new_fields":["result.x\""],"upstream_ms":31,"duration_ms":12}"#
        );
        assert_eq!(written(&record(&report)), expected);
        let report = Report::default();
        let bare = ResponseRecord { withheld: Some("ticket"), outcome: "withheld", ..record(&report) };
        let line = written(&bare);
        assert!(line.contains(r#""outcome":"withheld","withheld":"ticket","#), "{line}");
        assert!(!line.contains("rules") && !line.contains("sha256\"") && !line.contains("hidden"), "{line}");
    }

    #[test]
    fn names_from_the_wire_are_no_channel_out() {
        for (n, total) in [(KEYS_MAX, None), (KEYS_MAX + 1, Some(65))] {
            let fields: Vec<String> = (0..n).map(|i| format!("{i:0>100}")).collect();
            let hits = (0..n).map(|i| Hit { rule: i.to_string().into(), action: Action::Report, count: 1 }).collect();
            let report = Report { findings: Findings { hits, new_fields: fields }, ..Report::default() };
            let line: serde_json::Value = serde_json::from_str(&written(&record(&report))).unwrap();
            let listed = line["new_fields"].as_array().unwrap();
            assert_eq!((listed.len(), line["rules"].as_array().unwrap().len()), (KEYS_MAX, KEYS_MAX));
            assert!(listed.iter().all(|field| field.as_str().unwrap().len() <= KEY_BYTES_MAX + "…".len()));
            assert_eq!((line["new_fields_total"].as_u64(), line["rules_total"].as_u64()), (total, total));
        }
    }
}
