//! Engines that are wrong on purpose: the contract notices each of them, or it would prove nothing about the right ones.

use super::{
    super::contract::{self, Subject},
    embedded, *,
};
use mcp_authz_core::quota::Mode;

/// What an engine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Answers a rollback and keeps the units.
    EndsNothing,
    /// Takes every attempt for one.
    ForgetsAttempts,
    /// Takes a second request of an id for a new one.
    ForgetsIds,
    /// Holds the lines one by one.
    HoldsOneByOne,
    /// Looks by asking for something.
    LooksByTaking,
    /// Says that a slot is kept whatever became of it.
    RenewsAnything,
    /// Resets the first counter only.
    ResetsOne,
}

#[derive(Debug)]
struct Broken {
    inner: Arc<EmbeddedLedger>,
    fault: Fault,
}

impl Broken {
    fn one_attempt(&self, booking: &Booking) -> Booking {
        let attempt = if self.fault == Fault::ForgetsAttempts { Attempt(0) } else { booking.attempt };
        Booking { attempt, ..booking.clone() }
    }
}

impl Ledger for Broken {
    fn keys(&self) -> Arc<Keys> {
        self.inner.keys()
    }

    fn now_ms(&self) -> u64 {
        self.inner.now_ms()
    }

    async fn reserve(&self, booking: &Booking, hold: Duration, deadline: Instant) -> Result<Reply, LedgerError> {
        let mut booking = self.one_attempt(booking);
        if self.fault == Fault::ForgetsIds {
            booking.id = ReservationId::random()?;
        }
        if self.fault == Fault::HoldsOneByOne && booking.lines.len() > 1 {
            for (index, line) in booking.lines.iter().enumerate() {
                let id = id(&format!("{}-{index}", booking.id));
                let part = Booking { id, lines: [line.clone()].into(), ..booking.clone() };
                let reply = self.inner.reserve(&part, hold, deadline).await?;
                if reply.code != Code::Held {
                    return Ok(Reply { code: Code::Limited { line: index }, ..reply });
                }
            }
        }
        self.inner.reserve(&booking, hold, deadline).await
    }

    async fn finish(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        match (self.fault, how) {
            (Fault::EndsNothing, Finish::RollBack(_)) => Ok(Finished::Now { credited: booking.lines.len() }),
            (Fault::ForgetsAttempts, Finish::RollBack(_)) => {
                self.inner.finish(booking, &Finish::RollBack(Speaker::Stream)).await
            }
            _ => self.inner.finish(booking, how).await,
        }
    }

    async fn renew(&self, booking: &Booking, hold: Duration) -> Result<bool, LedgerError> {
        Ok(self.inner.renew(booking, hold).await? || self.fault == Fault::RenewsAnything)
    }

    async fn peek(&self, lines: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        if self.fault == Fault::LooksByTaking {
            let mut lines = lines.to_vec();
            lines.iter_mut().for_each(|line| (line.mode, line.max) = (Mode::Track, u64::MAX));
            let booking = Booking { id: ReservationId::random()?, attempt: Attempt(0), digest: 0, lines: lines.into() };
            self.inner.reserve_now(&booking, HOLD)?;
        }
        self.inner.peek(lines).await
    }

    async fn reset(&self, lines: &[Line]) -> Result<(), LedgerError> {
        let few = lines.get(..1).unwrap_or(lines);
        self.inner.reset(if self.fault == Fault::ResetsOne { few } else { lines }).await
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        self.inner.accept_loss().await
    }

    fn admitted_unmetered(&self, _: &Arc<Booking>) {}
}

async fn broken(fault: Fault) -> Subject<Broken> {
    let Subject { ledger, advance, _keep } = embedded(None).await;
    Subject { ledger: Arc::new(Broken { inner: ledger, fault }), advance, _keep }
}

/// One test for each engine that is wrong: the claim fails for it.
macro_rules! notices {
    ($($claim:ident notices $fault:ident,)+) => {
        $(#[tokio::test]
        async fn $claim() {
            let subject = broken(Fault::$fault).await;
            let outcome = tokio::spawn(async move { contract::$claim(&subject).await }).await;
            assert!(outcome.is_err_and(|error| error.is_panic()), "{:?} goes unnoticed", Fault::$fault);
        })+
    };
}

notices! {
    a_rollback_restores_once notices EndsNothing,
    an_attempt_cannot_take_back_what_another_relies_on notices ForgetsAttempts,
    a_replayed_id_charges_once notices ForgetsIds,
    all_lines_or_none notices HoldsOneByOne,
    a_look_changes_nothing notices LooksByTaking,
    slots_come_back notices RenewsAnything,
    a_reset_forgets notices ResetsOne,
}
