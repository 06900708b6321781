//! What a refused client is told: status, headers and body, per protocol era and kind of message.
//!
//! The shapes are measured: a `tools/call` is answered with HTTP 200 and an `isError` result, since nothing else reaches
//! the model in every SDK; `resultType` is always there, since modern clients throw without it; `structuredContent` is
//! never there, since the TypeScript SDK checks it against the tool's schema; the id is echoed byte for byte, since a
//! client that does not find its id waits forever.

use crate::decision::{Class, Denial, Reason};
use crate::mcp::{Era, ProtocolVersion};
use crate::text::{is_unsafe, push_json_string};

/// The member of `_meta` and of `error.data` that carries our decision.
pub const DECISION_KEY: &str = "mcp-authz.dev/decision";
/// SEP-2643: asserts that the operation was not performed, and that repeating it unchanged is pointless.
const SEP_2643: &str = "\"io.modelcontextprotocol/authorization\":{\"reason\":\"insufficient_authorization\",\"remediation\":\"unavailable\"},";

/// JSON-RPC codes of our own lie outside -32768..-32000, which the specification reserves.
const CODE_DENIED: i32 = -31403;
const CODE_IDENTITY: i32 = -31401;
const CODE_UNAVAILABLE: i32 = -31503;
const CODE_WITHHELD: i32 = -31502;

/// What the refused request was, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `initialize`: the connection itself is refused.
    Initialize,
    /// A notification or a response: the sender expects no answer.
    NoAnswer,
    /// GET or DELETE.
    NoBody,
    /// A request other than `tools/call`.
    Request,
    /// `tools/call`.
    ToolCall,
    /// Nothing that could be read.
    Unread,
}

/// Everything an answer may name beside the denial.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What was asked.
    pub asked: Asked,
    /// The era of the request.
    pub era: Era,
    /// The id exactly as written.
    pub id: Option<&'a str>,
    /// Digest of the policy that decided.
    pub policy_digest: Option<&'a str>,
    /// Correlation id that the operator's logs know too.
    pub request_id: Option<&'a str>,
    /// RFC 9728 metadata URL of the server.
    pub resource_metadata: Option<&'a str>,
    /// The version that the client asked for.
    pub requested_version: Option<&'a str>,
    /// The versions that the server serves.
    pub versions: &'a [ProtocolVersion],
    /// The tool of a call that is answered as if the server had none of that name; see
    /// [`judge::is_concealed`](crate::judge::is_concealed).
    pub unknown_tool: Option<&'a str>,
}

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; never below 200, never 204, which may carry no body.
    pub status: u16,
    /// Headers; names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, or nothing.
    pub body: String,
}

/// The family of a reason, which fixes the shape of the answer.
enum Family {
    /// HTTP 401 with a challenge.
    Identity,
    /// A policy decided; the request itself is sound.
    Policy,
    /// The request is not one we can judge: this status and JSON-RPC code.
    Protocol(u16, i32),
    /// We could not decide.
    Unavailable,
    /// A method nobody knows.
    UnknownMethod,
}

fn family(reason: Reason) -> Family {
    match (reason.class(), reason) {
        (Class::Identity, _) => Family::Identity,
        (Class::Policy, _) => Family::Policy,
        (Class::Unavailable, _) => Family::Unavailable,
        (Class::Invalid, Reason::HeaderMismatch) => Family::Protocol(400, -32020),
        (Class::Invalid, Reason::HttpMethod) => Family::Protocol(405, CODE_DENIED),
        (Class::Invalid, Reason::MalformedContentEncoding | Reason::MalformedContentType) => {
            Family::Protocol(415, -32600)
        }
        (Class::Invalid, Reason::MalformedEmpty | Reason::MalformedJson | Reason::MalformedUtf8) => {
            Family::Protocol(400, -32700)
        }
        (Class::Invalid, Reason::MalformedSize | Reason::MalformedTruncated) => Family::Protocol(413, -32600),
        (Class::Invalid, Reason::MissingMeta) => Family::Protocol(400, -32602),
        (Class::Invalid, Reason::Origin | Reason::UnknownServer) => Family::Protocol(403, CODE_DENIED),
        (Class::Invalid, Reason::UnknownMethod) => Family::UnknownMethod,
        (Class::Invalid, Reason::UnsupportedVersion) => Family::Protocol(400, -32022),
        (Class::Invalid, _) => Family::Protocol(400, -32600),
    }
}

/// Builds the answer to a refused request.
#[must_use]
pub fn answer(denial: &Denial, context: &Context<'_>) -> Answer {
    let writer = Writer { denial, context };
    if let (Asked::ToolCall, Some(tool)) = (context.asked, context.unknown_tool) {
        return writer.unknown_tool(tool);
    }
    match (family(denial.reason), context.asked) {
        (Family::Identity, _) => writer.challenge(),
        (Family::Policy | Family::Unavailable, Asked::NoAnswer) => writer.dropped(),
        (Family::Policy, Asked::ToolCall) => writer.tool_result("[POLICY DENIED] "),
        (Family::Policy, Asked::Request) => writer.error(200, CODE_DENIED),
        (Family::Policy, Asked::Initialize | Asked::NoBody | Asked::Unread) => writer.error(403, CODE_DENIED),
        (Family::Unavailable, Asked::ToolCall) => writer.tool_result("[POLICY UNAVAILABLE] "),
        (Family::Unavailable, Asked::Request) => writer.error(200, CODE_UNAVAILABLE),
        (Family::Unavailable, Asked::Initialize | Asked::NoBody | Asked::Unread) => writer.error(503, CODE_UNAVAILABLE),
        (Family::UnknownMethod, Asked::NoAnswer) => writer.dropped(),
        (Family::UnknownMethod, _) => {
            // In the legacy era 404 means that the session is gone, so SDK servers answer 200 there.
            writer.error(if context.era == Era::Modern { 404 } else { 200 }, -32601)
        }
        (Family::Protocol(status, code), _) => writer.error(status, code),
    }
}

/// An answer of the server's that must not pass on.
#[derive(Clone, Copy, Debug)]
pub struct Withheld<'a> {
    /// [`Asked::ToolCall`], or anything else for a request that gets an error.
    pub asked: Asked,
    /// The request's id exactly as written; `None` for a stream that nobody asked by a message.
    pub id: Option<&'a str>,
    /// Why: the name of a closed set.
    pub reason: &'static str,
    /// Text for the agent. Holds no value of the answer.
    pub text: &'a str,
    /// Digest of the policy; empty where none was found.
    pub policy_digest: &'a str,
}

/// Builds the JSON text that stands in the place of such an answer. Without the assertion of SEP-2643, since what was asked may
/// have been done.
#[must_use]
pub fn withheld(withheld: &Withheld<'_>) -> String {
    let text = format!("[POLICY WITHHELD] {}", withheld.text);
    let (mut body, end) = match (withheld.asked, withheld.id) {
        (Asked::ToolCall, Some(id)) => (tool_result_start(id, &text), "],\"_meta\":{"),
        (_, id) => (error_start(id, CODE_WITHHELD, &text), ",\"data\":{"),
    };
    body.push_str(end);
    body.push('"');
    body.push_str(DECISION_KEY);
    body.push_str("\":{\"decision\":\"withhold\",\"reason\":");
    push_json_string(&mut body, withheld.reason);
    if !withheld.policy_digest.is_empty() {
        body.push_str(",\"policy_digest\":");
        push_json_string(&mut body, withheld.policy_digest);
    }
    body.push_str("}}}}");
    body
}

/// A failed result of `tools/call`, up to the end of the first text of its content.
fn tool_result_start(id: &str, text: &str) -> String {
    let mut body = String::with_capacity(512);
    body.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    body.push_str(id);
    body.push_str(
        ",\"result\":{\"resultType\":\"complete\",\"isError\":true,\"content\":[{\"type\":\"text\",\"text\":",
    );
    push_json_string(&mut body, text);
    body.push('}');
    body
}

/// A JSON-RPC error, up to the end of its message.
fn error_start(id: Option<&str>, code: i32, message: &str) -> String {
    let mut body = String::with_capacity(384);
    body.push_str("{\"jsonrpc\":\"2.0\"");
    // The 2026-07-28 schema makes an error's id optional; `null` makes clients of both languages fail.
    if let Some(id) = id {
        body.push_str(",\"id\":");
        body.push_str(id);
    }
    body.push_str(",\"error\":{\"code\":");
    body.push_str(&code.to_string());
    body.push_str(",\"message\":");
    push_json_string(&mut body, message);
    body
}

/// The headers of every answer with a body.
fn plain_headers() -> Vec<(&'static str, String)> {
    vec![("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())]
}

/// What the specification's servers say of a tool that they do not have.
#[must_use]
pub fn unknown_tool_text(tool: &str) -> String {
    format!("Unknown tool: {tool}")
}

struct Writer<'a> {
    denial: &'a Denial,
    context: &'a Context<'a>,
}

impl Writer<'_> {
    /// Nobody waits for an answer. Legacy clients give up their whole session on an error here, so the message is
    /// dropped in silence; the modern era has no such message, and says so.
    fn dropped(&self) -> Answer {
        match self.context.era {
            Era::Legacy => {
                Answer { status: 202, headers: vec![("cache-control", "no-store".to_owned())], body: String::new() }
            }
            Era::Modern => self.error(400, -32600),
        }
    }

    fn challenge(&self) -> Answer {
        let mut challenge = String::from("Bearer");
        let mut separator = " ";
        if let Some(url) = self.context.resource_metadata {
            challenge.push_str(" resource_metadata=\"");
            challenge.extend(url.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')));
            challenge.push('"');
            separator = ", ";
        }
        // RFC 6750 section 3.1: no error code where no credentials were sent.
        if self.denial.reason != Reason::TokenMissing {
            challenge.push_str(separator);
            challenge.push_str("error=\"invalid_token\"");
        }
        let mut answer = self.error(401, CODE_IDENTITY);
        answer.headers.push(("www-authenticate", challenge));
        answer
    }

    fn tool_result(&self, prefix: &str) -> Answer {
        let Some(id) = self.context.id else { return self.error(400, -32600) };
        let mut body = tool_result_start(id, &format!("{prefix}{}", self.denial.message));
        if let Some(seconds) = self.retry_after_s() {
            body.push_str(",{\"type\":\"text\",\"text\":");
            push_json_string(&mut body, &format!("Try again in {seconds} s."));
            body.push('}');
        }
        body.push_str("],\"_meta\":{");
        if self.is_final() {
            body.push_str(SEP_2643);
        }
        body.push('"');
        body.push_str(DECISION_KEY);
        body.push_str("\":");
        self.push_decision(&mut body);
        body.push_str("}}}");
        self.finish(200, body)
    }

    fn error(&self, status: u16, code: i32) -> Answer {
        let mut body = error_start(self.context.id, code, &self.denial.message);
        body.push_str(",\"data\":{");
        if self.denial.reason == Reason::UnsupportedVersion {
            self.push_versions(&mut body);
        }
        body.push('"');
        body.push_str(DECISION_KEY);
        body.push_str("\":");
        self.push_decision(&mut body);
        body.push_str("}}}");
        let mut answer = self.finish(status, body);
        if self.denial.reason == Reason::HttpMethod {
            answer
                .headers
                .push(("allow", if self.context.era == Era::Modern { "POST" } else { "DELETE, GET, POST" }.to_owned()));
        }
        answer
    }

    /// What a server says of a tool that it does not have (specification, "Tools", "Error Handling"), and nothing else: whoever
    /// tries out names must not tell what is hidden from what is not there.
    fn unknown_tool(&self, tool: &str) -> Answer {
        let Some(id) = self.context.id else { return self.error(400, -32600) };
        let mut body = String::with_capacity(128);
        body.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
        body.push_str(id);
        body.push_str(",\"error\":{\"code\":-32602,\"message\":");
        push_json_string(&mut body, &unknown_tool_text(tool));
        body.push_str("}}");
        Answer { status: 200, headers: plain_headers(), body }
    }

    fn finish(&self, status: u16, body: String) -> Answer {
        let mut headers = plain_headers();
        if let Some(seconds) = self.retry_after_s() {
            headers.push(("retry-after", seconds.to_string()));
        }
        Answer { status, headers, body }
    }

    /// Whether repeating the call unchanged can never help, which is what SEP-2643's `unavailable` asserts.
    fn is_final(&self) -> bool {
        matches!(family(self.denial.reason), Family::Policy) && self.denial.reason != Reason::QuotaExhausted
    }

    fn retry_after_s(&self) -> Option<u64> {
        self.denial.retry_after_ms.map(|ms| ms.div_ceil(1000).max(1))
    }

    fn push_versions(&self, body: &mut String) {
        body.push_str("\"supported\":[");
        for (at, version) in self.context.versions.iter().rev().enumerate() {
            if at > 0 {
                body.push(',');
            }
            push_json_string(body, version.name());
        }
        body.push_str("],\"requested\":");
        let requested: String =
            self.context.requested_version.unwrap_or_default().chars().filter(|c| !is_unsafe(*c)).take(32).collect();
        push_json_string(body, &requested);
        body.push(',');
    }

    fn push_decision(&self, body: &mut String) {
        body.push_str("{\"decision\":\"deny\",\"reason\":\"");
        // Which of the ways a token can be bad is for the operator's log, not for whoever guesses tokens.
        body.push_str(match family(self.denial.reason) {
            Family::Identity => "identity",
            Family::Policy | Family::Protocol(..) | Family::Unavailable | Family::UnknownMethod => {
                self.denial.reason.name()
            }
        });
        body.push_str("\",\"rule\":");
        push_json_string(body, &self.denial.rule.pointer);
        let mut text = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                body.push_str(",\"");
                body.push_str(name);
                body.push_str("\":");
                push_json_string(body, value);
            }
        };
        text("rule_exact", self.denial.rule.exact.as_deref());
        text("policy_digest", self.context.policy_digest);
        text("request_id", self.context.request_id);
        if let Some(ms) = self.denial.retry_after_ms {
            body.push_str(",\"retryAfterMs\":");
            body.push_str(&ms.to_string());
        }
        body.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Rule;

    const CONTEXT: Context<'_> = Context {
        asked: Asked::ToolCall,
        era: Era::Modern,
        id: Some("\"x\\u0041\""),
        policy_digest: Some("sha256:00"),
        request_id: Some("r-1"),
        resource_metadata: Some("https://h/.well-known/oauth-protected-resource/mcp"),
        requested_version: Some("1900-01-01"),
        versions: &[ProtocolVersion::V2025_11_25, ProtocolVersion::V2026_07_28],
        unknown_tool: None,
    };

    fn denial(reason: Reason) -> Denial {
        Denial { reason, rule: Rule::built_in("(default deny)"), message: "No \"way\"".into(), retry_after_ms: None }
    }

    fn json(answer: &Answer) -> serde_json::Value {
        serde_json::from_str(&answer.body).unwrap()
    }

    #[test]
    fn a_denied_call_is_a_result_that_every_sdk_shows() {
        let answer = answer(&denial(Reason::Condition), &CONTEXT);
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.body,
            concat!(
                r#"{"jsonrpc":"2.0","id":"x\u0041","result":{"resultType":"complete","isError":true,"content":[{"type":"text","#,
                r#""text":"[POLICY DENIED] No \"way\""}],"_meta":{"io.modelcontextprotocol/authorization":"#,
                r#"{"reason":"insufficient_authorization","remediation":"unavailable"},"mcp-authz.dev/decision":"#,
                r#"{"decision":"deny","reason":"condition","rule":"(default deny)","policy_digest":"sha256:00","request_id":"r-1"}}}}"#
            )
        );
        assert_eq!(answer.headers[0], ("content-type", "application/json".to_owned()));
        assert_eq!(answer.headers[1], ("cache-control", "no-store".to_owned()));
    }

    #[test]
    fn a_used_up_quota_says_when_to_come_back_and_is_not_final() {
        let mut denial = denial(Reason::QuotaExhausted);
        denial.retry_after_ms = Some(1_001);
        let answer = answer(&denial, &CONTEXT);
        let body = json(&answer);
        assert_eq!(answer.headers[2], ("retry-after", "2".to_owned()));
        assert_eq!(body["result"]["content"][0]["text"], "[POLICY DENIED] No \"way\"");
        assert_eq!(body["result"]["content"][1]["text"], "Try again in 2 s.");
        assert_eq!(body["result"]["_meta"][DECISION_KEY]["retryAfterMs"], 1001);
        assert!(body["result"]["_meta"].get("io.modelcontextprotocol/authorization").is_none());
    }

    #[test]
    fn every_reason_has_an_answer_that_no_client_takes_for_success() {
        for reason in Reason::ALL {
            for asked in
                [Asked::Initialize, Asked::NoAnswer, Asked::NoBody, Asked::Request, Asked::ToolCall, Asked::Unread]
            {
                for era in [Era::Legacy, Era::Modern] {
                    let id = matches!(asked, Asked::Initialize | Asked::Request | Asked::ToolCall).then_some("1");
                    let answer = answer(&denial(*reason), &Context { asked, era, id, ..CONTEXT });
                    match answer.status {
                        200 => {
                            let body = json(&answer);
                            let refused = body["result"]["isError"] == true || body["error"]["code"].is_i64();
                            assert!(refused && body.get("structuredContent").is_none(), "{reason} {asked:?}");
                            assert_eq!(body.get("id").is_some(), id.is_some(), "{reason} {asked:?}");
                        }
                        202 => assert!(answer.body.is_empty() && asked == Asked::NoAnswer && era == Era::Legacy),
                        400..=599 => assert!(json(&answer)["error"]["code"].is_i64()),
                        other => panic!("{reason} {asked:?}: {other}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_challenge_does_not_tell_why_a_token_is_bad() {
        let challenge = |reason| {
            let answer = answer(&denial(reason), &Context { id: None, asked: Asked::Unread, ..CONTEXT });
            assert_eq!(answer.status, 401);
            answer
        };
        let missing = challenge(Reason::TokenMissing);
        assert_eq!(
            missing.headers.last().unwrap().1,
            "Bearer resource_metadata=\"https://h/.well-known/oauth-protected-resource/mcp\""
        );
        let unknown = challenge(Reason::TokenUnknown);
        assert!(unknown.headers.last().unwrap().1.ends_with(", error=\"invalid_token\""));
        for reason in [Reason::GrantExpired, Reason::GrantNotYetValid, Reason::GrantRevoked, Reason::GrantWrongServer] {
            assert_eq!(challenge(reason), unknown);
        }
    }

    #[test]
    fn protocol_errors_have_the_codes_of_the_specification() {
        for (reason, status, code) in [
            (Reason::HeaderMismatch, 400, -32020),
            (Reason::MissingMeta, 400, -32602),
            (Reason::UnsupportedVersion, 400, -32022),
            (Reason::UnknownMethod, 404, -32601),
            (Reason::MalformedJson, 400, -32700),
            (Reason::MalformedBatch, 400, -32600),
            (Reason::MalformedContentType, 415, -32600),
            (Reason::MalformedTruncated, 413, -32600),
        ] {
            let answer = answer(&denial(reason), &Context { asked: Asked::Request, id: Some("7"), ..CONTEXT });
            assert_eq!((answer.status, json(&answer)["error"]["code"].as_i64()), (status, Some(code)), "{reason}");
            assert_eq!(json(&answer)["id"], 7);
        }
        let versions = answer(&denial(Reason::UnsupportedVersion), &CONTEXT);
        assert_eq!(json(&versions)["error"]["data"]["supported"], serde_json::json!(["2026-07-28", "2025-11-25"]));
        assert_eq!(json(&versions)["error"]["data"]["requested"], "1900-01-01");
        let legacy =
            answer(&denial(Reason::UnknownMethod), &Context { asked: Asked::Request, era: Era::Legacy, ..CONTEXT });
        assert_eq!(legacy.status, 200);
    }

    #[test]
    fn an_answer_withheld_does_not_say_that_nothing_was_done() {
        let told = |asked, id| {
            let withheld = Withheld { asked, id, reason: "size", text: "Too \"large\".", policy_digest: "sha256:00" };
            serde_json::from_str::<serde_json::Value>(&super::withheld(&withheld)).unwrap()
        };
        let decision = serde_json::json!({"decision": "withhold", "reason": "size", "policy_digest": "sha256:00"});
        let call = told(Asked::ToolCall, Some("\"x\\u0041\""));
        let text = serde_json::json!([{"type": "text", "text": "[POLICY WITHHELD] Too \"large\"."}]);
        let result = serde_json::json!({
            "resultType": "complete", "isError": true, "content": text, "_meta": {DECISION_KEY: decision}
        });
        assert_eq!(call, serde_json::json!({"jsonrpc": "2.0", "id": "xA", "result": result}));
        let error = serde_json::json!({
            "code": -31502, "message": "[POLICY WITHHELD] Too \"large\".", "data": {DECISION_KEY: decision}
        });
        let request = told(Asked::Request, Some("7"));
        assert_eq!(request, serde_json::json!({"jsonrpc": "2.0", "id": 7, "error": error}));
        for asked in [Asked::ToolCall, Asked::Request] {
            assert_eq!(
                told(asked, None),
                serde_json::json!({"jsonrpc": "2.0", "error": error.clone()}),
                "no id is none"
            );
        }
    }
}
