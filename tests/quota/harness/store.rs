//! Limits as a policy makes them, and what a server holds of them when it is asked directly.

use std::{collections::BTreeMap, sync::Arc};

use mcp_authz_core::{
    decision::{Denial, Reason},
    quota::{
        Actual, Calendar, Charge, CountOn, CounterKey, Measure, Mode, OnExpiry, OnUnavailable, RefundOn, Terms, Unit,
        Weekday, Zone,
    },
};

use super::{
    resp::{Resp, Value},
    server::Server,
};

/// One limit.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) label: &'static str,
    pub(crate) measure: Measure,
    pub(crate) max: u64,
    pub(crate) on_unavailable: OnUnavailable,
}

impl Limit {
    /// A strict limit on a counter of its own; the label is the name of the counter in the store.
    pub(crate) const fn new(label: &'static str, measure: Measure, max: u64) -> Self {
        Self { label, measure, max, on_unavailable: OnUnavailable::Deny }
    }

    /// A counter that never starts anew.
    pub(crate) const fn lifetime(label: &'static str, max: u64) -> Self {
        Self::new(label, Measure::Lifetime { idle_ms: 0 }, max)
    }

    /// An hour, UTC.
    pub(crate) const fn hour(label: &'static str, max: u64) -> Self {
        Self::new(label, Measure::Calendar(Calendar::utc(Unit::Hour)), max)
    }

    /// A minute in a zone whose minutes begin `offset_s` seconds before those of UTC.
    pub(crate) fn minute(label: &'static str, offset_s: i32, max: u64) -> Self {
        let rules = jiff::tz::TimeZone::fixed(jiff::tz::Offset::from_seconds(offset_s).expect("less than a day"));
        let zone = Zone::Named { name: format!("test{offset_s}").into(), rules };
        let calendar = Calendar { unit: Unit::Minute, zone, week_start: Weekday::Monday };
        Self::new(label, Measure::Calendar(calendar), max)
    }

    /// Calls go when the store cannot be asked.
    pub(crate) const fn allowed_without(mut self) -> Self {
        self.on_unavailable = OnUnavailable::Allow;
        self
    }

    /// The charge of one call.
    pub(crate) fn charge(&self, amount: u64) -> Charge {
        let terms = Terms {
            policy: "test".into(),
            name: self.label.into(),
            label: self.label.into(),
            scope: "global".into(),
            window: "test".into(),
            scale: 0,
            denial: Denial::built_in(Reason::QuotaExhausted),
            disclose: false,
            count_on: CountOn::Forwarded,
            refund_on: RefundOn::default(),
            actual: Actual::default(),
            on_unavailable: self.on_unavailable,
            on_expiry: OnExpiry::Keep,
        };
        Charge {
            counter: CounterKey::of(&["test", self.label]),
            measure: self.measure.clone(),
            mode: Mode::Consume,
            amount,
            max: self.max,
            terms: Arc::new(terms),
        }
    }
}

/// The keys of a server and what they hold.
#[derive(Debug)]
pub(crate) struct Contents {
    /// By key: the units that are in use, and the milliseconds that it has left, `None` for ever.
    counters: BTreeMap<String, (u64, Option<u64>)>,
}

/// Reads everything that a server holds. One call at a time, so only of a server at rest.
pub(crate) async fn contents(server: &Server) -> Contents {
    let mut connection = server.connect().await;
    let mut found = Contents { counters: BTreeMap::new() };
    for key in keys(&mut connection).await {
        let left = connection.call(&["PTTL", &key]).await.expect("a reply");
        if left == Value::Int(-2) {
            continue;
        }
        let left_ms = (left != Value::Int(-1)).then(|| left.number());
        let rest = key.strip_prefix("pq1:{").and_then(|rest| rest.split_once("}:"));
        let (_, rest) = rest.unwrap_or_else(|| panic!("a key that is not ours: {key}"));
        if matches!(rest, "accepted" | "beat" | "epoch" | "secret") {
            assert_eq!(left_ms, None, "`{key}` must not end");
            continue;
        }
        // Invariant 7: whatever is no total of a lifetime ends by itself.
        let kind = rest.split(':').next().unwrap_or_default();
        assert!(left_ms.is_some() || kind == "l", "`{key}` never ends");
        if kind == "r" && rest.split(':').count() == 2 {
            continue;
        }
        if kind == "wait" || rest.ends_with(":p") {
            continue;
        }
        let used = used(&mut connection, kind, &key).await;
        found.counters.insert(rest.to_owned(), (used, left_ms));
    }
    found
}

async fn keys(connection: &mut Resp) -> Vec<String> {
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    loop {
        let reply = connection.call(&["SCAN", &cursor, "COUNT", "1000"]).await.expect("a reply");
        keys.extend(reply.list()[1].list().iter().map(Value::text));
        cursor = reply.list()[0].text();
        if cursor == "0" {
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
}

async fn used(connection: &mut Resp, kind: &str, key: &str) -> u64 {
    match kind {
        "c" => {
            let value = connection.call(&["GET", key]).await.expect("a reply").text();
            value.split(' ').nth(1).map_or(0, |used| used.parse().expect("never negative"))
        }
        "f" => connection.call(&["ZCARD", key]).await.expect("a reply").number(),
        "r" => {
            let buckets = connection.call(&["HVALS", key]).await.expect("a reply");
            buckets.list().iter().map(Value::number).sum()
        }
        "s" => 0,
        "g" | "l" => connection.call(&["GET", key]).await.expect("a reply").number(),
        _ => panic!("a kind that nobody made: {key}"),
    }
}

impl Contents {
    /// Units in use of the one counter with this label; zero if there is none.
    pub(crate) fn used(&self, label: &str) -> u64 {
        let mut all = self.counters.iter().filter(|(key, _)| key.split(':').nth(1) == Some(label));
        let used = all.next().map_or(0, |(_, (used, _))| *used);
        assert!(all.next().is_none(), "`{label}` is two counters");
        used
    }
}
