//! W3C trace context: which trace a request belongs to. Source: W3C Recommendation "Trace Context", section 3.2.

use std::fmt::Write as _;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Never all zeros.
    pub trace_id: [u8; 16],
    /// The span that called us; never all zeros.
    pub span_id: [u8; 8],
    /// Whether the caller records this trace. Without it nobody does.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads the value of a `traceparent` header. `None` for anything that the Recommendation calls invalid; of versions to
    /// come only what version 00 defines is read.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        const BYTES: usize = 55;
        let (head, rest) = text.split_at_checked(BYTES)?;
        let [version, trace_id, span_id, flags] = fields(head)?;
        let version = byte(version)?;
        // 00 ends here; a later version goes on after another dash.
        let ends_well = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|byte| *byte == b'-') };
        if version == 0xff || !ends_well {
            return None;
        }
        let (trace_id, span_id) = (hex(trace_id)?, hex(span_id)?);
        let sampled = byte(flags)? & 1 == 1;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, sampled })
    }

    /// The value of a `traceparent` header.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let mut out = String::with_capacity(55);
        out.push_str("00-");
        push_hex(&mut out, &self.trace_id);
        out.push('-');
        push_hex(&mut out, &self.span_id);
        out.push_str(if self.sampled { "-01" } else { "-00" });
        out
    }
}

/// Appends bytes as lower-case hexadecimal digits, the form of ids in logs and audit records.
pub fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ok = write!(out, "{byte:02x}").is_ok();
    }
}

fn fields(head: &[u8]) -> Option<[&[u8]; 4]> {
    let mut parts = head.split(|byte| *byte == b'-');
    let fields = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(fields)
}

fn byte(digits: &[u8]) -> Option<u8> {
    hex::<1>(digits).map(|[byte]| byte)
}

/// Exactly `N` bytes in lower case, as the Recommendation demands.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut out = [0; N];
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

const fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(c.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_and_written() {
        let context = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert!(context.sampled && context.trace_id[0] == 0x0a && context.span_id[7] == 0x31);
        assert_eq!(context.traceparent(), GOOD);
        let unsampled = TraceContext { sampled: false, ..context };
        assert_eq!(TraceContext::parse(unsampled.traceparent().as_bytes()), Some(unsampled));
    }

    #[test]
    fn other_flags_are_not_ours_and_later_versions_are_read_as_far_as_known() {
        let read = |text: &str| TraceContext::parse(text.as_bytes());
        assert_eq!(read(&GOOD.replace("-01", "-03")).map(|context| context.sampled), Some(true));
        assert_eq!(read(&GOOD.replace("-01", "-02")).map(|context| context.sampled), Some(false));
        assert!(read(&GOOD.replacen("00", "cc", 1)).is_some());
        assert!(read(&format!("{}-what-comes", GOOD.replacen("00", "cc", 1))).is_some());
    }

    #[test]
    fn nothing_invalid_is_a_context() {
        let zeros = "0".repeat(32);
        for text in [
            "",
            "00",
            GOOD.strip_suffix('1').unwrap(),
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace('-', "_"),
            &GOOD.replace("01", "0g"),
            &format!("{}.", GOOD.replacen("00", "cc", 1)),
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
    }
}
