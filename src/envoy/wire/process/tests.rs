use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3 as filter;
use envoy_types::pb::envoy::service::ext_proc::v3 as proc;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Theirs;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as TheirAnswer;
use envoy_types::pb::google::protobuf;
use prost::Message as _;

use super::*;
use crate::envoy::wire::RawHeader;

fn their_head() -> proc::HttpHeaders {
    let line = |key: &str, value: &str, raw: &[u8]| core::HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        raw_value: raw.to_vec(),
    };
    proc::HttpHeaders {
        headers: Some(core::HeaderMap { headers: vec![line(":status", "", b"200"), line("x", "", b"\xff")] }),
        attributes: [("unread".to_owned(), protobuf::Struct::default())].into(),
        end_of_stream: true,
    }
}

fn our_head() -> HttpHeaders {
    let line = |key: &'static [u8], raw_value: &'static [u8]| RawHeader {
        key: Bytes::from_static(key),
        value: Bytes::new(),
        raw_value: Bytes::from_static(raw_value),
    };
    HttpHeaders {
        headers: Some(HeaderMap { headers: vec![line(b":status", b"200"), line(b"x", b"\xff")] }),
        end_of_stream: true,
    }
}

/// Every field of Envoy's message is set, those that we do not read too.
fn theirs(request: Theirs) -> ProcessingRequest {
    use filter::processing_mode::BodySendMode;
    let message = proc::ProcessingRequest {
        metadata_context: Some(core::Metadata {
            filter_metadata: [("ns".to_owned(), protobuf::Struct::default())].into(),
            typed_filter_metadata: [("unread".to_owned(), protobuf::Any::default())].into(),
        }),
        attributes: [("envoy.filters.http.ext_proc".to_owned(), protobuf::Struct::default())].into(),
        observability_mode: true,
        protocol_config: Some(proc::ProtocolConfiguration {
            request_body_mode: BodySendMode::Buffered.into(),
            response_body_mode: BodySendMode::Streamed.into(),
            send_body_without_waiting_for_header_response: true,
        }),
        flow_control_init: Some(proc::processing_request::FlowControlInit {
            initial_window_downstream_to_sidestream: 7,
            ..Default::default()
        }),
        client_window_update: Some(proc::processing_request::ClientWindowUpdate::default()),
        request: Some(request),
    };
    ProcessingRequest::decode(Bytes::from(message.encode_to_vec())).unwrap()
}

#[test]
fn every_field_we_read_arrives_and_the_others_are_ignored() {
    let entry = |key: &'static [u8]| Entry { key: Bytes::from_static(key), value: Bytes::new() };
    let expected = ProcessingRequest {
        part: Some(Part::ResponseHeaders(our_head())),
        metadata_context: Some(Metadata { filter_metadata: vec![entry(b"ns")] }),
        attributes: vec![entry(b"envoy.filters.http.ext_proc")],
        observability_mode: true,
        protocol_config: Some(ProtocolConfig {
            request_body_mode: BodyMode::Buffered.into(),
            response_body_mode: BodyMode::Streamed.into(),
            send_body_without_waiting_for_header_response: true,
        }),
    };
    assert_eq!(theirs(Theirs::ResponseHeaders(their_head())), expected);
}

#[test]
fn every_kind_of_message_is_told_from_the_others() {
    let their_body = || proc::HttpBody {
        body: b"b\xff".to_vec(),
        end_of_stream: true,
        end_of_stream_without_message: true,
        grpc_message_compressed: true,
        drain_complete: true,
    };
    let our_body = || HttpBody { body: Bytes::from_static(b"b\xff"), end_of_stream: true };
    let trailers = || proc::HttpTrailers { trailers: Some(core::HeaderMap::default()) };
    for (sent, read) in [
        (Theirs::RequestHeaders(their_head()), Part::RequestHeaders(our_head())),
        (Theirs::ResponseHeaders(their_head()), Part::ResponseHeaders(our_head())),
        (Theirs::RequestBody(their_body()), Part::RequestBody(our_body())),
        (Theirs::ResponseBody(their_body()), Part::ResponseBody(our_body())),
        (Theirs::RequestTrailers(trailers()), Part::RequestTrailers(HttpTrailers {})),
        (Theirs::ResponseTrailers(trailers()), Part::ResponseTrailers(HttpTrailers {})),
    ] {
        assert_eq!(theirs(sent).part, Some(read));
    }
    // A kind that is newer than this program: field 99.
    assert_eq!(ProcessingRequest::decode(&b"\x9a\x06\x00"[..]).unwrap().part, None);
}

/// What Envoy reads of ours.
fn read(response: &ProcessingResponse) -> proc::ProcessingResponse {
    proc::ProcessingResponse::decode(&response.encode_to_vec()[..]).unwrap()
}

fn answer(answer: Answer) -> ProcessingResponse {
    ProcessingResponse { answer: Some(answer), dynamic_metadata: None, mode_override: None }
}

#[test]
fn envoy_reads_what_we_answer() {
    use proc::body_mutation::Mutation as TheirMutation;
    let header_mutation = Some(HeaderMutation {
        set_headers: vec![RawHeaderOption::set("content-type", "application/json")],
        remove_headers: vec!["content-length".to_owned()],
    });
    let theirs_set = core::HeaderValue {
        key: "content-type".to_owned(),
        raw_value: b"application/json".to_vec(),
        ..Default::default()
    };
    let theirs_mutation = proc::HeaderMutation {
        set_headers: vec![core::HeaderValueOption { header: Some(theirs_set), ..Default::default() }],
        remove_headers: vec!["content-length".to_owned()],
    };
    let common = |body: Option<Mutation>| CommonAnswer {
        response: Some(CommonResponse {
            header_mutation: header_mutation.clone(),
            body_mutation: body.map(|body| BodyMutation { mutation: Some(body) }),
        }),
    };
    let their_common = |body: Option<TheirMutation>| proc::CommonResponse {
        header_mutation: Some(theirs_mutation.clone()),
        body_mutation: body.map(|body| proc::BodyMutation { mutation: Some(body) }),
        ..Default::default()
    };
    let headers = |common| proc::HeadersResponse { response: Some(common) };
    let body = |common| proc::BodyResponse { response: Some(common) };
    // An empty text is a mutation all the same: nothing goes out for the chunk.
    let empty = || Some(Mutation::Body(Bytes::new()));
    let immediate = ImmediateResponse {
        status: Some(HttpStatus { code: 503 }),
        headers: header_mutation.clone(),
        body: Bytes::from_static(b"{}"),
        details: "why".to_owned(),
    };
    let their_immediate = proc::ImmediateResponse {
        status: Some(envoy_types::pb::envoy::r#type::v3::HttpStatus { code: 503 }),
        headers: Some(theirs_mutation.clone()),
        body: b"{}".to_vec(),
        grpc_status: None,
        details: "why".to_owned(),
    };
    for (sent, read_as) in [
        (Answer::RequestHeaders(common(None)), TheirAnswer::RequestHeaders(headers(their_common(None)))),
        (Answer::ResponseHeaders(common(None)), TheirAnswer::ResponseHeaders(headers(their_common(None)))),
        (Answer::RequestBody(CommonAnswer::default()), TheirAnswer::RequestBody(proc::BodyResponse::default())),
        (
            Answer::ResponseBody(common(empty())),
            TheirAnswer::ResponseBody(body(their_common(Some(TheirMutation::Body(Vec::new()))))),
        ),
        (
            Answer::ResponseBody(common(Some(Mutation::Clear(true)))),
            TheirAnswer::ResponseBody(body(their_common(Some(TheirMutation::ClearBody(true))))),
        ),
        (Answer::RequestTrailers(TrailersAnswer {}), TheirAnswer::RequestTrailers(proc::TrailersResponse::default())),
        (Answer::ResponseTrailers(TrailersAnswer {}), TheirAnswer::ResponseTrailers(proc::TrailersResponse::default())),
        (Answer::Immediate(immediate), TheirAnswer::ImmediateResponse(their_immediate)),
    ] {
        assert_eq!(read(&answer(sent)).response, Some(read_as));
    }
}

#[test]
fn envoy_reads_the_mode_and_the_metadata_beside_an_answer() {
    use filter::processing_mode::{BodySendMode, HeaderSendMode};
    let mut dynamic_metadata = Struct::default();
    dynamic_metadata.push_text("a", "b");
    let mode = ProcessingMode {
        request_header_mode: SendMode::Skip.into(),
        response_header_mode: SendMode::Send.into(),
        request_body_mode: BodyMode::BufferedPartial.into(),
        response_body_mode: BodyMode::FullDuplexStreamed.into(),
        request_trailer_mode: SendMode::Default.into(),
        response_trailer_mode: SendMode::Skip.into(),
    };
    let response =
        ProcessingResponse { answer: None, dynamic_metadata: Some(dynamic_metadata), mode_override: Some(mode) };
    let read = read(&response);
    let expected = filter::ProcessingMode {
        request_header_mode: HeaderSendMode::Skip.into(),
        response_header_mode: HeaderSendMode::Send.into(),
        request_body_mode: BodySendMode::BufferedPartial.into(),
        response_body_mode: BodySendMode::FullDuplexStreamed.into(),
        request_trailer_mode: HeaderSendMode::Default.into(),
        response_trailer_mode: HeaderSendMode::Skip.into(),
    };
    assert_eq!(read.mode_override, Some(expected));
    let value = protobuf::value::Kind::StringValue("b".to_owned());
    assert_eq!(read.dynamic_metadata.unwrap().fields["a"].kind, Some(value));
    for (ours, theirs) in [(BodyMode::None, BodySendMode::None), (BodyMode::Grpc, BodySendMode::Grpc)] {
        assert_eq!(i32::from(ours), i32::from(theirs));
    }
}

#[test]
fn debug_output_holds_no_body() {
    let body = HttpBody { body: Bytes::from_static(b"SECRET"), end_of_stream: true };
    let immediate = ImmediateResponse { body: Bytes::from_static(b"SECRET"), ..ImmediateResponse::default() };
    let shown = format!("{:?}{:?}", theirs_of(body), answer(Answer::Immediate(immediate)));
    assert!(!shown.contains("SECRET") && !shown.contains("83, 69"), "{shown}");
}

fn theirs_of(body: HttpBody) -> ProcessingRequest {
    ProcessingRequest { part: Some(Part::ResponseBody(body)), ..ProcessingRequest::default() }
}
