//! What the commands for operators of a running mcp-authz share: which process, its token, asking it, and confirmations.

use std::{
    io::{self, BufRead, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use secrecy::zeroize::Zeroizing;
use serde_json::Value;

use crate::{
    admin::token::{self, TokenError},
    command::{FAILED, USAGE},
    config::Config,
    outbound::{Client, OutboundError, Protocol, TlsFiles},
};

/// For one question and its answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which process to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The settings of the running mcp-authz, which name its admin port and its token file.
    #[arg(long, value_name = "FILE", env = "MCP_AUTHZ_CONFIG", default_value = "/etc/mcp-authz/config.yaml")]
    config: PathBuf,
    /// Address of the admin port, instead of the one in the settings.
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// File with the admin token, instead of the one in the settings.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    Json,
    Text,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum OperatorError {
    #[error("{address} cannot be asked: {source}; is mcp-authz running there?")]
    Unreachable { address: SocketAddr, source: OutboundError },
    #[error("not confirmed, nothing was done")]
    NotConfirmed,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("the answer is none of mcp-authz: is this its admin port?")]
    Unreadable,
    #[error("{0}")]
    Usage(String),
    #[error("output is closed")]
    Write(#[from] io::Error),
}

impl OperatorError {
    pub(super) const fn status(&self) -> u8 {
        match self {
            OperatorError::NotConfirmed | OperatorError::Refused(_) => FAILED,
            OperatorError::Unreachable { .. }
            | OperatorError::Token(_)
            | OperatorError::Unreadable
            | OperatorError::Usage(_)
            | OperatorError::Write(_) => USAGE,
        }
    }
}

/// Says what went wrong, if anything did; the status of the process.
pub(super) fn ended(done: Result<(), OperatorError>, err: &mut impl Write) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is gone; the status still says it.
            let _told = writeln!(err, "mcp-authz: {error}").is_ok();
            ExitCode::from(error.status())
        }
    }
}

pub(super) fn confirm(question: &str, input: &mut impl BufRead, err: &mut impl Write) -> Result<(), OperatorError> {
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut line = String::new();
    input.read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(OperatorError::NotConfirmed) }
}

pub(super) fn rows<'a>(page: &'a Value, name: &str) -> Result<&'a [Value], OperatorError> {
    page.get(name).and_then(Value::as_array).map(Vec::as_slice).ok_or(OperatorError::Unreadable)
}

/// A running process and the token for it.
pub(super) struct Admin {
    address: SocketAddr,
    token: Zeroizing<String>,
}

impl Admin {
    pub(super) fn of(target: &Target) -> Result<Self, OperatorError> {
        let (address, file) = match (target.admin, &target.token_file) {
            (Some(address), Some(file)) => (address, file.clone()),
            (address, file) => {
                let config = Config::load(&target.config).map_err(|defects| {
                    let lines: Vec<String> = defects.iter().map(ToString::to_string).collect();
                    OperatorError::Usage(format!("the settings cannot be read:\n  {}", lines.join("\n  ")))
                })?;
                let file = file.clone().or(config.admin.token_file).ok_or_else(|| {
                    let text =
                        "has no `admin.token_file`, so the running mcp-authz answers nobody about quotas and pins";
                    OperatorError::Usage(format!("{} {text}", target.config.display()))
                })?;
                (address.unwrap_or(config.listen.admin), file)
            }
        };
        if address.port() == 0 {
            return Err(OperatorError::Usage(
                "the settings let the system pick the admin port: give it as --admin".into(),
            ));
        }
        // Listening on every address is no address to connect to.
        let ip = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Ok(Self { address: SocketAddr::new(ip, address.port()), token: token::read(&file)? })
    }

    /// Asks a page for what is named.
    pub(super) fn get(&self, page: &str, wanted: &[(&str, Option<&str>)]) -> Result<Value, OperatorError> {
        let given = wanted.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
        let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        self.ask(Method::GET, &format!("{page}?{}", query.join("&")), Bytes::new())
    }

    /// Has a page do something.
    pub(super) fn post(&self, page: &str, body: &Value) -> Result<Value, OperatorError> {
        self.ask(Method::POST, page, Bytes::from(body.to_string()))
    }

    /// One question over plain HTTP, with the token; blocks.
    fn ask(&self, method: Method, page: &str, body: Bytes) -> Result<Value, OperatorError> {
        let text = Zeroizing::new(format!("Bearer {}", self.token.as_str()));
        let mut bearer = HeaderValue::from_str(&text)
            .map_err(|_| OperatorError::Usage("the token cannot be sent in a header".into()))?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{page}", self.address))
            .header(header::AUTHORIZATION, bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|_| OperatorError::Usage("the names cannot be sent".into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async {
            Client::new(Protocol::Http1, &TlsFiles::default())?.send(request, PATIENCE, ANSWER_BYTES_MAX).await
        });
        let answer = answer.map_err(|source| OperatorError::Unreachable { address: self.address, source })?;
        let body = std::str::from_utf8(&answer.body).map_err(|_| OperatorError::Unreadable)?;
        if answer.status.as_u16() == 200 {
            serde_json::from_str(body).map_err(|_| OperatorError::Unreadable)
        } else {
            Err(OperatorError::Refused(body.trim().chars().filter(|c| !c.is_control()).take(500).collect()))
        }
    }
}

/// Percent-encodes a value of a query.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives_a_query() {
        assert_eq!(encode("a+b c/ä&=%"), "a%2Bb%20c%2F%C3%A4%26%3D%25");
    }
}
