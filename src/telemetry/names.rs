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
    named("from", "revision before a reload"),
    named("items", "spans, points or records that did not arrive"),
    named("left_out", "counters without series of their own"),
    named("lost", "spans, points or records that were not sent at the end"),
    named("path", "a file"),
    named("policy", "id of a policy"),
    named("problem", "why a quota store is unsafe"),
    named("recovered", "whether the quota store was used before"),
    named("revision", "revision of the configuration that serves"),
    named("server", "name of a server"),
    named("service", "which listener: `grpc` or `admin`"),
    named("signal", "`logs`, `metrics` or `traces`"),
    named("to", "revision after a reload"),
    named("tools", "number of tools"),
    named("unusable", "schemas that cannot be enforced"),
    named("what", "what was noted about tools"),
];
