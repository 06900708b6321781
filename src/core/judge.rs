//! A policy applied to one message: which part of the policy answers for which method.

use crate::decision::{Class, Decision, Denial, Reason, Rule};
use crate::mcp::{Body, Group, Message, Method, is_plain_tool_name};
use crate::pins::Known;
use crate::policy::{Call, Policy, no_policy};
use crate::principal::Principal;

/// Judges one sound message of an authenticated principal.
///
/// A principal without a policy may do nothing. With one, a `tools/call` gets the full evaluation. Version "1" of the
/// policy language has no rules for other methods: handshake, lists and what belongs to a running session pass, since
/// denying them breaks clients without protecting a tool; every method that reads, subscribes or changes something by
/// name passes only where the policy's default is `allow`.
#[must_use]
pub fn judge(policy: Option<&Policy>, who: &Principal, server: &str, message: &Message<'_>) -> Decision {
    judge_pinned(policy, who, server, message, &Known::Off)
}

/// As [`judge`], with what is known of the definitions of the server's tools.
#[must_use]
pub fn judge_pinned(
    policy: Option<&Policy>,
    who: &Principal,
    server: &str,
    message: &Message<'_>,
    known: &Known,
) -> Decision {
    let Some(policy) = policy else { return Decision::Deny(no_policy()) };
    match message.body {
        Body::ToolCall(call) => {
            let name = call.name();
            if !is_unmistakable(policy, &name) {
                return Decision::Deny(Denial {
                    reason: Reason::DefaultDeny,
                    rule: Rule::built_in("(default deny)"),
                    message: "The tool's name has characters that MCP does not allow, and no policy lists it".into(),
                    retry_after_ms: None,
                });
            }
            let call = Call { server, tool: &name, arguments: call.arguments, request_bytes: message.bytes };
            match policy.decide(who, &call) {
                // Last, so that nobody learns of the definition of a tool that the policy does not let them call.
                Decision::Proceed(charges) => match known.refuse(policy, &call) {
                    Some(denial) => Decision::Deny(denial),
                    None => Decision::Proceed(charges),
                },
                denied @ Decision::Deny(_) => denied,
            }
        }
        Body::Request(method) => judge_method(policy, method),
        Body::Notification(_) | Body::Response => Decision::Proceed(Vec::new()),
    }
}

/// Whether a list may show the tool: some call of it by that caller could pass [`judge`].
#[must_use]
pub fn is_tool_visible(policy: &Policy, who: &Principal, name: &str) -> bool {
    is_unmistakable(policy, name) && policy.is_visible(who, name)
}

/// Whether a list may show what that method asks for by name: a request of it could pass [`judge`].
#[must_use]
pub fn is_named_visible(policy: &Policy, method: Method) -> bool {
    matches!(judge_method(policy, method), Decision::Proceed(_))
}

/// A name outside the specification's alphabet can be read as another one by an upstream that trims or normalizes; only a policy
/// that spells it out may let it pass.
fn is_unmistakable(policy: &Policy, name: &str) -> bool {
    is_plain_tool_name(name) || policy.names_tool(name)
}

/// Whether a refused call of that tool is answered as if the server had no such tool: where the policy says so, and no list
/// shows the tool to the caller. Audit and metrics keep the true reason.
///
/// A tool that the policy lists is no secret to whoever sees it, so its other refusals stay as they are.
#[must_use]
pub fn is_concealed(policy: Option<&Policy>, who: &Principal, tool: &str, reason: Reason) -> bool {
    policy.is_some_and(|policy| {
        policy.hides_as_unknown()
            && reason.class() == Class::Policy
            && (matches!(reason, Reason::DefaultDeny | Reason::Hidden | Reason::ToolUnapproved)
                || !is_tool_visible(policy, who, tool))
    })
}

fn judge_method(policy: &Policy, method: Method) -> Decision {
    match method.group() {
        Group::Handshake | Group::List | Group::Notification => Decision::Proceed(Vec::new()),
        // A tool call is judged above; reached here it would skip the rules, so it is treated like any named method.
        Group::Named | Group::Tool if policy.default_allows() => Decision::Proceed(Vec::new()),
        Group::Named | Group::Tool => Decision::Deny(Denial {
            reason: Reason::MethodDenied,
            rule: Rule::built_in("(default deny)"),
            message: format!("Method {} is not permitted by policy", method.name()).into(),
            retry_after_ms: None,
        }),
    }
}

#[cfg(test)]
mod tests;
