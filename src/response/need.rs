//! Whether the response of a request that may go has to be looked at. Where not, Envoy never asks about it.

use mcp_authz_core::{
    mcp::{Body, Message},
    policy::Policy,
    response::{Asked, Concern},
};

/// Of which responses there is a record although no policy asks for one: the setting `response.record`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Only of those that a policy looks at.
    Policy,
    /// Also of every `tools/call`.
    Calls,
    /// Of all.
    All,
}

impl Recording {
    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Calls => "calls",
            Self::Policy => "policy",
        }
    }
}

/// What was asked, if the response to it has to be looked at. `message` is `None` for GET and DELETE; `has_pins` says whether
/// the tools of the server are compared with pins.
///
/// A response to something that expects no answer can only be looked at like a stream: nothing belongs to a request in it.
#[must_use]
pub fn need(
    policy: Option<&Policy>,
    message: Option<&Message<'_>>,
    has_pins: bool,
    recording: Recording,
) -> Option<Asked> {
    let policy = policy?;
    let asked = match message.map(|message| message.body) {
        None | Some(Body::Notification(_) | Body::Response) => Asked::Stream,
        Some(Body::ToolCall(call)) => Asked::Call(call.name().into()),
        Some(Body::Request(method)) => Asked::Request(method),
    };
    let records = match (recording, &asked) {
        (Recording::All, _) | (Recording::Calls, Asked::Call(_)) => true,
        (Recording::Calls | Recording::Policy, _) => false,
    };
    let settles = matches!(&asked, Asked::Call(tool) if policy.settles_by_body(tool));
    let needed = records || settles || !Concern::of(policy, &asked, has_pins).is_none();
    needed.then_some(asked)
}

#[cfg(test)]
mod tests {
    use mcp_authz_core::{
        document::Format,
        http::{HeaderLimits, Headers, Repeats},
        json::{Document, Limits},
        mcp::ProtocolVersion,
        policy::Source,
    };

    use super::*;

    fn policy(text: &str) -> Policy {
        let source = Source { id: "p", file: "p.yaml", bytes: text.as_bytes(), format: Format::Yaml };
        Policy::compile(&source).unwrap().policy
    }

    /// Which of these messages are looked at under that policy.
    fn needed(policy: &Policy, has_pins: bool, recording: Recording) -> Vec<&'static str> {
        const MESSAGES: [(&str, Option<&str>); 6] = [
            ("get", None),
            ("notification", Some(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)),
            ("list", Some(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)),
            ("other", Some(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)),
            ("call", Some(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#)),
            ("settled", Some(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s"}}"#)),
        ];
        let headers = [(&b"content-type"[..], &b"application/json"[..])];
        let headers = Headers::classify(headers.into_iter(), Repeats::Apart, HeaderLimits::default()).unwrap();
        let is_needed = |text: &Option<&str>| {
            let document = text.map(|text| Document::parse(text.as_bytes(), Limits::default()).unwrap());
            let message = document.as_ref().map(|d| Message::read(d, &headers, ProtocolVersion::ALL).unwrap());
            need(Some(policy), message.as_ref(), has_pins, recording).is_some()
        };
        MESSAGES.iter().filter(|(_, text)| is_needed(text)).map(|(name, _)| *name).collect()
    }

    #[test]
    fn only_what_concerns_somebody_is_looked_at() {
        let open = policy("version: '2'\ndefault: allow\n");
        let none: [&str; 0] = [];
        assert_eq!(needed(&open, false, Recording::Policy), none);
        assert_eq!(needed(&open, false, Recording::Calls), ["call", "settled"]);
        assert_eq!(needed(&open, false, Recording::All), ["get", "notification", "list", "other", "call", "settled"]);
        assert_eq!(needed(&open, true, Recording::Policy), ["get", "notification", "list"]);
        let hiding = policy("version: '2'\ndefault: allow\nhide: [x]\n");
        assert_eq!(needed(&hiding, false, Recording::Policy), ["get", "notification", "list"]);
        let settling = policy(
            "version: '2'\ndefault: allow\ntools:\n  s: {limits: [{counter: c, window: day, scope: grant, max: 1, refund_on: [is_error]}]}\n",
        );
        assert_eq!(needed(&settling, false, Recording::Policy), ["settled"]);
        assert!(need(None, None, true, Recording::All).is_none(), "without a policy nothing is let go");
    }
}
