//! The answer in place of a response that could not even begin to be judged. Those that are withheld while they are judged are
//! answered by `core::response`.

use mcp_authz_core::{answer, response::Asked};

use super::Ticket;
use crate::telemetry::metrics::{Label as _, WithheldReason};

/// A whole response in place of the server's; its content type is `application/json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// HTTP status.
    pub status: u16,
    /// A JSON-RPC message.
    pub body: String,
}

impl Replacement {
    /// What goes out in the place of a response to `asked` with that status. A client must not take it for what it is not: an
    /// HTTP error stays one, and a stream, on which nobody waits for this message, becomes one.
    pub(super) fn of(body: String, asked: Option<&Asked>, status: u16) -> Self {
        let is_waited_for = matches!(asked, Some(Asked::Call(_) | Asked::Request(_)));
        let status = match status {
            400..=599 => status,
            _ if is_waited_for => 200,
            _ => 503,
        };
        Self { status, body }
    }
}

/// The replacement that the one who asked understands.
pub(super) fn replacement(ticket: Option<&Ticket>, status: u16, reason: WithheldReason) -> Replacement {
    let is_call = matches!(ticket.map(|ticket| &ticket.asked), Some(Asked::Call(_)));
    let notice = if is_call { " The tool may have run: do not repeat the call blindly." } else { "" };
    let withheld = answer::Withheld {
        asked: if is_call { answer::Asked::ToolCall } else { answer::Asked::Request },
        id: ticket.and_then(|ticket| ticket.id.as_deref()),
        reason: reason.name(),
        text: &format!("{}{notice}", explained(reason)),
        policy_digest: "",
    };
    Replacement::of(answer::withheld(&withheld), ticket.map(|ticket| &ticket.asked), status)
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
    use mcp_authz_core::mcp::{Era, Method};

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
        let told = |ticket: Option<&Ticket>, status, reason| {
            let Replacement { status, body } = replacement(ticket, status, reason);
            (status, serde_json::from_str::<serde_json::Value>(&body).unwrap())
        };
        let (status, call) = told(Some(&ticket(Asked::Call("t".into()), Some("\"a\""))), 200, WithheldReason::Policy);
        assert_eq!((status, call["id"].as_str(), call["result"]["isError"].as_bool()), (200, Some("a"), Some(true)));
        let text = "[POLICY WITHHELD] The policy of this call is no longer in force. The tool may have run: do not repeat the call blindly.";
        assert_eq!(call["result"]["content"][0]["text"], text);
        let decision = serde_json::json!({"decision": "withhold", "reason": "policy"});
        assert_eq!(call["result"]["_meta"]["mcp-authz.dev/decision"], decision, "without a digest that nobody knows");
        let list = ticket(Asked::Request(Method::ToolsList), Some("7"));
        for (sent, expected) in [(200, 200), (202, 200), (302, 200), (404, 404), (0, 200)] {
            let (status, list) = told(Some(&list), sent, WithheldReason::Grant);
            assert_eq!(
                (status, list["id"].as_i64(), list["error"]["code"].as_i64()),
                (expected, Some(7), Some(-31502))
            );
        }
        for ticket in [None, Some(&ticket(Asked::Stream, None))] {
            let (status, none) = told(ticket, 200, WithheldReason::Ticket);
            assert!(status == 503 && none.get("id").is_none() && none["error"]["message"].is_string());
        }
    }
}
