//! The settle token: everything that ending a reservation needs, carried by Envoy, so that no process has to remember a call.
//!
//! Envoy keeps it in the dynamic metadata of the request and returns it in the access log. It is signed, not encrypted: it
//! holds names of counters that are keyed digests already, and amounts. Whoever has one and reaches the access log service
//! could claim that the call never ran, so it must not be written to logs that others read.

use std::sync::Arc;

use mcp_authz_core::{
    decision::PolicyDigest,
    ledger::{Attempt, CounterId, Line, Span},
    number::{AMOUNT_MAX, SCALE_MAX},
    quota::{Actual, BUCKETS_MAX, CountOn, Fingerprint, LINES_MAX, Mode, RefundOn},
    settle::Promise,
    trace::TraceContext,
};

use super::{Booking, Keys, ReservationId, SealError, Ticket, booking::mode_letter};

/// Longest token that is written or read, in characters. 32 counters with labels and names of 100 characters together fit.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest label or name of a line, in bytes; their texts come from the policy.
pub const NAME_BYTES_MAX: usize = 255;

/// First byte of the format. Another version is another program's: during an upgrade its reservations stay as they are.
const VERSION: u8 = 1;
/// The format that also says what the body of the answer decides. Written only where it decides something, so that the other
/// replicas of an upgrade go on settling all other calls.
const VERSION_BODY: u8 = 2;
/// Both formats with the place of the Check in its trace before all else. Written only for a Check that is recorded, for the same
/// reason.
const VERSION_TRACE: u8 = 3;
const VERSION_BODY_TRACE: u8 = 4;

/// What a settle token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What is held.
    pub booking: Booking,
    /// When each line counts, in the order of the lines.
    pub promises: Box<[Promise]>,
    /// Name of each line's counter, for metrics.
    pub names: Box<[Arc<str>]>,
    /// Id of the policy, for metrics.
    pub policy: Arc<str>,
    /// First eight bytes of the digest of the policy that decided; zeros where there was none.
    pub policy_digest: [u8; 8],
    /// When it was issued, Unix ms.
    pub issued_ms: u64,
    /// The span of the Check, if that is recorded: the settlement belongs to the same trace.
    pub trace: Option<TraceContext>,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too long, or no base64.
    #[error("settle token cannot be read")]
    Garbled,
    /// Not signed with the keys of this store: forged, or the data of the store was lost since.
    #[error("settle token is not signed with the keys of this store")]
    Signature,
    /// Signed by us, and of a format that this version does not know.
    #[error("settle token has an unknown format")]
    Version,
}

impl Token {
    /// The token of an open reservation.
    #[must_use]
    pub fn of(ticket: &Ticket, policy: Option<&PolicyDigest>, issued_ms: u64) -> Self {
        Self {
            booking: Booking::clone(&ticket.booking),
            promises: ticket.terms.iter().map(|terms| Promise::of(terms)).collect(),
            names: ticket.terms.iter().map(|terms| Arc::clone(&terms.name)).collect(),
            // A caller has one policy, so all terms of a call are of the same.
            policy: ticket.terms.first().map(|terms| Arc::clone(&terms.policy)).unwrap_or_default(),
            policy_digest: policy.map(PolicyDigest::prefix).unwrap_or_default(),
            issued_ms,
            trace: None,
        }
    }

    /// With the span of the Check.
    #[must_use]
    pub fn with_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace: trace.filter(|trace| trace.sampled), ..self }
    }

    /// Whether the body of the answer has a say in it.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.promises.iter().any(Promise::needs_body)
    }

    /// Signs it. `None` if it would be longer than [`TOKEN_BYTES_MAX`]: such a call cannot be settled, and stays spent. If only its
    /// trace is too much, that is left out.
    #[must_use]
    pub fn sign(&self, keys: &Keys) -> Option<String> {
        let whole = self.seal(self.trace, keys);
        if whole.is_none() && self.trace.is_some() { self.seal(None, keys) } else { whole }
    }

    fn seal(&self, trace: Option<TraceContext>, keys: &Keys) -> Option<String> {
        let mut out = Vec::with_capacity(64_usize.saturating_add(self.booking.lines.len().saturating_mul(64)));
        let needs_body = self.needs_body();
        out.push(version(needs_body, trace.is_some()));
        if let Some(TraceContext { trace_id, span_id, .. }) = trace {
            out.extend_from_slice(&trace_id);
            out.extend_from_slice(&span_id);
        }
        out.extend_from_slice(&self.policy_digest);
        text(&mut out, &self.policy)?;
        number(&mut out, self.issued_ms);
        text(&mut out, self.booking.id.as_str())?;
        out.extend_from_slice(&self.booking.attempt.0.to_be_bytes());
        out.extend_from_slice(&self.booking.digest.to_be_bytes());
        let count = self.booking.lines.len();
        if count != self.promises.len() || count != self.names.len() || count > LINES_MAX {
            return None;
        }
        out.push(u8::try_from(count).ok()?);
        for ((line, promise), name) in self.booking.lines.iter().zip(&self.promises).zip(&self.names) {
            push_line(&mut out, line, *promise)?;
            if needs_body {
                push_actual(&mut out, promise.actual);
            }
            text(&mut out, name)?;
        }
        keys.seal(out, TOKEN_BYTES_MAX)
    }

    /// Reads a token that Envoy brought back.
    ///
    /// # Errors
    /// See [`TokenError`]; the caller counts it and changes nothing.
    pub fn read(token: &[u8], keys: &Keys) -> Result<Self, TokenError> {
        let signed = keys.open(token, TOKEN_BYTES_MAX).map_err(|error| match error {
            SealError::Garbled => TokenError::Garbled,
            SealError::Signature => TokenError::Signature,
        })?;
        let mut reader = Reader(&signed);
        let token = reader.token().filter(|_| reader.0.is_empty());
        token.ok_or(TokenError::Version)
    }
}

const fn version(needs_body: bool, is_traced: bool) -> u8 {
    match (needs_body, is_traced) {
        (false, false) => VERSION,
        (true, false) => VERSION_BODY,
        (false, true) => VERSION_TRACE,
        (true, true) => VERSION_BODY_TRACE,
    }
}

fn push_line(out: &mut Vec<u8>, line: &Line, promise: Promise) -> Option<()> {
    let Promise { count_on, refund_on, .. } = promise;
    out.extend_from_slice(&line.counter.0.to_be_bytes());
    text(out, &line.label)?;
    out.push(mode_letter(line.mode));
    let RefundOn { is_error, protocol_error, reset, timeout, upstream_5xx } = refund_on;
    let bits = [line.strict, line.release, reset, timeout, upstream_5xx, protocol_error, is_error];
    out.push(bits.iter().rev().fold(0, |all, bit| all << 1 | u8::from(*bit)));
    out.push(match count_on {
        CountOn::Admitted => b'a',
        CountOn::Forwarded => b'f',
        CountOn::Success => b's',
    });
    number(out, line.amount);
    number(out, line.max);
    out.push(u8::try_from(u32::from(line.span.letter())).ok()?);
    match line.span {
        Span::Calendar { start_ms, end_ms, next_end_ms } => {
            number(out, start_ms);
            number(out, end_ms.checked_sub(start_ms)?);
            number(out, next_end_ms.checked_sub(end_ms)?);
        }
        Span::InFlight { lease_ms } => number(out, lease_ms),
        Span::Lifetime { idle_ms } => number(out, idle_ms),
        Span::Rolling { bucket_ms, buckets } => {
            number(out, bucket_ms);
            number(out, buckets);
        }
        Span::Streak { fingerprint, idle_ms } => {
            out.extend_from_slice(&fingerprint.0);
            number(out, idle_ms);
        }
        Span::TokenBucket { interval_us, burst_us } => {
            number(out, interval_us);
            number(out, burst_us);
        }
    }
    Some(())
}

fn push_actual(out: &mut Vec<u8>, actual: Actual) {
    match actual {
        Actual::Bytes { scale, min } => {
            out.push(b'b');
            out.push(scale);
            number(out, min);
        }
        Actual::Held => out.push(b'h'),
        Actual::Usage => out.push(b'u'),
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

fn text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.push(u8::try_from(text.len()).ok()?);
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// What is left to read. Signed bytes are read as carefully as any others: another version of this program may have written
/// them.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn token(&mut self) -> Option<Token> {
        let (needs_body, is_traced) = match self.byte()? {
            VERSION => (false, false),
            VERSION_BODY => (true, false),
            VERSION_TRACE => (false, true),
            VERSION_BODY_TRACE => (true, true),
            _ => return None,
        };
        let trace = if is_traced { Some(self.trace()?) } else { None };
        let policy_digest = self.array()?;
        let policy = Arc::from(self.text()?);
        let issued_ms = self.number()?;
        let id = ReservationId::from_token(self.text()?)?;
        let attempt = Attempt(u64::from_be_bytes(self.array()?));
        let digest = u64::from_be_bytes(self.array()?);
        let count = usize::from(self.byte()?);
        if count == 0 || count > LINES_MAX {
            return None;
        }
        let (mut lines, mut promises) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut names = Vec::with_capacity(count);
        for _ in 0..count {
            let (line, mut promise) = self.line(needs_body)?;
            if needs_body {
                promise.actual = self.actual()?;
            }
            lines.push(line);
            promises.push(promise);
            names.push(Arc::from(self.text()?));
        }
        let booking = Booking { id, attempt, digest, lines: lines.into() };
        let (promises, names) = (promises.into(), names.into());
        let token = Token { booking, promises, names, policy, policy_digest, issued_ms, trace };
        // What says nothing more has one spelling, the shorter one.
        (token.needs_body() == needs_body).then_some(token)
    }

    /// Ids of all zeros are none.
    fn trace(&mut self) -> Option<TraceContext> {
        let context = TraceContext { trace_id: self.array()?, span_id: self.array()?, sampled: true };
        (context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
    }

    fn line(&mut self, needs_body: bool) -> Option<(Line, Promise)> {
        let counter = CounterId(u128::from_be_bytes(self.array()?));
        let label = Arc::from(self.text()?);
        let mode = match self.byte()? {
            b'a' => Mode::Attempt,
            b'c' => Mode::Consume,
            b'g' => Mode::Gate,
            b't' => Mode::Track,
            _ => return None,
        };
        let known = if needs_body { 7 } else { 5 };
        let bits = self.byte().filter(|bits| *bits < 1 << known)?;
        let bit = |at: u8| bits >> at & 1 == 1;
        let (reset, timeout, upstream_5xx) = (bit(2), bit(3), bit(4));
        let refund_on = RefundOn { is_error: bit(6), protocol_error: bit(5), reset, timeout, upstream_5xx };
        let count_on = match self.byte()? {
            b'a' => CountOn::Admitted,
            b'f' => CountOn::Forwarded,
            b's' => CountOn::Success,
            _ => return None,
        };
        let amount = self.number().filter(|amount| *amount <= AMOUNT_MAX)?;
        let max = self.number().filter(|max| *max <= AMOUNT_MAX)?;
        let span = self.span()?;
        let line = Line { counter, label, span, mode, amount, max, strict: bit(0), release: bit(1) };
        Some((line, Promise { count_on, refund_on, actual: Actual::Held }))
    }

    fn actual(&mut self) -> Option<Actual> {
        Some(match self.byte()? {
            b'b' => Actual::Bytes {
                scale: self.byte().filter(|scale| *scale <= SCALE_MAX)?,
                min: self.number().filter(|min| *min <= AMOUNT_MAX)?,
            },
            b'h' => Actual::Held,
            b'u' => Actual::Usage,
            _ => return None,
        })
    }

    fn span(&mut self) -> Option<Span> {
        Some(match self.byte()? {
            b'c' => {
                let start_ms = self.number()?;
                let end_ms = start_ms.checked_add(self.positive()?)?;
                Span::Calendar { start_ms, end_ms, next_end_ms: end_ms.checked_add(self.positive()?)? }
            }
            b'f' => Span::InFlight { lease_ms: self.positive()? },
            b'g' => Span::TokenBucket { interval_us: self.positive()?, burst_us: self.number()? },
            b'l' => Span::Lifetime { idle_ms: self.number()? },
            b'r' => Span::Rolling {
                bucket_ms: self.positive()?,
                buckets: self.positive().filter(|buckets| *buckets <= BUCKETS_MAX)?,
            },
            b's' => Span::Streak { fingerprint: Fingerprint(self.array()?), idle_ms: self.number()? },
            _ => return None,
        })
    }

    fn positive(&mut self) -> Option<u64> {
        self.number().filter(|number| *number > 0)
    }

    /// A number in its one spelling: no bits beyond 64, no trailing zeros.
    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            value |= part << shift;
            if byte < 0x80 {
                return (part > 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&str> {
        let length = usize::from(self.byte()?);
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
