//! Requests that we make: to collectors of telemetry, to the API server of Kubernetes, to the admin ports of other processes
//! and of Envoy. HTTP/1.1 or HTTP/2, bounded in time and size; nothing is followed, nothing decompressed, no proxy asked.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::telemetry::log::chain;

/// Idle connections are closed after this time, so that an address that moved is looked up again.
const IDLE: Duration = Duration::from_secs(30);

/// Files that an encrypted connection needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the authorities that we trust; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files with our certificate and its private key, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without an upgrade where the connection is not encrypted: what gRPC needs.
    Http2,
}

/// Keeps connections; clones share them.
#[derive(Clone)]
pub struct Client(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Bytes,
    /// What followed the body; gRPC has its status there.
    pub trailers: HeaderMap,
}

/// Why there is no answer. Names no header and nothing of a body.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// A file of TLS.
    #[error("`{}` cannot be used: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Longer than asked for.
    #[error("the answer is longer than {bytes_max} bytes")]
    Size {
        /// The bound.
        bytes_max: usize,
    },
    /// Not in time.
    #[error("no answer within {within_ms} ms")]
    Timeout {
        /// The bound.
        within_ms: u128,
    },
    /// Certificates and keys that do not go together.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl Client {
    /// Reads the files; connects to nobody yet.
    ///
    /// # Errors
    /// A file that cannot be used, by name; the operator mends it.
    pub fn new(protocol: Protocol, files: &TlsFiles) -> Result<Self, OutboundError> {
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls(files)?).https_or_http();
        let (connector, is_http2) = match protocol {
            Protocol::Http1 => (builder.enable_http1().build(), false),
            Protocol::Http2 => (builder.enable_http2().build(), true),
        };
        let client = legacy::Client::builder(TokioExecutor::new())
            .http2_only(is_http2)
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self(client))
    }

    /// Sends one request and reads the whole answer, both within `within`. Any status is an answer. The future may be dropped.
    ///
    /// # Errors
    /// See [`OutboundError`]; whether the server acted is then not known.
    pub async fn send(
        &self,
        mut request: Request<Bytes>,
        within: Duration,
        answer_bytes_max: usize,
    ) -> Result<Answer, OutboundError> {
        // Left to the client: it knows which protocol is spoken.
        request.headers_mut().remove(HOST);
        let exchange = async {
            let response = self.0.request(request.map(Full::new)).await;
            let response = response.map_err(|error| OutboundError::Connection(chain(&error)))?;
            let (head, body) = response.into_parts();
            let (body, trailers) = read(body, answer_bytes_max).await?;
            Ok(Answer { status: head.status, headers: head.headers, body, trailers })
        };
        let answer = tokio::time::timeout(within, exchange).await;
        answer.map_err(|_| OutboundError::Timeout { within_ms: within.as_millis() })?
    }
}

async fn read(mut body: Incoming, bytes_max: usize) -> Result<(Bytes, HeaderMap), OutboundError> {
    let (mut bytes, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| OutboundError::Connection(chain(&error)))?;
        match frame.into_data() {
            Ok(data) => {
                if bytes.len().saturating_add(data.len()) > bytes_max {
                    return Err(OutboundError::Size { bytes_max });
                }
                bytes.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((bytes.freeze(), trailers))
}

fn tls(files: &TlsFiles) -> Result<ClientConfig, OutboundError> {
    let unusable = |error: rustls::Error| OutboundError::Tls(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &files.ca {
        Some(ca) => builder.with_root_certificates(roots(ca)?),
        // An empty store of the system is no error until somebody must be trusted.
        None => match builder.clone().with_native_roots() {
            Ok(builder) => builder,
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        },
    };
    match &files.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of_pem(key, error))?;
            builder.with_client_auth_cert(chain, private).map_err(unusable)
        }
    }
}

fn roots(path: &Path) -> Result<RootCertStore, OutboundError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| OutboundError::Tls(format!("`{}`: {error}", path.display())))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OutboundError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| of_pem(path, error))?;
    if found.is_empty() {
        let source = io::Error::other("it holds no certificate in PEM form");
        return Err(OutboundError::File { path: path.to_owned(), source });
    }
    Ok(found)
}

fn of_pem(path: &Path, error: rustls::pki_types::pem::Error) -> OutboundError {
    OutboundError::File { path: path.to_owned(), source: io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::{Router, routing::get};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    async fn server(pages: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(pages.clone());
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        format!("http://{address}")
    }

    async fn ask(url: String, within: Duration, bytes_max: usize) -> Result<Answer, OutboundError> {
        let client = Client::new(Protocol::Http1, &TlsFiles::default()).unwrap();
        client.send(Request::get(url).body(Bytes::new()).unwrap(), within, bytes_max).await
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_bounded_in_size_and_time() {
        let pages = Router::new()
            .route("/four", get(|| async { "four" }))
            .route("/away", get(|| async { (StatusCode::FOUND, [("location", "/four")]) }))
            .route("/never", get(|| async { pending::<&str>().await }));
        let url = server(pages).await;
        let answer = ask(format!("{url}/four"), WITHIN, 4).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"four"[..]));
        let error = ask(format!("{url}/four"), WITHIN, 3).await.unwrap_err();
        assert_eq!(error.to_string(), "the answer is longer than 3 bytes");
        assert_eq!(ask(format!("{url}/away"), WITHIN, 4).await.unwrap().status, StatusCode::FOUND, "not followed");
        let error = ask(format!("{url}/never"), Duration::from_millis(20), 4).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 20 ms");
    }

    #[tokio::test]
    async fn whoever_is_not_there_is_told_with_the_cause() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = ask(format!("http://{address}/"), WITHIN, 4).await.unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let missing = TlsFiles { ca: Some("/nowhere/ca.pem".into()), identity: None };
        let error = Client::new(Protocol::Http1, &missing).unwrap_err().to_string();
        assert!(error.starts_with("`/nowhere/ca.pem` cannot be used: "), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("ca.pem");
        std::fs::write(&empty, "").unwrap();
        let error = Client::new(Protocol::Http2, &TlsFiles { ca: Some(empty), identity: None }).unwrap_err();
        assert!(error.to_string().ends_with("it holds no certificate in PEM form"), "{error}");
    }
}
