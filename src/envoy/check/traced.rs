//! What a Check that is recorded says of itself. Nothing here runs for others.

use std::borrow::Cow;

use mcp_authz_core::{
    decision::{Class, Denial},
    json::Document,
    mcp::{Method, ProtocolVersion},
    pins::Known,
    trace::TraceContext,
};

use super::{Run, Trail, header_lines};
use crate::{
    envoy::wire::HttpRequest,
    quota::Ledger,
    telemetry::trace::{CheckFacts, LinkFrom, Span},
};

/// Links the trace that the client's own header names. Of two such headers neither counts.
pub(super) fn link_header(span: &mut Span, http: &HttpRequest) {
    let mut values = header_lines(http).filter(|(name, _)| *name == b"traceparent").map(|(_, value)| value);
    if let (Some(value), None) = (values.next(), values.next())
        && let Some(context) = TraceContext::parse(value)
    {
        span.link(LinkFrom::Header, context);
    }
}

/// Links the trace that the message names; gives the name of the prompt that it asks for.
pub(super) fn look_into<'a>(span: &mut Span, document: &'a Document<'a>) -> Option<Cow<'a, str>> {
    let params = document.root().get("params")?;
    let named = params.get("_meta").and_then(|meta| meta.get("traceparent")).and_then(|value| value.as_str());
    if let Some(context) = named.and_then(|text| TraceContext::parse(text.as_bytes())) {
        span.link(LinkFrom::Meta, context);
    }
    let method = document.root().get("method")?.as_str()?;
    if Method::parse(&method) == Some(Method::PromptsGet) { params.get("name")?.as_str() } else { None }
}

/// How the Check ended.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) denial: Option<&'a Denial>,
    pub(super) is_held: bool,
    pub(super) is_unmetered: bool,
}

impl<L: Ledger> Run<'_, L> {
    /// Ends the span, if there is one.
    pub(super) fn end(&self, span: &mut Span, trail: &Trail<'_>, end: End<'_>) {
        if !span.is_recorded() {
            return;
        }
        let version =
            trail.requested_version.map(|name| ProtocolVersion::parse(name).map_or("_other", ProtocolVersion::name));
        let policy = trail.policy();
        let reason = end.denial.map(|denial| denial.reason);
        span.finish(&CheckFacts {
            method: trail.method,
            version,
            id: trail.id,
            tool: trail.tool.as_deref(),
            is_tool_known: trail.tool.as_deref().is_some_and(|tool| self.knows(trail, tool)),
            prompt: trail.prompt.as_deref(),
            server: trail.server_name(),
            grant: trail.caller.map(|caller| &*caller.principal.grant),
            policy: policy.map(|policy| &**policy.id()),
            policy_digest: policy.map(|policy| policy.digest().as_str()),
            reason,
            is_failure: reason.is_some_and(|reason| reason.class() == Class::Unavailable),
            rule: end.denial.map(|denial| &*denial.rule.pointer),
            stream_id: trail.stream_id,
            is_held: end.is_held,
            is_unmetered: end.is_unmetered,
        });
    }

    /// Whether policy or pins name the tool, so that its name is not of the client's making.
    fn knows(&self, trail: &Trail<'_>, tool: &str) -> bool {
        let is_pinned = || {
            let Some(bound) = trail.server else { return false };
            match self.adapter.known(bound.server) {
                Known::View(book) => book.pins().get(tool).is_some(),
                Known::Off | Known::Unavailable => false,
            }
        };
        trail.policy().is_some_and(|policy| policy.names_tool(tool)) || is_pinned()
    }
}
