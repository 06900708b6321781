//! Secrets with a form of their own: each is known by its prefix, its length and its alphabet.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Text;

/// Bytes of a token that are looked at; a longer one is masked as far as this.
const TOKEN_MAX: usize = 16 * 1024;

const fn is_url_safe(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

/// A JSON Web Token (RFC 7519) at the `J` of its `eyJ`: a header that is JSON with `alg`, and three parts, or five if encrypted.
pub(super) fn jwt(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let start = at.checked_sub(2).filter(|start| text.starts_with(*start, b"eyJ"))?;
    if is_url_safe(text.before(start, 1)) {
        return None;
    }
    let header = text.run(start, TOKEN_MAX, is_url_safe);
    let decoded = URL_SAFE_NO_PAD.decode(text.bytes.get(start..header)?).ok()?;
    if !super::holds(&decoded, b"\"alg\"") {
        return None;
    }
    let mut parts = 1u32;
    let mut end = header;
    while parts < 5 && text.at(end) == b'.' {
        let next = text.run(end.saturating_add(1), TOKEN_MAX, is_url_safe);
        // Only the key of an encrypted token and the signature of an unsigned one may be empty.
        if next == end.saturating_add(1) && parts == 1 && text.at(next) != b'.' {
            break;
        }
        end = next;
        parts = parts.saturating_add(1);
    }
    (parts == 3 || parts == 5).then_some(start..end)
}

/// A PEM block (RFC 7468) whose label ends in `PRIVATE KEY`, at the `G` of its first line. Without its end as far as the
/// lines look like its contents: half a key is still one.
pub(super) fn pem(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    const LABEL_MAX: usize = 64;
    /// Fewer characters are somebody writing about keys.
    const BODY_MIN: usize = 16;
    let start = at.checked_sub(7).filter(|start| text.starts_with(*start, b"-----BEGIN "))?;
    let at = start;
    let label_at = at.saturating_add(11);
    let label_end = text.run(label_at, LABEL_MAX, |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ');
    let label = text.slice(label_at..label_end);
    let is_private = label.ends_with("PRIVATE KEY") || label.ends_with("PRIVATE KEY BLOCK");
    if !is_private || !text.starts_with(label_end, b"-----") {
        return None;
    }
    let body_at = label_end.saturating_add(5);
    // The backslash is of line ends that are still escaped.
    let is_body = |b: u8| {
        b.is_ascii_alphanumeric()
            || b.is_ascii_whitespace()
            || matches!(b, b'+' | b'/' | b'=' | b'\\' | b':' | b',' | b'.' | b'(' | b')' | b'"' | b'\'' | b'-')
    };
    let mut body_end = body_at;
    loop {
        let end = text.run(body_end, TOKEN_MAX.saturating_mul(4), is_body_but_dash(&is_body));
        if text.at(end) != b'-'
            || text.starts_with(end, b"-----")
            || end.saturating_sub(body_at) > TOKEN_MAX.saturating_mul(4)
        {
            body_end = end;
            break;
        }
        body_end = end.saturating_add(1);
    }
    let end_mark = format!("-----END {label}-----");
    if text.starts_with(body_end, end_mark.as_bytes()) {
        let filled = text.bytes.get(body_at..body_end)?.iter().filter(|b| b.is_ascii_alphanumeric()).count();
        return (filled >= BODY_MIN).then_some(at..body_end.saturating_add(end_mark.len()));
    }
    let mut end = body_at;
    let mut filled = 0usize;
    for line in text.slice(body_at..body_end).split_inclusive('\n') {
        let content = line.trim();
        let is_header = content
            .split_once(": ")
            .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        if !is_header && content.bytes().any(|b| b == b' ') {
            break;
        }
        filled = filled.saturating_add(if is_header { 0 } else { content.len() });
        end = end.saturating_add(line.len());
    }
    (filled >= BODY_MIN).then_some(at..end)
}

fn is_body_but_dash(is_body: &impl Fn(u8) -> bool) -> impl Fn(u8) -> bool {
    move |b| b != b'-' && is_body(b)
}

/// `AKIA` and its kin with 16 characters of base 32, at the third letter; or a secret key of 40 characters beside a name that
/// says so is found by [`super::random`].
pub(super) fn aws_id(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    const LENGTH: usize = 20;
    let prefix_at = at.checked_sub(1)?;
    let prefix = text.bytes.get(prefix_at..prefix_at.checked_add(4)?)?;
    if !matches!(prefix, b"AKIA" | b"ASIA" | b"ABIA" | b"ACCA") || text.before(prefix_at, 1).is_ascii_alphanumeric() {
        return None;
    }
    let end = text.run(prefix_at, LENGTH.saturating_add(1), |b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let fits = end == prefix_at.saturating_add(LENGTH) && !text.at(end).is_ascii_alphanumeric() && text.at(end) != b'_';
    fits.then_some(prefix_at..end)
}

/// `AIza` and 35 characters, at the `z`.
pub(super) fn gcp_key(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    const LENGTH: usize = 39;
    let start = at.checked_sub(2).filter(|start| text.starts_with(*start, b"AIza"))?;
    let end = text.run(start, LENGTH.saturating_add(1), is_url_safe);
    (end == start.saturating_add(LENGTH) && !text.before(start, 1).is_ascii_alphanumeric()).then_some(start..end)
}

/// `GOCSPX-` and 28 characters, at the `S`.
pub(super) fn gcp_secret(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    const LENGTH: usize = 35;
    let start = at.checked_sub(3).filter(|start| text.starts_with(*start, b"GOCSPX-"))?;
    let end = text.run(start, LENGTH.saturating_add(1), is_url_safe);
    (end == start.saturating_add(LENGTH) && !text.before(start, 1).is_ascii_alphanumeric()).then_some(start..end)
}

/// `ya29.` and an access token, at the digits.
pub(super) fn gcp_access(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let start = at.checked_sub(2).filter(|start| text.starts_with(*start, b"ya29."))?;
    let body = start.saturating_add(5);
    let end = text.run(body, TOKEN_MAX, is_url_safe);
    (end.saturating_sub(body) >= 20 && !is_url_safe(text.before(start, 1))).then_some(start..end)
}

/// `ghp_` and its kin with at least 36 characters, or `github_pat_`, at the first underscore.
pub(super) fn github(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let alphanumeric = |b: u8| b.is_ascii_alphanumeric();
    if text.ends_with(at, b"github") && text.starts_with(at, b"_pat_") {
        let (start, id) = (at.saturating_sub(6), at.saturating_add(5));
        let id_end = text.run(id, 64, alphanumeric);
        let end = text.run(id_end.saturating_add(1), 255, alphanumeric);
        let fits = id_end == id.saturating_add(22) && text.at(id_end) == b'_' && end == id_end.saturating_add(60);
        return (fits && !is_url_safe(text.before(start, 1))).then_some(start..end);
    }
    let start = at.checked_sub(3)?;
    let kind = text.bytes.get(start..at)?;
    let known = kind.starts_with(b"gh") && matches!(kind.last(), Some(b'p' | b'o' | b'u' | b's' | b'r'));
    let body = at.saturating_add(1);
    let end = text.run(body, 255, alphanumeric);
    let fits = end.saturating_sub(body) >= 36 && !text.before(start, 1).is_ascii_alphanumeric();
    (known && fits).then_some(start..end)
}

/// `xoxb-` and its kin, or `xapp-`, at the first letter.
pub(super) fn slack(text: &Text<'_>, start: usize) -> Option<Range<usize>> {
    let at = start.checked_add(4).filter(|dash| text.at(*dash) == b'-')?;
    let kind = text.bytes.get(start..at)?;
    let known = kind == b"xapp"
        || (kind.starts_with(b"xox")
            && matches!(kind.last(), Some(b'a' | b'b' | b'c' | b'd' | b'e' | b'o' | b'p' | b'r' | b's')));
    if !known || text.before(start, 1).is_ascii_alphanumeric() {
        return None;
    }
    let is_part = |b: u8| is_url_safe(b) || b == b'%';
    let mut end = text.run(at, 255, is_part);
    while text.before(end, 1) == b'-' {
        end = end.saturating_sub(1);
    }
    let body = text.slice(at.saturating_add(1)..end);
    let is_secret = body.len() >= 16 && body.bytes().any(|b| b.is_ascii_digit());
    is_secret.then_some(start..end)
}

/// A webhook of Slack at the slash before `services`.
pub(super) fn slack_hook(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    const SERVICES: &[u8] = b"/services/";
    if !text.starts_with(at, SERVICES) || !text.ends_with(at, b"hooks.slack.com") {
        return None;
    }
    let start = at.checked_sub(15)?;
    let path = at.saturating_add(SERVICES.len());
    let end = text.run(path, 255, |b| b.is_ascii_alphanumeric() || b == b'/');
    (end.saturating_sub(path) >= 24).then_some(start..end)
}

/// `sk_live_`, `rk_test_` and the like, or `whsec_`, at the first underscore.
pub(super) fn stripe(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let (start, body) = if text.ends_with(at, b"whsec") {
        (at.checked_sub(5)?, at.saturating_add(1))
    } else if (text.ends_with(at, b"sk") || text.ends_with(at, b"rk"))
        && (text.starts_with(at, b"_live_") || text.starts_with(at, b"_test_"))
    {
        (at.checked_sub(2)?, at.saturating_add(6))
    } else {
        return None;
    };
    let end = text.run(body, 255, |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
    (end.saturating_sub(body) >= 16 && !text.before(start, 1).is_ascii_alphanumeric()).then_some(start..end)
}
