//! What a single value of a servers file must look like. Each rule notes a defect when it gives `None`.

use std::collections::BTreeSet;

use crate::{
    document::{Cursor, Fields, quoted},
    http::OWN_PREFIX,
    mcp::ProtocolVersion,
    pins::{OnChange, Rules, Trust},
};

/// Headers that carry the message itself, its route, or what we decide by: a credential in one of them would change the
/// request that was judged.
const FORBIDDEN_HEADERS: &[&str] = &[
    "connection",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-request-id",
];
const FORBIDDEN_PREFIXES: &[&str] =
    &["accept", "content-", "if-", "mcp-", "sec-", "x-envoy-", "x-forwarded-", OWN_PREFIX];

/// Every text of a list that fits the rule; one text twice is a defect.
pub(super) fn texts(list: &Cursor<'_>, rule: fn(&Cursor<'_>) -> Option<String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for item in list.items().unwrap_or_default() {
        let Some(text) = rule(&item) else { continue };
        if seen.insert(text.clone()) {
            out.push(text);
        } else {
            item.defect(format!("{} is listed twice", quoted(&text)));
        }
    }
    out
}

/// Like [`texts`], where an empty list would refuse everything.
pub(super) fn non_empty_texts(list: &Cursor<'_>, rule: fn(&Cursor<'_>) -> Option<String>) -> Vec<String> {
    refuse_empty(list);
    texts(list, rule)
}

fn refuse_empty(list: &Cursor<'_>) {
    if list.is_empty_list() {
        list.defect("must not be empty");
    }
}

/// A host name or address with an optional port, in lower case.
pub(super) fn host(value: &Cursor<'_>) -> Option<String> {
    let text = value.non_empty()?;
    if is_authority(text) {
        return Some(text.to_ascii_lowercase());
    }
    value.defect_with_hint(
        format!("{} is no host", quoted(text)),
        "a name or address with an optional port, such as `mcp.example.com` or `127.0.0.1:8080`; no wildcards",
    );
    None
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("")) };
            let legal = v6.parse::<core::net::Ipv6Addr>().is_ok();
            (legal.then_some(v6), port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let legal = !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
            (legal.then_some(host), port)
        }
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
    host.is_some() && port.is_none_or(is_port)
}

/// An origin exactly as browsers write it.
pub(super) fn origin(value: &Cursor<'_>) -> Option<String> {
    let text = value.non_empty()?;
    let hint = match text.split_once("://") {
        _ if text == "*" || text == "null" => "list each origin; `*` and `null` would let any page in",
        _ if text.bytes().any(|b| b.is_ascii_uppercase()) => "write it in lower case, as browsers do",
        Some((_, rest)) if rest.contains(['/', '?', '#']) => {
            "scheme, host and port only, without a path or a final `/`"
        }
        Some(("https", rest)) if rest.ends_with(":443") => "browsers leave the port 443 out",
        Some(("http", rest)) if rest.ends_with(":80") => "browsers leave the port 80 out",
        Some((scheme, rest)) if is_scheme(scheme) && is_authority(rest) => return Some(text.to_owned()),
        Some(_) | None => "such as `https://app.example.com` or `http://localhost:6274`",
    };
    value.defect_with_hint(format!("{} is no origin", quoted(text)), hint);
    None
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'))
}

/// A URL that can stand in a quoted string of a header as it is.
pub(super) fn metadata_url(value: &Cursor<'_>) -> Option<String> {
    let text = value.non_empty()?;
    let authority = |rest: &str| rest.split(['/', '?']).next().unwrap_or_default().to_owned();
    let legal_bytes = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'#'));
    let found = text
        .strip_prefix("https://")
        .map(|rest| (true, authority(rest)))
        .or_else(|| text.strip_prefix("http://").map(|rest| (false, authority(rest))));
    match found {
        Some((secure, host)) if legal_bytes && text.len() <= 2_048 && is_authority(&host) => {
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            if !secure && !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
                value.warn("agents must not trust a resource document without TLS", Some("use https://".into()));
            }
            Some(text.to_owned())
        }
        Some(_) | None => {
            value.defect_with_hint(
                "is no URL of a resource document",
                "such as `https://mcp.example.com/.well-known/oauth-protected-resource/mcp`",
            );
            None
        }
    }
}

/// The revisions under `protocol.versions`, oldest first; all of them without the key.
pub(super) fn versions(fields: &Fields<'_>) -> Vec<ProtocolVersion> {
    let list = fields
        .optional("protocol")
        .and_then(|value| value.fields(&["versions"]))
        .and_then(|protocol| protocol.required("versions"));
    let Some(list) = list else { return ProtocolVersion::ALL.to_vec() };
    refuse_empty(&list);
    let known: Vec<&'static str> = ProtocolVersion::ALL.iter().map(|version| version.name()).collect();
    let mut versions = BTreeSet::new();
    for item in list.items().unwrap_or_default() {
        let version = item.one_of(&known).and_then(ProtocolVersion::parse);
        if version.is_some_and(|version| !versions.insert(version)) {
            item.defect("is listed twice");
        }
    }
    versions.into_iter().collect()
}

/// The rules under `tools` by which definitions are pinned; none without the key.
pub(super) fn tools(fields: &Fields<'_>) -> Option<Rules> {
    let tools = fields.optional("tools").and_then(|value| value.fields(&["trust", "on_change"]))?;
    let trust = tools.required("trust").and_then(|value| value.one_of(&["off", "first_use", "pinned"]));
    let on_change = tools.optional("on_change").map(|value| (value.one_of(&["hide", "report"]), value));
    let trust = match trust? {
        "first_use" => Trust::FirstUse,
        "pinned" => Trust::Pinned,
        _ => {
            if let Some((_, value)) = on_change {
                value.warn("has no effect with `trust: off`", None);
            }
            return None;
        }
    };
    let on_change = if matches!(on_change, Some((Some("report"), _))) { OnChange::Report } else { OnChange::Hide };
    Some(Rules { trust, on_change })
}

/// The name of a header that may carry a credential, in lower case.
pub(super) fn header_name(value: &Cursor<'_>) -> Option<String> {
    let text = value.non_empty()?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.len() > 128 || !text.bytes().all(token) {
        value.defect(format!("{} is no header name", quoted(text)));
        return None;
    }
    let name = text.to_ascii_lowercase();
    if FORBIDDEN_HEADERS.contains(&name.as_str()) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        value.defect_with_hint(
            format!("the header {} cannot carry a credential", quoted(&name)),
            "it belongs to the message, its route or the proxy",
        );
        return None;
    }
    Some(name)
}

/// The text around a secret.
pub(super) fn header_format(value: &Cursor<'_>) -> Option<String> {
    const HOLE: &str = "{secret}";
    let text = value.non_empty()?;
    let around = text.replacen(HOLE, "", 1);
    let problem = if !text.contains(HOLE) {
        "does not contain `{secret}`"
    } else if around.contains(HOLE) {
        "contains `{secret}` more than once"
    } else if around.contains(['{', '}']) {
        "has braces besides those of `{secret}`"
    } else if !around.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) || text.trim() != text {
        "is no header value: printable ASCII without spaces at its ends"
    } else if around.len() > 256 {
        "is longer than 256 bytes"
    } else {
        return Some(text.to_owned());
    };
    value.defect_with_hint(problem, "such as `Bearer {secret}`");
    None
}

/// The user of HTTP basic authentication.
pub(super) fn username(value: &Cursor<'_>) -> Option<String> {
    let text = value.non_empty()?;
    if text.len() > 256 || text.contains(':') || text.chars().any(char::is_control) {
        value.defect("is no user name: at most 256 bytes without `:` and control characters");
        return None;
    }
    Some(text.to_owned())
}

/// The path of a secret file below the credentials folder. A message never repeats it: people paste the secret itself.
pub(super) fn secret_path(value: &Cursor<'_>) -> Option<String> {
    let text = value.non_empty()?;
    let segment = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.chars().any(char::is_control);
    if text.len() <= 512 && !text.contains('\\') && text.split('/').all(segment) {
        return Some(text.to_owned());
    }
    value.defect_with_hint(
        "is no path of a file below the credentials folder",
        "relative, without `..` or hidden names; the secret itself never stands here",
    );
    None
}
