//! The one place that builds a `CheckResponse`.
//!
//! Envoy reads an absent or zero status as permission, whatever else the response says, so an OK can be built from a
//! [`Permit`](crate::engine::Permit)'s credential only, and a refusal always carries a status that is not zero.

use mcp_authz_core::answer::Answer;

use super::wire::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse, Status, Struct,
};
use crate::credential::Credential;

/// gRPC `OK`.
const OK: i32 = 0;
/// gRPC `PERMISSION_DENIED`.
const PERMISSION_DENIED: i32 = 7;
/// gRPC `UNAUTHENTICATED`.
const UNAUTHENTICATED: i32 = 16;

/// Headers that never reach an upstream: what the caller authenticated to us with, and Envoy's notes about us, which a
/// client may have forged.
pub(super) const ALWAYS_REMOVED: &[&str] = &[
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-envoy-auth-failure-mode-allowed",
    "x-envoy-auth-partial-body",
];

/// Headers by which a caller could make Envoy send a call again, or give up waiting for it: both would falsify what a call
/// counts. Envoy drops them from callers that it takes for external, and obeys them from others.
pub(super) const STEERING: &[&str] = &[
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
];

/// Lets the request pass with the server's credential in place of the caller's.
///
/// `others` are further headers to remove: those of other servers' credentials and any of ours that the client sent.
pub(super) fn allow<'a>(
    credential: &Credential,
    others: impl Iterator<Item = &'a str>,
    metadata: Struct,
) -> CheckResponse {
    let header = credential.expose_header();
    let set = header.map(|(name, _)| name);
    // Removal runs after setting: a name in both lists would end up removed.
    let headers_to_remove: Vec<String> =
        ALWAYS_REMOVED.iter().copied().chain(others).filter(|name| Some(*name) != set).map(str::to_owned).collect();
    let headers = header.map(|(name, value)| HeaderValueOption::set(name, value)).into_iter().collect();
    CheckResponse {
        status: Some(Status { code: OK, message: String::new() }),
        http_response: Some(HttpResponse::Ok(OkHttpResponse {
            headers,
            headers_to_remove,
            response_headers_to_add: Vec::new(),
        })),
        dynamic_metadata: Some(metadata),
    }
}

/// Answers the client with the refusal.
pub(super) fn deny(answer: Answer, metadata: Struct) -> CheckResponse {
    let code = if answer.status == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED };
    let headers = answer.headers.into_iter().map(|(name, value)| HeaderValueOption::set(name, value)).collect();
    let denied =
        DeniedHttpResponse { status: Some(HttpStatus { code: i32::from(answer.status) }), headers, body: answer.body };
    CheckResponse {
        status: Some(Status { code, message: String::new() }),
        http_response: Some(HttpResponse::Denied(denied)),
        dynamic_metadata: Some(metadata),
    }
}
