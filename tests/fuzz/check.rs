//! A CheckRequest through decoding, adapter and engine: what passes is what a second, simple reading would let pass.
//!
//! Input: an encoded CheckRequest, or a request as text (see [`letter`]), which mutations leave readable more often.

use bytes::Bytes;
use mcp_authz::envoy::wire::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, Entry, HeaderMap, HttpRequest, HttpResponse,
    Kind, OkHttpResponse, RawHeader, Request,
};
use mcp_authz_core::answer::Answer;
use prost::Message as _;
use serde_json::Value as Reference;

use crate::{
    model,
    parse::assert_answer,
    world::{self, OWN, Outcome, SECRET, SERVERS, TOKENS},
};

/// What the corpus puts into arguments.
const CANARY: &str = "CANARY";

/// Checks one request.
///
/// # Panics
/// If a property does not hold, or the files of the test cannot be written.
pub fn check(data: &[u8]) {
    is_allowed(data);
}

/// As [`check`], and says whether the request may pass.
pub(crate) fn is_allowed(data: &[u8]) -> bool {
    let Some(request) = letter(data).or_else(|| CheckRequest::decode(data).ok()) else { return false };
    let outcome = world::check(request.clone());
    assert!(outcome.is_ok(), "{:?}", outcome.err().map(|error| error.to_string()));
    let Ok(Outcome { response, audit }) = outcome else { return false };
    // Envoy takes an absent status for permission.
    let allowed = response.status.as_ref().is_none_or(|status| status.code == 0);
    assert!(response.status.is_some());
    let http = http_of(&request);
    match &response.http_response {
        Some(HttpResponse::Ok(ok)) if allowed => {
            assert_eq!(may_pass(&request), Ok(()), "allowed");
            http.into_iter().for_each(|http| passes(ok, http));
        }
        Some(HttpResponse::Denied(denied)) if !allowed => denies(denied),
        other => assert_eq!(format!("{other:?}"), "", "neither permission nor denial"),
    }
    recorded(&audit, allowed);
    silent(&request, &response, &audit);
    allowed
}

fn http_of(request: &CheckRequest) -> Option<&HttpRequest> {
    request.attributes.as_ref()?.request.as_ref()?.http.as_ref()
}

/// A request as text: `POST /mcp`, then a line for each header in the form of raw lines, then an empty line and the body.
/// A name that starts with `=` is of the joined form, with `@` of the route's extensions; `%host`, `%id`, `%size` and
/// `%lossy` set those fields.
fn letter(data: &[u8]) -> Option<CheckRequest> {
    let cut = data.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, body) = data.split_at_checked(cut)?;
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    if !first.starts_with(b"POST ") && !first.starts_with(b"GET ") && !first.starts_with(b"DELETE ") {
        return None;
    }
    let copy = Bytes::copy_from_slice;
    let body = copy(body.get(2..)?);
    let mut http = HttpRequest { method: copy(first.get(..space)?), size: -1, ..HttpRequest::default() };
    http.path = copy(first.get(space.saturating_add(1)..)?);
    http.raw_body = body.clone();
    let (mut map, mut extensions) = (HeaderMap::default(), Vec::new());
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..colon)?, copy(line.get(colon.saturating_add(1)..)?.trim_ascii_start()));
        match name {
            b"%host" => http.host = value,
            b"%id" => http.id = value,
            b"%size" => http.size = std::str::from_utf8(&value).ok()?.parse().ok()?,
            b"%lossy" => {
                http.body = body.clone();
                http.raw_body = value;
            }
            [b'@', key @ ..] => extensions.push(Entry { key: copy(key), value }),
            [b'=', key @ ..] => http.headers.push(Entry { key: copy(key), value }),
            key => map.headers.push(RawHeader { key: copy(key), value: Bytes::new(), raw_value: value }),
        }
    }
    http.header_map = Some(map);
    let request = Some(Request { http: Some(http) });
    let attributes = AttributeContext { request, context_extensions: extensions, ..AttributeContext::default() };
    Some(CheckRequest { attributes: Some(attributes) })
}

type Verdict = Result<(), &'static str>;

fn headers_named<'a>(http: &'a HttpRequest, name: &str) -> Vec<&'a [u8]> {
    let raw = http.header_map.iter().flat_map(|map| &map.headers);
    let raw = raw.map(|line| (&line.key, if line.raw_value.is_empty() { &line.value } else { &line.raw_value }));
    let joined = http.headers.iter().map(|entry| (&entry.key, &entry.value));
    raw.chain(joined).filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| &**value).collect()
}

/// The one value of a header.
fn header<'a>(http: &'a HttpRequest, name: &str) -> Result<Option<&'a str>, &'static str> {
    match headers_named(http, name).as_slice() {
        [] => Ok(None),
        [value] => std::str::from_utf8(value).map(|value| Some(value.trim())).map_err(|_| "a header is not UTF-8"),
        _ => Err("a header came twice"),
    }
}

/// Whether anything in the configuration lets the request pass. Says no rather too seldom than too often.
fn may_pass(request: &CheckRequest) -> Verdict {
    let http = http_of(request).ok_or("no HTTP request")?;
    let server = server_of(request, http)?;
    let token = header(http, "authorization")?.and_then(|value| value.split_once(' ')).ok_or("no token")?.1.trim();
    let grant = TOKENS.iter().find(|grant| grant.text == token).ok_or("an unknown token")?;
    if !grant.active || !grant.servers.contains(&server) {
        return Err("a token that is not good for this server");
    }
    if header(http, "x-envoy-auth-partial-body")?.is_some_and(|partial| partial != "false") {
        return Err("a body that was cut");
    }
    if !http.body.is_empty()
        || u64::try_from(http.size).is_ok_and(|size| usize::try_from(size).unwrap_or(usize::MAX) > http.raw_body.len())
    {
        return Err("not the whole body");
    }
    if server == "open" && http.host != "open.test" {
        return Err("another host");
    }
    if header(http, "origin")?.is_some_and(|origin| server != "open" || origin != "https://app.test") {
        return Err("a foreign page");
    }
    match &*http.method {
        b"POST" => message(server, http),
        b"GET" | b"DELETE" if !http.raw_body.is_empty() => Err("a body where none may be"),
        b"GET" | b"DELETE" if server == "bare" => Err("no policy"),
        b"GET" | b"DELETE" => header(http, "mcp-session-id")?.map(|_| ()).ok_or("no session"),
        _ => Err("another method"),
    }
}

fn server_of(request: &CheckRequest, http: &HttpRequest) -> Result<&'static str, &'static str> {
    let entries = request.attributes.iter().flat_map(|attributes| &attributes.context_extensions);
    let named: Vec<_> = entries.filter(|entry| entry.key == "server").collect();
    let path = http.path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let found = SERVERS.iter().find(|(name, route)| match named.as_slice() {
        [] => route.is_some_and(|(host, at)| http.host.eq_ignore_ascii_case(host.as_bytes()) && path == at.as_bytes()),
        [entry] => entry.value == name,
        _ => false,
    });
    found.map(|(name, _)| *name).ok_or("no server")
}

fn message(server: &str, http: &HttpRequest) -> Verdict {
    let kind = header(http, "content-type")?.unwrap_or_default().to_ascii_lowercase();
    if !kind.starts_with("application/json") {
        return Err("another content type");
    }
    let Ok(message) = serde_json::from_slice::<Reference>(&http.raw_body) else {
        // Only a number that serde_json cannot hold is no reason to refuse.
        let text = std::str::from_utf8(&http.raw_body).map_err(|_| "not UTF-8")?;
        return if text.contains(['e', 'E']) { Ok(()) } else { Err("not JSON") };
    };
    let policy = match server {
        "plain" => OWN,
        "other" | "open" => r#"{"default":"allow","hide":["gone"]}"#,
        _ => return Err("no policy"),
    };
    let method = message.get("method").and_then(Reference::as_str);
    let params = message.get("params");
    if message.get("id").is_some_and(|id| !id.is_string() && !id.is_i64()) {
        return Err("an impossible id");
    }
    if let Some(mirrored) = header(http, "mcp-method")?
        && Some(mirrored) != method
    {
        return Err("another method in the header");
    }
    match method {
        Some("tools/call") => {
            let name = params.and_then(|params| params.get("name")?.as_str()).ok_or("no name")?;
            let arguments = params.and_then(|params| params.get("arguments"));
            message.get("id").ok_or("a call without id")?;
            let mirrored = header(http, "mcp-name")?;
            if mirrored.is_some_and(|mirrored| mirrored != name && !mirrored.starts_with("=?base64?")) {
                return Err("another name in the header");
            }
            let rules = serde_json::from_str(policy).unwrap_or_default();
            if model::allows(&rules, name, arguments) == Some(false) { Err("the policy says no") } else { Ok(()) }
        }
        Some("initialize" | "ping" | "server/discover") => Ok(()),
        Some(list) if list.ends_with("/list") && list != "tasks/list" => Ok(()),
        Some(other) if other.starts_with("notifications/") && message.get("id").is_none() => Ok(()),
        Some(_) if server == "plain" => Err("a method by name under `default: deny`"),
        Some(_) => Ok(()),
        None if message.get("result").is_some() != message.get("error").is_some() => {
            header(http, "mcp-session-id")?.map(|_| ()).ok_or("a response without a session")
        }
        None => Err("no method"),
    }
}

/// Permission: our credential in, theirs out, and nothing both set and removed.
fn passes(ok: &OkHttpResponse, http: &HttpRequest) {
    let set: Vec<&str> = ok.headers.iter().filter_map(|option| Some(option.header.as_ref()?.key.as_str())).collect();
    for name in &set {
        assert!(!ok.headers_to_remove.iter().any(|removed| removed.eq_ignore_ascii_case(name)), "{name} is removed");
    }
    let ours = ["authorization", "cookie", "proxy-authorization"].map(str::to_owned);
    let lines = http.header_map.iter().flat_map(|map| map.headers.iter().map(|line| &line.key));
    let names = lines.chain(http.headers.iter().map(|entry| &entry.key));
    let own = names.filter(|name| spelled(name).starts_with("x-mcp-authz-") || spelled(name) == "x-api-key");
    for name in own.map(|name| String::from_utf8_lossy(name).into_owned()).chain(ours) {
        let gone = set.contains(&name.as_str()) || ok.headers_to_remove.contains(&name);
        assert!(gone, "{name} reaches the upstream");
    }
    assert!(ok.response_headers_to_add.is_empty());
}

/// The name as a server behind CGI or WSGI reads it.
fn spelled(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-")
}

fn denies(denied: &DeniedHttpResponse) {
    let status = denied.status.as_ref().map_or(0, |status| status.code);
    let status = u16::try_from(status).unwrap_or_default();
    assert_answer(&Answer { status, headers: Vec::new(), body: denied.body.clone() }, None);
    for option in &denied.headers {
        let value = option.header.as_ref().map_or("", |header| header.value.as_str());
        assert!(!value.is_empty() && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{value:?}");
    }
}

/// One line for every check, and it says what was answered.
fn recorded(audit: &str, allowed: bool) {
    let records = audit.lines().filter_map(|line| serde_json::from_str::<Reference>(line).ok());
    let decisions: Vec<Reference> =
        records.filter(|record| record.get("event_type").is_some_and(|event| event == "decision")).collect();
    // Beside it stand the start and the end of the chain.
    assert!(decisions.len() == 1 && audit.lines().count() == 3, "{audit}");
    let decision =
        decisions.first().and_then(|record| record.pointer("/extensions/io.mcp-authz~1decision/decision").cloned());
    assert_eq!(decision, Some(if allowed { "allow" } else { "deny" }.into()), "{audit}");
}

/// No argument value, token or secret comes out where it must not.
fn silent(request: &CheckRequest, response: &CheckResponse, audit: &str) {
    let mut shown = audit.to_owned();
    for field in response.dynamic_metadata.iter().flat_map(|metadata| &metadata.fields) {
        match field.value.as_ref().and_then(|value| value.kind.as_ref()) {
            Some(Kind::Text(text)) => shown.push_str(text),
            other => assert_eq!(format!("{other:?}"), "", "metadata that is no text"),
        }
    }
    if let Some(HttpResponse::Denied(denied)) = &response.http_response {
        shown.push_str(&denied.body);
        denied.headers.iter().filter_map(|option| option.header.as_ref()).for_each(|line| shown.push_str(&line.value));
    }
    let sent = request.encode_to_vec();
    let tokens: Vec<&[u8]> = http_of(request).map_or_else(Vec::new, |http| headers_named(http, "authorization"));
    let count = |text: &str| occurrences(&sent, text);
    assert!(count(SECRET) > 0 || !shown.contains(SECRET), "the secret is shown");
    for token in TOKENS {
        let proper = tokens.iter().map(|value| occurrences(value, token.text)).sum::<usize>();
        assert!(count(token.text) > proper || !shown.contains(token.text), "a token is shown");
    }
    let named = http_of(request).is_none_or(|http| names(&http.raw_body).unwrap_or_default().contains(CANARY));
    let bodies = http_of(request).into_iter().flat_map(|http| [&http.raw_body, &http.body]);
    let body = bodies.map(|body| occurrences(body, CANARY)).sum::<usize>();
    if !named && count(CANARY) == body {
        assert!(!shown.contains(CANARY), "the value of an argument is shown: {shown}");
    }
}

fn occurrences(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

/// The message without the values of its arguments.
fn names(body: &[u8]) -> Option<String> {
    let mut message: Reference = serde_json::from_slice(body).ok()?;
    if let Some(arguments) = message.pointer_mut("/params/arguments").and_then(Reference::as_object_mut) {
        arguments.values_mut().for_each(|value| *value = Reference::Null);
    }
    Some(message.to_string())
}
