//! The pages about counters: `GET /quota`, `POST /quota/reset`, `POST /quota/accept-loss`. Only for whoever has the admin token, since a reset is a grant of
//! new calls. A web page cannot make a browser send them: the token is in a header that browsers add for no site.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{
    json_page, text_page,
    token::{Access, AdminToken},
};
use crate::quota::desk::{Desk, DeskError, Wanted};

/// Bytes of a body.
const BODY_BYTES_MAX: usize = 4_096;
/// Bytes of one name in a query.
const NAME_BYTES_MAX: usize = 512;

const OFF: &str = "pages about quotas and pins are off: put a token of at least 16 characters into a file, name it as `admin.token_file` in the \
settings, and restart\n";

/// The desk and the token that opens it.
#[derive(Clone)]
pub struct QuotaPages {
    /// Answers.
    pub desk: Arc<dyn Desk>,
    /// Whoever has it may ask.
    pub token: Arc<AdminToken>,
}

impl std::fmt::Debug for QuotaPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuotaPages").finish_non_exhaustive()
    }
}

pub(super) fn router(pages: QuotaPages) -> Router {
    Router::new()
        .route("/quota", get(show))
        .route("/quota/reset", post(reset))
        .route("/quota/accept-loss", post(accept_loss))
        .with_state(pages)
}

async fn show(State(pages): State<QuotaPages>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    if let Some(refusal) = refuse(&pages.token, &headers) {
        return refusal;
    }
    match parse_query(query.as_deref().unwrap_or_default()) {
        Ok(wanted) => answer(pages.desk.show(&wanted).await),
        Err(problem) => text_page(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}

async fn reset(State(pages): State<QuotaPages>, headers: HeaderMap, body: Body) -> Response {
    let bytes = match act(&pages.token, &headers, body).await {
        Ok(bytes) => bytes,
        Err(refusal) => return refusal,
    };
    match serde_json::from_slice::<Wanted>(&bytes) {
        Ok(wanted) => answer(pages.desk.reset(&wanted).await),
        Err(_) => {
            let names = "grant, identity, policy, counter, tool, revision";
            text_page(StatusCode::BAD_REQUEST, format!("expected a JSON object of texts: {names}\n"))
        }
    }
}

async fn accept_loss(State(pages): State<QuotaPages>, headers: HeaderMap, body: Body) -> Response {
    match act(&pages.token, &headers, body).await {
        Ok(bytes) if bytes.trim_ascii() == b"{}" => answer(pages.desk.accept_loss().await),
        Ok(_) => text_page(StatusCode::BAD_REQUEST, "expected an empty JSON object\n"),
        Err(refusal) => refusal,
    }
}

/// The body of an act of somebody who has the token.
pub(super) async fn act(token: &AdminToken, headers: &HeaderMap, body: Body) -> Result<Bytes, Response> {
    // Before the body is read: strangers cost nothing.
    if let Some(refusal) = refuse(token, headers) {
        return Err(refusal);
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|value| value.as_bytes() != super::JSON.as_bytes()) {
        return Err(text_page(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json\n"));
    }
    let too_large =
        |_| text_page(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {BODY_BYTES_MAX} bytes\n"));
    to_bytes(body, BODY_BYTES_MAX).await.map_err(too_large)
}

/// The answer to whoever may not ask.
pub(super) fn refuse(token: &AdminToken, headers: &HeaderMap) -> Option<Response> {
    match token.access(headers) {
        Access::Granted => None,
        Access::Off => Some(text_page(StatusCode::FORBIDDEN, OFF)),
        Access::Refused => {
            let page = text_page(StatusCode::UNAUTHORIZED, "the admin token is missing or wrong\n");
            Some(([(header::WWW_AUTHENTICATE, "Bearer")], page).into_response())
        }
    }
}

fn answer(answer: Result<serde_json::Value, DeskError>) -> Response {
    let error = match answer {
        Ok(value) => return json_page(&value),
        Err(error) => error,
    };
    let status = match &error {
        DeskError::Audit | DeskError::Ledger(_) => StatusCode::SERVICE_UNAVAILABLE,
        DeskError::Changed => StatusCode::CONFLICT,
        DeskError::Incomplete(_) | DeskError::TooMany(_) => StatusCode::BAD_REQUEST,
        DeskError::Unknown(_) => StatusCode::NOT_FOUND,
    };
    text_page(status, format!("{error}\n"))
}

/// Reads `grant=g1&counter=c`, each name at most once, values percent-encoded. A `+` is a plus, since labels may hold one.
fn parse_query(query: &str) -> Result<Wanted, &'static str> {
    let mut wanted = Wanted::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("expected name=value")?;
        let slot = match name {
            "counter" => &mut wanted.counter,
            "grant" => &mut wanted.grant,
            "identity" => &mut wanted.identity,
            "policy" => &mut wanted.policy,
            "tool" => &mut wanted.tool,
            _ => return Err("expected grant, identity, policy, counter or tool"),
        };
        let value = decode(value).ok_or("a value is no percent-encoded UTF-8 text of at most 512 bytes")?;
        if slot.replace(value).is_some() {
            return Err("a name comes twice");
        }
    }
    Ok(wanted)
}

pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(out).ok().filter(|text| text.len() <= NAME_BYTES_MAX)
}

#[cfg(test)]
mod tests;
