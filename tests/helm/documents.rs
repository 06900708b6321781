//! The Secrets that the scenarios name, and what `mcp-authz check` says of a rendered configuration.

use std::{collections::BTreeMap, process::Command};

use mcp_authz_core::decision::PolicyDigest;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use super::{
    chart::{Manifests, RELEASE},
    layout::{Pod, Secrets, full_name},
};

/// The token of the one agent.
pub(crate) const TOKEN: &str = "mcpa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// What the MCP server must see in its place.
pub(crate) const CREDENTIAL: &str = "credential-of-the-server";

/// A certificate with its key and the authority that signed it, each as PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) authority: String,
}

/// Certificates for these names, all of one authority.
pub(crate) fn identities<const N: usize>(names: [&str; N]) -> [Identity; N] {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With the name of the default, every certificate would look as if it had signed itself.
    params.distinguished_name.push(DnType::CommonName, "authority of the test");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    names.map(|name| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.to_owned().try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem(), authority: authority.clone() }
    })
}

/// Where Envoy finds the replicas by name.
pub(crate) fn host() -> String {
    format!("{}-pods.default.svc.cluster.local", full_name())
}

/// Every Secret that a scenario names, with an identity for the gRPC port.
pub(crate) fn secrets(server: &Identity) -> Secrets {
    let digest = PolicyDigest::of(TOKEN.as_bytes()).to_string();
    let grants =
        format!("grants:\n- {{label: agent, sha256: \"{}\", servers: [demo]}}\n", digest.trim_start_matches("sha256:"));
    let identity = [("tls.crt", &server.certificate), ("tls.key", &server.key), ("ca.crt", &server.authority)];
    let identity: Vec<(&str, &str)> = identity.into_iter().map(|(key, text)| (key, text.as_str())).collect();
    let secret = |keys: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
        keys.iter().map(|(key, text)| ((*key).to_owned(), text.as_bytes().to_vec())).collect()
    };
    let ca = [("ca.crt", server.authority.as_str())];
    [
        ("mcp-authz-grants", secret(&[("agents.yaml", &grants)])),
        ("mcp-authz-credentials-demo", secret(&[("token", CREDENTIAL)])),
        ("mcp-authz-tls", secret(&identity)),
        (&format!("{RELEASE}-mcp-authz-tls"), secret(&identity)),
        ("mcp-authz-admin", secret(&[("token", "0123456789abcdef0123456789abcdef")])),
        ("mcp-authz-audit", secret(&[("audit.key", &signing_key())])),
        ("redis-password", secret(&[("password", "secret")])),
        ("redis-ca", secret(&ca)),
        ("collector-ca", secret(&ca)),
        ("collector-headers", secret(&[("headers", "authorization: Bearer secret\n")])),
    ]
    .into_iter()
    .map(|(name, keys)| (name.to_owned(), keys))
    .collect()
}

/// A key as `mcp-authz audit keygen` writes it.
fn signing_key() -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.key");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    let output = command.args(["audit", "keygen", "--out"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(file).unwrap()
}

/// Lays everything out and has the program look at it.
pub(crate) fn check(manifests: &Manifests) -> String {
    let folder = tempfile::tempdir().unwrap();
    let [server] = identities([&host()]);
    let pod = Pod::lay_out(manifests, &secrets(&server), folder.path());
    let file = pod.path("/etc/mcp-authz/config.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_mcp-authz")).arg("check").arg(&file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}\n{}", manifests.settings());
    said
}
