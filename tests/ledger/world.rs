//! A small world of counters, and random things that happen in it.

use std::sync::Arc;

use mcp_authz_core::ledger::machine::{Bounds, Full, Head, Machine};
use mcp_authz_core::ledger::{Attempt, CounterId, Finish, Finished, Line, Reply, Span, Speaker};
use mcp_authz_core::quota::{Fingerprint, Mode};
use proptest::prelude::*;

use crate::scripts::Scripts;

/// Far enough ahead that no entry ends by the real clock of the server: May 2033.
pub(crate) const BASE_MS: u64 = 2_000_001_600_000;
pub(crate) const GRACE_MS: u64 = 5_000;
pub(crate) const HOLD_MS: u64 = 120_000;
/// How long the end of a reservation is remembered.
pub(crate) const KEEP_MS: u64 = 10_000;
/// Length of a regular calendar window.
pub(crate) const WINDOW_MS: u64 = 600_000;

/// One counter of the world and what a line says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) max: u64,
    pub(crate) release: bool,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Windows of equal length.
    Calendar,
    /// Windows of three lengths, as months and days of a clock change have.
    Uneven,
    InFlight(u64),
    Lifetime(u64),
    Rolling(u64, u64),
    Streak(u64),
    TokenBucket(u64),
}

const fn spec(name: &'static str, max: u64, release: bool, kind: Kind) -> Spec {
    Spec { name, max, release, kind }
}

pub(crate) const SPECS: [Spec; 18] = [
    spec("c1", 7, false, Kind::Calendar),
    spec("c2", 9, false, Kind::Uneven),
    spec("c3", 6, true, Kind::Calendar),
    spec("r1", 6, false, Kind::Rolling(60_000, 10)),
    spec("r2", 6, true, Kind::Rolling(7_000, 3)),
    spec("r3", 5, true, Kind::Rolling(60_000, 4)),
    spec("g1", 5, false, Kind::TokenBucket(7_000_000)),
    spec("g2", 7, false, Kind::TokenBucket(333_333)),
    spec("g3", 5, true, Kind::TokenBucket(40_000_000)),
    spec("g4", 5, true, Kind::TokenBucket(1_000_000)),
    spec("f1", 3, false, Kind::InFlight(45_000)),
    spec("f2", 2, false, Kind::InFlight(200_000)),
    spec("s1", 3, false, Kind::Streak(50_000)),
    spec("s2", 2, false, Kind::Streak(900_000)),
    spec("l1", 40, false, Kind::Lifetime(0)),
    spec("l2", 9, false, Kind::Lifetime(90_000)),
    spec("l3", 12, true, Kind::Lifetime(0)),
    spec("l4", 9, true, Kind::Lifetime(30_000)),
];

/// One line of a call before it meets a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) spec: usize,
    pub(crate) mode: Mode,
    pub(crate) amount: u64,
}

/// Starts of three windows around a moment: of this one, of the next, and of the one after.
pub(crate) fn windows(kind: Kind, now_ms: u64) -> Span {
    let start = |index: u64| index * WINDOW_MS + if kind == Kind::Uneven { (index % 3) * (WINDOW_MS / 4) } else { 0 };
    let mut index = now_ms / WINDOW_MS;
    if start(index) > now_ms {
        index -= 1;
    }
    Span::Calendar { start_ms: start(index), end_ms: start(index + 1), next_end_ms: start(index + 2) }
}

impl Ask {
    /// The line as a caller whose clock says `caller_ms` asks.
    pub(crate) fn line(&self, caller_ms: u64) -> Line {
        let Spec { name, max, release, kind } = SPECS[self.spec];
        let span = match kind {
            Kind::Calendar | Kind::Uneven => windows(kind, caller_ms),
            Kind::InFlight(lease_ms) => Span::InFlight { lease_ms },
            Kind::Lifetime(idle_ms) => Span::Lifetime { idle_ms },
            Kind::Rolling(bucket_ms, buckets) => Span::Rolling { bucket_ms, buckets },
            Kind::Streak(idle_ms) => {
                Span::Streak { fingerprint: Fingerprint([u8::try_from(self.amount % 2).unwrap(); 16]), idle_ms }
            }
            Kind::TokenBucket(interval_us) => Span::TokenBucket { interval_us, burst_us: interval_us * max },
        };
        let counts_calls = matches!(span, Span::InFlight { .. } | Span::Streak { .. });
        let counter = CounterId(0xc0ff_ee00 + u128::try_from(self.spec).unwrap());
        let amount = if counts_calls { 1 } else { self.amount };
        Line { counter, label: Arc::from(name), span, mode: self.mode, amount, max, strict: true, release }
    }
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A new call; `lag_ms` is how far the caller's clock is off when it computes windows.
    Reserve {
        asks: Vec<Ask>,
        lag_ms: i64,
        hold_ms: u64,
    },
    /// An earlier call is asked for again: by the same attempt, another, or with something else in it.
    Again {
        which: usize,
        attempt: u64,
        other: bool,
    },
    RollBack {
        which: usize,
        speaker: u8,
    },
    Settle {
        which: usize,
        actual: Vec<u64>,
    },
    Renew {
        which: usize,
    },
    /// The end of a call whose start was never seen.
    Unknown {
        asks: Vec<Ask>,
        settle: bool,
    },
    Forward {
        us: u64,
    },
    Back {
        ms: u64,
    },
    Reset {
        spec: usize,
    },
    FlushScripts,
}

/// Which worlds are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Everything.
    Stormy,
    /// Only what the promises are stated for: time goes forward, nothing is settled above what was reserved, every line
    /// consumes, and units come back by rollbacks only.
    Fair,
}

fn ask(weather: Weather) -> BoxedStrategy<Ask> {
    let mode = match weather {
        Weather::Fair => Just(Mode::Consume).boxed(),
        Weather::Stormy => prop_oneof![
            6 => Just(Mode::Consume), 1 => Just(Mode::Gate), 1 => Just(Mode::Track), 1 => Just(Mode::Attempt)
        ]
        .boxed(),
    };
    let amount = match weather {
        Weather::Fair => (0..4_u64).boxed(),
        Weather::Stormy => prop_oneof![
            30 => 0..4_u64, 5 => 4..10_u64, 1 => Just(1 << 52), 1 => Just((1 << 52) - 3), 1 => Just(1 << 33)
        ]
        .boxed(),
    };
    let specs: Vec<usize> =
        (0..SPECS.len()).filter(|spec| weather == Weather::Stormy || !SPECS[*spec].release).collect();
    (proptest::sample::select(specs), mode, amount).prop_map(|(spec, mode, amount)| Ask { spec, mode, amount }).boxed()
}

/// One to four lines of different counters.
fn asks(weather: Weather) -> impl Strategy<Value = Vec<Ask>> {
    prop::collection::vec(ask(weather), 1..=4).prop_map(|mut asks| {
        asks.sort_by_key(|ask| ask.spec);
        asks.dedup_by_key(|ask| ask.spec);
        asks
    })
}

pub(crate) fn step(weather: Weather) -> BoxedStrategy<Step> {
    let which = 0..12_usize;
    let forward = prop_oneof![
        Just(0),
        1..2_000_u64,
        Just(1_000),
        Just(37_000),
        Just(500_000),
        Just(3_000_000),
        8_000_000..12_000_000_u64,
        Just(59_999_000),
        Just(61_000_000),
        Just(240_000_000),
        Just(601_000_000)
    ];
    let forward = forward.prop_map(|us| Step::Forward { us });
    let roll_back = (which.clone(), 0..4_u8).prop_map(|(which, speaker)| Step::RollBack { which, speaker });
    let again = (which.clone(), 0..6_u64, 0..8_u8).prop_map(|(which, attempt, other)| Step::Again {
        which,
        attempt,
        other: other == 0,
    });
    if weather == Weather::Fair {
        let reserve = asks(weather).prop_map(|asks| Step::Reserve { asks, lag_ms: 0, hold_ms: 50_000_000 });
        return prop_oneof![
            11 => reserve, 2 => again, 3 => roll_back, 5 => forward, 1 => Just(Step::FlushScripts)
        ]
        .boxed();
    }
    let lag =
        prop_oneof![6 => Just(0_i64), 1 => Just(-7_000), 1 => Just(3_000), 1 => Just(-700_000), 1 => Just(700_000)];
    let hold = prop_oneof![4 => Just(HOLD_MS), 2 => Just(9_000), 1 => Just(1), 1 => Just(1_000_000)];
    let reserve =
        (asks(weather), lag, hold).prop_map(|(asks, lag_ms, hold_ms)| Step::Reserve { asks, lag_ms, hold_ms });
    let settle = (which.clone(), prop::collection::vec(prop_oneof![12 => 0..8_u64, 1 => Just(1 << 52)], 4))
        .prop_map(|(which, actual)| Step::Settle { which, actual });
    let back = prop_oneof![Just(1), Just(3_000), Just(200_000), Just(1_300_000), Just(30_000_000_000_u64)];
    prop_oneof![
        22 => reserve,
        3 => again,
        5 => roll_back,
        4 => settle,
        3 => which.prop_map(|which| Step::Renew { which }),
        1 => (asks(weather), any::<bool>()).prop_map(|(asks, settle)| Step::Unknown { asks, settle }),
        12 => forward,
        1 => back.prop_map(|ms| Step::Back { ms }),
        1 => (0..SPECS.len()).prop_map(|spec| Step::Reset { spec }),
        1 => Just(Step::FlushScripts),
    ]
    .boxed()
}

/// A call of the past.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) digest: u64,
    pub(crate) attempt: u64,
    pub(crate) asks: Vec<Ask>,
    /// How the caller computed its windows.
    pub(crate) lines: Vec<Line>,
    pub(crate) hold_ms: u64,
}

impl Call {
    pub(crate) fn head(&self) -> Head<'_> {
        Head {
            id: &self.id,
            digest: self.digest,
            attempt: Attempt(self.attempt),
            hold_ms: self.hold_ms,
            grace_ms: GRACE_MS,
        }
    }

    pub(crate) fn finish_head(&self) -> Head<'_> {
        Head { hold_ms: KEEP_MS, ..self.head() }
    }
}

/// An answer of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Finished(Finished),
    None,
    Renewed(bool),
    Reply(Reply),
}

/// What is asked of an engine.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Finish(Call, Finish),
    Renew(Call),
    Reserve(Call),
    Reset(Line),
}

pub(crate) fn machine() -> Machine {
    Machine::new(Bounds { counters_max: usize::MAX, reservations_max: usize::MAX })
}

pub(crate) fn on_machine(machine: &mut Machine, op: &Op, now_us: u64) -> Answer {
    let note = || Ok::<(), Full>(());
    match op {
        Op::Finish(call, how) => {
            Answer::Finished(machine.finish(&call.finish_head(), &call.lines, how, now_us, note).unwrap())
        }
        Op::Renew(call) => Answer::Renewed(machine.renew(&call.head(), &call.lines, now_us, note).unwrap()),
        Op::Reserve(call) => Answer::Reply(machine.reserve(&call.head(), &call.lines, now_us, note).unwrap()),
        Op::Reset(line) => {
            machine.reset(std::slice::from_ref(line), note).unwrap();
            Answer::None
        }
    }
}

pub(crate) fn on_scripts(scripts: &mut Scripts, op: &Op, now_us: u64) -> Answer {
    scripts.reap(now_us);
    match op {
        Op::Finish(call, how) => Answer::Finished(scripts.finish(&call.finish_head(), &call.lines, how, now_us)),
        Op::Renew(call) => Answer::Renewed(scripts.renew(&call.head(), &call.lines, now_us)),
        Op::Reserve(call) => Answer::Reply(scripts.reserve(&call.head(), &call.lines, now_us)),
        Op::Reset(line) => {
            scripts.reset(std::slice::from_ref(line));
            Answer::None
        }
    }
}

/// The past of one sequence, from which steps become operations.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) now_us: u64,
    pub(crate) calls: Vec<Call>,
    next: u64,
}

impl History {
    pub(crate) fn new() -> Self {
        Self { now_us: (BASE_MS + 123_456) * 1_000 + 789, calls: Vec::new(), next: 0 }
    }

    fn call(&mut self, asks: &[Ask], lag_ms: i64, hold_ms: u64) -> Call {
        self.next += 1;
        let caller_ms = (self.now_us / 1_000).saturating_add_signed(lag_ms);
        let lines = asks.iter().map(|ask| ask.line(caller_ms)).collect();
        let call =
            Call { id: format!("id{}", self.next), digest: self.next, attempt: 0, asks: asks.to_vec(), lines, hold_ms };
        self.calls.push(call.clone());
        call
    }

    /// Mostly one of the last calls.
    fn past(&self, which: usize) -> Option<Call> {
        let index = self.calls.len().checked_sub(1 + which)?;
        let mut call = self.calls[index].clone();
        // Whoever asks again computes its windows again.
        for (line, ask) in call.lines.iter_mut().zip(&call.asks) {
            line.span = ask.line(self.now_us / 1_000).span;
        }
        Some(call)
    }

    /// The operation of a step; `None` for steps of the clock, and for those that miss their call.
    pub(crate) fn operation(&mut self, step: &Step) -> Option<Op> {
        match step {
            Step::Reserve { asks, lag_ms, hold_ms } => Some(Op::Reserve(self.call(asks, *lag_ms, *hold_ms))),
            Step::Again { which, attempt, other } => self.past(*which).map(|call| {
                // Attempts 0 to 3 are the first one's own.
                let digest = if *other { call.digest + 1_000_000 } else { call.digest };
                Op::Reserve(Call { attempt: attempt.saturating_sub(3), digest, ..call })
            }),
            Step::RollBack { which, speaker } => self.past(*which).map(|call| {
                let speaker = match speaker {
                    0 => Speaker::Stream,
                    1 => Speaker::Attempt(Attempt(7)),
                    _ => Speaker::Attempt(Attempt(call.attempt)),
                };
                Op::Finish(call, Finish::RollBack(speaker))
            }),
            Step::Settle { which, actual } => self.past(*which).map(|call| {
                let actual = actual[..call.lines.len()].into();
                Op::Finish(call, Finish::Settle(actual))
            }),
            Step::Renew { which } => self.past(*which).map(Op::Renew),
            Step::Unknown { asks, settle } => {
                let call = self.call(asks, 0, HOLD_MS);
                let actual = call.lines.iter().map(|line| (line.amount + 1).min(1 << 52)).collect();
                let how = if *settle { Finish::Settle(actual) } else { Finish::RollBack(Speaker::Stream) };
                Some(Op::Finish(call, how))
            }
            Step::Reset { spec } => {
                let ask = Ask { spec: *spec, mode: Mode::Consume, amount: 1 };
                Some(Op::Reset(ask.line(self.now_us / 1_000)))
            }
            Step::Forward { us } => {
                self.now_us += us;
                None
            }
            Step::Back { ms } => {
                self.now_us -= ms * 1_000;
                None
            }
            Step::FlushScripts => None,
        }
    }
}

/// Every counter of the world, as somebody looks at it now.
pub(crate) fn all_lines(now_us: u64) -> Vec<Line> {
    let asks = (0..SPECS.len()).map(|spec| Ask { spec, mode: Mode::Gate, amount: 1 });
    asks.map(|ask| ask.line(now_us / 1_000)).collect()
}

/// So many sequences of a test, by default small enough for every run.
pub(crate) fn config(default: u32) -> ProptestConfig {
    let asked = std::env::var("LEDGER_SEQUENCES").ok().map(|text| text.parse().expect("LEDGER_SEQUENCES is a number"));
    ProptestConfig { cases: asked.unwrap_or(default), failure_persistence: None, ..ProptestConfig::default() }
}
