//! `mcp-authz grant`: makes, lists and revokes grants in files that people also edit by hand.

mod edit;

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mcp_authz_core::{
    document::{Defect, Format},
    grant::{GROUPS_MAX, GrantsFiles, GrantsReader, TOKEN_PREFIX, TokenDigest, is_label, parse_time},
    server::{NAME_RULE, is_name},
    text::is_unsafe,
};

use crate::{
    clock::{Clock as _, SystemClock},
    command::USAGE,
    files::{self, DOCUMENT_BYTES_MAX, Folder},
};

/// More than a grant takes in its file.
const ENTRY_BYTES_MAX: usize = 8_192;
const DAY_MS: u64 = 86_400_000;

/// Make, list and revoke grants.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz grant new --label triage-bot --server everything --policy triage --expires 90d --file grants/bots.yaml
  mcp-authz grant list --dir grants
  mcp-authz grant revoke --label triage-bot --dir grants

A running server takes a change at its next reload (SIGHUP).

Exit status: 0 done, 64 bad usage, or a file that cannot be read, written or understood.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the grants of a folder; digests are not shown.
    #[command(after_help = "Example:\n  mcp-authz grant list --dir grants")]
    List(ListArgs),
    /// Make a grant; the token goes to standard output, once, and is stored nowhere.
    #[command(after_help = "Example:
  mcp-authz grant new --label triage-bot --server everything --expires 90d --file grants/bots.yaml > token

The file is made if it does not exist. In it stands only the SHA-256 of the token.")]
    New(NewArgs),
    /// Revoke a grant; the rest of its file stays as it is.
    #[command(after_help = "Example:\n  mcp-authz grant revoke --label triage-bot --dir grants")]
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Unique name of the grant.
    #[arg(long)]
    label: String,
    /// A server that may be called; may be given several times.
    #[arg(long = "server", required = true, value_name = "NAME")]
    servers: Vec<String>,
    /// The policy to judge calls by; without it the server's default holds.
    #[arg(long, value_name = "ID")]
    policy: Option<String>,
    /// Who calls, for audit records; `grant:<label>` without it.
    #[arg(long)]
    subject: Option<String>,
    /// A group of the subject, which limits of `scope: group` count by; may be given several times.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// When the grant ends: a number with m, h, d or w from now, or an RFC 3339 time.
    #[arg(long, value_name = "90d|TIME")]
    expires: Option<String>,
    /// The grants file to add to.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The folder of grant files.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// Name of the grant.
    #[arg(long)]
    label: String,
    /// The folder of grant files.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum GrantError {
    #[error("{} defects stand in the way:\n{}", .0.len(), Lines(.0))]
    Defects(Vec<Defect>),
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    #[error("{0}")]
    Usage(String),
    #[error("output is closed")]
    Write(#[from] io::Error),
}

impl GrantError {
    fn file(path: &Path, problem: impl fmt::Display) -> Self {
        GrantError::File { path: path.display().to_string(), problem: problem.to_string() }
    }
}

struct Lines<'a>(&'a [Defect]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(n, defect)| write!(f, "{}  {defect}", if n == 0 { "" } else { "\n" }))
    }
}

/// Runs the command.
#[must_use]
pub fn run(args: Args, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let now_ms = SystemClock::new().now_ms();
    let done = match args.action {
        Action::List(args) => list(&args, now_ms, out),
        Action::New(args) => random_token().and_then(|token| new(&args, &token, now_ms, out, err)),
        Action::Revoke(args) => revoke(&args, err),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is gone; the status still says it.
            let _told = writeln!(err, "mcp-authz: {error}").is_ok();
            ExitCode::from(USAGE)
        }
    }
}

fn random_token() -> Result<String, GrantError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| GrantError::Usage(format!("no randomness: {error}")))?;
    Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn new(args: &NewArgs, token: &str, now_ms: u64, out: &mut impl Write, err: &mut impl Write) -> Result<(), GrantError> {
    let expires = check_new(args, now_ms)?;
    let path = &args.file;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let all = read_folder(folder)?;
    if let Some(site) = all.labels.get(args.label.as_str()) {
        let message = format!("the label `{}` is taken by the grant at {}", args.label, site.file_and_line());
        return Err(GrantError::Usage(message));
    }
    let old = match files::read(path, DOCUMENT_BYTES_MAX) {
        Ok(bytes) => Some(String::from_utf8(bytes).map_err(|_| GrantError::file(path, "is not UTF-8 text"))?),
        Err(files::FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(GrantError::file(path, error)),
    };
    let entry = edit::Entry {
        label: &args.label,
        sha256: &TokenDigest::of(token.as_bytes()).hex(),
        servers: &args.servers,
        policy: args.policy.as_deref(),
        subject: args.subject.as_deref(),
        groups: &args.groups,
        expires: expires.as_deref(),
    };
    let room = usize::try_from(DOCUMENT_BYTES_MAX).unwrap_or(usize::MAX).saturating_sub(ENTRY_BYTES_MAX);
    if old.as_ref().is_some_and(|old| old.len() > room) {
        return Err(GrantError::file(path, "is full: name another --file"));
    }
    let text = edit::append(old.as_deref().unwrap_or(""), &entry).ok_or_else(|| {
        GrantError::file(path, "its grants are not written as a list of `- ` lines: name another --file")
    })?;
    replace(path, old.as_deref(), &text)?;
    // The token comes last: whoever has it has a grant that is stored.
    writeln!(out, "{token}")?;
    out.flush()?;
    let ends = expires.map_or_else(|| "never expires".to_owned(), |time| format!("expires {time}"));
    let known = format!("grant `{}` for {} is in {}; it {ends}", args.label, args.servers.join(", "), path.display());
    writeln!(
        err,
        "{known}\nthe token above is shown once and stored nowhere; a running server takes it at its next reload"
    )?;
    Ok(())
}

/// Refuses what the grants reader would refuse; gives the end of the grant in RFC 3339.
fn check_new(args: &NewArgs, now_ms: u64) -> Result<Option<String>, GrantError> {
    let usage = |problem: String| Err(GrantError::Usage(problem));
    let file = args.file.to_string_lossy();
    if Format::of_name(&file) != Some(Format::Yaml) {
        return usage("--file must end in .yaml or .yml".into());
    }
    if args.file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
        return usage("--file must not start with a dot: such files are not read".into());
    }
    if !is_label(&args.label) {
        return usage("--label takes 1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`, `@`, `:`, `/`, `+`".into());
    }
    if args.servers.iter().chain(&args.policy).any(|name| !is_name(name)) {
        return usage(format!("--server and --policy take {NAME_RULE}"));
    }
    if args.servers.iter().collect::<BTreeSet<_>>().len() != args.servers.len() {
        return usage("--server names one server twice".into());
    }
    if !args.groups.iter().all(|group| is_label(group)) {
        return usage("--group takes 1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`, `@`, `:`, `/`, `+`".into());
    }
    if args.groups.iter().collect::<BTreeSet<_>>().len() != args.groups.len() {
        return usage("--group names one group twice".into());
    }
    if args.groups.len() > GROUPS_MAX {
        return usage(format!("--group may be given at most {GROUPS_MAX} times"));
    }
    let odd =
        |text: &String| text.is_empty() || text.len() > 256 || text.trim() != *text || text.chars().any(is_unsafe);
    if args.subject.as_ref().is_some_and(odd) {
        return usage("--subject takes 1 to 256 bytes without control characters or spaces at its ends".into());
    }
    match &args.expires {
        None => Ok(None),
        Some(text) => match end_of(text, now_ms) {
            Some((end_ms, end)) if end_ms > now_ms => Ok(Some(end)),
            Some(_) => usage("--expires is in the past".into()),
            None => usage(
                "--expires takes a number with m, h, d or w, such as 90d, or a time such as 2027-01-01T00:00:00Z"
                    .into(),
            ),
        },
    }
}

/// The end that is meant, in Unix milliseconds and in RFC 3339.
fn end_of(text: &str, now_ms: u64) -> Option<(u64, String)> {
    if let Some(end_ms) = parse_time(text) {
        return Some((end_ms, text.to_owned()));
    }
    let (number, unit_ms) = [("m", 60_000), ("h", 3_600_000), ("d", DAY_MS), ("w", DAY_MS.saturating_mul(7))]
        .into_iter()
        .find_map(|(unit, ms)| text.strip_suffix(unit).map(|number| (number, ms)))?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let end_ms = now_ms.checked_add(number.parse::<u64>().ok()?.checked_mul(unit_ms)?)?;
    // Whole seconds, rounded down: a grant never lives longer than was asked for.
    let time = jiff::Timestamp::from_second(i64::try_from(end_ms / 1_000).ok()?).ok()?;
    let text = time.to_string();
    parse_time(&text).map(|end_ms| (end_ms, text))
}

fn list(args: &ListArgs, now_ms: u64, out: &mut impl Write) -> Result<(), GrantError> {
    let files = read_folder(&args.dir)?;
    let mut rows = vec![["LABEL", "SERVERS", "POLICY", "EXPIRES", "STATE"].map(str::to_owned)];
    for label in files.labels.keys() {
        let Some(grant) = files.grants.iter().find(|grant| grant.label() == label) else { continue };
        let servers: Vec<&str> = grant.servers().iter().map(AsRef::as_ref).collect();
        let time = |ms: u64| i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        rows.push([
            label.to_string(),
            servers.join(","),
            grant.policy().map_or_else(|| "(server's)".to_owned(), ToString::to_string),
            grant
                .expires_ms()
                .map_or_else(|| "never".to_owned(), |ms| time(ms).map_or("?".to_owned(), |t| t.to_string())),
            grant.state(now_ms).name().to_owned(),
        ]);
    }
    let mut widths = [0usize; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn revoke(args: &RevokeArgs, err: &mut impl Write) -> Result<(), GrantError> {
    let folder = Folder::list(&args.dir).map_err(|error| GrantError::file(&args.dir, error))?;
    // Other files may have defects: revoking is urgent, and only the file with the grant must be understood.
    for name in folder.documents() {
        let path = args.dir.join(name);
        let bytes = files::read(&path, DOCUMENT_BYTES_MAX).map_err(|error| GrantError::file(&path, error))?;
        let Some(format) = Format::of_name(name) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        match edit::revoke(&text, format, &args.label) {
            edit::Revoked::Absent => {}
            edit::Revoked::Already => {
                writeln!(err, "grant `{}` in {} is revoked already", args.label, path.display())?;
                return Ok(());
            }
            edit::Revoked::Now(new) => {
                replace(&path, Some(&text), &new)?;
                let label = &args.label;
                writeln!(
                    err,
                    "grant `{label}` in {} is revoked; a running server refuses it after its next reload",
                    path.display()
                )?;
                return Ok(());
            }
            edit::Revoked::Unclear => {
                return Err(GrantError::file(&path, "cannot be edited safely: set `revoked: true` there by hand"));
            }
        }
    }
    // A file that cannot be parsed might hold the grant, so its defects are told.
    read_folder(&args.dir)?;
    Err(GrantError::Usage(format!("there is no grant `{}` in {}", args.label, args.dir.display())))
}

/// Reads all grants of a folder; one defect anywhere stops.
fn read_folder(path: &Path) -> Result<GrantsFiles, GrantError> {
    let folder = Folder::list(path).map_err(|error| GrantError::file(path, error))?;
    let mut reader = GrantsReader::default();
    for name in folder.documents() {
        let file = folder.path_of(name);
        let bytes = files::read(&file, DOCUMENT_BYTES_MAX).map_err(|error| GrantError::file(&file, error))?;
        let Some(format) = Format::of_name(name) else { continue };
        reader.add(&folder.display_of(name), &bytes, format);
    }
    let files = reader.finish();
    if files.defects.is_empty() { Ok(files) } else { Err(GrantError::Defects(files.defects)) }
}

/// Puts a new text in the place of a file, all at once, readable by its owner only.
fn replace(path: &Path, old: Option<&str>, new: &str) -> Result<(), GrantError> {
    let fail = |error: io::Error| GrantError::file(path, format!("cannot be written: {error}"));
    // Through links, so that the link stays and its target changes.
    let target = if old.is_some() { path.canonicalize().map_err(fail)? } else { path.to_owned() };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // It starts with a dot, so no reader of the folder takes it for a document.
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_new(&temporary, new).and_then(|()| {
        let now = fs::read_to_string(&target).ok();
        if now.as_deref() != old {
            return Err(io::Error::other("somebody else changed it meanwhile; try again"));
        }
        fs::rename(&temporary, &target)
    });
    if let Err(error) = written {
        let _cleaned = fs::remove_file(&temporary).is_ok();
        return Err(fail(error));
    }
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
