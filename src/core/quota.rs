//! What a limit asks of a counter: measures, modes, charges. Values only; a ledger holds them, nothing here counts.

use std::{fmt, sync::Arc};

use crate::decision::Denial;

mod calendar;
mod told;

pub use calendar::{Bounds, Calendar, Unit, Weekday, Zone};
pub use told::{time_shown, told};

/// Counters that one call may touch. Beyond it the call is denied: a store must bound what one script does.
pub const LINES_MAX: usize = 32;
/// Buckets of a rolling window.
pub const BUCKETS_MAX: u64 = 366;

/// Names one counter: what it is called, and whose it is.
///
/// Parts are length-prefixed, so `["a:b", "c"]` and `["a", "b:c"]` differ. Neither `max` nor the policy's digest is a part,
/// so that an edit does not hand out a fresh quota; the kind of window and its time zone are, so that a change of them starts
/// clean.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey(Arc<str>);

impl CounterKey {
    /// Joins the parts.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        let mut joined = String::with_capacity(parts.iter().map(|part| part.len().saturating_add(8)).sum());
        for part in parts {
            crate::text::push_number(&mut joined, u64::try_from(part.len()).unwrap_or(u64::MAX));
            joined.push(':');
            joined.push_str(part);
            joined.push(';');
        }
        Self(joined.into())
    }

    /// The joined text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a counter measures, and over which time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Units since the calendar window began.
    Calendar(Calendar),
    /// Calls that run now; a slot is given up when its lease ends.
    InFlight {
        /// How long a slot stays taken without a sign of life, ms; at least 1.
        lease_ms: u64,
    },
    /// Units since the counter was first used, or since it was last idle for that long.
    Lifetime {
        /// Milliseconds without a charge after which it starts anew; 0 for never.
        idle_ms: u64,
    },
    /// Units in the last `buckets` buckets and the one that runs: never more than the limit in any span of that length, and up
    /// to one bucket early.
    Rolling {
        /// Length of a bucket, ms; at least 1.
        bucket_ms: u64,
        /// 1 to [`BUCKETS_MAX`].
        buckets: u64,
    },
    /// Equal calls in a row.
    Streak {
        /// Of the tool and its arguments.
        fingerprint: Fingerprint,
        /// Milliseconds without such a call after which the row is over; at least 1.
        idle_ms: u64,
    },
    /// A bucket of `max` units that refills one unit each interval.
    TokenBucket {
        /// Microseconds that one unit takes to come back; at least 1.
        interval_us: u64,
    },
}

/// Tells equal calls from others; 128 bits of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 16]);

/// Whoever sees many of them could test guesses of arguments; stores get a keyed digest of it.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

/// What a charge does to its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Adds, even when the call is denied.
    Attempt,
    /// Adds if it fits; denies otherwise.
    Consume,
    /// Denies when the limit is reached; adds nothing.
    Gate,
    /// Adds, and never denies.
    Track,
}

impl Mode {
    /// The name in policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Attempt => "attempt",
            Mode::Consume => "consume",
            Mode::Gate => "gate",
            Mode::Track => "track",
        }
    }
}

/// From when on a call counts; what happens earlier gives its units back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CountOn {
    /// From the moment it was let go, whether or not the server got it.
    Admitted,
    /// From the first byte that the server may have got.
    Forwarded,
    /// From an answer that is no failure.
    Success,
}

/// Outcomes that give units back although the server may have run the call. All off unless the author asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a set of words of the policy language")]
pub struct RefundOn {
    /// The answer was a result with `isError: true`.
    pub is_error: bool,
    /// The answer was a JSON-RPC error by which the request was not executed.
    pub protocol_error: bool,
    /// The connection to the server broke after the request was sent.
    pub reset: bool,
    /// Envoy gave up waiting.
    pub timeout: bool,
    /// The server answered with a status of 500 or above.
    pub upstream_5xx: bool,
}

impl RefundOn {
    /// Whether the body of the answer has a say.
    #[must_use]
    pub const fn needs_body(self) -> bool {
        self.is_error || self.protocol_error
    }

    /// Whether nothing else has.
    #[must_use]
    pub const fn is_of_body_only(self) -> bool {
        self.needs_body() && !(self.reset || self.timeout || self.upstream_5xx)
    }
}

/// Where the units of a call come from once it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Actual {
    /// From the bytes of the answer.
    Bytes {
        /// Decimal places: a byte is `10^scale` units. At most [`SCALE_MAX`](crate::number::SCALE_MAX).
        scale: u8,
        /// Units that a call costs at least.
        min: u64,
    },
    /// They were known before: what was held is what it costs.
    #[default]
    Held,
    /// From a number in the result, which [`Policy::usage`](crate::policy::Policy::usage) reads.
    Usage,
}

/// What a limit does when its counter cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnUnavailable {
    /// Lets the call go, counts it afterwards where it can, and says so in metrics and audit.
    Allow,
    /// Denies.
    Deny,
}

/// What becomes of units that nobody settled in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnExpiry {
    /// They stay spent: an unknown outcome must not refill a budget.
    Keep,
    /// They come back.
    Release,
}

/// What a limit says about every charge that it makes; one for each limit, shared by its charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Id of the policy, for metrics.
    pub policy: Arc<str>,
    /// Name of the counter as the author wrote it, for metrics and people.
    pub name: Arc<str>,
    /// Counter and window for people who look into a store: `deletions:hour-utc`; letters, digits, `_`, `-`, `.` and `:` only.
    pub label: Arc<str>,
    /// Whose counter it is, e.g. `grant` or `grant+tool`.
    pub scope: Arc<str>,
    /// The window as people say it, e.g. `hour`, `day Europe/Berlin`, `sliding 15m`.
    pub window: Arc<str>,
    /// Decimal places of the units: 2 if 100 units are one of what the author counts.
    pub scale: u8,
    /// The refusal when the limit is used up; the ledger's answer fills in `retry_after_ms`.
    pub denial: Denial,
    /// Whether the refusal tells what is used and what is left.
    pub disclose: bool,
    /// From when on a call counts.
    pub count_on: CountOn,
    /// Outcomes that give the units back all the same.
    pub refund_on: RefundOn,
    /// Where the units come from once the call is answered.
    pub actual: Actual,
    /// What happens when the counter cannot be asked.
    pub on_unavailable: OnUnavailable,
    /// What happens to units that nobody settled.
    pub on_expiry: OnExpiry,
}

impl Terms {
    /// Whether a call cannot be settled without the body of its answer.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.refund_on.needs_body() || self.actual != Actual::Held
    }
}

/// Units to hold against one counter while the call runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Which counter.
    pub counter: CounterKey,
    /// What it measures.
    pub measure: Measure,
    /// What the charge does to it.
    pub mode: Mode,
    /// Units, at most [`AMOUNT_MAX`](crate::number::AMOUNT_MAX); zero is legal and free. One for calls in flight.
    pub amount: u64,
    /// Units allowed.
    pub max: u64,
    /// The rest of what the limit says.
    pub terms: Arc<Terms>,
}
