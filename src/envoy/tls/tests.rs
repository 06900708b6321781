use std::fs;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const ENVOY: &str = "spiffe://cluster.local/ns/mesh/sa/envoy";

/// An authority that lives as long as a test.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, both PEM.
    pub(crate) fn issue(&self, names: Vec<SanType>) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// Files of a server that lets in `allowed_sans` of `clients`.
pub(crate) fn files(folder: &TempDir, own: &Authority, clients: Option<&Authority>, allowed: &[&str]) -> TlsSettings {
    let path = |name: &str| folder.path().join(name);
    let (certificate, key) = own.issue(vec![dns("localhost")]);
    fs::write(path("tls.crt"), certificate).unwrap();
    fs::write(path("tls.key"), key).unwrap();
    if let Some(clients) = clients {
        fs::write(path("ca.crt"), &clients.pem).unwrap();
    }
    TlsSettings {
        certificate: path("tls.crt"),
        key: path("tls.key"),
        client_ca: clients.map(|_| path("ca.crt")),
        allowed_sans: allowed.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// A client that trusts `server` and shows the certificate, if any.
pub(crate) fn connector(server: &Authority, identity: Option<(String, String)>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

pub(crate) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// The server's verdict about one handshake.
async fn handshake(tls: &Tls, connector: &TlsConnector) -> Result<(), Refusal> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(tls.config()).accept(server).await.map_err(|error| Refusal::of(&error))?;
        stream.write_all(b"x").await.unwrap();
        Ok(())
    };
    let connect = async {
        let Ok(mut stream) = connector.connect(localhost(), client).await else { return };
        drop(stream.read_u8().await);
    };
    tokio::join!(accept, connect).0
}

struct Lab {
    folder: TempDir,
    own: Authority,
    clients: Authority,
}

impl Lab {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), own: Authority::new(), clients: Authority::new() }
    }

    fn settings(&self, allowed: &[&str]) -> TlsSettings {
        files(&self.folder, &self.own, Some(&self.clients), allowed)
    }

    fn tls(&self, allowed: &[&str]) -> Tls {
        Tls::load(&self.settings(allowed)).unwrap()
    }

    fn client(&self, names: Vec<SanType>) -> TlsConnector {
        connector(&self.own, Some(self.clients.issue(names)))
    }
}

#[tokio::test]
async fn a_client_with_an_allowed_uri_or_dns_name_is_let_in() {
    let lab = Lab::new();
    let tls = lab.tls(&[ENVOY, "envoy.example.com"]);
    for names in [
        vec![uri(ENVOY)],
        vec![dns("envoy.example.com")],
        vec![dns("Envoy.Example.COM")],
        vec![dns("other.example.com"), uri("spiffe://other"), uri(ENVOY)],
    ] {
        assert_eq!(handshake(&tls, &lab.client(names.clone())).await, Ok(()), "{names:?}");
    }
}

#[tokio::test]
async fn a_client_with_another_name_is_refused() {
    let lab = Lab::new();
    let tls = lab.tls(&[ENVOY, "envoy.example.com"]);
    for names in [
        vec![],
        vec![uri("spiffe://cluster.local/ns/mesh/sa/envoy2")],
        vec![uri("spiffe://cluster.local/ns/mesh/sa")],
        vec![uri("SPIFFE://cluster.local/ns/mesh/sa/envoy")],
        vec![dns("a.envoy.example.com")],
        vec![dns("*.example.com")],
        vec![uri("envoy.example.com")],
    ] {
        assert_eq!(handshake(&tls, &lab.client(names.clone())).await, Err(Refusal::Name), "{names:?}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let lab = Lab::new();
    let nobody = connector(&lab.own, None);
    assert_eq!(handshake(&lab.tls(&[]), &nobody).await, Err(Refusal::NoCertificate));
    assert_eq!(handshake(&lab.tls(&[ENVOY]), &nobody).await, Err(Refusal::NoCertificate));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let lab = Lab::new();
    let stranger = connector(&lab.own, Some(Authority::new().issue(vec![uri(ENVOY)])));
    assert_eq!(handshake(&lab.tls(&[]), &stranger).await, Err(Refusal::Certificate));
    assert_eq!(handshake(&lab.tls(&[ENVOY]), &stranger).await, Err(Refusal::Certificate));
}

#[tokio::test]
async fn without_names_every_client_of_the_authority_is_let_in() {
    let lab = Lab::new();
    assert_eq!(handshake(&lab.tls(&[]), &lab.client(vec![uri("spiffe://anyone")])).await, Ok(()));
}

#[tokio::test]
async fn without_an_authority_no_certificate_is_needed() {
    let lab = Lab::new();
    let tls = Tls::load(&files(&lab.folder, &lab.own, None, &[])).unwrap();
    assert_eq!(handshake(&tls, &connector(&lab.own, None)).await, Ok(()));
}

#[tokio::test]
async fn a_second_connection_proves_its_name_again() {
    let lab = Lab::new();
    let tls = lab.tls(&[ENVOY]);
    let client = lab.client(vec![uri(ENVOY)]);
    assert_eq!(handshake(&tls, &client).await, Ok(()));
    tls.reload(&lab.settings(&["spiffe://other"])).unwrap();
    assert_eq!(handshake(&tls, &client).await, Err(Refusal::Name), "a resumed session would have been let in");
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls_is_refused() {
    let lab = Lab::new();
    let (mut client, server) = tokio::io::duplex(1024);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let refused = TlsAcceptor::from(lab.tls(&[]).config()).accept(server).await.map(|_| ());
    assert_eq!(refused.map_err(|error| Refusal::of(&error)), Err(Refusal::Protocol));
}

#[test]
fn a_bad_file_is_named() {
    let lab = Lab::new();
    let good = lab.settings(&[ENVOY]);
    let empty = lab.folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let message = |settings: &TlsSettings| Tls::load(settings).unwrap_err().to_string();
    let missing = TlsSettings { certificate: "/nowhere/tls.crt".into(), ..good.clone() };
    assert_eq!(message(&missing), "cannot read a certificate from `/nowhere/tls.crt`");
    let no_certificate = TlsSettings { certificate: empty.clone(), ..good.clone() };
    assert!(message(&no_certificate).ends_with("empty` holds no certificate in PEM form"));
    let no_key = TlsSettings { key: empty.clone(), ..good.clone() };
    assert!(message(&no_key).starts_with("cannot read a private key from `"));
    let no_authority = TlsSettings { client_ca: Some(empty), ..good.clone() };
    assert!(message(&no_authority).ends_with("empty` holds no client authority in PEM form"));
    let (_, other_key) = lab.own.issue(vec![]);
    fs::write(&good.key, other_key).unwrap();
    assert!(message(&good).starts_with("cannot use the certificate with its key in `"));
}

#[test]
fn names_without_an_authority_are_an_error() {
    let lab = Lab::new();
    let settings = files(&lab.folder, &lab.own, None, &[ENVOY]);
    assert!(matches!(Tls::load(&settings), Err(TlsError::AllowedSansWithoutClientCa)));
}
