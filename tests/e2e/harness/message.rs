//! MCP messages, and what an answer to one says.

use super::http1::{Request, Response};

/// The current revision.
pub(crate) const MODERN: &str = "2026-07-28";

/// A `tools/call` of the legacy era. Both parts are JSON already.
pub(crate) fn call(tool: &str, arguments: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#)
}

/// Any request of the legacy era.
pub(crate) fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

/// Any request of the modern era: `params` without its braces, and no comma at either end.
pub(crate) fn modern_body(method: &str, params: &str) -> String {
    let comma = if params.is_empty() { "" } else { "," };
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{comma}"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}

/// A sound POST of the modern era, with the headers that mirror the body.
pub(crate) fn modern(path: &str, method: &str, name: Option<&str>, params: &str) -> Request {
    let request = Request::post(path, modern_body(method, params))
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method);
    match name {
        Some(name) => request.header("mcp-name", name),
        None => request,
    }
}

/// A sound `tools/call` of the modern era.
pub(crate) fn modern_call(path: &str, tool: &str, arguments: &str) -> Request {
    modern(path, "tools/call", Some(tool), &format!(r#""name":"{tool}","arguments":{arguments}"#))
}

/// What an answer says, as far as an agent can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// HTTP 2xx without a body.
    Accepted,
    /// An `isError` result: its text and `_meta["mcp-authz.dev/decision"].reason`.
    Denied {
        /// `result.content[0].text`
        text: String,
        /// The reason from the closed set.
        reason: String,
    },
    /// A JSON-RPC error.
    Error {
        /// HTTP status.
        status: u16,
        /// JSON-RPC code.
        code: i64,
        /// The reason from the closed set, or nothing where the error is not ours.
        reason: String,
    },
    /// Something that is no JSON-RPC message, e.g. Envoy's own answer.
    Plain(u16),
    /// A result that is no error.
    Result,
}

/// Reads the answer.
pub(crate) fn said(response: &Response) -> Said {
    if response.body.is_empty() && (200..300).contains(&response.status) {
        return Said::Accepted;
    }
    let message = response.json();
    let text = |pointer: &str| message.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    if let Some(code) = message.pointer("/error/code").and_then(serde_json::Value::as_i64) {
        let reason = text("/error/data/mcp-authz.dev~1decision/reason");
        return Said::Error { status: response.status, code, reason };
    }
    if response.status != 200 || message.get("result").is_none() {
        return Said::Plain(response.status);
    }
    if message.pointer("/result/isError") == Some(&serde_json::Value::Bool(true)) {
        return Said::Denied {
            text: text("/result/content/0/text"),
            reason: text("/result/_meta/mcp-authz.dev~1decision/reason"),
        };
    }
    Said::Result
}
