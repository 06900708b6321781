//! What makes two calls equal: the tool and the value of its arguments, not their spelling.
//!
//! A looping agent that only turns members around, or writes `1.0` for `1`, still loops. What is hashed is tagged and
//! length-prefixed, so that two different values never give one text.

use sha2::{Digest as _, Sha256};

use super::condition::Path;
use crate::json::{Kind, Value};
use crate::quota::Fingerprint;

/// The fingerprint of a call. No arguments are an empty object. What stands at a path of `ignore` is left out.
pub(super) fn of(tool: &str, arguments: Option<Value<'_>>, ignore: &[Path]) -> Fingerprint {
    let mut out = Vec::with_capacity(256);
    push_text(&mut out, b't', tool);
    match arguments {
        Some(value) => {
            let ignore: Vec<&[Box<str>]> = ignore.iter().map(|path| &*path.0).collect();
            push_value(&mut out, value, &ignore);
        }
        None => push_length(&mut out, b'o', 0),
    }
    let digest: [u8; 32] = Sha256::digest(&out).into();
    let (first, _) = digest.split_at(16);
    Fingerprint(first.try_into().unwrap_or([0; 16]))
}

/// Depth is bounded by the parser's limits, so recursion is.
fn push_value(out: &mut Vec<u8>, value: Value<'_>, ignore: &[&[Box<str>]]) {
    match value.kind() {
        Kind::Array => {
            push_length(out, b'a', value.len());
            // A path names members only, so nothing in a list is left out.
            value.elements().for_each(|element| push_value(out, element, &[]));
        }
        Kind::False => out.push(b'f'),
        Kind::Null => out.push(b'n'),
        Kind::Number => push_number(out, value.raw()),
        Kind::Object => push_object(out, value, ignore),
        Kind::String => push_text(out, b's', &value.as_str().unwrap_or_default()),
        Kind::True => out.push(b'y'),
    }
}

fn push_object(out: &mut Vec<u8>, value: Value<'_>, ignore: &[&[Box<str>]]) {
    let is_left_out = |key: &str| ignore.iter().any(|path| matches!(path, [only] if **only == *key));
    let mut members: Vec<_> = value.members().filter(|(key, _)| !is_left_out(key)).collect();
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    push_length(out, b'o', members.len());
    for (key, member) in members {
        push_text(out, b'k', &key);
        let deeper = ignore.iter().filter_map(|path| path.split_first().filter(|(first, _)| ***first == *key));
        let deeper: Vec<&[Box<str>]> = deeper.map(|(_, rest)| rest).collect();
        push_value(out, member, &deeper);
    }
}

/// A number by its value: sign, digits without zeros at their ends, and the power of ten. An exponent that no computer
/// represents stays as it is written.
fn push_number(out: &mut Vec<u8>, literal: &str) {
    let (sign, rest) = literal.strip_prefix('-').map_or(("", literal), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return push_text(out, b'#', "0");
    }
    let leading = digits.len().saturating_sub(significant.len());
    let point = i128::try_from(whole.len()).ok().zip(i128::try_from(leading).ok()).map(|(a, b)| a.saturating_sub(b));
    let point = exponent.parse::<i128>().ok().zip(point).and_then(|(exponent, point)| exponent.checked_add(point));
    let power = point.map_or_else(|| format!("?{exponent}"), |point| point.to_string());
    push_text(out, b'#', &format!("{sign}{}e{power}", significant.trim_end_matches('0')));
}

fn push_text(out: &mut Vec<u8>, tag: u8, text: &str) {
    push_length(out, tag, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn push_length(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    out.extend_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests;
