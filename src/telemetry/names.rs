//! Names of what telemetry shows, each with its meaning, in one place: the tables of `deploy/TELEMETRY.md` are made from them.
//!
//! Metrics are not here: their names, kinds and help stand where they are registered, and the tables are made from the registry.

/// A name and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// As it is shown.
    pub name: &'static str,
    /// In one sentence or less.
    pub meaning: &'static str,
}

const fn named(name: &'static str, meaning: &'static str) -> Named {
    Named { name, meaning }
}

/// The name of the event that an audit record is, sent as a log record.
pub const AUDIT_EVENT: &str = "mcp_authz.audit";

/// What stands before the name of a field of the log where it becomes an attribute.
pub const PREFIX: &str = "mcp_authz.";

/// Fields of the log, sorted. A message has those that its subject has.
pub const LOG_FIELDS: &[Named] = &[
    named("accepted", "windows whose loss of counts an operator accepted"),
    named("address", "where something listens"),
    named("ahead_ms", "how far ahead a clock was, in milliseconds"),
    named("at", "place of a defect of the configuration: file, pointer and what to do"),
    named("bookings", "bookings told to the quota store again"),
    named("changed", "whether a reload changed anything"),
    named("counter", "name of a counter in its policy"),
    named("defects", "number of defects"),
    named("error", "what failed, and why"),
    named("event", "what happened to a connection"),
    named("folders", "mounts that were replaced"),
    named("from", "revision before a reload"),
    named("items", "spans, points or records that did not arrive"),
    named("left_out", "counters without series of their own"),
    named("lost", "spans, points or records that were not sent at the end"),
    named("missing", "what the environment does not say"),
    named("not_shown", "defects that the log has no room for"),
    named("path", "a file"),
    named("policy", "id of a policy"),
    named("problem", "why a quota store is unsafe"),
    named("protocol", "how a collector is spoken to"),
    named("recovered", "whether the quota store was used before"),
    named("revision", "revision of the configuration that serves"),
    named("server", "name of a server"),
    named("service", "which listener: `grpc`, `admin` or `webhook`"),
    named("signal", "`logs`, `metrics` or `traces`"),
    named("to", "revision after a reload"),
    named("tools", "number of tools"),
    named("unusable", "schemas that cannot be enforced"),
    named("url", "where a signal is sent"),
    named("what", "what was noted about tools"),
];

/// A kind of span, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanOf {
    /// Its name, or how it is made.
    pub name: &'static str,
    /// Its kind by the data model: `server`, `internal` or `client`.
    pub kind: &'static str,
    /// What it covers.
    pub meaning: &'static str,
    /// Keys of the attributes that it may have, sorted.
    pub attributes: &'static [&'static str],
}

/// What stands for the name of the span of a Check: that is made of the method and of the tool.
pub const CHECK_SPAN: &str = "METHOD TOOL";

/// Every span.
pub const SPANS: &[SpanOf] = &[
    SpanOf {
        name: CHECK_SPAN,
        kind: "server",
        meaning: "one Check, from its arrival to its answer; the tool only where it is called, and `_other` if neither policy nor pins \
                  know it",
        attributes: &[
            "error.type",
            "gen_ai.prompt.name",
            "gen_ai.tool.name",
            "jsonrpc.request.id",
            "mcp.method.name",
            "mcp.protocol.version",
            "mcp_authz.decision",
            "mcp_authz.grant",
            "mcp_authz.policy",
            "mcp_authz.policy.digest",
            "mcp_authz.reason",
            "mcp_authz.reservation.id",
            "mcp_authz.rule",
            "mcp_authz.server",
            "mcp_authz.stream_id",
            "mcp_authz.unmetered",
            "rpc.system.name",
        ],
    },
    SpanOf {
        name: "mcp_authz.credential",
        kind: "internal",
        meaning: "putting the credential into the answer",
        attributes: &[],
    },
    SpanOf { name: "mcp_authz.evaluate", kind: "internal", meaning: "judging by the policy", attributes: &[] },
    SpanOf { name: "mcp_authz.identity", kind: "internal", meaning: "finding out who calls", attributes: &[] },
    SpanOf { name: "mcp_authz.parse", kind: "internal", meaning: "reading the body", attributes: &[] },
    SpanOf {
        name: "mcp_authz.reserve",
        kind: "internal, or client with Redis",
        meaning: "holding units of quotas",
        attributes: &["db.system.name"],
    },
    SpanOf {
        name: "mcp_authz.response",
        kind: "server",
        meaning: "one response, from its head to its end",
        attributes: &[
            "error.type",
            "gen_ai.tool.name",
            "mcp.method.name",
            "mcp_authz.grant",
            "mcp_authz.outcome",
            "mcp_authz.policy",
            "mcp_authz.policy.digest",
            "mcp_authz.server",
            "mcp_authz.stream_id",
            "mcp_authz.withheld",
        ],
    },
    SpanOf {
        name: "mcp_authz.settle",
        kind: "internal, or client with Redis",
        meaning: "the settlement of a call that ended",
        attributes: &[
            "db.system.name",
            "error.type",
            "mcp_authz.outcome",
            "mcp_authz.policy",
            "mcp_authz.reservation.id",
        ],
    },
];

/// Attributes of spans and of their links, sorted.
pub const SPAN_ATTRIBUTES: &[Named] = &[
    named("db.system.name", "`redis`"),
    named(
        "error.type",
        "what failed of ours: a reason, an outcome, or `cancelled` if nobody waited for the answer; a denial by policy is no error",
    ),
    named("gen_ai.prompt.name", "the prompt that is asked for, cut at 128 bytes"),
    named("gen_ai.tool.name", "the tool that is called, cut at 128 bytes"),
    named("jsonrpc.request.id", "id of the request, cut at 64 bytes"),
    named("mcp.method.name", "method, of a closed list"),
    named("mcp.protocol.version", "revision of the protocol, or `_other`"),
    named("mcp_authz.decision", "`allow` or `deny`"),
    named("mcp_authz.grant", "label of the grant"),
    named(
        "mcp_authz.link",
        "of a link to the trace that the client named: `header`, or `meta` for `params._meta.traceparent`",
    ),
    named("mcp_authz.outcome", "what became of the response, or of the reservation"),
    named("mcp_authz.policy", "id of the policy"),
    named("mcp_authz.policy.digest", "its digest"),
    named("mcp_authz.reason", "`allowed`, or the reason of the denial"),
    named("mcp_authz.reservation.id", "id of the reservation, if units are held"),
    named("mcp_authz.rule", "pointer of the rule that denied"),
    named("mcp_authz.server", "name of the server"),
    named("mcp_authz.stream_id", "Envoy's id of the stream"),
    named("mcp_authz.unmetered", "true for a call that goes although its quotas could not be counted"),
    named("mcp_authz.withheld", "why a response was withheld"),
    named("rpc.system.name", "`grpc`"),
];

/// Attributes of the resource, sorted. `OTEL_RESOURCE_ATTRIBUTES` adds others, and goes before these.
pub const RESOURCE_ATTRIBUTES: &[Named] = &[
    named("service.instance.id", "tells this process from others of the service: random, made at the start"),
    named("service.name", "`mcp-authz`, unless `OTEL_SERVICE_NAME` says otherwise"),
    named("service.version", "version of this binary"),
];

/// Attributes of every log record, sorted; the fields of its message come on top.
pub const RECORD_ATTRIBUTES: &[Named] = &[
    named("event.name", "only of an audit record: `mcp_authz.audit`"),
    named("mcp_authz.target", "only of a message: the module that says it"),
];
