//! `mcp-authz verify`: whether running processes serve exactly the files of a working tree.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use mcp_authz_core::{
    decision::PolicyDigest,
    document::{Defect, Format},
    text::spelled_out,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{FAILED, UNAVAILABLE, USAGE};
use crate::{
    files::{self, DOCUMENT_BYTES_MAX, FILES_MAX, FileError},
    outbound::{Client, Protocol, TlsFiles},
    snapshot::{FileKind, load::is_case_file},
};

/// For one page of one process.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks with `--wait`.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a page: ten thousand files and policies take a third of it.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Nested folders that are looked into.
const FOLDER_DEPTH_MAX: u32 = 16;
/// Defects of a refused reload that are shown; `/config` has all.
const DEFECTS_MAX: usize = 5;

/// Compare what running processes serve with files, digest by digest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz verify --live http://127.0.0.1:9192 --path policies/
  mcp-authz verify --live 10.0.0.7:9192 --live 10.0.0.8:9192 --path policies/ --servers servers.yaml --wait 120

A file is known by its name, wherever it lies below the folder: a ConfigMap knows no folders either.
Files of test cases (*.test.json, *.test.yaml, *.test.yml) are not served, and not compared.

Exit status: 0 the same, 1 not the same, 64 a file or an argument cannot be used, 69 a process cannot be asked.")]
pub struct Args {
    /// Admin port of a process, as URL or HOST:PORT; once for each replica.
    #[arg(long, required = true, value_name = "URL")]
    live: Vec<String>,
    /// Folder of policies, with those below it.
    #[arg(long, value_name = "DIR")]
    path: PathBuf,
    /// Servers file.
    #[arg(long, value_name = "FILE")]
    servers: Option<PathBuf>,
    /// Folder of grant files.
    #[arg(long, value_name = "DIR")]
    grants: Option<PathBuf>,
    /// PEM file with the authorities of `https://`; those of the system otherwise.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Look again for so many seconds until all are the same: a ConfigMap takes a minute or two to reach a pod.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=3_600))]
    wait: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Digests by the path that the admin port shows.
type Digests = BTreeMap<String, String>;

/// Runs the command.
#[must_use]
pub fn run(args: &Args, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let tree = match tree(args) {
        Ok(tree) => tree,
        Err(defects) => {
            return told(defects.iter().try_for_each(|defect| writeln!(err, "mcp-authz: {defect}")), USAGE);
        }
    };
    let client = Client::new(Protocol::Http1, &TlsFiles { ca: args.ca.clone(), identity: None });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (client, runtime) = match (client, runtime) {
        (Ok(client), Ok(runtime)) => (client, runtime),
        (Err(error), _) => return told(writeln!(err, "mcp-authz: {error}"), USAGE),
        (_, Err(error)) => return told(writeln!(err, "mcp-authz: {error}"), UNAVAILABLE),
    };
    let replicas = runtime.block_on(look(&client, args, &tree));
    let differs = |replica: &Replica| replica.outcome.is_ok() && !replica.is_same();
    let code = if replicas.iter().any(differs) {
        FAILED
    } else if replicas.iter().all(Replica::is_same) {
        0
    } else {
        UNAVAILABLE
    };
    let printed = if args.json { print_json(&replicas, out) } else { print(&replicas, tree.digests.len(), out) };
    told(printed, code)
}

/// A reader that hangs up has seen enough; the status is for whoever still looks.
fn told(_: io::Result<()>, code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// What the files say, and of which kinds there are any.
struct Tree {
    digests: Digests,
    kinds: Vec<FileKind>,
}

fn tree(args: &Args) -> Result<Tree, Vec<Defect>> {
    let mut tree = Tree { digests: Digests::new(), kinds: vec![FileKind::Policy] };
    let mut defects = Vec::new();
    let mut seen = BTreeMap::new();
    tree.folder(FileKind::Policy, &args.path, 0, &mut seen, &mut defects);
    if let Some(file) = &args.servers {
        tree.kinds.push(FileKind::Servers);
        tree.file(FileKind::Servers, "", file, &mut defects);
    }
    if let Some(folder) = &args.grants {
        tree.kinds.push(FileKind::Grants);
        tree.folder(FileKind::Grants, folder, 0, &mut BTreeMap::new(), &mut defects);
    }
    if tree.digests.len() > FILES_MAX {
        defects.push(Defect::of_file(&args.path.display().to_string(), FileError::TooMany(FILES_MAX).to_string()));
    }
    if defects.is_empty() { Ok(tree) } else { Err(defects) }
}

impl Tree {
    fn folder(
        &mut self,
        kind: FileKind,
        folder: &Path,
        depth: u32,
        seen: &mut BTreeMap<String, PathBuf>,
        defects: &mut Vec<Defect>,
    ) {
        let name = folder.display().to_string();
        let mut refuse = |problem: String| defects.push(Defect::of_file(&name, problem));
        if depth > FOLDER_DEPTH_MAX {
            return refuse("folders are nested too deep".into());
        }
        let entries = match fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return refuse(FileError::Io(error).to_string()),
        };
        let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
        paths.sort_unstable();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Hidden: the versions of a mount, and what is Git's own.
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                self.folder(kind, &path, depth.saturating_add(1), seen, defects);
            } else if Format::of_name(&name).is_some() && !(kind == FileKind::Policy && is_case_file(&name)) {
                if let Some(first) = seen.insert(name.clone(), path.clone()) {
                    let message = format!("has the name of {}, and a served folder knows no folders", first.display());
                    defects.push(Defect::of_file(&path.display().to_string(), message));
                }
                self.file(kind, &name, &path, defects);
            }
        }
    }

    fn file(&mut self, kind: FileKind, name: &str, path: &Path, defects: &mut Vec<Defect>) {
        match files::read(path, DOCUMENT_BYTES_MAX) {
            Ok(bytes) => {
                self.digests.insert(kind.path_of(name), PolicyDigest::of(&bytes).as_str().to_owned());
            }
            Err(error) => defects.push(Defect::of_file(&path.display().to_string(), error.to_string())),
        }
    }
}

/// One process.
struct Replica {
    url: String,
    outcome: Result<Served, String>,
}

/// What it serves.
struct Served {
    revision: String,
    differences: Vec<Difference>,
    /// Why it did not take newer files, if there are any that it did not take.
    defects: Vec<String>,
}

/// A file that is not the same on both sides. At least one of them has it.
struct Difference {
    path: String,
    live: Option<String>,
    here: Option<String>,
}

impl Difference {
    fn word(&self) -> &'static str {
        match (&self.live, &self.here) {
            (Some(_), Some(_)) => "changed",
            (None, _) => "missing",
            (Some(_), None) => "extra",
        }
    }
}

impl Replica {
    fn is_same(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|served| served.differences.is_empty())
    }
}

/// Asks every process, again and again until all are the same or the time is up.
async fn look(client: &Client, args: &Args, tree: &Tree) -> Vec<Replica> {
    let until = Instant::now().checked_add(Duration::from_secs(args.wait));
    loop {
        let mut replicas = Vec::new();
        for url in &args.live {
            let url = base(url);
            replicas.push(Replica { outcome: ask(client, &url, tree).await, url });
        }
        let is_time_up = until.is_none_or(|until| Instant::now() >= until);
        if is_time_up || replicas.iter().all(Replica::is_same) {
            return replicas;
        }
        sleep(AGAIN).await;
    }
}

/// The URL without its page.
fn base(text: &str) -> String {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = url.trim_end_matches('/');
    url.strip_suffix("/policy").unwrap_or(url).to_owned()
}

async fn ask(client: &Client, url: &str, tree: &Tree) -> Result<Served, String> {
    let page = page(client, &format!("{url}/policy")).await?;
    let odd = || format!("{url}/policy is no page of mcp-authz: is this its admin port, and its version the same?");
    let revision = page.get("revision").and_then(Value::as_str).ok_or_else(odd)?.to_owned();
    let live = digests(&page, tree).ok_or_else(odd)?;
    let differences = compare(&live, &tree.digests);
    let mut served = Served { revision, differences, defects: Vec::new() };
    if !served.differences.is_empty() {
        let page = self::page(client, &format!("{url}/config")).await?;
        let defects = page.get("defects_of_last_reload").and_then(Value::as_array);
        let texts = defects.into_iter().flatten().filter_map(Value::as_str);
        served.defects = texts.take(DEFECTS_MAX).map(str::to_owned).collect();
    }
    Ok(served)
}

async fn page(client: &Client, url: &str) -> Result<Value, String> {
    let request = Request::get(url).body(Bytes::new()).map_err(|error| format!("{url}: {error}"))?;
    let answer = client.send(request, PATIENCE, PAGE_BYTES_MAX).await;
    let answer = answer.map_err(|error| format!("{url} cannot be asked: {error}"))?;
    if answer.status != StatusCode::OK {
        return Err(format!("{url} answers {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|_| format!("{url} does not answer JSON"))
}

/// The digests of a page, of the kinds that are compared.
fn digests(page: &Value, tree: &Tree) -> Option<Digests> {
    let mut digests = Digests::new();
    for file in page.get("files")?.as_array()? {
        let text = |key: &str| file.get(key).and_then(Value::as_str);
        let (path, kind, digest) = (text("path")?, text("kind")?, text("digest")?);
        if tree.kinds.iter().any(|known| known.name() == kind) {
            digests.insert(path.to_owned(), digest.to_owned());
        }
    }
    Some(digests)
}

fn compare(live: &Digests, here: &Digests) -> Vec<Difference> {
    let mut paths: Vec<&String> = live.keys().chain(here.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let difference =
        |path: &String| Difference { path: path.clone(), live: live.get(path).cloned(), here: here.get(path).cloned() };
    paths.into_iter().map(difference).filter(|found| found.live != found.here).collect()
}

fn print(replicas: &[Replica], files: usize, out: &mut impl Write) -> io::Result<()> {
    for Replica { url, outcome } in replicas {
        let served = match outcome {
            Ok(served) => served,
            Err(error) => {
                writeln!(out, "unknown  {}", spelled_out(error))?;
                continue;
            }
        };
        let word = if served.differences.is_empty() { "same" } else { "differs" };
        writeln!(out, "{word:<8} {url} revision {}", spelled_out(&served.revision))?;
        for found in &served.differences {
            let sides = [("live", &found.live), ("here", &found.here)];
            let digests: Vec<String> =
                sides.iter().filter_map(|(side, digest)| digest.as_ref().map(|d| format!("{side} {d}"))).collect();
            writeln!(out, "  {:<8} {}", found.word(), spelled_out(&format!("{} {}", found.path, digests.join(" "))))?;
        }
        for defect in &served.defects {
            writeln!(out, "  refused  {}", spelled_out(defect))?;
        }
    }
    let same = replicas.iter().filter(|replica| replica.is_same()).count();
    writeln!(out, "{same} of {} processes serve these {files} files", replicas.len())
}

fn print_json(replicas: &[Replica], out: &mut impl Write) -> io::Result<()> {
    let shown = replicas.iter().map(|Replica { url, outcome }| match outcome {
        Err(error) => json!({ "url": url, "error": error }),
        Ok(served) => {
            let differences = served.differences.iter().map(
                |found| json!({ "difference": found.word(), "path": found.path, "live": found.live, "here": found.here }),
            );
            json!({
                "url": url,
                "revision": served.revision,
                "differences": differences.collect::<Value>(),
                "defects_of_last_reload": served.defects,
            })
        }
    });
    let same = replicas.iter().all(Replica::is_same);
    writeln!(out, "{:#}", json!({ "same": same, "processes": shown.collect::<Value>() }))
}

#[cfg(test)]
mod tests;
