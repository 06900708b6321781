use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::{super::SIGNATURE_BYTES, *};

fn keys() -> Keys {
    Keys::derive(&[7; 32])
}

fn any_span() -> impl Strategy<Value = Span> {
    let number = 1_u64..=AMOUNT_MAX;
    prop_oneof![
        (0..=AMOUNT_MAX, 1_u64..1 << 40, 1_u64..1 << 40).prop_map(|(start_ms, this, next)| Span::Calendar {
            start_ms,
            end_ms: start_ms.saturating_add(this),
            next_end_ms: start_ms.saturating_add(this).saturating_add(next)
        }),
        number.clone().prop_map(|lease_ms| Span::InFlight { lease_ms }),
        any::<u64>().prop_map(|idle_ms| Span::Lifetime { idle_ms }),
        (number.clone(), 1_u64..=BUCKETS_MAX).prop_map(|(bucket_ms, buckets)| Span::Rolling { bucket_ms, buckets }),
        (any::<[u8; 16]>(), any::<u64>())
            .prop_map(|(bytes, idle_ms)| Span::Streak { fingerprint: Fingerprint(bytes), idle_ms }),
        (number, any::<u64>()).prop_map(|(interval_us, burst_us)| Span::TokenBucket { interval_us, burst_us }),
    ]
}

fn any_actual() -> impl Strategy<Value = Actual> {
    prop_oneof![
        3 => Just(Actual::Held),
        1 => Just(Actual::Usage),
        1 => (0..=SCALE_MAX, 0..=AMOUNT_MAX).prop_map(|(scale, min)| Actual::Bytes { scale, min }),
    ]
}

fn any_line() -> impl Strategy<Value = ((Line, Promise), Arc<str>)> {
    let mode = proptest::sample::select(&[Mode::Attempt, Mode::Consume, Mode::Gate, Mode::Track][..]);
    let count_on = proptest::sample::select(&[CountOn::Admitted, CountOn::Forwarded, CountOn::Success][..]);
    let units = 0_u64..=AMOUNT_MAX;
    let flags = (any::<[bool; 5]>(), any::<[bool; 2]>(), any_actual());
    (any::<u128>(), "[a-z0-9:.-]{0,60}", any_span(), mode, units.clone(), units, flags, count_on).prop_map(
        |(counter, label, span, mode, amount, max, (flags, [is_error, protocol_error], actual), count_on)| {
            let [strict, release, reset, timeout, upstream_5xx] = flags;
            let label = Arc::from(label);
            let line = Line { counter: CounterId(counter), label, span, mode, amount, max, strict, release };
            let refund_on = RefundOn { is_error, protocol_error, reset, timeout, upstream_5xx };
            let promise = Promise { count_on, refund_on, actual };
            ((line, promise), Arc::from(format!("n{counter:x}")))
        },
    )
}

fn any_token() -> impl Strategy<Value = Token> {
    let head = ("[A-Za-z0-9_-]{1,64}", any::<u64>(), any::<u64>(), any::<[u8; 8]>(), any::<u64>(), "[a-z]{0,9}");
    let trace = proptest::option::of((any::<u128>(), any::<u64>()).prop_map(|(trace, span)| TraceContext {
        trace_id: trace.max(1).to_be_bytes(),
        span_id: span.max(1).to_be_bytes(),
        sampled: true,
    }));
    (head, trace, proptest::collection::vec(any_line(), 1..=LINES_MAX)).prop_map(
        |((id, attempt, digest, policy_digest, issued_ms, policy), trace, lines)| {
            let (lines, names): (Vec<(Line, Promise)>, Vec<Arc<str>>) = lines.into_iter().unzip();
            let (lines, promises): (Vec<Line>, Vec<Promise>) = lines.into_iter().unzip();
            let (names, policy) = (names.into(), Arc::from(policy));
            let id = ReservationId::from_token(&id).unwrap();
            let booking = Booking { id, attempt: Attempt(attempt), digest, lines: lines.into() };
            Token { booking, promises: promises.into(), names, policy, policy_digest, issued_ms, trace }
        },
    )
}

fn small() -> Token {
    let line = Line {
        counter: CounterId(5),
        label: Arc::from("deletions:hour-utc"),
        span: Span::Calendar { start_ms: 3_600_000, end_ms: 7_200_000, next_end_ms: 10_800_000 },
        mode: Mode::Consume,
        amount: 1,
        max: 5,
        strict: true,
        release: false,
    };
    let promise = Promise { count_on: CountOn::Forwarded, refund_on: RefundOn::default(), actual: Actual::Held };
    let id = ReservationId::from_token("9264854546074171864").unwrap();
    let booking = Booking { id, attempt: Attempt(1), digest: 2, lines: [line].into() };
    let (names, policy) = ([Arc::from("deletions")].into(), Arc::from("ops"));
    let issued_ms = 1_800_000_000_000;
    Token { booking, promises: [promise].into(), names, policy, policy_digest: [1; 8], issued_ms, trace: None }
}

#[test]
fn a_token_of_one_counter_is_short() {
    let token = small().sign(&keys()).unwrap();
    assert!(token.len() < 200, "{} characters", token.len());
    assert_eq!(Token::read(token.as_bytes(), &keys()), Ok(small()));
}

const TRACE: TraceContext = TraceContext { trace_id: [3; 16], span_id: [4; 8], sampled: true };

#[test]
fn a_trace_makes_another_format_and_no_trace_leaves_the_old_one() {
    let first = |token: &Token| URL_SAFE_NO_PAD.decode(token.sign(&keys()).unwrap()).unwrap()[0];
    let of_body = Promise { actual: Actual::Usage, ..small().promises[0] };
    let with_body = Token { promises: [of_body].into(), ..small() };
    assert_eq!([&small(), &with_body].map(first), [VERSION, VERSION_BODY], "what old replicas read");
    let traced = [small(), with_body].map(|token| token.with_trace(Some(TRACE)));
    assert_eq!(traced.each_ref().map(first), [VERSION_TRACE, VERSION_BODY_TRACE]);
    for token in traced {
        assert_eq!(Token::read(token.sign(&keys()).unwrap().as_bytes(), &keys()), Ok(token));
    }
    let unsampled = small().with_trace(Some(TraceContext { sampled: false, ..TRACE }));
    assert_eq!(unsampled, small());
}

#[test]
fn a_call_is_settled_also_if_there_is_no_room_for_its_trace() {
    let room = (1..=NAME_BYTES_MAX).rev().map(|length| {
        let line = Line { label: Arc::from("x".repeat(length)), ..small().booking.lines[0].clone() };
        let booking = Booking { lines: vec![line; LINES_MAX].into(), ..small().booking };
        let promises = vec![small().promises[0]; LINES_MAX].into();
        Token { booking, promises, names: vec![Arc::from("y"); LINES_MAX].into(), ..small() }
    });
    let longest = room.into_iter().find(|token| token.sign(&keys()).is_some()).unwrap();
    let mut tight = longest;
    // Fill up to the last byte, so that 24 more cannot fit.
    while let Some(more) = Some(Token { policy: format!("{}z", tight.policy).into(), ..tight.clone() })
        && more.policy.len() <= NAME_BYTES_MAX
        && more.sign(&keys()).is_some()
    {
        tight = more;
    }
    let traced = tight.clone().with_trace(Some(TRACE));
    assert_eq!(Token::read(traced.sign(&keys()).unwrap().as_bytes(), &keys()), Ok(tight));
}

#[test]
fn every_flipped_bit_is_refused() {
    let token = small().sign(&keys()).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut forged = bytes.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let forged = URL_SAFE_NO_PAD.encode(forged);
        assert_eq!(Token::read(forged.as_bytes(), &keys()), Err(TokenError::Signature), "bit {bit}");
    }
    for cut in 0..token.len() {
        assert!(Token::read(&token.as_bytes()[..cut], &keys()).is_err(), "cut to {cut}");
    }
    let longer = format!("{token}AAAA");
    assert_eq!(Token::read(longer.as_bytes(), &keys()), Err(TokenError::Signature));
}

#[test]
fn a_token_of_other_keys_is_refused() {
    let token = small().sign(&Keys::derive(&[8; 32])).unwrap();
    assert_eq!(Token::read(token.as_bytes(), &keys()), Err(TokenError::Signature));
}

#[test]
fn the_length_is_bounded_on_both_ways() {
    let mut token = small();
    let line = token.booking.lines[0].clone();
    let of = |label: usize, count: usize| {
        let line = Line { label: Arc::from("x".repeat(label)), ..line.clone() };
        vec![line; count].into_boxed_slice()
    };
    token.promises = vec![token.promises[0]; LINES_MAX].into();
    token.names = vec![Arc::from("x".repeat(20)); LINES_MAX].into();
    token.booking.lines = of(80, LINES_MAX);
    let fits = token.sign(&keys()).unwrap();
    assert_eq!(Token::read(fits.as_bytes(), &keys()), Ok(token.clone()));
    token.booking.lines = of(NAME_BYTES_MAX, LINES_MAX);
    assert_eq!(token.sign(&keys()), None, "too long as a whole");
    token.promises = token.promises.iter().copied().take(1).collect();
    token.names = [Arc::from("x".repeat(NAME_BYTES_MAX))].into();
    token.booking.lines = of(NAME_BYTES_MAX, 1);
    let fits = token.sign(&keys()).unwrap();
    assert_eq!(Token::read(fits.as_bytes(), &keys()), Ok(token.clone()));
    token.booking.lines = of(NAME_BYTES_MAX + 1, 1);
    assert_eq!(token.sign(&keys()), None, "a label too long");
    let garbage = "A".repeat(TOKEN_BYTES_MAX);
    assert_eq!(Token::read(garbage.as_bytes(), &keys()), Err(TokenError::Signature));
    assert_eq!(Token::read(format!("{garbage}A").as_bytes(), &keys()), Err(TokenError::Garbled));
}

/// Signed by us, and yet nothing to act on: what another version might write.
#[test]
fn another_format_is_told_from_a_forgery() {
    let sign = |bytes: &[u8]| {
        let mut out = bytes.to_vec();
        out.extend_from_slice(&keys().sign(bytes));
        URL_SAFE_NO_PAD.encode(out)
    };
    let good = URL_SAFE_NO_PAD.decode(small().sign(&keys()).unwrap()).unwrap();
    let body = &good[..good.len() - SIGNATURE_BYTES];
    assert_eq!(Token::read(sign(body).as_bytes(), &keys()), Ok(small()));
    let mut newer = body.to_vec();
    newer[0] = VERSION_BODY + 1;
    let longer = [body, b"x"].concat();
    // Every version has its own length, and what one byte less can say is not said in the longer one.
    let mut other = body.to_vec();
    other[0] = VERSION_BODY;
    for bytes in [&newer[..], &longer, &other, b"", &body[..body.len() - 1]] {
        assert_eq!(Token::read(sign(bytes).as_bytes(), &keys()), Err(TokenError::Version));
    }
}

/// Replicas of the version before read what they can settle, and this one reads what they wrote.
#[test]
fn only_what_needs_the_body_has_the_newer_format() {
    let version = |token: &Token| URL_SAFE_NO_PAD.decode(token.sign(&keys()).unwrap()).unwrap()[0];
    let with = |promise: Promise| Token { promises: [promise].into(), ..small() };
    let plain = small().promises[0];
    assert_eq!(version(&small()), VERSION);
    for promise in [
        Promise { refund_on: RefundOn { is_error: true, ..RefundOn::default() }, ..plain },
        Promise { refund_on: RefundOn { protocol_error: true, ..RefundOn::default() }, ..plain },
        Promise { actual: Actual::Usage, ..plain },
        Promise { actual: Actual::Bytes { scale: SCALE_MAX, min: AMOUNT_MAX }, ..plain },
    ] {
        let token = with(promise);
        assert_eq!(version(&token), VERSION_BODY, "{promise:?}");
        let text = token.sign(&keys()).unwrap();
        assert_eq!(Token::read(text.as_bytes(), &keys()), Ok(token));
    }
    for actual in [Actual::Bytes { scale: SCALE_MAX + 1, min: 0 }, Actual::Bytes { scale: 0, min: AMOUNT_MAX + 1 }] {
        let text = with(Promise { actual, ..plain }).sign(&keys()).unwrap();
        assert_eq!(Token::read(text.as_bytes(), &keys()), Err(TokenError::Version), "{actual:?}");
    }
}

/// A token as the version before wrote it, for the keys of these tests.
#[test]
fn a_token_of_the_version_before_is_read() {
    const WRITTEN: &str = "AQEBAQEBAQEBA29wc4Cg8cKxNBM5MjY0ODU0NTQ2MDc0MTcxODY0AAAAAAAAAAEAAAAAAAAAAgEAAAAAAAAAAAAAAAAAAAAFEmRlbGV0aW9uczpob3VyLXV0Y2MBZgEFY4Dd2wGA3dsBgN3bAQlkZWxldGlvbnMjw3vAQ4JpWDkyIKgzQtCC";
    assert_eq!(small().sign(&keys()).as_deref(), Some(WRITTEN));
    assert_eq!(Token::read(WRITTEN.as_bytes(), &keys()), Ok(small()));
}

#[test]
fn the_policy_is_named_by_the_first_bytes_of_its_digest() {
    let digest = PolicyDigest::of(b"{}");
    let prefix: String = digest.prefix().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(digest.as_str().starts_with(&format!("sha256:{prefix}")), "{prefix}");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(token in any_token()) {
        if let Some(text) = token.sign(&keys()) {
            prop_assert_eq!(Token::read(text.as_bytes(), &keys()), Ok(token));
        }
    }

    #[test]
    fn no_bytes_make_reading_panic_even_if_we_signed_them(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Token::read(&bytes, &keys()).is_err());
        let mut reader = Reader(&bytes);
        if let Some(token) = reader.token() && reader.0.is_empty() {
            // What is read has one spelling only.
            let text = token.sign(&keys()).unwrap();
            let again = URL_SAFE_NO_PAD.decode(text).unwrap();
            let signed = again.len().saturating_sub(SIGNATURE_BYTES);
            prop_assert_eq!(&again[..signed], &bytes[..]);
        }
    }

    /// Broken pieces of what was once sound reach further than random bytes.
    #[test]
    fn a_damaged_token_that_we_signed_does_no_harm(token in any_token(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let Some(text) = token.sign(&keys()) else { return Ok(()) };
        let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        bytes.truncate(bytes.len().saturating_sub(SIGNATURE_BYTES));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut reader = Reader(&bytes);
        if let Some(read) = reader.token() {
            prop_assert!(read.booking.lines.len() <= LINES_MAX);
            prop_assert!(read.booking.lines.iter().all(|line| line.amount <= AMOUNT_MAX && line.max <= AMOUNT_MAX));
        }
    }
}
