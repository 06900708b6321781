//! The section `webhook:` of `config.yaml`, and the settings of a process that is nothing but the webhook.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mcp_authz_core::document::{Defect, Fields, Format, Report};
use serde_json::{Value, json};

use super::{
    Log, SECTIONS,
    read::{self, path, socket_address},
    shown::text,
};
use crate::files;

/// Where the admission webhook listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// For the API server. Port 0 lets the system pick.
    pub listen: SocketAddr,
    /// PEM file with our certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// What a process is told that runs only the webhook.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Where it listens.
    pub webhook: Webhook,
    /// Diagnostics on standard error.
    pub log: Log,
    /// Whether the processes that serve the documents have the response phase.
    pub response_phase: bool,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

impl WebhookConfig {
    /// Reads the sections `webhook`, `log` and `envoy` of a settings file; the others need not be there and are not judged.
    ///
    /// # Errors
    /// Every defect of these sections; a file that cannot be read is one.
    pub fn load(file: &Path) -> Result<Self, Vec<Defect>> {
        let name = file.display().to_string();
        let bytes = files::read(file, files::DOCUMENT_BYTES_MAX)
            .map_err(|problem| vec![Defect::of_file(&name, problem.to_string())])?;
        let report = Report::read(&name, &bytes, Format::of_name(&name).unwrap_or(Format::Yaml));
        let folder = file.parent().unwrap_or(Path::new(""));
        let config = report.root().and_then(|root| root.fields(SECTIONS)).and_then(|fields| own(&fields, folder));
        let (defects, warnings) = report.finish();
        match config {
            Some(config) if defects.is_empty() => Ok(Self { warnings, ..config }),
            Some(_) | None => Err(defects),
        }
    }
}

fn own(fields: &Fields<'_>, folder: &Path) -> Option<WebhookConfig> {
    let found = fields.required("webhook").and_then(|value| section(&value, folder));
    let (log, envoy) = (read::log(fields), read::envoy(fields));
    Some(WebhookConfig { webhook: found?, log: log?, response_phase: envoy?.response_phase, warnings: Vec::new() })
}

/// The section, if there is one.
pub(super) fn webhook(parent: &Fields<'_>, folder: &Path) -> Option<Option<Webhook>> {
    parent.optional("webhook").map_or(Some(None), |value| section(&value, folder).map(Some))
}

fn section(value: &mcp_authz_core::document::Cursor<'_>, folder: &Path) -> Option<Webhook> {
    let fields = value.fields(&["listen", "certificate", "key"])?;
    let listen = fields.required("listen").and_then(|value| {
        let address = socket_address(value.string()?);
        if address.is_none() {
            value.defect_with_hint("is no address to listen on", "such as `0.0.0.0:9443`");
        }
        address
    });
    let certificate = fields.required("certificate").and_then(|value| path(&value, folder));
    let key = fields.required("key").and_then(|value| path(&value, folder));
    Some(Webhook { listen: listen?, certificate: certificate?, key: key? })
}

pub(super) fn shown(webhook: &Webhook) -> Value {
    json!({
        "listen": webhook.listen.to_string(),
        "certificate": text(&webhook.certificate),
        "key": text(&webhook.key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<WebhookConfig, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let told = |defect: &Defect| defect.to_string().replace(&file.display().to_string(), "config.yaml");
        WebhookConfig::load(&file).map_err(|defects| defects.iter().map(told).collect())
    }

    #[test]
    fn a_webhook_needs_no_other_section() {
        let config = load("webhook: {listen: '0.0.0.0:9443', certificate: tls/tls.crt, key: tls/tls.key}\n").unwrap();
        assert_eq!(config.webhook.listen, "0.0.0.0:9443".parse().unwrap());
        assert!(config.webhook.certificate.ends_with("tls/tls.crt") && !config.response_phase);
        let config = load(
            "webhook: {listen: 'localhost:0', certificate: a, key: b}\nenvoy: {response_phase: true}\nlisten: {grpc: []}\n",
        );
        assert!(config.unwrap().response_phase, "the sections of others are not judged");
    }

    #[test]
    fn every_defect_of_its_own_sections_is_told() {
        assert!(load("log: {}\n").unwrap_err().concat().contains("missing key `webhook`"));
        let defects = load("webhook: {listen: nowhere, certificate: a}\nlog: {level: loud}\n").unwrap_err().join("\n");
        for part in ["/webhook/listen: is no address to listen on", "missing key `key`", "/log/level"] {
            assert!(defects.contains(part), "{part} in {defects}");
        }
    }
}
