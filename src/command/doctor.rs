//! `mcp-authz doctor`: asks an Envoy for its configuration, or reads one, and tells which guarantees hold.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use serde_json::{Value, json};

use crate::{
    command::{FAILED, USAGE},
    config::Config,
    doctor::{self, Document, Expect, Finding, ReadError, Verdict, Version},
    files::{self, FileError},
    outbound::{Client, OutboundError, Protocol, TlsFiles},
    snapshot::load::Loader,
};

/// Bytes of one answer of Envoy, and of one file.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time for one answer of Envoy.
const PATIENCE: Duration = Duration::from_secs(30);
/// Exit status where nothing is broken, and something could not be told.
const UNKNOWN: u8 = 2;

/// See whether an Envoy does what mcp-authz relies on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz doctor --envoy http://127.0.0.1:9901 --config /etc/mcp-authz/config.yaml
  mcp-authz doctor --config-dump dump.json
  mcp-authz doctor --recipe deploy/envoy.yaml --envoy-version 1.40.0
  mcp-authz doctor --recipe deploy/istio/mesh.yaml deploy/istio/mcp.yaml

A recipe is a configuration of Envoy, or what is applied to a cluster with Istio or Envoy Gateway. What a mesh makes of it is known
for certain only from the running Envoy. deploy/MESH.md explains every guarantee.

Exit status: 0 all hold; 1 something is broken; 2 nothing is broken, something is unknown; 64 bad usage, or nothing can be read.")]
#[command(group(clap::ArgGroup::new("from").required(true).args(["envoy", "config_dump", "recipe"])))]
pub struct Args {
    /// URL of the admin port of a running Envoy.
    #[arg(long, value_name = "URL")]
    envoy: Option<Uri>,
    /// A saved answer of Envoy's /config_dump?include_eds, and if there is one of /server_info.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    config_dump: Vec<PathBuf>,
    /// A configuration of Envoy, or the files for Istio or for Envoy Gateway.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    recipe: Vec<PathBuf>,
    /// Settings of mcp-authz to compare with; without them, its defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Version of Envoy, where it cannot be asked.
    #[arg(long, value_name = "VERSION")]
    envoy_version: Option<Version>,
    /// A cluster of an MCP server; without any, all that are reached through mcp-authz are taken for one.
    #[arg(long, value_name = "CLUSTER")]
    upstream: Vec<String>,
    /// JSON in place of lines.
    #[arg(long)]
    json: bool,
}

/// Why nothing was judged.
#[derive(Debug, thiserror::Error)]
enum DoctorError {
    #[error("{0}")]
    Config(String),
    #[error("`{}`: {problem}", path.display())]
    File { path: PathBuf, problem: FileError },
    #[error("cannot ask {url}: {problem}; is it Envoy's admin port?")]
    Envoy { url: String, problem: String },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let judged = expect(args).and_then(|expect| Ok(doctor::examine(&documents(args)?, &expect)?));
    // A reader that hangs up has seen enough; the status is for whoever still looks.
    match judged {
        Ok(findings) => {
            let told = if args.json { tell_json(&findings, out) } else { tell(&findings, out) };
            told.map_or(ExitCode::from(USAGE), |()| status(&findings))
        }
        Err(error) => {
            writeln!(err, "mcp-authz: {error}").unwrap_or_default();
            ExitCode::from(USAGE)
        }
    }
}

fn status(findings: &[Finding]) -> ExitCode {
    let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    if has(Verdict::Broken) {
        ExitCode::from(FAILED)
    } else if has(Verdict::Unknown) {
        ExitCode::from(UNKNOWN)
    } else {
        ExitCode::SUCCESS
    }
}

/// What mcp-authz relies on.
fn expect(args: &Args) -> Result<Expect, DoctorError> {
    let mut expect = Expect { version: args.envoy_version, upstreams: args.upstream.clone(), ..Expect::default() };
    let Some(path) = &args.config else { return Ok(expect) };
    let config = Config::load(path).map_err(|defects| {
        let all: Vec<String> = defects.iter().map(ToString::to_string).collect();
        DoctorError::Config(all.join("\n"))
    })?;
    let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    expect.body_bytes_max = number(config.limits.body_bytes_max);
    expect.checks_in_flight_max = number(config.limits.checks_in_flight_max);
    expect.streams_max = number(config.response.streams_max);
    expect.check = config.timeouts.check;
    expect.response_phase = Some(config.envoy.response_phase);
    let mut loader = Loader::default();
    let servers = loader.servers(&config.paths.servers).and_then(|file| file.names);
    // Whoever wants to know what is wrong with it asks `mcp-authz check`.
    expect.servers = servers.map(|names| names.iter().map(ToString::to_string).collect());
    Ok(expect)
}

fn documents(args: &Args) -> Result<Vec<Document>, DoctorError> {
    if let Some(url) = &args.envoy {
        return ask(url);
    }
    let mut documents = Vec::new();
    for path in args.config_dump.iter().chain(&args.recipe) {
        let bytes = read(path)?;
        documents.extend(Document::read(&path.display().to_string(), &bytes)?);
    }
    Ok(documents)
}

fn read(path: &Path) -> Result<Vec<u8>, DoctorError> {
    let bytes_max = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX);
    files::read(path, bytes_max).map_err(|problem| DoctorError::File { path: path.to_owned(), problem })
}

fn ask(url: &Uri) -> Result<Vec<Document>, DoctorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DoctorError::Runtime)?;
    runtime.block_on(async {
        let failed = |problem: OutboundError| DoctorError::Envoy { url: url.to_string(), problem: problem.to_string() };
        let client = Client::new(Protocol::Http1, &TlsFiles::default()).map_err(failed)?;
        let mut documents = Vec::new();
        for page in ["config_dump?include_eds", "server_info"] {
            let url = format!("{}/{page}", url.to_string().trim_end_matches('/'));
            let odd = |problem: String| DoctorError::Envoy { url: url.clone(), problem };
            let request = Request::get(&url).body(Bytes::new()).map_err(|error| odd(error.to_string()))?;
            let answer = client.send(request, PATIENCE, BYTES_MAX).await.map_err(|error| odd(error.to_string()))?;
            if answer.status != StatusCode::OK {
                return Err(odd(format!("status {}", answer.status)));
            }
            documents.extend(Document::read(&url, &answer.body)?);
        }
        Ok(documents)
    })
}

fn tell(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.check.id.len()).max().unwrap_or_default();
    for Finding { check, verdict, place, what } in findings {
        writeln!(out, "{:<7}  {:<width$}  {}", verdict.name(), check.id, check.promise)?;
        if *verdict != Verdict::Holds {
            for (word, text) in [("found", what.as_str()), ("where", place), ("means", check.means), ("fix", check.fix)]
            {
                if !text.is_empty() {
                    writeln!(out, "         {word:<5}  {text}")?;
                }
            }
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (holds, broken, unknown) = (count(Verdict::Holds), count(Verdict::Broken), count(Verdict::Unknown));
    writeln!(out, "{holds} hold, {broken} broken, {unknown} unknown")
}

fn tell_json(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let one = |finding: &Finding| -> Value {
        json!({
            "id": finding.check.id,
            "verdict": finding.verdict.name(),
            "promise": finding.check.promise,
            "found": finding.what,
            "where": finding.place,
            "means": finding.check.means,
            "fix": finding.check.fix,
        })
    };
    let all: Vec<Value> = findings.iter().map(one).collect();
    writeln!(out, "{:#}", json!({"findings": all}))
}
