//! The cases of the corpus: data only. `@T` stands for the tool of the case, `@B` for its base64, `@C` for the canary.

use super::harness::http1::Framing;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// What it tries.
    pub(crate) name: &'static str,
    /// HTTP method.
    pub(crate) method: &'static str,
    /// Request target.
    pub(crate) target: &'static str,
    /// Replace the usual headers of that name; `None` only removes them.
    pub(crate) headers: &'static [(&'static str, Option<&'static [u8]>)],
    /// The body.
    pub(crate) body: Body,
    /// How its length is told.
    pub(crate) framing: Framing,
    /// What must happen.
    pub(crate) expect: Expect,
}

/// The body of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    /// Made from tool and canary.
    Made(fn(&str, &str) -> Vec<u8>),
    /// A template.
    Text(&'static [u8]),
}

/// What must happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// Envoy itself answers with one of these, or closes the connection.
    Envoy(&'static [u16]),
    /// The upstream gets it, byte for byte, once.
    Ran,
    /// Either of the two; what must not happen is that something else runs.
    RanOrRefused,
    /// We refuse it with this status, JSON-RPC code and reason.
    Refused {
        /// HTTP status.
        status: u16,
        /// JSON-RPC code.
        code: i64,
        /// The name of the reason.
        reason: &'static str,
    },
}

type Headers = &'static [(&'static str, Option<&'static [u8]>)];

const fn case(name: &'static str, expect: Expect, body: &'static [u8]) -> Case {
    let body = Body::Text(body);
    Case { name, method: "POST", target: "/mcp", headers: &[], body, framing: Framing::Length, expect }
}

const fn runs(name: &'static str, body: &'static [u8]) -> Case {
    case(name, Expect::Ran, body)
}

/// HTTP 400 and -32600: readable, but not a message of MCP.
const fn invalid(name: &'static str, reason: &'static str, body: &'static [u8]) -> Case {
    case(name, Expect::Refused { status: 400, code: -32600, reason }, body)
}

/// HTTP 400 and -32700: not JSON.
const fn unparsable(name: &'static str, reason: &'static str, body: &'static [u8]) -> Case {
    case(name, Expect::Refused { status: 400, code: -32700, reason }, body)
}

/// HTTP 415, with a sound body.
const fn media(name: &'static str, reason: &'static str, headers: Headers) -> Case {
    case(name, Expect::Refused { status: 415, code: -32600, reason }, CALL).with(headers)
}

/// HTTP 400 and -32020: a header that disagrees with the body.
const fn mismatch(name: &'static str, headers: Headers, body: &'static [u8]) -> Case {
    case(name, Expect::Refused { status: 400, code: -32020, reason: "header_mismatch" }, body).with(headers)
}

/// The legacy era knows no 404 for a method.
const fn no_method(name: &'static str, body: &'static [u8]) -> Case {
    case(name, Expect::Refused { status: 200, code: -32601, reason: "unknown_method" }, body)
}

impl Case {
    const fn with(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }

    const fn made(self, make: fn(&str, &str) -> Vec<u8>) -> Self {
        Self { body: Body::Made(make), ..self }
    }

    const fn on(self, method: &'static str, target: &'static str) -> Self {
        Self { method, target, ..self }
    }

    const fn framed(self, framing: Framing) -> Self {
        Self { framing, ..self }
    }
}

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#;
const MODERN_CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
const VERSION: (&str, Option<&[u8]>) = ("mcp-protocol-version", Some(b"2026-07-28"));
const METHOD: (&str, Option<&[u8]>) = ("mcp-method", Some(b"tools/call"));
const NAME: (&str, Option<&[u8]>) = ("mcp-name", Some(b"@T"));
const MANY: (&str, Option<&[u8]>) = ("x-many", Some(b"a"));
const MODERN: Headers = &[VERSION, METHOD, NAME];

/// Every table.
pub(crate) const TABLES: &[&[Case]] =
    &[KEYS, TEXTS, NESTING, SHAPES, IDS, METHODS, MEDIA, AGREEMENT, REPEATS, FRAMING, PATHS, VERBS];

const KEYS: &[Case] = &[
    invalid("two names, the allowed one first", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","name":"forbidden","arguments":{"x":"@C"}}}"#),
    invalid("two names, the allowed one last", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"forbidden","name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("two names, one of them escaped", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","n\u0061me":"forbidden","arguments":{"x":"@C"}}}"#),
    invalid("two names in the modern era", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","name":"forbidden","arguments":{"x":"@C"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#).with(MODERN),
    invalid("two params", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T"},"params":{"name":"forbidden","arguments":{"x":"@C"}}}"#),
    invalid("two methods, list then call", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("two methods, call then ping", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}},"method":"ping"}"#),
    invalid("two ids", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("two keys deep inside the arguments", "malformed.dup_key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"a":{"b":[0,1,2,{"k":"@C","k":2}]}}}}"#),
    invalid("Name beside name", "malformed.key_fold", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","Name":"forbidden","arguments":{"x":"@C"}}}"#),
    invalid("only NAME", "malformed.key_fold", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"NAME":"@T","arguments":{"x":"@C"}}}"#),
    invalid("METHOD beside method", "malformed.key_fold", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","METHOD":"ping","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("Arguments beside arguments", "malformed.key_fold", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"},"Arguments":{"x":2}}}"#),
    invalid("a long s folds to params", "malformed.key_fold", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\"}},\"param\u{17f}\":{\"name\":\"forbidden\"}}".as_bytes()),
    invalid("a Kelvin sign folds to task", "malformed.key_fold", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\"},\"tas\u{212a}\":{}}}".as_bytes()),
    invalid("a member that JSON-RPC does not know", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","extra":1,"params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("a NUL after the key", "malformed.control", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","name\u0000":"forbidden","arguments":{"x":"@C"}}}"#),
    runs("an escaped key is the key", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\u0061me":"@T","arguments":{"x":"@C"}}}"#),
    runs("keys of arguments that differ in case are the tool's business", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"Path":"@C","path":2}}}"#),
];

const TEXTS: &[Case] = &[
    unparsable("a byte order mark", "malformed.utf8", b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\"}}}"),
    unparsable("a byte order mark in the modern era", "malformed.utf8", b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\"},\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientCapabilities\":{}}}}").with(MODERN),
    unparsable("UTF-16", "malformed.json", b"").made(utf16),
    unparsable("an illegal byte in an argument", "malformed.utf8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\xff\"}}}"),
    unparsable("an illegal byte in the name", "malformed.utf8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\xff\",\"arguments\":{\"x\":\"@C\"}}}"),
    unparsable("an overlong slash", "malformed.utf8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\xc0\xaf\"}}}"),
    unparsable("a lone surrogate", "malformed.utf8", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C\ud800"}}}"#),
    unparsable("two texts", "malformed.json", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"forbidden"}}"#),
    unparsable("something after the text", "malformed.json", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}} x"#),
    unparsable("a trailing comma", "malformed.json", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"},}}"#),
    unparsable("a comment", "malformed.json", br#"{"jsonrpc":"2.0","id":1,/* @C */"method":"tools/call","params":{"name":"@T"}}"#),
    unparsable("NaN", "malformed.json", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"y":"@C","x":NaN}}}"#),
    unparsable("a number with a leading zero", "malformed.json", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"y":"@C","x":01}}}"#),
    unparsable("a number with a plus", "malformed.json", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"y":"@C","x":+1}}}"#),
    unparsable("a hexadecimal number", "malformed.json", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"y":"@C","x":0x10}}}"#),
    unparsable("single quotes", "malformed.json", br#"{'jsonrpc':'2.0','id':1,'method':'tools/call','params':{'name':'@T','arguments':{'x':'@C'}}}"#),
    unparsable("no JSON at all", "malformed.json", b"@C @T"),
    unparsable("an empty body", "malformed.empty", b""),
    runs("a number larger than any float", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"y":"@C","x":1e400}}}"#),
    runs("an exponent larger than any integer", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"y":"@C","x":1e999999999999999999999}}}"#),
    runs("an integer of 10,000 digits", b"").made(long_integer),
    runs("white space around", b" \r\n\t{\"jsonrpc\" : \"2.0\", \"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\"}}}\n "),
    runs("an astral character as a pair of escapes", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C\ud83d\ude00"}}}"#),
];

const NESTING: &[Case] = &[
    runs("64 levels", b"").made(|tool, canary| nested(tool, canary, 64)),
    invalid("65 levels", "malformed.depth", b"").made(|tool, canary| nested(tool, canary, 65)),
    invalid("5,000 levels", "malformed.depth", b"").made(|tool, canary| nested(tool, canary, 5000)),
    invalid("100,000 levels", "malformed.depth", b"").made(|tool, canary| nested(tool, canary, 100_000)),
    invalid("100,001 values", "malformed.nodes", b"").made(many_values),
    runs("exactly as many bytes as are allowed", b"").made(|tool, canary| padded(tool, canary, 1_048_576)),
    case("one byte more than is allowed", Expect::Envoy(&[413]), b"")
        .made(|tool, canary| padded(tool, canary, 1_048_577)),
];

const SHAPES: &[Case] = &[
    invalid("a batch of one", "malformed.batch", br#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}]"#),
    invalid("a batch of one under the last legacy revision", "malformed.batch", br#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}]"#).with(&[("mcp-protocol-version", Some(b"2025-11-25"))]),
    invalid("a batch under the revision that had batches", "malformed.batch", br#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}]"#).with(&[("mcp-protocol-version", Some(b"2025-03-26"))]),
    invalid("a batch in the modern era", "malformed.batch", br#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}]"#).with(MODERN),
    invalid("an empty batch", "malformed.batch", b"[]"),
    invalid("a string", "malformed.shape", br#""@C""#),
    invalid("null", "malformed.shape", b"null"),
    invalid("request and response in one", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}},"result":{}}"#),
    invalid("request and error in one", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}},"error":{"code":1,"message":"@C"}}"#),
    invalid("a response without a session", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"result":{"x":"@C"}}"#),
    invalid("arguments that are an array", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":["@C"]}}"#),
    invalid("arguments that are a string", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":"@C"}}"#),
    invalid("arguments that are null", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":null}}"#),
    invalid("params that are an array", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["@T",{"x":"@C"}]}"#),
    invalid("a name that is an array", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["@T"],"arguments":{"x":"@C"}}}"#),
    invalid("a name that is null", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":null,"arguments":{"x":"@C"}}}"#),
    invalid("an empty name", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"","arguments":{"x":"@C"}}}"#),
    invalid("no name", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"x":"@C"}}}"#),
    invalid("no params", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#),
    invalid("a control character in the name", "malformed.control", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T\n","arguments":{"x":"@C"}}}"#),
    invalid("another JSON-RPC", "malformed.shape", br#"{"jsonrpc":"1.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("no JSON-RPC", "malformed.shape", br#"{"id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("a method that is a number", "malformed.shape", br#"{"jsonrpc":"2.0","id":1,"method":1,"params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    runs("no arguments", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T"}}"#),
];

const IDS: &[Case] = &[
    invalid("a call without an id", "notification_call", br#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("a null id", "malformed.id", br#"{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("a fractional id", "malformed.id", br#"{"jsonrpc":"2.0","id":1.5,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("an id with an exponent", "malformed.id", br#"{"jsonrpc":"2.0","id":1e0,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("an id of minus zero", "malformed.id", br#"{"jsonrpc":"2.0","id":-0,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("a boolean id", "malformed.id", br#"{"jsonrpc":"2.0","id":true,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("an id that is an object", "malformed.id", br#"{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("an id that is an array", "malformed.id", br#"{"jsonrpc":"2.0","id":[1],"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("an id beyond 64 bits", "malformed.id", br#"{"jsonrpc":"2.0","id":18446744073709551617,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("an id that a float cannot hold", "malformed.id", br#"{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    invalid("an id of half a megabyte", "malformed.id", b"").made(long_id),
    runs("a string id", br#"{"jsonrpc":"2.0","id":"a\u0041","method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
    runs("a negative id", br#"{"jsonrpc":"2.0","id":-7,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#),
];

const METHODS: &[Case] = &[
    no_method(
        "a method in capitals",
        br#"{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"@T","arguments":{"x":"@C"}}}"#,
    ),
    no_method(
        "a method with a space",
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call ","params":{"name":"@T","arguments":{"x":"@C"}}}"#,
    ),
    no_method(
        "a method with a NUL",
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call\u0000","params":{"name":"@T","arguments":{"x":"@C"}}}"#,
    ),
    no_method(
        "an empty method",
        br#"{"jsonrpc":"2.0","id":1,"method":"","params":{"name":"@T","arguments":{"x":"@C"}}}"#,
    ),
    no_method(
        "a method nobody knows",
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/run","params":{"name":"@T","arguments":{"x":"@C"}}}"#,
    ),
    runs(
        "an escaped slash is a slash",
        br#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"@T","arguments":{"x":"@C"}}}"#,
    ),
    invalid(
        "a notification with an id",
        "malformed.shape",
        br#"{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}"#,
    ),
];

const MEDIA: &[Case] = &[
    media("plain text", "malformed.content_type", &[("content-type", Some(b"text/plain"))]),
    media("no content type", "malformed.content_type", &[("content-type", None)]),
    media("a form", "malformed.content_type", &[("content-type", Some(b"application/x-www-form-urlencoded"))]),
    media("several parts", "malformed.content_type", &[("content-type", Some(b"multipart/form-data; boundary=x"))]),
    media("JSON of another kind", "malformed.content_type", &[("content-type", Some(b"application/vnd.api+json"))]),
    invalid("two types in one line", "malformed.multi_value", CALL)
        .with(&[("content-type", Some(b"application/json, text/plain"))]),
    media("UTF-16 by label", "malformed.content_type", &[("content-type", Some(b"application/json;charset=utf-16"))]),
    media("UTF-7 by label", "malformed.content_type", &[("content-type", Some(b"application/json; charset=utf-7"))]),
    media(
        "UTF-16 by label and bytes",
        "malformed.content_type",
        &[("content-type", Some(b"application/json; charset=utf-16le"))],
    )
    .made(utf16),
    media("gzip", "malformed.content_encoding", &[("content-encoding", Some(b"gzip"))]),
    media("gzip, and it is", "malformed.content_encoding", &[("content-encoding", Some(b"gzip"))])
        .made(|_, _| b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03".to_vec()),
    media("deflate", "malformed.content_encoding", &[("content-encoding", Some(b"deflate"))]),
    media("br", "malformed.content_encoding", &[("content-encoding", Some(b"br"))]),
    media("zstd", "malformed.content_encoding", &[("content-encoding", Some(b"zstd"))]),
    media("identity and gzip", "malformed.content_encoding", &[("content-encoding", Some(b"identity, gzip"))]),
    runs("identity", CALL).with(&[("content-encoding", Some(b"identity"))]),
    runs("a content type in another case", CALL)
        .with(&[("content-type", Some(b"Application/JSON; Charset=\"UTF-8\""))]),
    runs("any answer is welcome", CALL).with(&[("accept", Some(b"*/*"))]),
];

const AGREEMENT: &[Case] = &[
    runs("the modern era", MODERN_CALL).with(MODERN),
    runs("the modern era with the name in base64", MODERN_CALL).with(&[VERSION, METHOD, ("mcp-name", Some(b"=?base64?@B?="))]),
    mismatch("another name in the header, legacy", &[("mcp-name", Some(b"safe"))], CALL),
    mismatch("another method in the header, legacy", &[("mcp-method", Some(b"tools/list"))], CALL),
    mismatch("another name in the header, modern", &[VERSION, METHOD, ("mcp-name", Some(b"safe"))], MODERN_CALL),
    mismatch("another method in the header, modern", &[VERSION, NAME, ("mcp-method", Some(b"tools/list"))], MODERN_CALL),
    mismatch("a method in capitals in the header", &[VERSION, NAME, ("mcp-method", Some(b"TOOLS/CALL"))], MODERN_CALL),
    mismatch("no method in the header", &[VERSION, NAME], MODERN_CALL),
    mismatch("no name in the header", &[VERSION, METHOD], MODERN_CALL),
    mismatch("no version in the header", &[METHOD, NAME], MODERN_CALL),
    mismatch("a legacy version over a modern body", &[("mcp-protocol-version", Some(b"2025-11-25"))], MODERN_CALL),
    mismatch("bad base64 in the header", &[VERSION, METHOD, ("mcp-name", Some(b"=?base64?***?="))], MODERN_CALL),
    mismatch("base64 in capitals is a literal", &[VERSION, METHOD, ("mcp-name", Some(b"=?BASE64?@B?="))], MODERN_CALL),
    case("a modern version over a legacy body", Expect::Refused { status: 400, code: -32602, reason: "missing_meta" }, CALL).with(&[VERSION]),
    case("no capabilities", Expect::Refused { status: 400, code: -32602, reason: "missing_meta" }, br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#).with(MODERN),
    case("a legacy revision that never was", Expect::Refused { status: 400, code: -32022, reason: "unsupported_version" }, CALL).with(&[("mcp-protocol-version", Some(b"2025-01-01"))]),
    case("a revision to come", Expect::Refused { status: 400, code: -32022, reason: "unsupported_version" }, br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@T","arguments":{"x":"@C"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01","io.modelcontextprotocol/clientCapabilities":{}}}}"#).with(&[("mcp-protocol-version", Some(b"2099-01-01")), METHOD, NAME]),
    invalid("a Kelvin sign inside the modern _meta", "malformed.key_fold", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"@T\",\"arguments\":{\"x\":\"@C\"},\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientCapabilities\":{},\"progressTo\u{212a}en\":1}}}".as_bytes()).with(MODERN),
];

const REPEATS: &[Case] = &[
    invalid("two names in the header, both right", "malformed.multi_value", MODERN_CALL)
        .with(&[VERSION, METHOD, NAME, NAME]),
    invalid("two names in the header, one wrong", "malformed.multi_value", MODERN_CALL).with(&[
        VERSION,
        METHOD,
        NAME,
        ("mcp-name", Some(b"safe")),
    ]),
    invalid("two methods in the header", "malformed.multi_value", MODERN_CALL).with(&[VERSION, METHOD, NAME, METHOD]),
    invalid("two versions in the header", "malformed.multi_value", CALL)
        .with(&[("mcp-protocol-version", Some(b"2025-06-18")), ("mcp-protocol-version", Some(b"2025-11-25"))]),
    invalid("two sessions", "malformed.multi_value", CALL)
        .with(&[("mcp-session-id", Some(b"a")), ("mcp-session-id", Some(b"b"))]),
    // Envoy joins these two into one line.
    invalid("two content types", "malformed.multi_value", CALL)
        .with(&[("content-type", Some(b"application/json")), ("content-type", Some(b"text/plain"))]),
    invalid("a method override", "malformed.header", CALL).with(&[("x-http-method-override", Some(b"DELETE"))]),
    invalid("a byte beyond ASCII in a header", "malformed.header", CALL).with(&[("x-note", Some(b"\x80"))]),
    case("a NUL in a header", Expect::Envoy(&[400]), CALL).with(&[("x-note", Some(b"a\0b"))]),
    case("a bare line feed in a header", Expect::Envoy(&[400]), CALL)
        .with(&[("x-note", Some(b"a\nmcp-name forbidden"))]),
    // Envoy puts spaces in place of these two, for us and the upstream alike.
    case("a bare carriage return in a header", Expect::RanOrRefused, CALL).with(&[("x-note", Some(b"a\rb"))]),
    case("an underscore in a header name", Expect::Envoy(&[400]), CALL).with(&[("mcp_name", Some(b"safe"))]),
    case("more than 100 headers", Expect::Envoy(&[400, 431]), CALL).with(&[MANY; 101]),
    case("60 KB of headers", Expect::Envoy(&[400, 431]), CALL).with(&[("x-long", Some(&[b'a'; 61_440]))]),
];

const FRAMING: &[Case] = &[
    runs("chunks", CALL).framed(Framing::Chunked),
    runs("100-continue", CALL).with(&[("expect", Some(b"100-continue"))]),
    runs("a mark of a cut body that the client sent", CALL).with(&[("x-envoy-auth-partial-body", Some(b"false"))]),
    case("the mark says cut", Expect::RanOrRefused, CALL).with(&[("x-envoy-auth-partial-body", Some(b"true"))]),
    case("length and chunks", Expect::Envoy(&[400]), CALL).with(&[("transfer-encoding", Some(b"chunked"))]),
    case("two lengths", Expect::Envoy(&[400]), CALL).with(&[("content-length", Some(b"3"))]),
    case("a folded header", Expect::RanOrRefused, CALL).with(&[("x-note", Some(b"a\r\n b"))]),
    case("gzip as transfer", Expect::Envoy(&[400, 501]), CALL)
        .framed(Framing::Unsaid)
        .with(&[("transfer-encoding", Some(b"gzip, chunked"))]),
    case("an upgrade", Expect::Envoy(&[403, 400]), CALL)
        .with(&[("connection", Some(b"upgrade")), ("upgrade", Some(b"websocket"))]),
];

const PATHS: &[Case] = &[
    runs("a query", CALL).on("POST", "/mcp?x=1"),
    case("two slashes", Expect::RanOrRefused, CALL).on("POST", "//mcp"),
    case("a slash at the end", Expect::RanOrRefused, CALL).on("POST", "/mcp/"),
    case("capitals", Expect::RanOrRefused, CALL).on("POST", "/MCP"),
    case("an encoded slash", Expect::RanOrRefused, CALL).on("POST", "/mcp%2f"),
    case("an encoded letter", Expect::RanOrRefused, CALL).on("POST", "/%6dcp"),
    case("a parameter", Expect::RanOrRefused, CALL).on("POST", "/mcp;x"),
    case("a fragment", Expect::RanOrRefused, CALL).on("POST", "/mcp#x"),
    case("dots", Expect::RanOrRefused, CALL).on("POST", "/x/../mcp"),
    case("encoded dots", Expect::RanOrRefused, CALL).on("POST", "/x/%2e%2e/mcp"),
    case("a backslash", Expect::RanOrRefused, CALL).on("POST", "/x\\..\\mcp"),
    case("another path", Expect::RanOrRefused, CALL).on("POST", "/other"),
    case("an absolute target of another host", Expect::RanOrRefused, CALL).on("POST", "http://other.test/mcp"),
];

const VERBS: &[Case] = &[
    case("OPTIONS", Expect::Refused { status: 405, code: -31403, reason: "http_method" }, b"").on("OPTIONS", "/mcp"),
    case("PUT", Expect::Refused { status: 405, code: -31403, reason: "http_method" }, CALL).on("PUT", "/mcp"),
    case("PATCH", Expect::Refused { status: 405, code: -31403, reason: "http_method" }, CALL).on("PATCH", "/mcp"),
    case("post", Expect::Envoy(&[400, 405]), CALL).on("post", "/mcp"),
    case("TRACE", Expect::Envoy(&[400, 405]), b"").on("TRACE", "/mcp"),
    case("CONNECT", Expect::Envoy(&[400, 403, 404, 405]), b"").on("CONNECT", "mcp.test:443"),
    unparsable("a GET with a body", "malformed.empty", CALL).on("GET", "/mcp"),
    unparsable("a DELETE with a body", "malformed.empty", CALL).on("DELETE", "/mcp"),
];

fn utf16(tool: &str, canary: &str) -> Vec<u8> {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"x":"{canary}"}}}}}}"#
    );
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn with_argument(tool: &str, canary: &str, value: &str) -> Vec<u8> {
    let arguments = format!(r#"{{"c":"{canary}","x":{value}}}"#);
    super::harness::message::call(tool, &arguments).into_bytes()
}

fn long_integer(tool: &str, canary: &str) -> Vec<u8> {
    with_argument(tool, canary, &"9".repeat(10_000))
}

/// The envelope, `params` and `arguments` are three levels.
fn nested(tool: &str, canary: &str, levels: usize) -> Vec<u8> {
    let arrays = levels.saturating_sub(3);
    with_argument(tool, canary, &format!("{}{}", "[".repeat(arrays), "]".repeat(arrays)))
}

fn many_values(tool: &str, canary: &str) -> Vec<u8> {
    with_argument(tool, canary, &format!("[{}0]", "0,".repeat(100_000)))
}

fn padded(tool: &str, canary: &str, length: usize) -> Vec<u8> {
    let empty = with_argument(tool, canary, "\"\"").len();
    with_argument(tool, canary, &format!("\"{}\"", "a".repeat(length.saturating_sub(empty))))
}

fn long_id(tool: &str, canary: &str) -> Vec<u8> {
    let id = "a".repeat(500_000);
    format!(
        r#"{{"jsonrpc":"2.0","id":"{id}","method":"tools/call","params":{{"name":"{tool}","arguments":{{"x":"{canary}"}}}}}}"#
    )
    .into_bytes()
}
