//! Servers whose heads say one thing and whose bodies say another: whatever Envoy makes of that, nothing passes unjudged.

use super::harness::authz::{Grant, Settings, token};
use super::harness::hand::Hand;
use super::harness::http1::Request;
use super::harness::message;
use super::harness::stack::{Options, Stack};

const POLICY: &str = "version: '2'\ndefault: allow\nmask: [{detect: email}]\n";
const CANARY: &str = "canary@example.com";
/// The upstream speaks HTTP/2.
const HTTP2: &[(&str, &str)] = &[(
    "  - name: mcp_server\n    type: STATIC\n",
    "  - name: mcp_server\n    type: STATIC\n    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        explicit_http_config: {http2_protocol_options: {}}\n",
)];

fn body() -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{CANARY}"}}]}}}}"#)
}

async fn stack(upstream: std::net::SocketAddr, edits: &'static [(&'static str, &'static str)]) -> Stack {
    let authz = Settings {
        policies: vec![("main.yaml".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    Stack::start(&Options { authz, upstream: Some(upstream), edits, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_a_head_of_http_1_denies() {
    let mut hand = Hand::start().await;
    let stack = stack(hand.address, &[]).await;
    let (json, body) = ("content-type: application/json\r\n", body());
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let event = format!("event: message\ndata: {body}\n\n");
    let plain: [String; 18] = [
        format!("HTTP/1.1 204 No Content\r\n{json}content-length: {}\r\n\r\n{body}", body.len()),
        format!("HTTP/1.1 204 No Content\r\n{json}transfer-encoding: chunked\r\n\r\n{chunk}"),
        format!("HTTP/1.1 304 Not Modified\r\n{json}transfer-encoding: chunked\r\n\r\n{chunk}"),
        format!("HTTP/1.1 200 OK\r\n{json}content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"),
        format!("HTTP/1.1 200 OK\r\n{json}content-length: 0\r\n\r\n{body}"),
        format!("HTTP/1.1 202 Accepted\r\n{json}\r\n{body}"),
        format!("HTTP/1.1 202 Accepted\r\n\r\n{body}"),
        format!("HTTP/1.0 200 OK\r\n{json}\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\nContent-Type: APPLICATION/JSON ; Charset=\"UTF-8\"\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\n{json}{json}\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\ncontent-type: \r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n{body}"),
        format!("HTTP/1.1 206 Partial Content\r\n{json}content-range: bytes 0-9/10\r\n\r\n{body}"),
        format!("HTTP/1.1 307 Temporary Redirect\r\n{json}location: /x\r\n\r\n{body}"),
        format!("HTTP/1.1 500 Oops\r\ncontent-type: text/html\r\n\r\n<b>{CANARY}</b>"),
        format!("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n{json}\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n\u{feff}{event}"),
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{}", event.replace('\n', "\r")),
    ];
    let mut masked = 0;
    for answer in plain {
        let request = Request::post("/mcp", message::call("tool", "{}")).bearer(&token("agent"));
        let (response, ()) = tokio::join!(stack.send(&request), async {
            let mut asked = hand.next().await;
            asked.write(&answer).await;
        });
        assert!(!response.text().contains(CANARY), "{answer}: {}", response.text());
        masked += usize::from(response.text().contains("[email]"));
    }
    assert_eq!(masked, 9, "what is sound passes, masked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_a_head_of_http_2_denies() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("loopback");
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let case =
                        request.headers().get("x-case").and_then(|case| case.to_str().ok()).unwrap_or("").to_owned();
                    let (status, length) = case.split_once('/').expect("a case");
                    let mut head = http::Response::builder().status(status).header("content-type", "application/json");
                    if !length.is_empty() {
                        head = head.header("content-length", length);
                    }
                    let Ok(mut stream) = respond.send_response(head.body(()).expect("a head"), false) else { continue };
                    drop(stream.send_data(body().into(), false));
                    drop(stream.send_data(bytes::Bytes::new(), true));
                }
            });
        }
    });
    let stack = stack(address, HTTP2).await;
    let mut masked = 0;
    for case in ["200/", "200/0", "204/", "204/0", "304/", "202/0", "205/", "200/5", "200/500", "500/0"] {
        let request = Request::post("/mcp", message::call("tool", "{}")).bearer(&token("agent")).header("x-case", case);
        let response = stack.send(&request).await;
        assert!(!response.text().contains(CANARY), "{case}: {}", response.text());
        masked += usize::from(response.text().contains("[email]"));
    }
    assert_eq!(masked, 2, "200 and 205 without a length");
    server.abort();
}
