use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::envoy::r#type::v3 as http_type;
use envoy_types::pb::google::{protobuf, rpc};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn theirs_header(key: &str, value: &str, raw: &[u8]) -> core::HeaderValue {
    core::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: raw.to_vec() }
}

fn theirs_struct() -> protobuf::Struct {
    use protobuf::value::Kind as K;
    let value = |kind| protobuf::Value { kind: Some(kind) };
    let inner = protobuf::Struct { fields: [("x".to_owned(), value(K::BoolValue(true)))].into() };
    let list = protobuf::ListValue { values: vec![value(K::NumberValue(1.5)), value(K::NullValue(0))] };
    // One entry for each map: the order of a hash map would make the comparison of bytes random.
    let outer = protobuf::Struct { fields: [("list".to_owned(), value(K::ListValue(list)))].into() };
    let both = protobuf::ListValue {
        values: vec![value(K::StructValue(inner)), value(K::StructValue(outer)), value(K::StringValue("t".to_owned()))],
    };
    protobuf::Struct { fields: [("all".to_owned(), value(K::ListValue(both)))].into() }
}

fn theirs_peer(name: &str) -> auth::attribute_context::Peer {
    let socket = core::SocketAddress {
        protocol: 1,
        address: "10.0.0.1".to_owned(),
        resolver_name: "unread".to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(4321)),
        ..Default::default()
    };
    auth::attribute_context::Peer {
        address: Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }),
        service: "unread".to_owned(),
        labels: [("unread".to_owned(), "unread".to_owned())].into(),
        principal: format!("spiffe://{name}"),
        certificate: "CERT".to_owned(),
    }
}

/// Every field of Envoy's message is set, those that we do not read too.
fn theirs_request() -> auth::CheckRequest {
    let http = auth::attribute_context::HttpRequest {
        id: "17".to_owned(),
        method: "POST".to_owned(),
        headers: [("authorization".to_owned(), "Bearer t".to_owned())].into(),
        header_map: Some(core::HeaderMap {
            headers: vec![theirs_header("a", "", b"1"), theirs_header("a", "lossy", b"\xff")],
        }),
        path: "/mcp?x=1".to_owned(),
        host: "mcp.example.com".to_owned(),
        scheme: "https".to_owned(),
        query: "q".to_owned(),
        fragment: "f".to_owned(),
        size: -1,
        protocol: "HTTP/2".to_owned(),
        body: "lossy!".to_owned(),
        raw_body: b"exact\xff".to_vec(),
    };
    let metadata = core::Metadata {
        filter_metadata: [("envoy.filters.http.jwt_authn".to_owned(), theirs_struct())].into(),
        typed_filter_metadata: [("unread".to_owned(), protobuf::Any::default())].into(),
    };
    let time = Some(protobuf::Timestamp { seconds: 5, nanos: 6 });
    auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            source: Some(theirs_peer("source")),
            destination: Some(theirs_peer("destination")),
            request: Some(auth::attribute_context::Request { time, http: Some(http) }),
            context_extensions: [("server".to_owned(), "everything".to_owned())].into(),
            metadata_context: Some(metadata.clone()),
            route_metadata_context: Some(metadata),
            tls_session: Some(auth::attribute_context::TlsSession { sni: "unread".to_owned() }),
        }),
    }
}

fn ours(request: &auth::CheckRequest) -> CheckRequest {
    CheckRequest::decode(Bytes::from(request.encode_to_vec())).unwrap()
}

fn http(request: CheckRequest) -> HttpRequest {
    request.attributes.unwrap().request.unwrap().http.unwrap()
}

#[test]
fn every_field_we_read_arrives_and_the_others_are_ignored() {
    let attributes = ours(&theirs_request()).attributes.unwrap();
    for (peer, name) in [(&attributes.source, "source"), (&attributes.destination, "destination")] {
        let peer = peer.as_ref().unwrap();
        assert_eq!(peer.principal, format!("spiffe://{name}"));
        assert_eq!(peer.certificate, "CERT");
        let address = peer.address.as_ref().unwrap();
        let socket = address.socket_address.as_ref().unwrap();
        assert_eq!((&socket.address[..], socket.port_value), (&b"10.0.0.1"[..], 4321));
        assert_eq!(address.pipe, None);
    }
    assert_eq!(attributes.context_extensions, [entry("server", b"everything")]);
    let metadata = attributes.metadata_context.unwrap().filter_metadata;
    assert_eq!(metadata, [entry("envoy.filters.http.jwt_authn", &theirs_struct().encode_to_vec())]);
    let expected = HttpRequest {
        id: Bytes::from_static(b"17"),
        method: Bytes::from_static(b"POST"),
        headers: vec![entry("authorization", b"Bearer t")],
        path: Bytes::from_static(b"/mcp?x=1"),
        host: Bytes::from_static(b"mcp.example.com"),
        scheme: Bytes::from_static(b"https"),
        query: Bytes::from_static(b"q"),
        fragment: Bytes::from_static(b"f"),
        size: -1,
        protocol: Bytes::from_static(b"HTTP/2"),
        body: Bytes::from_static(b"lossy!"),
        raw_body: Bytes::from_static(b"exact\xff"),
        header_map: Some(HeaderMap { headers: vec![raw_header("a", b"", b"1"), raw_header("a", b"lossy", b"\xff")] }),
    };
    assert_eq!(attributes.request.unwrap().http.unwrap(), expected);
}

fn entry(key: &str, value: &[u8]) -> Entry {
    Entry { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value) }
}

fn raw_header(key: &str, value: &[u8], raw_value: &[u8]) -> RawHeader {
    RawHeader {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value),
        raw_value: Bytes::copy_from_slice(raw_value),
    }
}

#[test]
fn our_encoding_of_a_request_is_read_by_envoy_types() {
    let mut expected = theirs_request();
    let sent = ours(&expected).encode_to_vec();
    let read = auth::CheckRequest::decode(&sent[..]).unwrap();
    let attributes = expected.attributes.as_mut().unwrap();
    for peer in [&mut attributes.source, &mut attributes.destination].into_iter().flatten() {
        peer.service.clear();
        peer.labels.clear();
        if let Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }) = &mut peer.address
        {
            socket.protocol = 0;
            socket.resolver_name.clear();
        }
    }
    attributes.request.as_mut().unwrap().time = None;
    attributes.metadata_context.as_mut().unwrap().typed_filter_metadata.clear();
    attributes.route_metadata_context = None;
    attributes.tls_session = None;
    assert_eq!(read, expected);
}

#[test]
fn a_unix_peer_has_its_path() {
    let pipe = core::Pipe { path: "/run/x.sock".to_owned(), mode: 0o600 };
    let theirs = core::Address { address: Some(core::address::Address::Pipe(pipe)) };
    let address = Address::decode(&theirs.encode_to_vec()[..]).unwrap();
    assert_eq!(
        address,
        Address { socket_address: None, pipe: Some(Pipe { path: Bytes::from_static(b"/run/x.sock") }) }
    );
}

#[test]
fn headers_keep_their_order_and_their_repetitions() {
    let names = ["zebra", "alpha", "zebra", "mid"];
    let request = HttpRequest { headers: names.map(|name| entry(name, b"")).to_vec(), ..Default::default() };
    let read = HttpRequest::decode(Bytes::from(request.encode_to_vec())).unwrap();
    assert_eq!(read.headers, request.headers);
}

#[test]
fn bytes_that_are_not_utf8_arrive_instead_of_failing_the_call() {
    let bad = Bytes::from_static(b"\xff\xfe");
    let sent = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer { principal: bad.clone(), certificate: bad.clone(), address: None }),
            request: Some(Request {
                http: Some(HttpRequest {
                    id: bad.clone(),
                    method: bad.clone(),
                    headers: vec![Entry { key: bad.clone(), value: bad.clone() }],
                    path: bad.clone(),
                    host: bad.clone(),
                    scheme: bad.clone(),
                    query: bad.clone(),
                    fragment: bad.clone(),
                    size: 2,
                    protocol: bad.clone(),
                    body: bad.clone(),
                    raw_body: bad.clone(),
                    header_map: Some(HeaderMap {
                        headers: vec![RawHeader { key: bad.clone(), value: bad.clone(), raw_value: bad.clone() }],
                    }),
                }),
            }),
            context_extensions: vec![Entry { key: bad.clone(), value: bad.clone() }],
            metadata_context: Some(Metadata { filter_metadata: vec![Entry { key: bad.clone(), value: bad }] }),
            ..Default::default()
        }),
    };
    let bytes = sent.encode_to_vec();
    assert!(auth::CheckRequest::decode(&bytes[..]).is_err(), "the usual types refuse this message");
    assert_eq!(CheckRequest::decode(Bytes::from(bytes)).unwrap(), sent);
}

#[test]
fn a_body_is_a_view_of_the_message_and_not_a_copy() {
    let mut request = theirs_request();
    let http_request = request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http_request.raw_body = vec![b'x'; 65536];
    let message = Bytes::from(request.encode_to_vec());
    let whole = message.as_ptr_range();
    let http = http(CheckRequest::decode(message).unwrap());
    assert!(whole.contains(&http.raw_body.as_ptr()));
    assert!(whole.contains(&http.headers[0].value.as_ptr()));
}

#[test]
fn deep_metadata_is_not_walked() {
    let mut nested = Vec::new();
    for _ in 0..5000 {
        // A Value holding a ListValue of one Value.
        let list = [tagged(1, &nested)].concat();
        nested = tagged(6, &list);
        if nested.len() > 60_000 {
            break;
        }
    }
    let mut sent = CheckRequest::default();
    let deep = Entry { key: Bytes::from_static(b"n"), value: Bytes::from(nested) };
    sent.attributes.get_or_insert_default().metadata_context = Some(Metadata { filter_metadata: vec![deep] });
    let read = CheckRequest::decode(Bytes::from(sent.encode_to_vec())).unwrap();
    assert_eq!(read, sent);
}

fn tagged(tag: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(u64::try_from(payload.len()).unwrap(), &mut out);
    out.extend_from_slice(payload);
    out
}

fn ours_struct() -> Struct {
    let value = |kind| Value { kind: Some(kind) };
    let mut inner = Struct::default();
    inner.push("x", Kind::Bool(true));
    let mut outer = Struct::default();
    outer.push("list", Kind::List(List { values: vec![value(Kind::Number(1.5)), value(Kind::Null(0))] }));
    let values = vec![value(Kind::Struct(inner)), value(Kind::Struct(outer)), value(Kind::Text("t".to_owned()))];
    let mut all = Struct::default();
    all.push("all", Kind::List(List { values }));
    all
}

fn theirs_option(key: &str, value: &str, action: i32) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(theirs_header(key, value, b"")),
        append_action: action,
        ..Default::default()
    }
}

fn theirs_denied() -> auth::DeniedHttpResponse {
    auth::DeniedHttpResponse {
        status: Some(http_type::HttpStatus { code: 200 }),
        headers: vec![theirs_option("content-type", "application/json", 2), theirs_option("set-cookie", "a", 0)],
        body: "{}".to_owned(),
    }
}

fn ours_denied() -> DeniedHttpResponse {
    DeniedHttpResponse {
        status: Some(HttpStatus { code: 200 }),
        headers: vec![
            HeaderValueOption::set("content-type", "application/json"),
            HeaderValueOption::append("set-cookie", "a"),
        ],
        body: "{}".to_owned(),
    }
}

fn assert_same(ours: &CheckResponse, theirs: &auth::CheckResponse) {
    assert_eq!(&auth::CheckResponse::decode(&ours.encode_to_vec()[..]).unwrap(), theirs);
    assert_eq!(&CheckResponse::decode(&theirs.encode_to_vec()[..]).unwrap(), ours);
}

#[test]
fn a_permission_means_the_same_to_envoy_types() {
    let mut keep = HeaderValueOption::set("x-empty", "");
    keep.keep_empty_value = true;
    let mut their_keep = theirs_option("x-empty", "", 2);
    their_keep.keep_empty_value = true;
    let ours = CheckResponse {
        status: Some(Status { code: 0, message: "m".to_owned() }),
        http_response: Some(HttpResponse::Ok(OkHttpResponse {
            headers: vec![HeaderValueOption::set("authorization", "Bearer s"), keep],
            headers_to_remove: vec!["cookie".to_owned(), "x-a".to_owned()],
            response_headers_to_add: vec![HeaderValueOption::append("x-up", "1")],
        })),
        dynamic_metadata: Some(ours_struct()),
    };
    let theirs = auth::CheckResponse {
        status: Some(rpc::Status { code: 0, message: "m".to_owned(), details: Vec::new() }),
        dynamic_metadata: Some(theirs_struct()),
        http_response: Some(auth::check_response::HttpResponse::OkResponse(auth::OkHttpResponse {
            headers: vec![theirs_option("authorization", "Bearer s", 2), their_keep],
            headers_to_remove: vec!["cookie".to_owned(), "x-a".to_owned()],
            response_headers_to_add: vec![theirs_option("x-up", "1", 0)],
            ..Default::default()
        })),
    };
    assert_same(&ours, &theirs);
}

#[test]
fn a_denial_and_an_error_mean_the_same_to_envoy_types() {
    let status = Some(Status { code: 7, message: String::new() });
    let their_status = Some(rpc::Status { code: 7, ..Default::default() });
    for (ours, theirs) in [
        (HttpResponse::Denied(ours_denied()), auth::check_response::HttpResponse::DeniedResponse(theirs_denied())),
        (HttpResponse::Error(ours_denied()), auth::check_response::HttpResponse::ErrorResponse(theirs_denied())),
    ] {
        assert_same(
            &CheckResponse { status: status.clone(), http_response: Some(ours), dynamic_metadata: None },
            &auth::CheckResponse { status: their_status.clone(), http_response: Some(theirs), dynamic_metadata: None },
        );
    }
}

#[test]
fn every_append_action_has_the_number_of_envoy_types() {
    use core::header_value_option::HeaderAppendAction as Theirs;
    for (ours, theirs) in [
        (AppendAction::AppendIfExistsOrAdd, Theirs::AppendIfExistsOrAdd),
        (AppendAction::AddIfAbsent, Theirs::AddIfAbsent),
        (AppendAction::OverwriteIfExistsOrAdd, Theirs::OverwriteIfExistsOrAdd),
        (AppendAction::OverwriteIfExists, Theirs::OverwriteIfExists),
    ] {
        assert_eq!(i32::from(ours), i32::from(theirs));
    }
}

#[test]
fn the_last_resort_is_a_denial_and_never_a_zero_status() {
    let sent = CheckResponse::refused(500).encode_to_vec();
    let read = auth::CheckResponse::decode(&sent[..]).unwrap();
    assert_eq!(read.status.unwrap().code, i32::from(tonic::Code::PermissionDenied));
    let Some(auth::check_response::HttpResponse::DeniedResponse(denied)) = read.http_response else { panic!("denied") };
    assert_eq!(denied.status.unwrap().code, 500);
}

#[test]
fn debug_shows_no_content() {
    let secret = "s3cr3t";
    let bytes = Bytes::from_static(b"s3cr3t");
    let entries = vec![Entry { key: bytes.clone(), value: bytes.clone() }];
    let mut request = CheckRequest::default();
    let attributes = request.attributes.get_or_insert_default();
    attributes.context_extensions = entries.clone();
    attributes.request.get_or_insert_default().http = Some(HttpRequest {
        headers: entries,
        path: bytes.clone(),
        raw_body: bytes.clone(),
        body: bytes.clone(),
        header_map: Some(HeaderMap {
            headers: vec![RawHeader { key: bytes.clone(), value: bytes.clone(), raw_value: bytes }],
        }),
        ..Default::default()
    });
    let mut response = CheckResponse::refused(403);
    if let Some(HttpResponse::Denied(denied)) = &mut response.http_response {
        denied.body = secret.to_owned();
        denied.headers.push(HeaderValueOption::set("authorization", secret));
    }
    assert!(!format!("{request:?} {response:?}").contains(secret));
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        drop(CheckRequest::decode(Bytes::from(bytes.clone())));
        drop(CheckResponse::decode(Bytes::from(bytes)));
    }

    #[test]
    fn a_damaged_request_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = theirs_request().encode_to_vec();
        let index = at.index(bytes.len());
        bytes[index] = byte;
        bytes.truncate(cut.index(bytes.len()));
        drop(CheckRequest::decode(Bytes::from(bytes)));
    }

    #[test]
    fn unknown_fields_are_ignored(tag in 100_u32..100_000, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = theirs_request().encode_to_vec();
        bytes.extend_from_slice(&tagged(tag, &payload));
        prop_assert_eq!(CheckRequest::decode(Bytes::from(bytes)).unwrap(), ours(&theirs_request()));
    }
}
