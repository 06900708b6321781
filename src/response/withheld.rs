//! The answer in place of a response that could not even begin to be judged. Those that are withheld while they are judged are
//! answered by `core::response`.

use mcp_authz_core::{mcp::Method, response::Asked, text::push_json_string};

use super::Ticket;
use crate::telemetry::metrics::WithheldReason;

/// JSON-RPC code of an answer that was withheld.
const CODE_WITHHELD: i32 = -31502;

/// A whole response in place of the server's; its content type is `application/json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// HTTP status.
    pub status: u16,
    /// A JSON-RPC message.
    pub body: String,
}

/// The replacement that the one who asked understands.
pub(super) fn replacement(ticket: Option<&Ticket>, reason: WithheldReason) -> Replacement {
    let text = format!("[POLICY WITHHELD] {} The request may have been carried out.", explained(reason));
    let id = ticket.and_then(|ticket| ticket.id.as_deref());
    let Some(id) = id else {
        // Nobody waits for a message without an id, but every client sees this status.
        return Replacement { status: 503, body: error(None, &text) };
    };
    let body = match ticket.map(|ticket| &ticket.asked) {
        Some(Asked::Call(_)) => result(id, &text),
        Some(Asked::Request(Method::ToolsCall)) => result(id, &text),
        Some(Asked::Request(_) | Asked::Stream) | None => error(Some(id), &text),
    };
    Replacement { status: 200, body }
}

fn result(id: &str, text: &str) -> String {
    let mut body = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"complete\",\"isError\":true,\"content\":[{{\"type\":\"text\",\"text\":"
    );
    push_json_string(&mut body, text);
    body.push_str("}]}}");
    body
}

fn error(id: Option<&str>, text: &str) -> String {
    let mut body = String::from("{\"jsonrpc\":\"2.0\"");
    if let Some(id) = id {
        body.push_str(",\"id\":");
        body.push_str(id);
    }
    body.push_str(",\"error\":{\"code\":");
    body.push_str(&CODE_WITHHELD.to_string());
    body.push_str(",\"message\":");
    push_json_string(&mut body, text);
    body.push_str("}}");
    body
}

const fn explained(reason: WithheldReason) -> &'static str {
    match reason {
        WithheldReason::Grant => "The grant of this caller is gone.",
        WithheldReason::Mode => "The gateway is set up so that responses cannot be checked; tell the operator.",
        WithheldReason::Overload => "The gateway has no room to check this response; try again later.",
        WithheldReason::Pins => "The approved definitions of this server's tools could not be read; try again later.",
        WithheldReason::Policy => "The policy of this call is no longer in force.",
        WithheldReason::Ticket => "The response could not be matched with a decision.",
        WithheldReason::Blocked
        | WithheldReason::Encoding
        | WithheldReason::Events
        | WithheldReason::Json
        | WithheldReason::MediaType
        | WithheldReason::Shape
        | WithheldReason::Size
        | WithheldReason::Trailers => "The response could not be checked.",
    }
}

#[cfg(test)]
mod tests {
    use mcp_authz_core::mcp::Era;

    use super::*;

    fn ticket(asked: Asked, id: Option<&str>) -> Ticket {
        Ticket {
            issued_ms: 0,
            server: "s".into(),
            policy: "p".into(),
            policy_digest: [0; 8],
            grant: "g".into(),
            asked,
            era: Era::Modern,
            id: id.map(Into::into),
            stream_id: None,
            request_id: None,
        }
    }

    #[test]
    fn every_kind_of_request_is_told_in_its_own_way() {
        let call = replacement(Some(&ticket(Asked::Call("t".into()), Some("\"a\""))), WithheldReason::Policy);
        assert_eq!(call.status, 200);
        assert_eq!(
            call.body,
            concat!(
                r#"{"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","isError":true,"content":[{"type":"text","text":"#,
                r#""[POLICY WITHHELD] The policy of this call is no longer in force. The request may have been carried out."}]}}"#
            )
        );
        let list = replacement(Some(&ticket(Asked::Request(Method::ToolsList), Some("7"))), WithheldReason::Grant);
        let parsed: serde_json::Value = serde_json::from_str(&list.body).unwrap();
        assert_eq!(
            (list.status, parsed["id"].as_i64(), parsed["error"]["code"].as_i64()),
            (200, Some(7), Some(-31502))
        );
        for ticket in [None, Some(&ticket(Asked::Stream, None))] {
            let none = replacement(ticket, WithheldReason::Ticket);
            let parsed: serde_json::Value = serde_json::from_str(&none.body).unwrap();
            assert!(none.status == 503 && parsed.get("id").is_none() && parsed["error"]["message"].is_string());
        }
    }
}
