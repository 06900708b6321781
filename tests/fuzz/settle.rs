//! What Envoy's access log brings back: no bytes make a token ours, and no entry gives back more than was held.
//!
//! Input: a first byte that says what follows. Even: the inside of a settle token, to be signed by us. Odd: the text of one.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mcp_authz::quota::{
    Keys,
    token::{TOKEN_BYTES_MAX, Token},
};
use mcp_authz_core::{
    number::AMOUNT_MAX,
    quota::LINES_MAX,
    response::{Came, Kind},
    settle::{Change, Facts, Fate, Plan, plan},
};

/// Reads the token and settles by it.
///
/// # Panics
/// If a property does not hold.
pub fn settle(data: &[u8]) {
    let keys = Keys::derive(&[7; 32]);
    let Some((first, rest)) = data.split_first() else { return };
    if first % 2 == 1 {
        assert!(Token::read(rest, &keys).is_err(), "a token that nobody signed");
        return;
    }
    let mut signed = rest.to_vec();
    signed.extend_from_slice(&keys.sign(rest));
    let text = URL_SAFE_NO_PAD.encode(signed);
    assert!(Token::read(text.as_bytes(), &Keys::derive(&[8; 32])).is_err(), "signed with other keys");
    let Ok(token) = Token::read(text.as_bytes(), &keys) else { return };
    assert!(text.len() <= TOKEN_BYTES_MAX);
    assert_eq!(token.sign(&keys).as_deref(), Some(&*text), "one spelling only");
    let lines = &token.booking.lines;
    assert!((1..=LINES_MAX).contains(&lines.len()));
    for fate in [
        Fate::Answered(200),
        Fate::Answered(503),
        Fate::ClientGone,
        Fate::NotSent,
        Fate::Reset,
        Fate::TimedOut,
        Fate::Unanswered,
    ] {
        for came in answers(&token) {
            let facts = Facts { fate, attempts: u32::from(first / 2), came };
            let Plan::Settle { actual, change } = plan(lines, &token.promises, &token.names, &facts) else { continue };
            assert_eq!(actual.len(), lines.len());
            let pairs = || lines.iter().zip(&actual);
            assert!(pairs().all(|(line, actual)| *actual <= AMOUNT_MAX || *actual == line.amount));
            match change {
                Change::None => assert!(pairs().all(|(line, actual)| *actual == line.amount)),
                Change::Refund => assert!(pairs().all(|(line, actual)| *actual <= line.amount)),
                Change::Surplus => {
                    assert!(pairs().any(|(line, actual)| *actual > line.amount));
                    assert!(facts.attempts > 1 || facts.came.is_some() && token.needs_body());
                }
            }
        }
    }
}

/// No answer, and answers that say little and much.
fn answers(token: &Token) -> Vec<Option<Came>> {
    let mut answers = vec![None];
    for (kind, units) in [(Kind::Ok, 0), (Kind::ToolError, 1), (Kind::ProtocolError, u64::MAX), (Kind::ServerError, 7)]
    {
        let usage = token.names.iter().map(|name| (Arc::clone(name), units)).collect();
        answers.push(Some(Came { kind, bytes: units, usage }));
    }
    answers
}
