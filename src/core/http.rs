//! The HTTP facts of one request: which headers we judge, and which we refuse to judge.
//!
//! Whoever reads the wire hands over method, path, host and every header; this module classifies them in one pass and
//! refuses what two servers could read differently. It gives no meaning to the body.

use crate::decision::Reason;

/// Headers of this prefix are ours: clients cannot send them past us.
pub const OWN_PREFIX: &str = "x-mcp-authz-";

/// Envoy's marker of a body that it cut off; `true` means that we see less than the upstream would.
pub const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// Bounds on the headers of one request.
#[derive(Clone, Copy, Debug)]
pub struct HeaderLimits {
    /// Headers.
    pub count_max: usize,
    /// Bytes of all names and values.
    pub bytes_max: usize,
}

impl Default for HeaderLimits {
    /// 200 headers, 64 KiB.
    fn default() -> Self {
        Self { count_max: 200, bytes_max: 65_536 }
    }
}

/// Whether repeated headers reached us one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Every header line by itself (`encode_raw_headers`).
    Apart,
    /// Values of equal names joined with commas, so a comma in a one-value header counts as a repeat.
    Joined,
}

/// The request method, as far as an MCP endpoint has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Ends a legacy session.
    Delete,
    /// Opens a legacy stream.
    Get,
    /// Everything else that MCP sends.
    Post,
}

impl Method {
    /// Exact match: `post` is no method of HTTP.
    #[must_use]
    pub fn parse(method: &[u8]) -> Option<Self> {
        match method {
            b"DELETE" => Some(Method::Delete),
            b"GET" => Some(Method::Get),
            b"POST" => Some(Method::Post),
            _ => None,
        }
    }

    /// The name for audit and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Method::Delete => "DELETE",
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }
}

/// The headers that take part in the decision, each at most once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// `authorization`
    pub authorization: Option<&'a str>,
    /// `content-encoding`
    pub content_encoding: Option<&'a str>,
    /// `content-length`
    pub content_length: Option<&'a str>,
    /// `content-type`
    pub content_type: Option<&'a str>,
    /// `mcp-method`
    pub mcp_method: Option<&'a str>,
    /// `mcp-name`
    pub mcp_name: Option<&'a str>,
    /// `mcp-protocol-version`
    pub mcp_protocol_version: Option<&'a str>,
    /// `mcp-session-id`
    pub mcp_session_id: Option<&'a str>,
    /// `origin`
    pub origin: Option<&'a str>,
    /// `x-envoy-auth-partial-body`
    pub partial_body: Option<&'a str>,
    /// `x-request-id`; chosen by the client unless Envoy says otherwise, so for correlation only.
    pub request_id: Option<&'a str>,
}

impl<'a> Headers<'a> {
    /// Classifies every header.
    ///
    /// # Errors
    /// [`Reason::MalformedHeader`] for illegal bytes, a method override, an upgrade or more than the limits;
    /// [`Reason::MalformedMultiValue`] for a second value of a header that decides something.
    pub fn classify(
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        repeats: Repeats,
        limits: HeaderLimits,
    ) -> Result<Self, Reason> {
        let mut out = Self::default();
        let (mut count, mut bytes) = (0usize, 0usize);
        for (name, value) in headers {
            count = count.saturating_add(1);
            bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
            if count > limits.count_max || bytes > limits.bytes_max {
                return Err(Reason::MalformedHeader);
            }
            // Envoy hands names over in lower case; another spelling would slip past the comparisons below.
            if name.is_empty() || !all(name, |b| b > b' ' && b < 0x7f && !b.is_ascii_uppercase()) {
                return Err(Reason::MalformedHeader);
            }
            if !all(value, |b| (b >= b' ' || b == b'\t') && b != 0x7f) {
                return Err(Reason::MalformedHeader);
            }
            let name = std::str::from_utf8(name).map_err(|_| Reason::MalformedHeader)?;
            let value = std::str::from_utf8(value).map_err(|_| Reason::MalformedHeader)?;
            out.take(name, value.trim_matches([' ', '\t']), repeats)?;
        }
        Ok(out)
    }

    fn take(&mut self, name: &str, value: &'a str, repeats: Repeats) -> Result<(), Reason> {
        let slot = match name {
            "authorization" => &mut self.authorization,
            "content-encoding" => &mut self.content_encoding,
            "content-length" => &mut self.content_length,
            "content-type" => &mut self.content_type,
            "mcp-method" => &mut self.mcp_method,
            "mcp-name" => &mut self.mcp_name,
            "mcp-protocol-version" => &mut self.mcp_protocol_version,
            "mcp-session-id" => &mut self.mcp_session_id,
            "origin" => &mut self.origin,
            PARTIAL_BODY => &mut self.partial_body,
            "x-request-id" => &mut self.request_id,
            // Some servers take the method from here; we would judge another request than they run.
            "x-http-method-override" | "x-http-method" | "x-method-override" => return Err(Reason::MalformedHeader),
            // Envoy decodes these itself; seen here they are a smuggling attempt.
            "transfer-encoding" if !value.eq_ignore_ascii_case("chunked") => return Err(Reason::MalformedHeader),
            // Behind an upgrade flow bytes that nobody judges; no revision of MCP knows one.
            "upgrade" => return Err(Reason::MalformedHeader),
            // Servers behind CGI or WSGI read an underscore as a hyphen, so this is a second spelling of one of the above.
            other if other.contains('_') && is_read(&other.replace('_', "-")) => return Err(Reason::MalformedHeader),
            _ => return Ok(()),
        };
        if slot.is_some() || (value.contains(',') && comma_means_two(name, repeats)) {
            return Err(Reason::MalformedMultiValue);
        }
        // Whatever decides something is ASCII: servers differ in how they decode the rest.
        if !value.is_ascii() {
            return Err(Reason::MalformedHeader);
        }
        *slot = Some(value);
        Ok(())
    }

    /// The token of `Authorization: Bearer …`.
    ///
    /// # Errors
    /// [`Reason::TokenMissing`] without the header, [`Reason::TokenUnknown`] for another scheme or an impossible token.
    pub fn bearer(&self) -> Result<&'a str, Reason> {
        let header = self.authorization.ok_or(Reason::TokenMissing)?;
        let (scheme, token) = header.split_once(' ').ok_or(Reason::TokenUnknown)?;
        let token = token.trim_start_matches(' ');
        // RFC 6750 section 2.1, b64token.
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.bytes().all(legal) {
            Ok(token)
        } else {
            Err(Reason::TokenUnknown)
        }
    }

    /// Checks that the body is whole and is JSON in UTF-8 as far as headers can tell.
    ///
    /// `size` is what Envoy counted on the wire, where it said so.
    ///
    /// # Errors
    /// The reason to refuse.
    pub fn check_body(&self, body: &[u8], size: Option<u64>) -> Result<(), Reason> {
        self.check_whole(body, size)?;
        if body.is_empty() {
            return Err(Reason::MalformedEmpty);
        }
        if self.content_encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(Reason::MalformedContentEncoding);
        }
        if self.content_type.is_some_and(is_json_utf8) { Ok(()) } else { Err(Reason::MalformedContentType) }
    }

    /// Checks that Envoy handed over all the bytes that it will forward.
    ///
    /// # Errors
    /// [`Reason::MalformedTruncated`], or [`Reason::MalformedHeader`] for a length that is no number.
    pub fn check_whole(&self, body: &[u8], size: Option<u64>) -> Result<(), Reason> {
        // Only the exact word that Envoy writes for a whole body passes.
        if self.partial_body.is_some_and(|partial| partial != "false") {
            return Err(Reason::MalformedTruncated);
        }
        let received = u64::try_from(body.len()).map_err(|_| Reason::MalformedSize)?;
        // With a decompressor in front Envoy counts the smaller, compressed size; more than we got is always a cut.
        if size.is_some_and(|size| size > received) {
            return Err(Reason::MalformedTruncated);
        }
        match self.content_length {
            None => Ok(()),
            Some(text) if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) => Err(Reason::MalformedHeader),
            Some(text) if text.parse() == Ok(received) => Ok(()),
            Some(_) => Err(Reason::MalformedTruncated),
        }
    }
}

/// Whether a header of that name has a meaning here.
fn is_read(name: &str) -> bool {
    const READ: &[&str] = &[
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
        "transfer-encoding",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-request-id",
    ];
    READ.contains(&name) || name.starts_with(OWN_PREFIX)
}

/// Whether a comma in a one-value header says that it came twice. Envoy joins some repeated headers even where it hands
/// over raw lines (`authorization` among them), so a comma counts wherever no sound value can hold one.
fn comma_means_two(name: &str, repeats: Repeats) -> bool {
    match name {
        // A URI can hold a comma; the body decides whether the name is the right one.
        "mcp-name" => false,
        // Lists of codings are refused as such.
        "content-encoding" => false,
        "mcp-session-id" | "x-request-id" => repeats == Repeats::Joined,
        _ => true,
    }
}

/// Whether all bytes pass. No early exit: without one the compiler tests many bytes at a time.
fn all(bytes: &[u8], test: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, b| all & test(*b))
}

/// `application/json` with no parameter but `charset=utf-8`.
fn is_json_utf8(content_type: &str) -> bool {
    is_utf8_of(content_type, "application/json")
}

/// That media type, with no parameter but `charset=utf-8`.
pub(crate) fn is_utf8_of(content_type: &str, media_type: &str) -> bool {
    let mut parts = content_type.split(';').map(|part| part.trim_matches([' ', '\t']));
    let essence = parts.next().unwrap_or_default();
    essence.eq_ignore_ascii_case(media_type)
        && parts.all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            name.eq_ignore_ascii_case("charset")
                && (value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8"))
        })
}

/// The path without its query, refused if servers could route it differently from Envoy.
///
/// # Errors
/// [`Reason::MalformedPath`].
pub fn plain_path(path: &[u8]) -> Result<&str, Reason> {
    let target = std::str::from_utf8(path).map_err(|_| Reason::MalformedPath)?;
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let odd = |b: u8| b <= b' ' || b >= 0x7f || matches!(b, b'\\' | b'#' | b';');
    let encoded = |name: &str| {
        let lower = path.to_ascii_lowercase();
        lower.contains(name)
    };
    let legal = path.starts_with('/')
        && !target.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'#')
        && !path.bytes().any(odd)
        && !path.contains("//")
        && !path.split('/').any(|segment| segment == "." || segment == "..")
        && path.split('%').skip(1).all(is_escape)
        && (!path.contains('%') || !["%2e", "%2f", "%5c", "%00", "%3b", "%23", "%25"].iter().any(|name| encoded(name)));
    if legal { Ok(path) } else { Err(Reason::MalformedPath) }
}

/// Whether the text after a percent sign makes an escape with it. A lone one becomes part of an escape when what stands
/// behind it is decoded: `%%35c` is `%5c` after the first decoder and a backslash after the second.
fn is_escape(rest: &str) -> bool {
    rest.bytes().take_while(u8::is_ascii_hexdigit).take(2).count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify<'a>(headers: &[(&'a str, &'a str)], repeats: Repeats) -> Result<Headers<'a>, Reason> {
        Headers::classify(headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())), repeats, HeaderLimits::default())
    }

    #[test]
    fn a_header_that_decides_may_come_once() {
        for name in ["authorization", "mcp-name", "mcp-method", "mcp-protocol-version", "mcp-session-id", "origin"] {
            assert!(classify(&[(name, "a")], Repeats::Apart).is_ok());
            let twice = classify(&[(name, "a"), (name, "a")], Repeats::Apart);
            assert_eq!(twice.unwrap_err(), Reason::MalformedMultiValue, "{name}");
        }
        for name in ["authorization", "mcp-method", "content-type", "mcp-session-id"] {
            assert_eq!(classify(&[(name, "a,b")], Repeats::Joined).unwrap_err(), Reason::MalformedMultiValue, "{name}");
        }
        // Envoy joins these even where it hands over raw lines.
        for name in ["authorization", "content-type", "mcp-method", "mcp-protocol-version", "origin", "content-length"]
        {
            assert_eq!(classify(&[(name, "a,b")], Repeats::Apart).unwrap_err(), Reason::MalformedMultiValue, "{name}");
        }
        assert!(classify(&[("mcp-session-id", "a,b")], Repeats::Apart).is_ok());
        assert!(classify(&[("accept", "a"), ("accept", "b")], Repeats::Apart).is_ok());
        assert!(classify(&[("mcp-name", "file:///a,b")], Repeats::Joined).is_ok());
    }

    #[test]
    fn bytes_that_servers_read_differently_are_refused() {
        let refuse = |name: &[u8], value: &[u8]| {
            Headers::classify([(name, value)].into_iter(), Repeats::Apart, HeaderLimits::default()).unwrap_err()
        };
        for (name, value) in [
            (&b"x-a"[..], &b"a\0b"[..]),
            (b"x-a", b"a\r\nb"),
            (b"x-a", b"\x80"),
            (b"X-A", b"a"),
            (b"", b"a"),
            (b"x a", b"a"),
            (b"authorization", "Bearer é".as_bytes()),
            (b"x-http-method-override", b"GET"),
            (b"transfer-encoding", b"gzip, chunked"),
            (b"upgrade", b"websocket"),
        ] {
            assert_eq!(refuse(name, value), Reason::MalformedHeader, "{name:?}");
        }
    }

    #[test]
    fn an_underscore_makes_no_second_spelling_of_what_decides() {
        for name in
            ["mcp_name", "mcp_session-id", "content_length", "transfer_encoding", "x_mcp_authz_grant", "x-http_method"]
        {
            assert_eq!(classify(&[(name, "a")], Repeats::Apart).unwrap_err(), Reason::MalformedHeader, "{name}");
        }
        assert!(classify(&[("x_trace", "a"), ("mcp_param_x", "a")], Repeats::Apart).is_ok());
    }

    #[test]
    fn header_limits_hold_at_them_and_one_above() {
        let limits = HeaderLimits { count_max: 2, bytes_max: 8 };
        let run = |headers: &[(&'static str, &'static str)]| {
            Headers::classify(headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())), Repeats::Apart, limits).is_ok()
        };
        assert!(run(&[("ab", "cd"), ("ef", "gh")]));
        assert!(!run(&[("ab", "cd"), ("ef", "ghi")]));
        assert!(!run(&[("a", "b"), ("c", "d"), ("e", "f")]));
    }

    #[test]
    fn only_a_bearer_token_is_a_token() {
        let bearer =
            |value: &str| classify(&[("authorization", value)], Repeats::Apart).unwrap().bearer().map(str::to_owned);
        assert_eq!(bearer("Bearer abc"), Ok("abc".into()));
        assert_eq!(bearer("bearer  abc"), Ok("abc".into()));
        for bad in ["abc", "Basic abc", "Bearer", "Bearer ", "Bearer a b", "Bearer \"a\""] {
            assert_eq!(bearer(bad), Err(Reason::TokenUnknown), "{bad}");
        }
        assert_eq!(Headers::default().bearer(), Err(Reason::TokenMissing));
    }

    #[test]
    fn content_types_that_servers_decode_differently_are_refused() {
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert!(is_json_utf8(good), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "application/json; charset=utf-16le",
            "application/json;charset=utf-7",
            "application/vnd.api+json",
            "application/json, text/plain",
            "application/json;",
            "application/json; boundary=x",
            "multipart/form-data",
        ] {
            assert!(!is_json_utf8(bad), "{bad}");
        }
    }

    #[test]
    fn a_cut_body_is_refused_whoever_says_so() {
        let check = |headers: &[(&'static str, &'static str)], size| {
            let mut all = vec![("content-type", "application/json")];
            all.extend_from_slice(headers);
            classify(&all, Repeats::Apart).unwrap().check_body(b"{}", size)
        };
        assert_eq!(check(&[(PARTIAL_BODY, "false"), ("content-length", "2")], Some(2)), Ok(()));
        assert_eq!(check(&[], None), Ok(()));
        // A decompressor in front: fewer bytes on the wire than in the body.
        assert_eq!(check(&[], Some(1)), Ok(()));
        for (headers, size) in [
            (&[(PARTIAL_BODY, "true")][..], Some(2)),
            (&[(PARTIAL_BODY, "TRUE")], Some(2)),
            (&[(PARTIAL_BODY, "")], Some(2)),
            (&[], Some(3)),
            (&[("content-length", "3")], None),
            (&[("content-length", "1")], None),
        ] {
            assert_eq!(check(headers, size), Err(Reason::MalformedTruncated), "{headers:?} {size:?}");
        }
        assert_eq!(check(&[("content-length", "+2")], None), Err(Reason::MalformedHeader));
        assert_eq!(check(&[("content-length", "99999999999999999999")], None), Err(Reason::MalformedTruncated));
        assert_eq!(check(&[("content-encoding", "gzip")], None), Err(Reason::MalformedContentEncoding));
        assert_eq!(check(&[("content-encoding", "identity, gzip")], None), Err(Reason::MalformedContentEncoding));
        assert_eq!(check(&[("content-encoding", "identity")], None), Ok(()));
        assert_eq!(classify(&[], Repeats::Apart).unwrap().check_body(b"", None), Err(Reason::MalformedEmpty));
    }

    #[test]
    fn paths_that_route_twice_are_refused() {
        for good in ["/mcp", "/a/b-c_d.e", "/mcp?x=1", "/mcp/", "/x%20y"] {
            assert!(plain_path(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "mcp",
            "//mcp",
            "/a//b",
            "/mcp%2f",
            "/mcp%2Fx",
            "/mcp;x",
            "/mcp#x",
            "/x/../mcp",
            "/x/./mcp",
            "/%2e%2e/mcp",
            "/a\\b",
            "/a%5cb",
            "/a b",
            "/a%00",
            "/mcp?x#y",
            "/\u{e9}",
            "/a%252fb",
            "/a%%35cb",
            "/a%2",
            "/a%",
        ] {
            assert_eq!(plain_path(bad.as_bytes()), Err(Reason::MalformedPath), "{bad}");
        }
    }
}
