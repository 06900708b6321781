//! One connection to one server: opened, authenticated, and driven by a task of the engine's own runtime.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use secrecy::zeroize::Zeroizing;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    failure::Failure,
    settings::{At, Place, Settings},
};
use crate::files;

/// Time to open and to authenticate.
const OPEN: Duration = Duration::from_secs(2);
/// Questions that may wait to be written; beyond it they wait in their own tasks, within their own time.
const WAITING_MAX: usize = 1_024;
/// Bytes of a password or secret file.
const SECRET_BYTES_MAX: u64 = 4_096;

/// How connections are opened: who we are, and whom we trust.
#[derive(Clone)]
pub(super) struct Opener {
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<TlsConnector>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// A file that cannot be used. The operator mends it.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {why}", path.display())]
pub struct FileProblem {
    path: PathBuf,
    why: String,
}

impl FileProblem {
    pub(super) fn of(path: &Path, why: impl fmt::Display) -> Self {
        Self { path: path.to_path_buf(), why: why.to_string() }
    }
}

/// Why a server could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It says that we are not who we should be.
    #[error("it denies access with `{0}`")]
    Denied(String),
    /// A file of ours.
    #[error(transparent)]
    File(#[from] FileProblem),
    /// It cannot be reached.
    #[error("it cannot be reached")]
    Io(#[source] io::Error),
    /// It does not speak TLS, or is not whom we trust.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// It speaks, and says no.
    #[error("it does not open")]
    Refused(#[source] Failure),
    /// It says nothing.
    #[error("it does not answer")]
    Timeout,
}

impl OpenError {
    pub(super) fn of(failure: Failure) -> Self {
        match failure.denial() {
            Some(code) => OpenError::Denied(code.to_owned()),
            None => OpenError::Refused(failure),
        }
    }
}

impl Opener {
    /// Reads the files of TLS, and looks whether there is a password.
    pub(super) fn new(settings: &Settings) -> Result<Self, FileProblem> {
        let tls = settings.topology.is_encrypted().then(|| connector(settings)).transpose()?;
        let opener = Self { username: settings.username.clone(), password_file: settings.password_file.clone(), tls };
        opener.password()?;
        Ok(opener)
    }

    /// For sentinels, which have passwords of their own.
    pub(super) fn of_sentinels(&self, password_file: Option<PathBuf>) -> Self {
        Self { username: None, password_file, tls: self.tls.clone() }
    }

    /// Read each time: a password that is changed is used from the next connection on.
    fn password(&self) -> Result<Option<Zeroizing<String>>, FileProblem> {
        self.password_file.as_deref().map(secret_text).transpose()
    }

    pub(super) async fn open(&self, place: &Place) -> Result<Connection, OpenError> {
        timeout(OPEN, self.open_now(place)).await.map_err(|_| OpenError::Timeout)?
    }

    async fn open_now(&self, place: &Place) -> Result<Connection, OpenError> {
        match &place.at {
            At::Unix(path) => self.greet(place, UnixStream::connect(path).await.map_err(OpenError::Io)?).await,
            At::Tcp { host, port } => {
                let stream = TcpStream::connect((&**host, *port)).await.map_err(OpenError::Io)?;
                stream.set_nodelay(true).map_err(OpenError::Io)?;
                match &self.tls {
                    Some(tls) if place.encrypted => {
                        let unnamed = |error| OpenError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error));
                        let name = ServerName::try_from(host.clone()).map_err(unnamed)?;
                        self.greet(place, tls.connect(name, stream).await.map_err(OpenError::Tls)?).await
                    }
                    _ => self.greet(place, stream).await,
                }
            }
        }
    }

    async fn greet<S>(&self, place: &Place, stream: S) -> Result<Connection, OpenError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name()
            .set_db(place.database);
        if let Some(password) = self.password()? {
            info = info.set_password(&*password);
            if let Some(username) = &self.username {
                info = info.set_username(username);
            }
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(WAITING_MAX);
        let opened = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (inner, driver) = opened.map_err(|error| {
            if error.kind() == redis::ErrorKind::AuthenticationFailed {
                OpenError::Denied("WRONGPASS".to_owned())
            } else {
                OpenError::of(Failure::of(&error))
            }
        })?;
        let (ended, end) = watch::channel(false);
        let task = tokio::spawn(async move {
            driver.await;
            // Nobody may be left to tell.
            ended.send_replace(true);
        });
        let shared = Driver { task: task.abort_handle(), busy: AtomicUsize::new(0) };
        Ok(Connection { inner, driver: Arc::new(shared), end })
    }
}

/// Ends with the last clone of its connection, whatever the server does.
#[derive(Debug)]
struct Driver {
    task: AbortHandle,
    /// Questions under way.
    busy: AtomicUsize,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    driver: Arc<Driver>,
    end: watch::Receiver<bool>,
}

/// Counts a question as under way.
struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Asks, and waits until then for the answer.
    pub(super) async fn ask(&self, command: &Cmd, until: Instant) -> Result<Value, Failure> {
        if self.has_ended() {
            return Err(Failure::Disconnected);
        }
        let _busy = self.busy();
        let mut inner = self.inner.clone();
        match timeout_at(until, inner.req_packed_command(command)).await {
            Err(_) => Err(Failure::Timeout),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Ok(Ok(Value::ServerError(error))) => Err(Failure::of_server(&error)),
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// Asks several things at once; one answer for each.
    pub(super) async fn ask_all(
        &self,
        pipeline: &redis::Pipeline,
        until: Instant,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        if self.has_ended() {
            return Err(Failure::Disconnected);
        }
        let _busy = self.busy();
        let mut inner = self.inner.clone();
        let count = pipeline.len();
        match timeout_at(until, inner.req_packed_commands(pipeline, 0, count)).await {
            Err(_) => Err(Failure::Timeout),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Ok(Ok(values)) if values.len() == count => Ok(values.into_iter().map(answer).collect()),
            Ok(Ok(_)) => Err(Failure::Malformed),
        }
    }

    /// Questions under way.
    pub(super) fn load(&self) -> usize {
        self.driver.busy.load(Ordering::Relaxed)
    }

    /// Ready when the connection is gone.
    pub(super) async fn ended(&self) {
        // An error means that the task is gone without a word.
        drop(self.end.clone().wait_for(|ended| *ended).await);
    }

    fn has_ended(&self) -> bool {
        self.end.has_changed().is_err() || *self.end.borrow()
    }

    fn busy(&self) -> Busy<'_> {
        self.driver.busy.fetch_add(1, Ordering::Relaxed);
        Busy(&self.driver.busy)
    }
}

fn answer(value: Value) -> Result<Value, Failure> {
    if let Value::ServerError(error) = &value { Err(Failure::of_server(error)) } else { Ok(value) }
}

/// The one line of a secret file.
pub(super) fn secret_text(path: &Path) -> Result<Zeroizing<String>, FileProblem> {
    let bytes = files::read(path, SECRET_BYTES_MAX).map_err(|problem| FileProblem::of(path, problem))?;
    let text = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&text).map_err(|_| FileProblem::of(path, "is not one line of text"))?;
    let text = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(FileProblem::of(path, "is not one line of text"));
    }
    Ok(text)
}

fn connector(settings: &Settings) -> Result<TlsConnector, FileProblem> {
    let Some(ca) = &settings.tls.ca else {
        return Err(FileProblem::of(Path::new("tls.ca"), "is missing: whom should we trust?"));
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        roots.add(authority).map_err(|error| FileProblem::of(ca, error))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FileProblem::of(ca, error))?
        .with_root_certificates(roots);
    let config = match (&settings.tls.certificate, &settings.tls.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|_| FileProblem::of(key, "holds no private key in PEM form"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| FileProblem::of(certificate, error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileProblem> {
    let none = || FileProblem::of(path, "holds no certificate in PEM form");
    let found: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}
