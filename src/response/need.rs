//! Whether the response of a request that may go has to be looked at. Where not, Envoy never asks about it.

use mcp_authz_core::{
    mcp::{Body, Group, Message, Method},
    policy::Policy,
    response::Asked,
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
    let changes_anything =
        has_pins || policy.is_some_and(|policy| policy.may_hide() || !policy.results(None).is_empty());
    let asked = match message.map(|message| message.body) {
        None | Some(Body::Notification(_) | Body::Response) => {
            return (changes_anything || recording == Recording::All).then_some(Asked::Stream);
        }
        Some(Body::ToolCall(call)) => Asked::Call(call.name().into()),
        Some(Body::Request(method)) => Asked::Request(method),
    };
    let needed = match (&asked, recording) {
        (_, Recording::All) | (Asked::Call(_), Recording::Calls) => true,
        (Asked::Call(tool), Recording::Policy) => {
            policy.is_some_and(|policy| !policy.results(Some(tool)).is_empty() || policy.settles_by_body(tool))
        }
        (Asked::Request(method), Recording::Policy | Recording::Calls) => match method.group() {
            Group::List => changes_anything,
            // Anything may come on a stream that stays open.
            Group::Handshake | Group::Named | Group::Notification | Group::Tool => {
                let is_stream = *method == Method::SubscriptionsListen;
                (is_stream && changes_anything) || policy.is_some_and(|policy| !policy.results(None).is_empty())
            }
        },
        (Asked::Stream, _) => changes_anything,
    };
    needed.then_some(asked)
}
