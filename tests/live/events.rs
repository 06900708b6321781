//! Reloads as events, told to an API server that is played over TLS.

use std::{fs, sync::Arc};

use axum::{Router, routing::post};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

use super::{
    process::{PATIENCE, Pod, Process, policy},
    tls::Authority,
};

async fn api(authority: &Authority) -> (u16, mpsc::UnboundedReceiver<Value>) {
    let (certificate, key) = authority.issue();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, events) = mpsc::unbounded_channel();
    let page = move |body: String| async move {
        tell.send(serde_json::from_str(&body).unwrap()).unwrap();
        http::StatusCode::CREATED
    };
    let pages = Router::new().route("/apis/events.k8s.io/v1/namespaces/mesh/events", post(page));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(pages.clone()));
            tokio::spawn(async move {
                let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await
            });
        }
    });
    (port, events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_edit_and_its_correction_are_events_of_the_pod() {
    let authority = Authority::new();
    let (port, mut events) = api(&authority).await;
    let mut pod = Pod::new("kubernetes: {events: true, service_account: account}\n");
    let account = pod.folder.path().join("account");
    fs::create_dir(&account).unwrap();
    fs::write(account.join("token"), "token").unwrap();
    authority.write(&account.join("ca.crt"));
    let port = port.to_string();
    let env = [
        ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
        ("KUBERNETES_SERVICE_PORT", &port),
        ("POD_NAME", "authz-0"),
        ("POD_NAMESPACE", "mesh"),
        ("POD_UID", "1234"),
    ];
    let process = Process::start(pod.folder.path(), pod.admin, &env, &["serve", "--config", "config.yaml"]);
    let mut next = async || tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    pod.policies.update(&[("p.yaml", "version: '1'\ndefualt: deny\n")]);
    let event = next().await;
    let note = event.get("note").and_then(Value::as_str).unwrap();
    assert_eq!(event.get("reason"), Some(&"PolicyReloadRefused".into()));
    assert!(note.contains("p.yaml:2: /defualt: unknown key") || note.contains("unknown key `defualt`"), "{note}");
    pod.policies.update(&[("p.yaml", &policy("second"))]);
    let event = next().await;
    assert_eq!(event.get("reason"), Some(&"PolicyReloaded".into()));
    let page = process.json("/policy");
    let revision = page.get("revision").and_then(Value::as_str).unwrap();
    assert!(event.get("note").and_then(Value::as_str).unwrap().contains(revision), "{event}");
    process.measures("mcp_authz_kubernetes_events_total{outcome=\"sent\"} 2\n");
}
