//! `mcp-authz serve --webhook`, asked over TLS as the API server asks.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use mcp_authz::outbound::{Answer, Client, OutboundError, Protocol, TlsFiles};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    kubelet::Volume,
    process::{PATIENCE, free_port},
    tls::Authority,
};

async fn ask(url: &str, ca: &Path, request: Request<Bytes>) -> Result<Answer, OutboundError> {
    let client = Client::new(Protocol::Http1, &TlsFiles { ca: Some(ca.to_owned()), identity: None }).unwrap();
    let (parts, body) = request.into_parts();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = format!("{url}{}", parts.uri).parse().unwrap();
    client.send(request, Duration::from_secs(30), 1_000_000).await
}

/// Waits until the page answers 200 to whoever trusts that authority.
async fn ready(url: &str, ca: &Path) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = ask(url, ca, Request::get("/readyz").body(Bytes::new()).unwrap()).await;
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return;
        }
        assert!(Instant::now() < until, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_config_map_is_judged_over_tls_with_the_newest_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (one, two) = (Authority::new(), Authority::new());
    one.write(&at("one.pem"));
    two.write(&at("two.pem"));
    let (certificate, key) = one.issue();
    let mut tls = Volume::mount(at("tls"), &[("tls.crt", &certificate), ("tls.key", &key)]);
    let address = free_port();
    let settings = format!("webhook: {{listen: \"{address}\", certificate: tls/tls.crt, key: tls/tls.key}}\n");
    fs::write(at("config.yaml"), settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    command.args(["serve", "--webhook", "--config", "config.yaml"]).current_dir(folder.path());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let url = format!("https://{address}");
    ready(&url, &at("one.pem")).await;

    let review = |text: &str| {
        let object = json!({
            "metadata": { "name": "p", "labels": { "mcp-authz.io/documents": "policies" } },
            "data": { "p.yaml": text },
        });
        let kind = json!({ "group": "", "version": "v1", "kind": "ConfigMap" });
        let request = json!({ "uid": "u", "kind": kind, "operation": "UPDATE", "object": object });
        let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request });
        Request::post("/validate").body(Bytes::from(review.to_string())).unwrap()
    };
    for (text, allowed) in [("version: '1'\ndefault: deny\n", true), ("version: '1'\n", false)] {
        let answer = ask(&url, &at("one.pem"), review(text)).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.pointer("/response/allowed"), Some(&Value::Bool(allowed)), "{answer}");
    }
    let page = ask(&url, &at("one.pem"), Request::get("/metrics").body(Bytes::new()).unwrap()).await.unwrap();
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(page.contains("mcp_authz_webhook_reviews_total{outcome=\"denied\"} 1\n"), "{page}");

    // A certificate that cannot be used keeps the old one; the next one serves.
    tls.update(&[("tls.crt", "nonsense"), ("tls.key", &key)]);
    ready(&url, &at("one.pem")).await;
    let (certificate, key) = two.issue();
    tls.update(&[("tls.crt", &certificate), ("tls.key", &key)]);
    ready(&url, &at("two.pem")).await;

    let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(stopped.success() && child.wait().unwrap().success());
}

#[test]
fn a_webhook_without_its_settings_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.yaml"), "log: {level: info}\n").unwrap();
    let output = super::process::run(folder.path(), &["serve", "--webhook", "--config", "config.yaml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(64) && said.contains("missing key `webhook`"), "{said}");
}
