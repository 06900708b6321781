//! One reservation with a line of every kind, made and taken back before the store is used: a user that may not run a command
//! of a script is found out then, and not in the middle of a call.

use std::{sync::Arc, time::Duration};

use mcp_authz_core::{
    ledger::{Attempt, CounterId, Finish, Line, Span, Speaker},
    quota::{Fingerprint, Mode},
};

use tokio::time::sleep;

use super::{
    connection::Connection,
    failure::Failure,
    keeper::Unlinked,
    script::{Form, Head, finished, numbers, reply},
    server::until,
};
use crate::quota::{Booking, ReservationId, random_bytes};

/// How long anything of it stays, ms.
const SHORT_MS: u64 = 1_000;

/// Older than the rolling window.
const AGED: Duration = Duration::from_millis(5);

/// Runs it.
pub(super) async fn run(connection: &Connection, head: &Head<'_>, now_ms: u64) -> Result<(), Unlinked> {
    let booking = booking().ok_or(Failure::Disconnected)?;
    let another = || {
        let id = ReservationId::random().map_err(|_| Failure::Disconnected)?;
        Ok::<_, Failure>(Booking { id, ..booking.clone() })
    };
    let (later, told) = (another()?, another()?);
    let hold = Duration::from_millis(SHORT_MS);
    let how = Finish::RollBack(Speaker::Stream);
    let questions = [
        head.peek(Form::Text, &booking.lines),
        head.reserve(Form::Text, &booking, hold),
        head.reserve(Form::Text, &later, hold),
        head.renew(Form::Text, &booking, hold),
        head.finish(Form::Text, &booking, &how),
        head.finish(Form::Text, &later, &how),
        head.replay(Form::Text, &told, hold, now_ms, None),
        head.finish(Form::Text, &told, &how),
        head.reset(Form::Text, &booking.lines),
    ];
    for (index, question) in questions.iter().enumerate() {
        let value = match connection.ask(question, until()).await {
            // Counters are not needed to run; whoever reserves is told no.
            Err(Failure::Refused(code)) if matches!(&*code, "OOM" | "MISCONF" | "NOREPLICAS") => return Ok(()),
            answer => answer?,
        };
        let read = match index {
            0..=2 => reply(&value, booking.lines.len()).map(|_| ()),
            4 | 5 | 7 => finished(&value).map(|_| ()),
            _ => numbers(&value).map(|_| ()),
        };
        read.map_err(|_| Failure::Malformed)?;
        if index == 1 {
            // The second finds a bucket that is out.
            sleep(AGED).await;
        }
    }
    Ok(())
}

fn booking() -> Option<Booking> {
    let random = u128::from_be_bytes(random_bytes().ok()?);
    let spans = [
        Span::Rolling { bucket_ms: 1, buckets: 1 },
        Span::Rolling { bucket_ms: SHORT_MS, buckets: 100 },
        Span::InFlight { lease_ms: SHORT_MS },
        Span::Lifetime { idle_ms: SHORT_MS },
        Span::Streak { fingerprint: Fingerprint([0; 16]), idle_ms: SHORT_MS },
        Span::TokenBucket { interval_us: SHORT_MS, burst_us: 10 * SHORT_MS },
    ];
    let line = |(number, span): (u128, Span)| Line {
        counter: CounterId(random.wrapping_add(number)),
        label: Arc::from("probe"),
        span,
        mode: Mode::Consume,
        amount: 1,
        max: 10,
        strict: false,
        release: matches!(span, Span::Rolling { .. } | Span::Lifetime { .. }),
    };
    let lines = (0..).zip(spans).map(line).collect();
    Some(Booking { id: ReservationId::random().ok()?, attempt: Attempt(0), digest: 0, lines })
}
