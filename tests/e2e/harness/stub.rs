//! An authorizer in this process that keeps every CheckRequest and answers as told: it shows what Envoy itself does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc::Status;
use tonic::{Request, Response};

/// What the stub answers.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// OK, with these headers set and these removed.
    Allow {
        /// Name and value.
        set: Vec<(&'static str, &'static str)>,
        /// Names.
        remove: Vec<&'static str>,
    },
    /// HTTP 200 with this JSON.
    Deny(&'static str),
}

#[derive(Debug)]
struct Service {
    verdict: Verdict,
    seen: Arc<Mutex<Vec<CheckRequest>>>,
}

/// The running stub.
pub(crate) struct Stub {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<CheckRequest>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stub {
    /// Starts on a port that the OS chooses.
    pub(crate) async fn start(verdict: Verdict) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let service = Service { verdict, seen: Arc::clone(&seen) };
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(service));
            server.serve_with_incoming(incoming).await.expect("serving on loopback does not end");
        });
        Self { address, seen, task }
    }

    /// Takes every CheckRequest that arrived since the last time.
    pub(crate) fn take(&self) -> Vec<CheckRequest> {
        std::mem::take(&mut *self.seen.lock().expect("no panic under the lock"))
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, tonic::Status> {
        self.seen.lock().expect("no panic under the lock").push(request.into_inner());
        let (code, http_response) = match &self.verdict {
            Verdict::Allow { set, remove } => {
                let ok = OkHttpResponse {
                    headers: set.iter().map(|(name, value)| option(name, value)).collect(),
                    headers_to_remove: remove.iter().map(|name| (*name).to_owned()).collect(),
                    ..Default::default()
                };
                (0, HttpResponse::OkResponse(ok))
            }
            Verdict::Deny(body) => {
                let denied = DeniedHttpResponse {
                    status: Some(HttpStatus { code: 200 }),
                    headers: vec![option("content-type", "application/json")],
                    body: (*body).to_owned(),
                };
                (7, HttpResponse::DeniedResponse(denied))
            }
        };
        let status = Some(Status { code, ..Default::default() });
        Ok(Response::new(CheckResponse { status, http_response: Some(http_response), ..Default::default() }))
    }
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    HeaderValueOption { header: Some(header), ..Default::default() }
}
