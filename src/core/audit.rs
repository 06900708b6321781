//! The audit records: one JSON line per decision, argument keys only, never a value or a token; one per settlement that
//! changed a count or left a doubt; and one per response that was looked at.

use crate::decision::Reason;
use crate::json::Value;
use crate::ledger::Line;
use crate::settle::Facts;
use crate::text::{push_json_string_cut, push_number, push_padded};

mod operator;
mod response;

pub use operator::{Act, CounterName, OperatorRecord, PinAct, PinRecord};
pub use response::ResponseRecord;

/// Argument keys that one record names.
pub const KEYS_MAX: usize = 64;
/// Bytes of each name that comes from the wire; longer ones are cut.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of each argument key; longer ones are cut.
pub const KEY_BYTES_MAX: usize = 64;

/// What one record says. Borrowed, so that writing it costs one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Unix milliseconds of the decision.
    pub time_ms: u64,
    /// `None` where the call was allowed.
    pub reason: Option<Reason>,
    /// The short pointer of the rule that decided; empty for an allow.
    pub rule: &'a str,
    /// RFC 6901 pointer into the policy document.
    pub rule_exact: Option<&'a str>,
    /// Policy id.
    pub policy: Option<&'a str>,
    /// Digest of the policy bytes.
    pub policy_digest: Option<&'a str>,
    /// Server name from the registry.
    pub server: Option<&'a str>,
    /// Subject.
    pub principal: Option<&'a str>,
    /// Grant label.
    pub grant: Option<&'a str>,
    /// Method from the closed set.
    pub method: &'a str,
    /// Tool as sent.
    pub tool: Option<&'a str>,
    /// `params.arguments`, of which only the top-level keys are read.
    pub arguments: Option<Value<'a>>,
    /// Correlation id, as Envoy passed it on.
    pub request_id: Option<&'a str>,
    /// Envoy's own id of the stream.
    pub stream_id: Option<&'a str>,
    /// Let go although its quotas could not be counted.
    pub is_unmetered: bool,
    /// Microseconds from receipt to decision.
    pub latency_us: u64,
}

impl Record<'_> {
    /// Appends the record as one line, without a line feed.
    pub fn write(&self, out: &mut String) {
        out.push_str("{\"time\":\"");
        push_time(out, self.time_ms);
        out.push_str("\",\"decision\":\"");
        out.push_str(if self.reason.is_some() { "deny" } else { "allow" });
        out.push_str("\",\"reason\":\"");
        out.push_str(self.reason.map_or("allowed", Reason::name));
        out.push('"');
        text(out, "rule", Some(self.rule));
        text(out, "rule_exact", self.rule_exact);
        text(out, "policy", self.policy);
        text(out, "policy_digest", self.policy_digest);
        text(out, "server", self.server);
        text(out, "principal", self.principal);
        text(out, "grant", self.grant);
        text(out, "method", Some(self.method));
        text(out, "tool", self.tool);
        self.write_keys(out);
        text(out, "request_id", self.request_id);
        text(out, "stream_id", self.stream_id);
        text(out, "quota", self.is_unmetered.then_some("unmetered"));
        out.push_str(",\"latency_us\":");
        push_number(out, self.latency_us);
        out.push('}');
    }

    fn write_keys(&self, out: &mut String) {
        let Some(arguments) = self.arguments else { return };
        let mut keys: Vec<_> = arguments.members().map(|(key, _)| key).collect();
        keys.sort_unstable();
        out.push_str(",\"arg_keys\":[");
        for (at, key) in keys.iter().take(KEYS_MAX).enumerate() {
            if at > 0 {
                out.push(',');
            }
            push_json_string_cut(out, key, KEY_BYTES_MAX);
        }
        out.push(']');
        if keys.len() > KEYS_MAX {
            out.push_str(",\"arg_keys_total\":");
            push_number(out, u64::try_from(keys.len()).unwrap_or(u64::MAX));
        }
    }
}

/// What became of a reservation after its call had ended. Names no caller: the decision's record does, under the same id.
#[derive(Clone, Copy, Debug)]
pub struct Settlement<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// From the closed set of the metrics.
    pub outcome: &'static str,
    /// What Envoy said; `None` where its word could not be taken.
    pub facts: Option<&'a Facts>,
    /// Name of the reservation; `stream_id` of the decision, unless Envoy gave none.
    pub reservation: Option<&'a str>,
    /// First bytes of the digest of the policy that decided; zeros for none.
    pub policy: Option<[u8; 8]>,
    /// Unix milliseconds of the decision.
    pub issued_ms: Option<u64>,
    /// What was held.
    pub lines: &'a [Line],
}

impl Settlement<'_> {
    /// Appends the record as one line, without a line feed.
    pub fn write(&self, out: &mut String) {
        out.push_str("{\"time\":\"");
        push_time(out, self.time_ms);
        out.push_str("\",\"event\":\"settlement\",\"outcome\":\"");
        out.push_str(self.outcome);
        out.push('"');
        if let Some(facts) = self.facts {
            text(out, "fate", Some(facts.fate.name()));
            out.push_str(",\"attempts\":");
            push_number(out, u64::from(facts.attempts));
            text(out, "answer", facts.came.as_ref().map(|came| came.kind.name()));
        }
        text(out, "reservation", self.reservation);
        if let Some(policy) = self.policy.filter(|policy| *policy != [0; 8]) {
            out.push_str(",\"policy_digest\":\"sha256:");
            for byte in policy {
                push_hex(out, byte);
            }
            out.push('"');
        }
        if let Some(issued_ms) = self.issued_ms {
            out.push_str(",\"age_ms\":");
            push_number(out, self.time_ms.saturating_sub(issued_ms));
        }
        if !self.lines.is_empty() {
            out.push_str(",\"counters\":[");
            for (at, line) in self.lines.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                push_json_string_cut(out, &line.label, NAME_BYTES_MAX);
            }
            out.push(']');
        }
        out.push('}');
    }
}

fn push_hex(out: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 0xf] {
        out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    }
}

fn text(out: &mut String, name: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    push_json_string_cut(out, value, NAME_BYTES_MAX);
}

/// RFC 3339 in UTC with milliseconds. By hand: it runs once per decision, and the general printer costs ten times more.
fn push_time(out: &mut String, unix_ms: u64) {
    let (days, ms) = (unix_ms.wrapping_div(86_400_000), unix_ms.wrapping_rem(86_400_000));
    // Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"; years from 1970 on.
    let z = days.saturating_add(719_468);
    let (era, doe) = (z.wrapping_div(146_097), z.wrapping_rem(146_097));
    let yoe = (doe.saturating_sub(doe / 1460).saturating_add(doe / 36_524).saturating_sub(doe / 146_096)) / 365;
    let doy = doe.saturating_sub(yoe.saturating_mul(365).saturating_add(yoe / 4).saturating_sub(yoe / 100));
    let mp = doy.saturating_mul(5).saturating_add(2) / 153;
    let day = doy.saturating_sub(mp.saturating_mul(153).saturating_add(2) / 5).saturating_add(1);
    let month = if mp < 10 { mp.saturating_add(3) } else { mp.saturating_sub(9) };
    let year = yoe.saturating_add(era.saturating_mul(400)).saturating_add(u64::from(month <= 2));
    push_padded(out, year, 4);
    out.push('-');
    push_padded(out, month, 2);
    out.push('-');
    push_padded(out, day, 2);
    out.push('T');
    push_padded(out, ms / 3_600_000, 2);
    out.push(':');
    push_padded(out, (ms / 60_000).wrapping_rem(60), 2);
    out.push(':');
    push_padded(out, (ms / 1000).wrapping_rem(60), 2);
    out.push('.');
    push_padded(out, ms.wrapping_rem(1000), 3);
    out.push('Z');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Document, Limits};
    use proptest::prelude::*;

    const EMPTY: Record<'_> = Record {
        time_ms: 1_781_604_300_007,
        reason: None,
        rule: "",
        rule_exact: None,
        policy: None,
        policy_digest: None,
        server: None,
        principal: None,
        grant: None,
        method: "tools/call",
        tool: None,
        arguments: None,
        request_id: None,
        stream_id: None,
        is_unmetered: false,
        latency_us: 10,
    };

    fn written(record: &Record<'_>) -> String {
        let mut out = String::new();
        record.write(&mut out);
        out
    }

    #[test]
    fn a_record_names_keys_and_never_values() {
        let arguments =
            Document::parse(br#"{"url":"SECRET","b\u0061":["SECRET"],"a":{"SECRET":1}}"#, Limits::default()).unwrap();
        let record = Record {
            reason: Some(Reason::Condition),
            rule: "/tools/t/deny_if/args.a-gt",
            rule_exact: Some("/tools/t/deny_if/0/conditions/0"),
            tool: Some("t\n\",\"level\":\"error\u{202e}"),
            arguments: Some(arguments.root()),
            ..EMPTY
        };
        assert_eq!(
            written(&record),
            concat!(
                r#"{"time":"2026-06-16T10:05:00.007Z","decision":"deny","reason":"condition","rule":"/tools/t/deny_if/args.a-gt","#,
                r#""rule_exact":"/tools/t/deny_if/0/conditions/0","method":"tools/call","tool":"t\n\",\"level\":\"error\u202e","#,
                r#""arg_keys":["a","ba","url"],"latency_us":10}"#
            )
        );
    }

    #[test]
    fn keys_are_no_channel_out() {
        let keys = |n: usize| (0..n).map(|i| format!("\"{i:0>100}\":1")).collect::<Vec<_>>().join(",");
        for (n, total) in [(64, None), (65, Some(65))] {
            let text = format!("{{{}}}", keys(n));
            let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
            let line = written(&Record { arguments: Some(document.root()), ..EMPTY });
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            let listed = parsed["arg_keys"].as_array().unwrap();
            assert_eq!(listed.len(), 64);
            assert!(listed.iter().all(|key| key.as_str().unwrap().len() <= KEY_BYTES_MAX + "…".len()));
            assert_eq!(parsed["arg_keys_total"].as_u64(), total);
        }
    }

    #[test]
    fn a_call_that_was_not_counted_says_so() {
        assert!(written(&Record { is_unmetered: true, ..EMPTY }).contains(r#","quota":"unmetered","#));
        assert!(!written(&EMPTY).contains("quota"));
    }

    #[test]
    fn a_settlement_names_its_reservation_and_nobody() {
        use crate::{ledger::CounterId, ledger::Span, quota::Mode, settle::Fate};
        let line = Line {
            counter: CounterId(7),
            label: "deletions:hour-utc".into(),
            span: Span::Lifetime { idle_ms: 0 },
            mode: Mode::Consume,
            amount: 1,
            max: 5,
            strict: true,
            release: false,
        };
        let mut settlement = Settlement {
            time_ms: 1_781_604_300_007,
            outcome: "refunded",
            facts: Some(&Facts { fate: Fate::NotSent, attempts: 1, came: None }),
            reservation: Some("9264854546074171864"),
            policy: Some([0x0a, 0xff, 0, 1, 2, 3, 4, 5]),
            issued_ms: Some(1_781_604_300_000),
            lines: &[line.clone(), line],
        };
        let mut out = String::new();
        settlement.write(&mut out);
        assert_eq!(
            out,
            concat!(
                r#"{"time":"2026-06-16T10:05:00.007Z","event":"settlement","outcome":"refunded","fate":"not_sent","attempts":1,"#,
                r#""reservation":"9264854546074171864","policy_digest":"sha256:0aff000102030405","age_ms":7,"#,
                r#""counters":["deletions:hour-utc","deletions:hour-utc"]}"#
            )
        );
        settlement = Settlement {
            facts: None,
            reservation: None,
            policy: None,
            issued_ms: None,
            lines: &[],
            outcome: "forged",
            ..settlement
        };
        out.clear();
        settlement.write(&mut out);
        assert_eq!(out, r#"{"time":"2026-06-16T10:05:00.007Z","event":"settlement","outcome":"forged"}"#);
    }

    proptest! {
        #[test]
        fn times_are_printed_as_the_calendar_says(ms in 0u64..4_102_444_800_000) {
            let mut out = String::new();
            push_time(&mut out, ms);
            let back: jiff::Timestamp = out.parse().unwrap();
            prop_assert_eq!(back.as_millisecond(), i64::try_from(ms).unwrap());
        }

        #[test]
        fn numbers_are_printed_whole(n in any::<u64>()) {
            let mut out = String::new();
            push_number(&mut out, n);
            prop_assert_eq!(out, n.to_string());
        }
    }
}
