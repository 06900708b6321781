//! One MCP message: envelope, era, method, and the agreement of headers with the body.
//!
//! Reads a [`Document`] that `json` accepted and never gives a partial answer: what is not exactly a message of one of the
//! protocol's revisions is refused. Facts are from the revisions 2024-11-05 to 2026-07-28 of the specification; measured
//! behavior of SDK servers decides where they are silent.

use std::borrow::Cow;

use base64::Engine as _;

use crate::decision::Reason;
use crate::http::Headers;
use crate::json::{Document, Kind, Value};

/// Bytes of an id as written; longer ones serve nobody but a smuggler.
pub const ID_BYTES_MAX: usize = 256;
/// Bytes of a name or URI that a request may carry.
pub const NAME_BYTES_MAX: usize = 4096;

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const ENVELOPE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const META: &[&str] = &[META_VERSION, META_CAPABILITIES, META_CLIENT_INFO, "progressToken"];
/// Every member of `params` that some revision of the protocol reads.
const PARAMS: &[&str] = &[
    "_meta",
    "argument",
    "arguments",
    "capabilities",
    "clientInfo",
    "context",
    "cursor",
    "inputResponses",
    "level",
    "name",
    "notifications",
    "protocolVersion",
    "ref",
    "requestId",
    "requestState",
    "task",
    "taskId",
    "uri",
];

/// A revision of the protocol, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// HTTP with SSE, no version header.
    V2024_11_05,
    /// Streamable HTTP, no version header.
    V2025_03_26,
    /// Version header.
    V2025_06_18,
    /// Last revision with sessions.
    V2025_11_25,
    /// Self-contained requests, no sessions.
    V2026_07_28,
}

impl ProtocolVersion {
    /// Every revision, oldest first.
    pub const ALL: &'static [Self] =
        &[Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision of that exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.name() == name)
    }

    /// Which of the two wire protocols the revision speaks.
    #[must_use]
    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }
}

/// The two wire protocols that share the name MCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Sessions, `initialize`, GET streams: up to 2025-11-25.
    Legacy,
    /// Self-contained POSTs: from 2026-07-28.
    Modern,
}

/// What a method is to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Opens, keeps or ends a connection; says nothing about tools.
    Handshake,
    /// Answers a list, which the response phase filters.
    List,
    /// Reads, subscribes to or changes something by name; a policy must allow it.
    Named,
    /// A message of the client's that expects no answer.
    Notification,
    /// `tools/call`.
    Tool,
}

macro_rules! methods {
    ($($variant:ident = $name:literal, $group:ident;)+) => {
        /// A method of the protocol, in any revision.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method { $(#[doc = concat!("`", $name, "`")] $variant,)+ }

        impl Method {
            /// The method of that exact name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Method::$variant),)+ _ => None }
            }

            /// The name on the wire; a closed set, fit for a metric label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Method::$variant => $name,)+ }
            }

            /// What the method is to a policy.
            #[must_use]
            pub const fn group(self) -> Group {
                match self { $(Method::$variant => Group::$group,)+ }
            }
        }
    };
}

methods! {
    CompletionComplete = "completion/complete", Named;
    Initialize = "initialize", Handshake;
    LoggingSetLevel = "logging/setLevel", Named;
    NotificationsCancelled = "notifications/cancelled", Notification;
    NotificationsInitialized = "notifications/initialized", Notification;
    NotificationsProgress = "notifications/progress", Notification;
    NotificationsRootsListChanged = "notifications/roots/list_changed", Notification;
    NotificationsTasksStatus = "notifications/tasks/status", Notification;
    Ping = "ping", Handshake;
    PromptsGet = "prompts/get", Named;
    PromptsList = "prompts/list", List;
    ResourcesList = "resources/list", List;
    ResourcesRead = "resources/read", Named;
    ResourcesSubscribe = "resources/subscribe", Named;
    ResourcesTemplatesList = "resources/templates/list", List;
    ResourcesUnsubscribe = "resources/unsubscribe", Named;
    ServerDiscover = "server/discover", Handshake;
    SubscriptionsListen = "subscriptions/listen", Named;
    TasksCancel = "tasks/cancel", Named;
    TasksGet = "tasks/get", Named;
    TasksList = "tasks/list", Named;
    TasksResult = "tasks/result", Named;
    TasksUpdate = "tasks/update", Named;
    ToolsCall = "tools/call", Tool;
    ToolsList = "tools/list", List;
}

impl Method {
    /// The member of `params` that names what the request is about, and that `Mcp-Name` mirrors.
    const fn name_member(self) -> Option<&'static str> {
        match self {
            Method::PromptsGet | Method::ToolsCall => Some("name"),
            Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => Some("uri"),
            Method::TasksCancel | Method::TasksGet | Method::TasksResult | Method::TasksUpdate => Some("taskId"),
            Method::CompletionComplete
            | Method::Initialize
            | Method::LoggingSetLevel
            | Method::NotificationsCancelled
            | Method::NotificationsInitialized
            | Method::NotificationsProgress
            | Method::NotificationsRootsListChanged
            | Method::NotificationsTasksStatus
            | Method::Ping
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourcesTemplatesList
            | Method::ServerDiscover
            | Method::SubscriptionsListen
            | Method::TasksList
            | Method::ToolsList => None,
        }
    }

    /// Whether the era has the method. 2026-07-28 removed some, and its servers answer 404 to them; the legacy era gets the
    /// benefit of the doubt, since new clients probe old servers.
    const fn is_of(self, era: Era) -> bool {
        let is_removed = matches!(
            self,
            Method::Initialize
                | Method::LoggingSetLevel
                | Method::Ping
                | Method::ResourcesSubscribe
                | Method::ResourcesUnsubscribe
                | Method::TasksList
                | Method::TasksResult
        );
        matches!(era, Era::Legacy) || !is_removed
    }

    /// Whether the modern era demands `Mcp-Name` (2026-07-28, streamable HTTP; the tasks extension adds its own).
    const fn name_header_required(self) -> bool {
        matches!(self, Method::PromptsGet | Method::ToolsCall | Method::ResourcesRead)
    }
}

/// What a message is, once it is known to be one.
#[derive(Clone, Copy, Debug)]
pub enum Body<'d> {
    /// A notification: no id, no answer.
    Notification(Method),
    /// A request other than `tools/call`.
    Request(Method),
    /// The answer of a legacy client to a request of the server's.
    Response,
    /// A `tools/call`.
    ToolCall(ToolCall<'d>),
}

/// One `tools/call`.
#[derive(Clone, Copy, Debug)]
pub struct ToolCall<'d> {
    name: Value<'d>,
    /// `params.arguments`: an object, or absent.
    pub arguments: Option<Value<'d>>,
}

impl<'d> ToolCall<'d> {
    /// The tool's name, exactly as an upstream reads it.
    #[must_use]
    pub fn name(&self) -> Cow<'d, str> {
        self.name.as_str().unwrap_or_default()
    }
}

/// A message that every parser reads alike.
#[derive(Clone, Copy, Debug)]
pub struct Message<'d> {
    /// Which wire protocol it is of.
    pub era: Era,
    /// The id exactly as written, quotes included; `None` for a notification.
    pub id: Option<&'d str>,
    /// What it asks.
    pub body: Body<'d>,
    /// Bytes of its whole text.
    pub bytes: u64,
}

impl Message<'_> {
    /// The method for metrics and audit: a closed set.
    #[must_use]
    pub fn method_name(&self) -> &'static str {
        match self.body {
            Body::Notification(method) | Body::Request(method) => method.name(),
            Body::Response => "_response",
            Body::ToolCall(_) => Method::ToolsCall.name(),
        }
    }
}

/// A text that is not a message we pass on, and as much as an answer to it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<'d> {
    /// Why.
    pub reason: Reason,
    /// What is wrong, for the one who sent it; holds nothing of theirs.
    pub message: &'static str,
    /// The era, as far as it could be told.
    pub era: Era,
    /// The id exactly as written, where there is a sound one that the sender waits for.
    pub id: Option<&'d str>,
    /// The method, where it is known.
    pub method: Option<Method>,
    /// Whether the message expects an answer.
    pub expects_answer: bool,
}

/// The members of the envelope.
#[derive(Default)]
struct Envelope<'d> {
    jsonrpc: Option<Value<'d>>,
    id: Option<Value<'d>>,
    method: Option<Value<'d>>,
    params: Option<Value<'d>>,
    result: Option<Value<'d>>,
    error: Option<Value<'d>>,
}

impl<'d> Message<'d> {
    /// Reads the message and checks that the mirrored headers agree with it.
    ///
    /// `versions` are the revisions that the server serves.
    ///
    /// # Errors
    /// [`Refused`], with the reason and as much of the message as an answer needs.
    pub fn read(
        document: &'d Document<'d>,
        headers: &Headers<'_>,
        versions: &[ProtocolVersion],
    ) -> Result<Self, Refused<'d>> {
        let mut refusal = Refused {
            reason: Reason::MalformedShape,
            message: "not a JSON-RPC message",
            era: header_era(headers),
            id: None,
            method: None,
            expects_answer: true,
        };
        let bytes = u64::try_from(document.bytes()).unwrap_or(u64::MAX);
        let read = Reader { headers, versions, bytes }.message(document.root(), &mut refusal);
        read.map_err(|(reason, message)| Refused { reason, message, ..refusal })
    }
}

/// The era that the version header alone suggests; the body decides.
fn header_era(headers: &Headers<'_>) -> Era {
    headers.mcp_protocol_version.map_or(Era::Legacy, |version| {
        if is_date(version) && version >= ProtocolVersion::V2026_07_28.name() { Era::Modern } else { Era::Legacy }
    })
}

/// `YYYY-MM-DD`: then the order of texts is the order of dates.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| if matches!(i, 4 | 7) { b == b'-' } else { b.is_ascii_digit() })
}

pub(crate) type Fault = (Reason, &'static str);

struct Reader<'r> {
    headers: &'r Headers<'r>,
    versions: &'r [ProtocolVersion],
    bytes: u64,
}

impl Reader<'_> {
    fn message<'d>(&self, root: Value<'d>, known: &mut Refused<'d>) -> Result<Message<'d>, Fault> {
        let envelope = read_envelope(root)?;
        known.id = envelope.id.map(sound_id).transpose()?;
        known.expects_answer = known.id.is_some();
        if envelope.jsonrpc.and_then(Value::as_str).as_deref() != Some("2.0") {
            return Err((Reason::MalformedShape, "`jsonrpc` must be \"2.0\""));
        }
        let Some(method) = envelope.method else { return self.response(&envelope, known) };
        if envelope.result.is_some() || envelope.error.is_some() {
            return Err((Reason::MalformedShape, "a message is a request or a response, not both"));
        }
        let name = method.as_str().ok_or((Reason::MalformedShape, "`method` must be a string"))?;
        known.method = Method::parse(&name);
        if let Some(params) = envelope.params {
            if params.kind() != Kind::Object {
                return Err((Reason::MalformedShape, "`params` must be an object"));
            }
            refuse_twins(params, PARAMS)?;
        }
        let era = self.era(envelope.params, known.method)?;
        known.era = era;
        self.agree(&name, known.method, era, known.id.is_some(), envelope.params)?;
        let method = known.method.filter(|method| method.is_of(era));
        let method = method.ok_or((Reason::UnknownMethod, "method not found"))?;
        let body = self.body(method, era, known.id, envelope.params)?;
        Ok(Message { era, id: known.id, body, bytes: self.bytes })
    }

    fn body<'d>(
        &self,
        method: Method,
        era: Era,
        id: Option<&'d str>,
        params: Option<Value<'d>>,
    ) -> Result<Body<'d>, Fault> {
        match (method.group(), id.is_some()) {
            (Group::Notification, true) => return Err((Reason::MalformedShape, "a notification has no `id`")),
            (Group::Notification, false) if era == Era::Modern => {
                return Err((Reason::UnknownMethod, "this protocol revision has no client notifications over HTTP"));
            }
            (Group::Notification, false) => return Ok(Body::Notification(method)),
            (Group::Handshake | Group::List | Group::Named | Group::Tool, false) => {
                return Err((Reason::NotificationCall, "a request needs an `id`"));
            }
            (Group::Handshake | Group::List | Group::Named | Group::Tool, true) => {}
        }
        if let Some(member) = method.name_member() {
            let name = params
                .and_then(|params| params.get(member))
                .ok_or((Reason::MalformedShape, "`params` lacks its name"))?;
            sound_name(name)?;
            if method == Method::ToolsCall {
                let arguments = params.and_then(|params| params.get("arguments"));
                if arguments.is_some_and(|arguments| arguments.kind() != Kind::Object) {
                    return Err((Reason::MalformedShape, "`params.arguments` must be an object"));
                }
                return Ok(Body::ToolCall(ToolCall { name, arguments }));
            }
        }
        if method == Method::CompletionComplete {
            check_reference(params)?;
        }
        if method == Method::SubscriptionsListen {
            check_subscriptions(params)?;
        }
        Ok(Body::Request(method))
    }

    /// A legacy client answers requests that the server sent down a stream; only a session can have sent one.
    fn response<'d>(&self, envelope: &Envelope<'d>, known: &mut Refused<'d>) -> Result<Message<'d>, Fault> {
        known.expects_answer = false;
        let id = known.id;
        // A response carries the id of the server's request. A refusal under it could be taken for the answer to a
        // request of the client's own with the same number.
        if envelope.result.is_some() || envelope.error.is_some() {
            known.id = None;
        }
        let one = envelope.result.is_some() != envelope.error.is_some();
        if !one || id.is_none() || envelope.params.is_some() {
            return Err((Reason::MalformedShape, "neither a request nor a response"));
        }
        if envelope.error.is_some_and(|error| error.kind() != Kind::Object) {
            return Err((Reason::MalformedShape, "`error` must be an object"));
        }
        if self.era(None, None)? == Era::Modern || self.headers.mcp_session_id.is_none() {
            return Err((Reason::MalformedShape, "a response belongs to a session"));
        }
        if self.headers.mcp_method.is_some() || self.headers.mcp_name.is_some() {
            return Err((Reason::HeaderMismatch, "a response has no method or name"));
        }
        Ok(Message { era: Era::Legacy, id, body: Body::Response, bytes: self.bytes })
    }

    /// Tells the era from the body, and requires the header to say the same.
    fn era(&self, params: Option<Value<'_>>, method: Option<Method>) -> Result<Era, Fault> {
        const UNSUPPORTED: Fault = (Reason::UnsupportedVersion, "unsupported protocol version");
        let meta = params.and_then(|params| params.get("_meta"));
        if let Some(meta) = meta {
            if meta.kind() != Kind::Object {
                return Err((Reason::MalformedShape, "`params._meta` must be an object"));
            }
            refuse_twins(meta, META)?;
        }
        let header = self.headers.mcp_protocol_version;
        if let Some(stated) = meta.and_then(|meta| meta.get(META_VERSION)) {
            let stated =
                stated.as_str().ok_or((Reason::MissingMeta, "the protocol version in `_meta` must be a string"))?;
            if header != Some(&*stated) {
                return Err((
                    Reason::HeaderMismatch,
                    "the MCP-Protocol-Version header must equal the version in `_meta`",
                ));
            }
            let version = ProtocolVersion::parse(&stated).filter(|version| self.versions.contains(version));
            if version.ok_or(UNSUPPORTED)?.era() != Era::Modern {
                return Err(UNSUPPORTED);
            }
            let capabilities = meta.and_then(|meta| meta.get(META_CAPABILITIES));
            if capabilities.is_none_or(|capabilities| capabilities.kind() != Kind::Object) {
                return Err((Reason::MissingMeta, "`_meta` lacks io.modelcontextprotocol/clientCapabilities"));
            }
            return Ok(Era::Modern);
        }
        match header {
            Some(_) if header_era(self.headers) == Era::Modern => {
                Err((Reason::MissingMeta, "`_meta` lacks io.modelcontextprotocol/protocolVersion"))
            }
            Some(version) => match ProtocolVersion::parse(version) {
                Some(version) if self.versions.contains(&version) => Ok(Era::Legacy),
                Some(_) | None => Err(UNSUPPORTED),
            },
            None => self.legacy_without_header(method).ok_or(UNSUPPORTED),
        }
    }

    /// Before 2025-06-18 nobody sent the header, and `initialize` never carries one.
    fn legacy_without_header(&self, method: Option<Method>) -> Option<Era> {
        let served = self.versions.iter().any(|version| {
            *version <= ProtocolVersion::V2025_03_26
                || (method == Some(Method::Initialize) && version.era() == Era::Legacy)
        });
        served.then_some(Era::Legacy)
    }

    /// Headers that mirror the body must mirror it truly, in both eras: a server or proxy that routes by them would
    /// otherwise run another call than the one we judge.
    fn agree(
        &self,
        name: &str,
        method: Option<Method>,
        era: Era,
        is_request: bool,
        params: Option<Value<'_>>,
    ) -> Result<(), Fault> {
        match self.headers.mcp_method {
            Some(header) if header != name => {
                return Err((Reason::HeaderMismatch, "the Mcp-Method header does not match the body"));
            }
            None if era == Era::Modern && is_request => {
                return Err((Reason::HeaderMismatch, "the Mcp-Method header is missing"));
            }
            Some(_) | None => {}
        }
        let subject = method.and_then(Method::name_member).and_then(|member| params?.get(member)?.as_str());
        match (self.headers.mcp_name, subject) {
            (Some(header), Some(subject)) if decode_name(header).as_deref() == Some(&*subject) => Ok(()),
            (Some(_), _) => Err((Reason::HeaderMismatch, "the Mcp-Name header does not match the body")),
            (None, _) if era == Era::Modern && is_request && method.is_some_and(Method::name_header_required) => {
                Err((Reason::HeaderMismatch, "the Mcp-Name header is missing"))
            }
            (None, _) => Ok(()),
        }
    }
}

fn read_envelope(root: Value<'_>) -> Result<Envelope<'_>, Fault> {
    match root.kind() {
        Kind::Object => {}
        Kind::Array => return Err((Reason::MalformedBatch, "batches are not accepted")),
        Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {
            return Err((Reason::MalformedShape, "a message must be an object"));
        }
    }
    let mut envelope = Envelope::default();
    refuse_twins(root, ENVELOPE)?;
    for (key, value) in root.members() {
        let slot = match &*key {
            "jsonrpc" => &mut envelope.jsonrpc,
            "id" => &mut envelope.id,
            "method" => &mut envelope.method,
            "params" => &mut envelope.params,
            "result" => &mut envelope.result,
            "error" => &mut envelope.error,
            _ => return Err((Reason::MalformedShape, "the message has a member that JSON-RPC does not know")),
        };
        *slot = Some(value);
    }
    Ok(envelope)
}

/// A string, or an integer that every parser holds exactly, spelled in the one way that every printer gives back.
fn sound_id(id: Value<'_>) -> Result<&str, Fault> {
    const FAULT: Fault = (Reason::MalformedId, "`id` must be a string or an integer");
    const EXACT_MAX: u64 = 1 << 53;
    let source = id.source();
    if source.len() > ID_BYTES_MAX {
        return Err((Reason::MalformedId, "`id` is too long"));
    }
    match id.kind() {
        Kind::String => Ok(source),
        Kind::Number => {
            let digits = source.strip_prefix('-').unwrap_or(source);
            let exact = digits.parse::<u64>().is_ok_and(|n| n <= EXACT_MAX) && source != "-0";
            if exact { Ok(source) } else { Err(FAULT) }
        }
        Kind::Array | Kind::False | Kind::Null | Kind::Object | Kind::True => Err(FAULT),
    }
}

pub(crate) fn sound_name(name: Value<'_>) -> Result<(), Fault> {
    let text = name.as_str().ok_or((Reason::MalformedShape, "the name must be a string"))?;
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err((Reason::MalformedShape, "the name must be 1 to 4096 bytes long"));
    }
    if text.chars().any(char::is_control) {
        return Err((Reason::MalformedControl, "the name holds a control character"));
    }
    Ok(())
}

/// `completion/complete` names a prompt or a resource in `params.ref`.
fn check_reference(params: Option<Value<'_>>) -> Result<(), Fault> {
    const FAULT: Fault = (Reason::MalformedShape, "`params.ref` must name a prompt or a resource");
    let reference = params.and_then(|params| params.get("ref")).ok_or(FAULT)?;
    refuse_twins(reference, &["type", "name", "uri"])?;
    let member = match reference.get("type").and_then(Value::as_str).as_deref() {
        Some("ref/prompt") => "name",
        Some("ref/resource") => "uri",
        Some(_) | None => return Err(FAULT),
    };
    reference.get(member).ok_or(FAULT).and_then(sound_name)
}

/// `subscriptions/listen` carries the URIs that a policy will judge.
fn check_subscriptions(params: Option<Value<'_>>) -> Result<(), Fault> {
    const FAULT: Fault = (Reason::MalformedShape, "`params.notifications` must be an object");
    let Some(wanted) = params.and_then(|params| params.get("notifications")) else { return Ok(()) };
    if wanted.kind() != Kind::Object {
        return Err(FAULT);
    }
    refuse_twins(
        wanted,
        &["resourceSubscriptions", "taskIds", "toolsListChanged", "promptsListChanged", "resourcesListChanged"],
    )?;
    let uris = wanted.get("resourceSubscriptions");
    if uris.is_some_and(|uris| uris.kind() != Kind::Array) {
        return Err((Reason::MalformedShape, "`resourceSubscriptions` must be an array"));
    }
    uris.map_or(Ok(()), |uris| uris.elements().try_for_each(sound_name))
}

/// Refuses a member whose name some parser takes for one of `known` although it is spelled otherwise: Go's decoder
/// compares under simple case folding, in which U+017F is an s and U+212A is a k (CVE-2026-27896); Java ignores case with
/// U+0130 and U+0131 for an i; and decoders exist that skip `_` and `-`, or take the snake case of a name as well.
pub(crate) fn refuse_twins(object: Value<'_>, known: &[&str]) -> Result<(), Fault> {
    for (key, _) in object.members() {
        if !known.contains(&&*key) && known.iter().any(|name| folds_to(&key, name)) {
            return Err((Reason::MalformedKeyFold, "a member name differs from a protocol name in spelling only"));
        }
    }
    Ok(())
}

fn folds_to(key: &str, name: &str) -> bool {
    fn folded(text: &str) -> impl Iterator<Item = char> {
        text.chars().filter(|c| !matches!(c, '_' | '-')).map(fold)
    }
    // Nearly all differ in their first letter already, which folds to nothing but its own lower case.
    if let (Some(a), Some(b)) = (key.bytes().next(), name.bytes().next())
        && a.is_ascii_alphanumeric()
        && b.is_ascii_alphanumeric()
        && !a.eq_ignore_ascii_case(&b)
    {
        return false;
    }
    // Longer keys are no slip of anybody's, and comparing them would cost time.
    key.len() <= 128 && folded(key).eq(folded(name))
}

fn fold(c: char) -> char {
    match c {
        '\u{130}' | '\u{131}' => 'i',
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

/// Undoes the header encoding of 2026-07-28: `=?base64?…?=` around the base64 of the UTF-8 bytes.
fn decode_name(header: &str) -> Option<Cow<'_, str>> {
    let Some(encoded) = header.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(header));
    };
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Whether the name is one that the specification lets a tool have (2026-07-28, server/tools).
#[must_use]
pub fn is_plain_tool_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests;
