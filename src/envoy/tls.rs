//! Transport security of the TCP listeners: which certificate we show, and which clients we let in.
//!
//! With a client CA, a client needs a certificate from it; with a list of names besides, one of the URI or DNS names of
//! the certificate must be in that list, exactly. The check is part of the handshake, so nobody else sends us a byte.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use thiserror::Error;

/// Where the files are, and who may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM file with our certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// PEM file with the authorities of clients; without it clients need no certificate.
    pub client_ca: Option<PathBuf>,
    /// Names of clients: exact URI names (with a colon) or DNS names. Empty: every certificate of the authorities.
    pub allowed_sans: Vec<String>,
}

/// TLS for a server; the files can be read again while it runs.
pub struct Tls {
    config: ArcSwap<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or used, by name; the operator must act.
    pub fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        Ok(Self { config: ArcSwap::from(read(settings)?) })
    }

    /// Reads the files again: new connections use the new ones.
    ///
    /// # Errors
    /// As [`Tls::load`]; the old files stay in use.
    pub fn reload(&self, settings: &TlsSettings) -> Result<(), TlsError> {
        self.config.store(read(settings)?);
        Ok(())
    }

    /// The current configuration for one handshake of a listener that speaks HTTP/1.1.
    pub(crate) fn http1(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// The current configuration, for one handshake.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

/// TLS settings that cannot be used. The operator mends the configuration or the file.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Names are given, but nothing that could prove a name.
    #[error("`allowed_sans` needs `client_ca`: without it no client shows a certificate")]
    AllowedSansWithoutClientCa,
    /// A file has no certificate or key in it.
    #[error("`{}` holds no {what} in PEM form", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A file cannot be read, or is damaged.
    #[error("cannot read a {what} from `{}`", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// What the file holds cannot be used.
    #[error("cannot use the {what} in `{}`", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

const CERTIFICATE: &str = "certificate";
const CLIENT_CA: &str = "client authority";
const KEY: &str = "private key";

fn read(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&settings.certificate, CERTIFICATE)?;
    let pem = |source| TlsError::Pem { path: settings.key.clone(), what: KEY, source };
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(pem)?;
    let unusable = |source: rustls::Error| TlsError::Unusable {
        path: settings.certificate.clone(),
        what: "certificate with its key",
        source: source.into(),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &settings.client_ca {
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, &settings.allowed_sans, &provider)?),
        None if settings.allowed_sans.is_empty() => builder.with_no_client_auth(),
        None => return Err(TlsError::AllowedSansWithoutClientCa),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the check of the client's certificate, after its authority or name was removed too.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_path_buf(), what, source };
    let found = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if found.is_empty() { Err(TlsError::Empty { path: path.to_path_buf(), what }) } else { Ok(found) }
}

fn client_verifier(
    path: &Path,
    allowed_sans: &[String],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    type Source = Box<dyn std::error::Error + Send + Sync>;
    let unusable = |source: Source| TlsError::Unusable { path: path.to_path_buf(), what: CLIENT_CA, source };
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, CLIENT_CA)? {
        roots.add(authority).map_err(|error| unusable(error.into()))?;
    }
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(error.into()))?;
    if allowed_sans.is_empty() {
        return Ok(inner);
    }
    let (uris, hosts) = allowed_sans.iter().cloned().partition(|name| name.contains(':'));
    Ok(Arc::new(NamedClients { inner, uris, hosts }))
}

/// Lets in clients with a valid certificate that carries an allowed name.
#[derive(Debug)]
struct NamedClients {
    inner: Arc<dyn ClientCertVerifier>,
    /// Compared byte by byte.
    uris: Vec<String>,
    /// Compared without regard to case. A wildcard is an ordinary text: it must be listed as it is.
    hosts: Vec<String>,
}

impl NamedClients {
    fn has_allowed_name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
        certificate.valid_uri_names().any(|name| self.uris.iter().any(|uri| uri == name))
            || certificate.valid_dns_names().any(|name| self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name)))
    }
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if self.has_allowed_name(end_entity) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Why a handshake was refused: a closed set, so it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The certificate is not from the authorities, has expired, or is damaged.
    Certificate,
    /// The certificate is good, but no name in it is allowed.
    Name,
    /// There was no certificate.
    NoCertificate,
    /// The peer does not speak TLS as we do, or went away.
    Protocol,
    /// The handshake took too long.
    Timeout,
}

impl Refusal {
    /// A name for logs and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Name => "name",
            Self::NoCertificate => "no_certificate",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
        }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Protocol;
        };
        if *error == CertificateError::ApplicationVerificationFailure.into() {
            Self::Name
        } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
            Self::Certificate
        } else if matches!(error, rustls::Error::NoCertificatesPresented) {
            Self::NoCertificate
        } else {
            Self::Protocol
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
