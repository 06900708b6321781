//! A request line and headers: what decides comes once, in one spelling, and no path is taken for another.
//!
//! Input: lines. The first is the path, every other one `name: value`.

use mcp_authz_core::{
    decision::Reason,
    http::{HeaderLimits, Headers, PARTIAL_BODY, Repeats, plain_path},
};

type Line<'a> = (&'a [u8], &'a [u8]);

/// Headers of which two make a request that two servers read differently.
const DECIDING: &[&str] = &[
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "origin",
    PARTIAL_BODY,
    "x-request-id",
];

/// Classifies the headers and judges the path.
///
/// # Panics
/// If a property does not hold.
pub fn headers(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    path(lines.next().unwrap_or_default());
    let lines: Vec<Line<'_>> = lines.filter_map(split).collect();
    let limits = HeaderLimits { count_max: 50, bytes_max: 4096 };
    let classify = |repeats| Headers::classify(lines.iter().copied(), repeats, limits);
    let (apart, joined) = (classify(Repeats::Apart), classify(Repeats::Joined));
    assert!(joined.is_err() || apart.is_ok(), "joined lines are read more strictly, not less");
    for classified in [&apart, &joined].into_iter().flatten() {
        sound(classified, &lines, limits);
    }
    if let (Ok(apart), Ok(joined)) = (&apart, &joined) {
        assert_eq!(format!("{apart:?}"), format!("{joined:?}"));
    }
}

fn split(line: &[u8]) -> Option<Line<'_>> {
    let colon = line.iter().skip(1).position(|byte| *byte == b':')?.saturating_add(1);
    let (name, value) = line.split_at_checked(colon)?;
    Some((name, value.get(1..).unwrap_or_default()))
}

fn sound(headers: &Headers<'_>, lines: &[Line<'_>], limits: HeaderLimits) {
    assert!(lines.len() <= limits.count_max);
    assert!(
        lines.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum::<usize>() <= limits.bytes_max
    );
    let values = [
        headers.authorization,
        headers.content_encoding,
        headers.content_length,
        headers.content_type,
        headers.mcp_method,
        headers.mcp_name,
        headers.mcp_protocol_version,
        headers.mcp_session_id,
        headers.origin,
        headers.partial_body,
        headers.request_id,
    ];
    for (name, value) in DECIDING.iter().zip(values) {
        // A server behind CGI or WSGI takes an underscore for a hyphen, so both spellings count.
        let sent: Vec<&Line<'_>> = lines.iter().filter(|(other, _)| is_spelling(other, name)).collect();
        assert!(sent.len() <= 1, "{name} came {} times", sent.len());
        let expected = sent.first().map(|(_, value)| value.trim_ascii());
        assert_eq!(value.map(|value| value.as_bytes().trim_ascii()), expected, "{name}");
        assert!(value.is_none_or(|value| value.bytes().all(|b| (b' '..0x7f).contains(&b) || b == b'\t')), "{name}");
    }
    for (name, value) in lines {
        assert!(!name.iter().any(u8::is_ascii_uppercase), "a name in capitals");
        assert!(!value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')), "a value of two lines");
    }
    token(headers);
    body(headers);
}

fn is_spelling(sent: &[u8], name: &str) -> bool {
    sent.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() }).eq(name.bytes())
}

fn token(headers: &Headers<'_>) {
    let Ok(token) = headers.bearer() else { return };
    assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'"' | b'\\')));
    let header = headers.authorization.unwrap_or_default();
    assert!(header.ends_with(token) && header.to_ascii_lowercase().starts_with("bearer "));
}

fn body(headers: &Headers<'_>) {
    for body in [&b""[..], b"{}"] {
        let length = u64::try_from(body.len()).unwrap_or_default();
        assert!(headers.check_whole(body, Some(length.saturating_add(1))).is_err(), "a cut body");
        let whole = headers.check_whole(body, Some(length));
        if whole.is_ok() {
            assert!(headers.content_length.is_none_or(|text| text.trim_start_matches('0') == trimmed(body.len())));
            assert!(headers.partial_body.is_none_or(|partial| partial == "false"));
        }
        if headers.check_body(body, None).is_ok() {
            assert!(!body.is_empty() && whole.is_ok());
            let kind = headers.content_type.unwrap_or_default().to_ascii_lowercase();
            assert!(kind.starts_with("application/json"), "{kind}");
            assert!(headers.content_encoding.is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity")));
        }
    }
}

fn trimmed(length: usize) -> String {
    if length == 0 { String::new() } else { length.to_string() }
}

/// A path that is taken is one that no decoding turns into another route.
fn path(target: &[u8]) {
    let plain = match plain_path(target) {
        Ok(plain) => plain,
        Err(reason) => return assert_eq!(reason, Reason::MalformedPath),
    };
    assert_eq!(plain_path(plain.as_bytes()), Ok(plain));
    assert!(target.starts_with(plain.as_bytes()));
    let mut decoded = plain.as_bytes().to_vec();
    for _ in 0..3 {
        decoded = percent_decoded(&decoded);
        assert!(!decoded.iter().any(|b| matches!(b, 0 | b'\\' | b'#' | b';')), "{plain}");
        assert!(!decoded.split(|b| *b == b'/').any(|part| part == b"." || part == b".."), "{plain}");
        let slashes = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'/').count();
        assert_eq!(slashes(&decoded), slashes(plain.as_bytes()), "{plain}");
    }
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    out
}
