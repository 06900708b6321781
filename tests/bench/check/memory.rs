//! What the embedded ledger costs: the fastest of many short batches, which no neighbor on the machine interrupted, so CPU time.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use mcp_authz::clock::{Clock, SystemClock};
use mcp_authz::quota::embedded::{EmbeddedLedger, LOG_BYTES_MAX, Settings};
use mcp_authz::quota::{self, Booking, Ledger as _, OnLeak, ReservationId, Reserve};
use mcp_authz_core::decision::{Denial, Reason};
use mcp_authz_core::ledger::machine::Bounds;
use mcp_authz_core::ledger::{Attempt, Code, CounterId, Finish, Line, Span, Speaker};
use mcp_authz_core::quota::{
    Actual, Calendar, Charge, CountOn, CounterKey, Measure, Mode, OnExpiry, OnUnavailable, RefundOn, Terms, Unit,
};
use tokio::time::{Duration, Instant};

const BATCHES: usize = 100;
/// Calls of one batch: less work than the time slice of a process.
const CALLS: u32 = 500;
const HOLD: Duration = Duration::from_millis(1);
const BOUNDS: Bounds = Bounds { counters_max: 1_000_000, reservations_max: 10_000_000 };
const UNITS: [Unit; 4] = [Unit::Minute, Unit::Hour, Unit::Day, Unit::Month];

/// Writes the table.
pub(crate) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "embedded ledger, ns of CPU time (fastest of {BATCHES} batches)\n\n\
         | piece | 1 counter | 4 counters | 8 counters |\n|---|---|---|---|"
    )?;
    for journal in [false, true] {
        let folder = tempfile::tempdir()?;
        let settings = Settings {
            bounds: BOUNDS,
            folder: journal.then(|| folder.path().to_owned()),
            log_bytes_max: LOG_BYTES_MAX,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let ledger = Arc::new(EmbeddedLedger::open(&settings, clock, Arc::new(|_| {}))?);
        let name = if journal { "with a journal" } else { "in memory" };
        let bench = Bench { ledger, next: 0 };
        bench.rows(out, name)?;
    }
    writeln!(out)?;
    Ok(())
}

struct Bench {
    ledger: Arc<EmbeddedLedger>,
    next: u64,
}

impl Bench {
    fn rows(mut self, out: &mut impl Write, name: &str) -> anyhow::Result<()> {
        let mut row = |piece: &str, figures: [f64; 3]| {
            let [one, four, eight] = figures;
            writeln!(out, "| {piece}, {name} | {one:.0} | {four:.0} | {eight:.0} |")
        };
        row("EmbeddedLedger::reserve", [self.reserve(1)?, self.reserve(4)?, self.reserve(8)?])?;
        row("… and a rollback", [self.roll_back(1)?, self.roll_back(4)?, self.roll_back(8)?])?;
        row("quota::reserve: names blinded, guard, reservation", [self.whole(1)?, self.whole(4)?, self.whole(8)?])?;
        Ok(())
    }

    /// Envoy's ids are decimal.
    #[expect(clippy::panic, reason = "an id that cannot be made ends the benchmark")]
    fn id(&mut self) -> ReservationId {
        self.next += 1;
        ReservationId::from_envoy(&(u64::MAX - self.next).to_string()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn booking(&mut self, counters: usize) -> anyhow::Result<Booking> {
        let now_ms = self.ledger.now_ms();
        let lines = charges(counters).into_iter().enumerate().map(|(index, charge)| {
            let span = Span::of(&charge.measure, charge.max, now_ms)?;
            let counter = CounterId(0x9e37_79b9_7f4a_7c15_u128 * (u128::try_from(index).ok()? + 1));
            let Charge { mode, amount, max, terms, .. } = charge;
            let label = Arc::clone(&terms.label);
            Some(Line { counter, label, span, mode, amount, max, strict: true, release: false })
        });
        let lines: Option<Box<[Line]>> = lines.collect();
        let lines = lines.context("no calendar knows this time")?;
        Ok(Booking { id: self.id(), attempt: Attempt(1), digest: 1, lines })
    }

    fn reserve(&mut self, counters: usize) -> anyhow::Result<f64> {
        let mut booking = self.booking(counters)?;
        ensure!(self.ledger.reserve_now(&booking, HOLD)?.code == Code::Held, "the call passes");
        time(|| {
            booking.id = self.id();
            drop(black_box(self.ledger.reserve_now(&booking, HOLD)));
        })
    }

    fn roll_back(&mut self, counters: usize) -> anyhow::Result<f64> {
        let mut booking = self.booking(counters)?;
        let how = Finish::RollBack(Speaker::Stream);
        time(|| {
            booking.id = self.id();
            drop(black_box(self.ledger.reserve_now(&booking, HOLD)));
            drop(black_box(self.ledger.finish_now(&booking, &how)));
        })
    }

    fn whole(&mut self, counters: usize) -> anyhow::Result<f64> {
        let charges = charges(counters);
        let on_leak: OnLeak = Arc::new(|_, _| {});
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let deadline = Instant::now() + Duration::from_secs(3_600);
        let ledger = Arc::clone(&self.ledger);
        runtime.block_on(async {
            let mut figures = Vec::new();
            for _ in 0..BATCHES {
                let begun = Instant::now();
                for _ in 0..CALLS {
                    let held =
                        quota::reserve(&ledger, self.id(), &charges, HOLD, deadline, Arc::clone(&on_leak)).await?;
                    if let Reserve::Reserved(held) = held {
                        black_box(held.into_ticket());
                    }
                }
                figures.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
            }
            Ok(figures.into_iter().fold(f64::INFINITY, f64::min))
        })
    }
}

/// Calendar counters of one agent, in UTC.
fn charges(counters: usize) -> Vec<Charge> {
    let charge = |index: usize| {
        let unit = UNITS.get(index % UNITS.len()).copied().unwrap_or(Unit::Hour);
        let name: Arc<str> = format!("counter-{index}").into();
        let terms = Terms {
            policy: "bench".into(),
            label: format!("{name}:{}-utc", unit.name()).into(),
            name,
            scope: "grant".into(),
            window: unit.name().into(),
            scale: 0,
            denial: Denial::built_in(Reason::QuotaExhausted),
            disclose: false,
            count_on: CountOn::Forwarded,
            refund_on: RefundOn::default(),
            actual: Actual::default(),
            on_unavailable: OnUnavailable::Deny,
            on_expiry: OnExpiry::Keep,
        };
        let counter = CounterKey::of(&["bench", &terms.label, "grant", "agent-1"]);
        let measure = Measure::Calendar(Calendar::utc(unit));
        Charge { counter, measure, mode: Mode::Consume, amount: 1, max: 1 << 50, terms: Arc::new(terms) }
    };
    (0..counters).map(charge).collect()
}

fn time(mut piece: impl FnMut()) -> anyhow::Result<f64> {
    let mut figures = Vec::new();
    for _ in 0..BATCHES {
        let begun = Instant::now();
        for _ in 0..CALLS {
            piece();
        }
        figures.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    Ok(figures.into_iter().fold(f64::INFINITY, f64::min))
}
