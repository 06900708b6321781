//! The pages about pins of tools: behind the same token as those about counters, and in the audit likewise.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};

use super::{
    json_page,
    quota::{act, decode, refuse},
    text_page,
    token::AdminToken,
};
use crate::pins::{
    PinsError,
    desk::{DeskError, PinDesk, Wanted},
};

/// The desk and the token that opens it.
#[derive(Clone)]
pub struct PinPages {
    /// Answers.
    pub desk: Arc<PinDesk>,
    /// Whoever has it may ask.
    pub token: Arc<AdminToken>,
}

impl std::fmt::Debug for PinPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinPages").finish_non_exhaustive()
    }
}

pub(super) fn router(pages: PinPages) -> Router {
    Router::new()
        .route("/pins", get(list))
        .route("/pins/diff", get(diff))
        .route("/pins/approve", post(approve))
        .route("/pins/forget", post(forget))
        .route("/pins/reset", post(reset))
        .with_state(pages)
}

async fn list(State(pages): State<PinPages>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    match asked(&pages, &headers, query.as_deref()) {
        Ok(wanted) => answer(pages.desk.list(&wanted).await),
        Err(refusal) => *refusal,
    }
}

async fn diff(State(pages): State<PinPages>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    match asked(&pages, &headers, query.as_deref()) {
        Ok(wanted) => answer(pages.desk.diff(&wanted).await),
        Err(refusal) => *refusal,
    }
}

async fn approve(State(pages): State<PinPages>, headers: HeaderMap, body: Body) -> Response {
    match told(&pages, &headers, body).await {
        Ok(wanted) => answer(pages.desk.approve(&wanted).await),
        Err(refusal) => *refusal,
    }
}

async fn forget(State(pages): State<PinPages>, headers: HeaderMap, body: Body) -> Response {
    match told(&pages, &headers, body).await {
        Ok(wanted) => answer(pages.desk.forget(&wanted).await),
        Err(refusal) => *refusal,
    }
}

async fn reset(State(pages): State<PinPages>, headers: HeaderMap, body: Body) -> Response {
    match told(&pages, &headers, body).await {
        Ok(wanted) => answer(pages.desk.reset(&wanted).await),
        Err(refusal) => *refusal,
    }
}

/// What somebody who has the token asks in a query.
fn asked(pages: &PinPages, headers: &HeaderMap, query: Option<&str>) -> Result<Wanted, Box<Response>> {
    if let Some(refusal) = refuse(&pages.token, headers) {
        return Err(refusal.into());
    }
    parse_query(query.unwrap_or_default())
        .map_err(|problem| text_page(StatusCode::BAD_REQUEST, format!("{problem}\n")).into())
}

/// What somebody who has the token says in a body.
async fn told(pages: &PinPages, headers: &HeaderMap, body: Body) -> Result<Wanted, Box<Response>> {
    let bytes = act(&pages.token, headers, body).await?;
    serde_json::from_slice(&bytes).map_err(|_| {
        text_page(StatusCode::BAD_REQUEST, "expected a JSON object of texts: server, tool, digest\n").into()
    })
}

/// Reads `server=s&tool=t`, each name at most once, values percent-encoded.
fn parse_query(query: &str) -> Result<Wanted, &'static str> {
    let mut wanted = Wanted::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("expected name=value")?;
        let slot = match name {
            "server" => &mut wanted.server,
            "tool" => &mut wanted.tool,
            _ => return Err("expected server or tool"),
        };
        let value = decode(value).ok_or("a value is no percent-encoded UTF-8 text of at most 512 bytes")?;
        if slot.replace(value).is_some() {
            return Err("a name comes twice");
        }
    }
    Ok(wanted)
}

fn answer(answer: Result<serde_json::Value, DeskError>) -> Response {
    let error = match answer {
        Ok(value) => return json_page(&value),
        Err(error) => error,
    };
    let status = match &error {
        DeskError::Audit | DeskError::Pins(PinsError::Store(_) | PinsError::Timeout) => StatusCode::SERVICE_UNAVAILABLE,
        DeskError::Incomplete(_) => StatusCode::BAD_REQUEST,
        DeskError::Pins(PinsError::Off(_)) => StatusCode::NOT_FOUND,
        DeskError::Pins(PinsError::Busy(_) | PinsError::Corrupt { .. } | PinsError::Refused(_)) => StatusCode::CONFLICT,
    };
    text_page(status, format!("{error}\n"))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{Rig, rig};
