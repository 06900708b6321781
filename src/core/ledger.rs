//! The counters of limits: what is asked of a store, and what it answers.
//!
//! Owns the vocabulary that every engine shares. The scripts in `src/quota/redis` are the other half of this module: same
//! questions, same answers.

use std::{fmt, sync::Arc};

use crate::quota::{Fingerprint, Measure, Mode};

pub mod ask;
mod bytes;
pub mod entry;
pub mod machine;

/// Names one counter in a store: a keyed digest of its [`CounterKey`](crate::quota::CounterKey), so that no store learns who
/// calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterId(pub u128);

/// A measure with the numbers of one moment put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Calendar windows, Unix ms: this one, and the next, which the store's own clock may have reached.
    Calendar {
        /// Start of this window.
        start_ms: u64,
        /// Start of the next.
        end_ms: u64,
        /// Start of the one after.
        next_end_ms: u64,
    },
    /// See [`Measure::InFlight`].
    InFlight {
        /// Milliseconds.
        lease_ms: u64,
    },
    /// See [`Measure::Lifetime`].
    Lifetime {
        /// Milliseconds; 0 for never.
        idle_ms: u64,
    },
    /// See [`Measure::Rolling`].
    Rolling {
        /// Milliseconds.
        bucket_ms: u64,
        /// How many.
        buckets: u64,
    },
    /// See [`Measure::Streak`].
    Streak {
        /// Keyed digest of the call's fingerprint.
        fingerprint: Fingerprint,
        /// Milliseconds.
        idle_ms: u64,
    },
    /// See [`Measure::TokenBucket`].
    TokenBucket {
        /// Microseconds of one unit.
        interval_us: u64,
        /// Microseconds of a full bucket: capacity times interval, at most 2^52.
        burst_us: u64,
    },
}

/// One counter of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which counter.
    pub counter: CounterId,
    /// Counter and window as the policy names them, for people who look into a store: `deletions:hour-utc`.
    pub label: Arc<str>,
    /// What it measures.
    pub span: Span,
    /// What the call does to it.
    pub mode: Mode,
    /// Units: for calls in flight always 1.
    pub amount: u64,
    /// Units allowed.
    pub max: u64,
    /// Deny while counts may be wrong: after a failover, and for windows whose counts were lost.
    pub strict: bool,
    /// Give the units back when the hold runs out unsettled.
    pub release: bool,
}

/// What a reservation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The id was used for something else.
    Conflict,
    /// The store's data is not the data we knew.
    EpochChanged,
    /// A failover is being worked up; wait for so many ms.
    Fenced {
        /// Index of the line.
        line: usize,
        /// Milliseconds.
        wait_ms: u64,
    },
    /// Held now.
    Held,
    /// Held before under the same id; nothing was added.
    HeldBefore,
    /// At least one line does not fit; nothing was added but attempts.
    Limited {
        /// Index of the first that does not.
        line: usize,
    },
    /// The counts of this line's window were lost.
    Lost {
        /// Index of the line.
        line: usize,
        /// Milliseconds until nothing of what was lost can matter; `None` until an operator accepts the loss.
        wait_ms: Option<u64>,
    },
    /// At least one amount is larger than its whole limit.
    NeverFits {
        /// Index of the first line that does not fit.
        line: usize,
    },
    /// Another node of the cluster answers than the one we believe to be master.
    NodeChanged,
    /// Rolled back before it arrived.
    RolledBack,
    /// Settled already.
    Settled,
    /// The calendar windows do not hold the store's time.
    StaleWindows {
        /// Index of the line.
        line: usize,
    },
}

/// Where one counter stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Units used, those of this call included if they were held.
    pub used: u64,
    /// Units left.
    pub left: u64,
    /// Milliseconds until something of it comes back; `None` for never.
    pub reset_ms: Option<u64>,
}

/// Answer to a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it came to.
    pub code: Code,
    /// The store's time, Unix ms.
    pub now_ms: u64,
    /// One for each line if the lines were judged: `Held`, `Limited`, `NeverFits`; otherwise empty.
    pub standings: Vec<Standing>,
}

/// What settling came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It had been finished before: the same way or the other.
    Before {
        /// Whether the same way.
        same: bool,
    },
    /// The id belongs to something else.
    Conflict,
    /// The store's data is not the data we knew: nothing is left to give back.
    EpochChanged,
    /// Another node of the cluster answers.
    NodeChanged,
    /// Done; so many counters got units back.
    Now {
        /// Counters credited.
        credited: usize,
    },
    /// Another attempt of the same request relies on the hold; nothing was given back.
    Shared,
    /// No such reservation: its hold has run out, or it never was. A rollback is remembered, so that a late hold is refused.
    Unknown,
}

/// Who asks for a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// One attempt of a request: may take back only what no other attempt relies on.
    Attempt(Attempt),
    /// Whoever has proof of what became of the request as a whole.
    Stream,
}

/// Names one handling of a request. A second Check for the same request has another; a retry inside of one Check has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How a reservation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Everything comes back, except attempts.
    RollBack(Speaker),
    /// What each line came to in the end, in the order of the lines.
    Settle(Box<[u64]>),
}

impl Span {
    /// Puts the numbers of `now_ms` into a measure; `max` is the capacity of a token bucket. `None` for times that no calendar
    /// knows.
    #[must_use]
    pub fn of(measure: &Measure, max: u64, now_ms: u64) -> Option<Self> {
        Some(match measure {
            Measure::Calendar(calendar) => {
                let bounds = calendar.bounds(now_ms)?;
                Span::Calendar { start_ms: bounds.start_ms, end_ms: bounds.end_ms, next_end_ms: bounds.next_end_ms }
            }
            Measure::InFlight { lease_ms } => Span::InFlight { lease_ms: *lease_ms },
            Measure::Lifetime { idle_ms } => Span::Lifetime { idle_ms: *idle_ms },
            Measure::Rolling { bucket_ms, buckets } => Span::Rolling { bucket_ms: *bucket_ms, buckets: *buckets },
            Measure::Streak { fingerprint, idle_ms } => Span::Streak { fingerprint: *fingerprint, idle_ms: *idle_ms },
            Measure::TokenBucket { interval_us } => {
                Span::TokenBucket { interval_us: *interval_us, burst_us: interval_us.checked_mul(max)? }
            }
        })
    }

    /// The letter of the kind in stores and journals.
    #[must_use]
    pub const fn letter(&self) -> char {
        match self {
            Span::Calendar { .. } => 'c',
            Span::InFlight { .. } => 'f',
            Span::Lifetime { .. } => 'l',
            Span::Rolling { .. } => 'r',
            Span::Streak { .. } => 's',
            Span::TokenBucket { .. } => 'g',
        }
    }
}
