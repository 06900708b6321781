//! What was decided, about what rule, and what a permit must charge. Values only; nothing here evaluates.

use std::{fmt, sync::Arc};

use sha2::Digest as _;

use crate::quota::Charge;

/// The two names of the rule that decided.
///
/// `pointer` is the short form of the published dialect, e.g. `/tools/create_refund/deny_if/args.amount-gt`, or one of
/// `(hidden)`, `(default deny)`, `(no policy)`, `(invalid request)`, `(identity)`, `(unavailable)`.
/// `exact` is the RFC 6901 pointer of the condition or limit in the policy document, where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Short form; the empty string never occurs.
    pub pointer: Arc<str>,
    /// RFC 6901 pointer into the policy document, e.g. `/tools/create_refund/deny_if/0/conditions/0`.
    pub exact: Option<Arc<str>>,
}

impl Rule {
    /// A rule that no document holds, such as `(default deny)`.
    #[must_use]
    pub fn built_in(name: &'static str) -> Self {
        Self { pointer: Arc::from(name), exact: None }
    }
}

/// Joins segments into an RFC 6901 pointer, escaping `~` and `/`, so that a tool named `a/b` cannot pose as another rule.
#[must_use]
pub fn pointer(segments: &[&str]) -> String {
    let mut out = String::new();
    for segment in segments {
        out.push('/');
        for c in segment.chars() {
            match c {
                '~' => out.push_str("~0"),
                '/' => out.push_str("~1"),
                other => out.push(other),
            }
        }
    }
    out
}

/// SHA-256 of the policy bytes exactly as they were loaded, never of a re-serialization. Kept as text: every decision
/// prints it, none computes with it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PolicyDigest(Arc<str>);

impl PolicyDigest {
    /// Hashes the bytes as read.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let hex = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self(format!("sha256:{hex}").into())
    }

    /// `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight bytes, for tokens that have to be short.
    #[must_use]
    pub fn prefix(&self) -> [u8; 8] {
        let hex = self.0.strip_prefix("sha256:").and_then(|hex| hex.get(..16));
        hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default().to_be_bytes()
    }
}

impl fmt::Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose affair a refusal is; fixes the shape of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The caller is not authenticated.
    Identity,
    /// The request is none that can be judged.
    Invalid,
    /// The request is sound, and policy or quota says no.
    Policy,
    /// We could not decide.
    Unavailable,
}

/// Declares [`Reason`] with its one wire name and class per variant, so that the name list cannot drift from the type.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $class:ident;)+) => {
        /// Why a request was refused: a closed set, used as metric label, audit field and `_meta` member.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in declaration order.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name),+ }
            }

            /// Whose affair it is.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Reason::$variant => Class::$class),+ }
            }
        }
    };
}

reasons! {
    /// The audit sink refused the record and the operator asked for `audit.fail_closed`.
    AuditUnavailable = "audit_unavailable", Unavailable;
    /// `increment_from` named a value that is not an amount.
    BadIncrement = "bad_increment", Policy;
    /// A `deny_if` rule matched.
    Condition = "condition", Policy;
    /// The upstream credential could not be had.
    CredentialUnavailable = "credential_unavailable", Unavailable;
    /// The time that Envoy gave us was nearly over.
    Deadline = "deadline", Unavailable;
    /// Nothing in the policy allows it.
    DefaultDeny = "default_deny", Policy;
    /// The grant's `expires` lies in the past.
    GrantExpired = "grant_expired", Identity;
    /// The grant's `not_before` lies in the future.
    GrantNotYetValid = "grant_not_yet_valid", Identity;
    /// The grant was revoked.
    GrantRevoked = "grant_revoked", Identity;
    /// The grant is bound to other servers.
    GrantWrongServer = "grant_wrong_server", Identity;
    /// A mirrored header disagrees with the body, or a required one is missing.
    HeaderMismatch = "header_mismatch", Invalid;
    /// The tool is hidden by policy.
    Hidden = "hidden", Policy;
    /// The HTTP method is not served on an MCP endpoint.
    HttpMethod = "http_method", Invalid;
    /// A defect of ours.
    Internal = "internal", Unavailable;
    /// The counters could not be asked.
    LedgerUnavailable = "ledger_unavailable", Unavailable;
    /// A limit counts by something that the caller has not.
    LimitSubjectMissing = "limit_subject_missing", Policy;
    /// The message is an array.
    MalformedBatch = "malformed.batch", Invalid;
    /// A NUL or another control character where none may be.
    MalformedControl = "malformed.control", Invalid;
    /// A `content-encoding` other than identity.
    MalformedContentEncoding = "malformed.content_encoding", Invalid;
    /// A `content-type` other than `application/json` in UTF-8.
    MalformedContentType = "malformed.content_type", Invalid;
    /// Nested deeper than the limit.
    MalformedDepth = "malformed.depth", Invalid;
    /// Two members of one object have the same name after unescaping.
    MalformedDupKey = "malformed.dup_key", Invalid;
    /// No body where one must be, or a body where none may be.
    MalformedEmpty = "malformed.empty", Invalid;
    /// A header that cannot be judged: illegal bytes or impossible syntax.
    MalformedHeader = "malformed.header", Invalid;
    /// An id that is not a string or an integer within 2^53.
    MalformedId = "malformed.id", Invalid;
    /// Not JSON.
    MalformedJson = "malformed.json", Invalid;
    /// A member name that some parser would take for a protocol key.
    MalformedKeyFold = "malformed.key_fold", Invalid;
    /// A header that may come once came twice.
    MalformedMultiValue = "malformed.multi_value", Invalid;
    /// More values than the limit.
    MalformedNodes = "malformed.nodes", Invalid;
    /// A path that is not exactly a registered endpoint.
    MalformedPath = "malformed.path", Invalid;
    /// Envoy handed over a lossy or incomplete request, or none that can be judged.
    MalformedRequest = "malformed.request", Invalid;
    /// JSON, but not a JSON-RPC message of MCP.
    MalformedShape = "malformed.shape", Invalid;
    /// Larger than the limit.
    MalformedSize = "malformed.size", Invalid;
    /// Envoy handed over less than it would forward.
    MalformedTruncated = "malformed.truncated", Invalid;
    /// Not UTF-8, a byte order mark, or a lone surrogate.
    MalformedUtf8 = "malformed.utf8", Invalid;
    /// The policy does not allow this method.
    MethodDenied = "method_denied", Policy;
    /// A required `_meta` member of the modern era is missing.
    MissingMeta = "missing_meta", Invalid;
    /// The amount is larger than the whole limit.
    NeverFits = "never_fits", Policy;
    /// The pinned definitions of the server's tools cannot be had, or cannot be trusted.
    PinsUnavailable = "pins_unavailable", Unavailable;
    /// The principal has no policy.
    NoPolicy = "no_policy", Policy;
    /// A request method without an id.
    NotificationCall = "notification_call", Invalid;
    /// The request's `Origin` or `Host` is not on the server's list.
    Origin = "origin", Invalid;
    /// As many Checks as we may run are running.
    Overload = "overload", Unavailable;
    /// A limit is used up.
    QuotaExhausted = "quota_exhausted", Policy;
    /// A `require` condition did not hold.
    Requirement = "requirement", Policy;
    /// The policy asks for the schema of the tool, and none is pinned.
    SchemaMissing = "schema_missing", Policy;
    /// The schema of the tool cannot be enforced.
    SchemaUnusable = "schema_unusable", Policy;
    /// The arguments do not fit the schema of the tool.
    SchemaViolation = "schema_violation", Policy;
    /// No token came with the request.
    TokenMissing = "token_missing", Identity;
    /// The token is of no grant.
    TokenUnknown = "token_unknown", Identity;
    /// The definition of the tool is not approved.
    ToolUnapproved = "tool_unapproved", Policy;
    /// The limits of the call touch more counters than one call may.
    TooManyCounters = "too_many_counters", Policy;
    /// A value of a type that the operator cannot judge.
    TypeMismatch = "type_mismatch", Policy;
    /// A method that is not in the table of MCP methods.
    UnknownMethod = "unknown_method", Invalid;
    /// No server is bound to the request.
    UnknownServer = "unknown_server", Invalid;
    /// A protocol version that is not served.
    UnsupportedVersion = "unsupported_version", Invalid;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal: what the agent is told and what the audit record keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The closed reason.
    pub reason: Reason,
    /// The rule that decided.
    pub rule: Rule,
    /// Text for the agent: the policy author's `on_deny`, or ours. Holds no argument value.
    pub message: Arc<str>,
    /// Milliseconds until a retry can succeed; `None` where no waiting helps or nobody knows.
    pub retry_after_ms: Option<u64>,
}

/// The outcome of evaluation. Exhaustive on purpose: a new outcome must break every adapter that handles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Stop it.
    Deny(Denial),
    /// Let it go ahead once every charge is held.
    Proceed(Vec<Charge>),
}

impl Denial {
    /// A refusal that no policy document decides, with our text for whoever can mend it.
    #[must_use]
    pub fn built_in(reason: Reason) -> Self {
        Self::with_message(reason, reason.advice())
    }

    /// As [`Denial::built_in`], with a closer description of the fault.
    #[must_use]
    pub fn with_message(reason: Reason, message: &'static str) -> Self {
        let rule = match reason.class() {
            Class::Identity => "(identity)",
            Class::Invalid => "(invalid request)",
            Class::Policy if reason == Reason::NoPolicy => "(no policy)",
            Class::Policy if reason == Reason::Hidden => "(hidden)",
            Class::Policy if reason == Reason::ToolUnapproved => "(unapproved)",
            Class::Policy => "(default deny)",
            Class::Unavailable => "(unavailable)",
        };
        // These pass by themselves; of the other failures nobody knows when they end.
        let retry_after_ms = matches!(reason, Reason::Deadline | Reason::Overload).then_some(1_000);
        Self { reason, rule: Rule::built_in(rule), message: Arc::from(message), retry_after_ms }
    }
}

impl Reason {
    /// What the sender or the operator can do about it; for reasons whose text a policy does not supply.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Reason::AuditUnavailable => "The decision cannot be recorded now. Ask the operator to mend the audit sink.",
            Reason::BadIncrement => "An argument that a limit counts is not an amount.",
            Reason::Condition | Reason::Requirement => "The call is denied by policy.",
            Reason::CredentialUnavailable => "The credential for this server cannot be had now. Ask the operator.",
            Reason::Deadline => "The policy service ran out of time. Try again.",
            Reason::DefaultDeny => "The call is not permitted by policy.",
            Reason::GrantExpired
            | Reason::GrantNotYetValid
            | Reason::GrantRevoked
            | Reason::GrantWrongServer
            | Reason::TokenUnknown => "The token is not valid for this server. Ask the operator for a new grant.",
            Reason::HeaderMismatch => "A mirrored header disagrees with the body.",
            Reason::Hidden => "The tool is hidden by policy.",
            Reason::HttpMethod => "This HTTP method is not served here.",
            Reason::Internal => "The policy service failed. Ask the operator to look at its log.",
            Reason::LedgerUnavailable => "The quota cannot be checked now. Ask the operator.",
            Reason::LimitSubjectMissing => "A limit counts by group, and this caller is in none. Ask the operator.",
            Reason::MalformedBatch => "Batches are not accepted: send one message a request.",
            Reason::MalformedContentEncoding => "Send the body without content-encoding.",
            Reason::MalformedContentType => "Send the body as application/json in UTF-8.",
            Reason::MalformedControl => "A name holds a control character.",
            Reason::MalformedDepth => "The message is nested too deep.",
            Reason::MalformedDupKey => "An object has two members of one name.",
            Reason::MalformedEmpty => "The request needs a body, or must not have one.",
            Reason::MalformedHeader => "A header cannot be read unambiguously.",
            Reason::MalformedId => "The id must be a string or an integer.",
            Reason::MalformedJson => "The body is not JSON.",
            Reason::MalformedKeyFold => "A member name differs from a protocol name in spelling only.",
            Reason::MalformedMultiValue => "A header that may come once came twice.",
            Reason::MalformedNodes => "The message has too many values.",
            Reason::MalformedPath => "The path is not the plain path of an MCP endpoint.",
            Reason::MalformedRequest => {
                "The request did not reach the policy service in a form that it can judge. Ask the operator."
            }
            Reason::MalformedShape => "The body is not a JSON-RPC message of MCP.",
            Reason::MalformedSize => "The body is too large.",
            Reason::MalformedTruncated => "The body did not reach the policy service whole; it is probably too large.",
            Reason::MalformedUtf8 => "The body is not plain UTF-8 text.",
            Reason::MethodDenied => "The method is not permitted by policy.",
            Reason::MissingMeta => "A required member of `params._meta` is missing.",
            Reason::NeverFits => "The amount is larger than the whole limit; no waiting helps.",
            Reason::NoPolicy => "No policy is assigned to this caller",
            Reason::NotificationCall => "A request needs an id.",
            Reason::Origin => "Requests from this origin or to this host name are not accepted.",
            Reason::Overload => "The policy service is at its limit. Try again.",
            Reason::PinsUnavailable => {
                "The definitions of this server's tools cannot be checked now. Ask the operator."
            }
            Reason::QuotaExhausted => "A limit is used up.",
            Reason::SchemaMissing => {
                "The policy checks arguments against the tool's schema, which is not known yet: list the tools first."
            }
            Reason::SchemaUnusable => {
                "The schema of this tool cannot be enforced. Ask the owner of the server to mend it."
            }
            Reason::SchemaViolation => "The arguments do not fit the schema of the tool.",
            Reason::TokenMissing => "A token is needed: send it as `Authorization: Bearer`.",
            Reason::ToolUnapproved => {
                "This tool is new, or its definition has changed, and nobody has approved that yet. Ask the operator."
            }
            Reason::TooManyCounters => "The limits of this call are too many for this caller. Ask the operator.",
            Reason::TypeMismatch => "An argument has a type that the policy cannot judge.",
            Reason::UnknownMethod => "Method not found",
            Reason::UnknownServer => "No server is registered for this address. Ask the operator.",
            Reason::UnsupportedVersion => "Unsupported protocol version",
        }
    }
}
