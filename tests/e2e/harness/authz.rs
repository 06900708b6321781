//! The real `mcp-authz serve` with a configuration folder of the test's own making.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use mcp_authz_core::decision::PolicyDigest;

use super::envoy::Authorizer;
use super::http1::{self, Request, Response};
use super::process::Process;
use super::{free_address, until};

/// What the upstream of server `alpha` must see instead of the agent's token.
pub(crate) const ALPHA_SECRET: &str = "alpha-upstream-secret";
/// What the upstream of server `beta` must see, in a header of its own.
pub(crate) const BETA_SECRET: &str = "beta-upstream-secret";

/// A grant and its token.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    label: String,
    settings: String,
}

impl Grant {
    /// A grant for server `alpha` under a policy.
    pub(crate) fn new(label: &str, policy: &str) -> Self {
        Self::with(label, &format!("servers: [alpha], policy: {policy}"))
    }

    /// A grant with settings written out, as the inside of a YAML flow mapping.
    pub(crate) fn with(label: &str, settings: &str) -> Self {
        Self { label: label.to_owned(), settings: settings.to_owned() }
    }

    /// The token that an agent sends.
    pub(crate) fn token(&self) -> String {
        token(&self.label)
    }
}

/// A well-formed token, the same for the same seed.
pub(crate) fn token(seed: &str) -> String {
    let digest = sha256(seed);
    let bytes: Vec<u8> = digest.as_bytes().iter().copied().take(32).collect();
    format!("mcpa_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// The digest type of policies is SHA-256 too; that saves a dependency.
fn sha256(text: &str) -> String {
    PolicyDigest::of(text.as_bytes()).to_string().trim_start_matches("sha256:").to_owned()
}

/// What differs between the tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Listen on TCP instead of a Unix socket.
    pub(crate) tcp: bool,
    /// Lines appended to `config.yaml`.
    pub(crate) config: String,
    /// Lines appended to the entry of server `alpha`, each with its indentation of four.
    pub(crate) alpha: String,
    /// File name and text.
    pub(crate) policies: Vec<(String, String)>,
    /// The grants.
    pub(crate) grants: Vec<Grant>,
}

/// A running authorizer.
pub(crate) struct Authz {
    /// Where Envoy finds it.
    pub(crate) listener: Authorizer,
    /// Where its admin interface listens.
    pub(crate) admin: SocketAddr,
    /// The program.
    pub(crate) process: Process,
    dir: PathBuf,
}

impl Authz {
    /// Writes the configuration, starts the program and waits until it is ready.
    pub(crate) async fn start(dir: &Path, settings: &Settings) -> Self {
        let dir = dir.join("authz");
        let admin = free_address();
        let listener =
            if settings.tcp { Authorizer::Tcp(free_address()) } else { Authorizer::Unix(dir.join("authz.sock")) };
        write_config(&dir, settings, &listener, admin);
        let mut authz = Self { process: start_process(&dir), listener, admin, dir };
        authz.ready().await;
        authz
    }

    /// Starts the program again in the same folder, after it ended.
    pub(crate) async fn restart(&mut self) {
        self.process = start_process(&self.dir);
        self.ready().await;
    }

    /// Writes something else over every file of pins.
    pub(crate) fn damage_pins(&self) {
        let folder = self.dir.join("counters/pins");
        let files = std::fs::read_dir(&folder).expect("pins are kept in a folder");
        let damaged = files.filter_map(Result::ok).map(|file| std::fs::write(file.path(), "damaged"));
        assert!(damaged.map(|written| written.expect("writable")).count() > 0, "there are no pins");
    }

    /// Waits until the program says that it is ready.
    pub(crate) async fn ready(&mut self) {
        let (admin, process) = (self.admin, &mut self.process);
        until("mcp-authz is ready", async || {
            process.assert_running();
            let ready = http1::try_exchange(admin, &Request::new("GET", "/readyz").bytes()).await.ok()?;
            (ready.status == 200).then_some(())
        })
        .await;
    }

    /// Asks the admin interface.
    pub(crate) async fn admin(&self, path: &str) -> Response {
        Request::new("GET", path).send(self.admin).await
    }

    /// Replaces a policy file.
    pub(crate) fn write_policy(&self, file: &str, text: &str) {
        write(&self.dir.join("policies").join(file), text);
    }

    /// Replaces the grants.
    pub(crate) fn write_grants(&self, grants: &[Grant]) {
        write_grants(&self.dir, grants);
    }

    /// Replaces the secret of server `alpha`.
    pub(crate) fn write_alpha_secret(&self, secret: &str) {
        write(&self.dir.join("credentials/alpha/token"), secret);
    }

    /// Starts a second program with the same configuration.
    pub(crate) fn second(&self) -> Process {
        start_process(&self.dir)
    }

    /// The folder with its settings.
    pub(crate) fn folder(&self) -> &Path {
        &self.dir
    }

    /// The path of the Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("authz.sock")
    }

    /// Everything that the program lets out: both outputs, and every page of the admin interface.
    pub(crate) async fn everything_said(&self) -> String {
        let mut out = self.process.output();
        for page in ["/metrics", "/config", "/policy", "/readyz", "/livez"] {
            out.push_str(&self.admin(page).await.text());
        }
        out
    }
}

fn start_process(dir: &Path) -> Process {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    command.arg("serve").arg("--config").arg(dir.join("config.yaml"));
    Process::start("mcp-authz", dir, command)
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("a file in a folder");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .expect("the temporary folder is writable");
}

fn write_config(dir: &Path, settings: &Settings, listener: &Authorizer, admin: SocketAddr) {
    let grpc = match listener {
        Authorizer::Tcp(address) => format!("tcp://{address}"),
        Authorizer::Unix(path) => format!("unix://{}", path.display()),
    };
    let mut config = format!("listen:\n  grpc: [\"{grpc}\"]\n  admin: \"{admin}\"\n{}", settings.config);
    if !config.contains("\nenvoy:") {
        config.push_str("\nenvoy: {response_phase: true}\n");
    }
    if !config.contains("\nledger:") {
        config.push_str("\nledger: {embedded: {folder: ./counters}}\n");
    }
    write(&dir.join("config.yaml"), &config);
    write(&dir.join("servers.yaml"), &SERVERS.replace("@ALPHA@", &settings.alpha));
    write(&dir.join("credentials/alpha/token"), ALPHA_SECRET);
    write(&dir.join("credentials/beta/key"), BETA_SECRET);
    for (file, text) in &settings.policies {
        write(&dir.join("policies").join(file), text);
    }
    write_grants(dir, &settings.grants);
}

fn write_grants(dir: &Path, grants: &[Grant]) {
    let mut text = String::from("grants:\n");
    for grant in grants {
        let digest = sha256(&grant.token());
        // Writing to a String cannot fail.
        writeln!(text, "- {{label: {}, sha256: {digest}, {}}}", grant.label, grant.settings).expect("memory");
    }
    write(&dir.join("grants/test.yaml"), &text);
}

/// The URL in every challenge of server `alpha`.
pub(crate) const METADATA: &str = "https://mcp.test/.well-known/oauth-protected-resource/mcp";

const SERVERS: &str = r#"servers:
  alpha:
    credential: {kind: header, name: authorization, format: "Bearer {secret}", secret: alpha/token}
    resource_metadata: "https://mcp.test/.well-known/oauth-protected-resource/mcp"
@ALPHA@
  beta:
    credential: {kind: header, name: x-api-key, format: "{secret}", secret: beta/key}
"#;
