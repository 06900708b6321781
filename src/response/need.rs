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
