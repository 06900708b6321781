//! The bytes that are sent: a tool call as Envoy would pass it on, with the headers that Envoy adds.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use prost::Message as _;

/// A token in the form of ours; the benchmark's grants know its digest.
pub(crate) const TOKEN: &str = "mcpa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A `tools/call` of exactly `length` bytes.
pub(crate) fn body(length: usize) -> Vec<u8> {
    let text = |filler: &str| {
        format!(
            concat!(
                r#"{{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{{"name":"tool_7","arguments":"#,
                r#"{{"owner":"acme","repository":"widgets","number":42,"labels":["bug","p1"],"draft":false,"#,
                r#""notify":{{"team":"core","urgent":true}},"body":"{}"}}}}}}"#
            ),
            filler
        )
    };
    // Lines of an ordinary text, with an escape now and then, as a model would write them.
    let filler = "The quick brown fox jumps over the lazy dog.\\n".repeat(length / 40);
    let room = length.saturating_sub(text("").len());
    let mut cut: String = filler.chars().take(room).collect();
    if cut.ends_with('\\') {
        cut.pop();
        cut.push('.');
    }
    text(&cut).into_bytes()
}

/// An encoded CheckRequest with that body.
pub(crate) fn check_request(body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let authorization = format!("Bearer {TOKEN}");
    let headers = [
        (":authority", "mcp.example.com"),
        (":method", "POST"),
        (":path", "/mcp"),
        (":scheme", "https"),
        ("accept", "application/json, text/event-stream"),
        ("accept-language", "*"),
        ("authorization", &authorization),
        ("content-length", &length),
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2025-06-18"),
        ("mcp-session-id", "5f1f6e9c-7f0a-4e39-9e5e-0d6a3c1f2b4d"),
        ("sec-fetch-mode", "cors"),
        ("user-agent", "node"),
        ("x-envoy-auth-partial-body", "false"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "2f4b1a7e-1a59-4c8e-bd3f-6f3d9c1a0b55"),
    ];
    let http = auth::attribute_context::HttpRequest {
        id: "14695981039346656037".to_owned(),
        method: "POST".to_owned(),
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        path: "/mcp".to_owned(),
        host: "mcp.example.com".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        size: i64::try_from(body.len()).unwrap_or(i64::MAX),
        raw_body: body.to_vec(),
        ..Default::default()
    };
    let peer = |port, principal: &str| {
        let socket = core::SocketAddress {
            address: "10.1.2.3".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        };
        auth::attribute_context::Peer {
            address: Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }),
            principal: principal.to_owned(),
            ..Default::default()
        }
    };
    let time = envoy_types::pb::google::protobuf::Timestamp { seconds: 1_790_000_000, nanos: 123_456_000 };
    let attributes = auth::AttributeContext {
        source: Some(peer(40_001, "")),
        destination: Some(peer(8443, "")),
        request: Some(auth::attribute_context::Request { time: Some(time), http: Some(http) }),
        context_extensions: [("server".to_owned(), "bench".to_owned())].into(),
        metadata_context: Some(core::Metadata::default()),
        route_metadata_context: Some(core::Metadata::default()),
        tls_session: None,
    };
    auth::CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}
