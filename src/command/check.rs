//! `mcp-authz check`: every defect of every document, before anything is served.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use mcp_authz_core::{
    document::{Cursor, Defect, Format, Report},
    server::ServersFile,
};

use crate::{
    admin::token,
    command::{FAILED, USAGE},
    config::{Config, Paths, WebhookConfig},
    files::{self, DOCUMENT_BYTES_MAX, Folder},
    snapshot::load::{Inventory, Loader, is_case_file},
};

/// Check configuration, policies, servers and grants; print every defect.
#[derive(Debug, clap::Args)]
#[command(after_help = "What a path is, is told by its content:
  a settings file (`listen`), or a folder with a config.yaml: everything that it names, with all references
  settings of the admission webhook alone (`webhook`, no `listen`)
  a policy, a servers file, a grants file, or a folder of such documents: these by themselves

Examples:
  mcp-authz check /etc/mcp-authz/config.yaml
  mcp-authz check policies/ servers.yaml grants/

Exit status: 0 no defect (there may be warnings), 1 a defect, 64 a path cannot be read.")]
pub struct Args {
    /// Files or folders.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs the command.
#[must_use]
pub fn run(args: Args, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let Args { paths } = args;
    // A reader that hangs up has seen enough; the status is for whoever still looks.
    check(&paths, out, err).unwrap_or(ExitCode::from(USAGE))
}

fn check(paths: &[PathBuf], out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitCode> {
    let (mut defects, mut warnings, mut unreadable) = (0usize, 0usize, 0usize);
    for path in paths {
        match check_path(path) {
            Ok(checked) => {
                for defect in &checked.defects {
                    writeln!(out, "error: {defect}")?;
                }
                for warning in &checked.warnings {
                    writeln!(out, "warning: {warning}")?;
                }
                writeln!(out, "checked {}: {}", path.display(), checked.summary())?;
                defects = defects.saturating_add(checked.defects.len());
                warnings = warnings.saturating_add(checked.warnings.len());
            }
            Err(problem) => {
                writeln!(err, "mcp-authz: {problem}")?;
                unreadable = unreadable.saturating_add(1);
            }
        }
    }
    if unreadable < paths.len() {
        writeln!(out, "{}, {}", count(defects, "defect"), count(warnings, "warning"))?;
    }
    Ok(if unreadable > 0 {
        ExitCode::from(USAGE)
    } else if defects > 0 {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// What was found at one path.
struct Checked {
    kind: &'static str,
    inventory: Inventory,
    defects: Vec<Defect>,
    warnings: Vec<Defect>,
}

impl Checked {
    fn summary(&self) -> String {
        let Inventory { servers, policies, grants } = self.inventory;
        let parts: Vec<String> = [(servers, "server"), (policies, "policy"), (grants, "grant")]
            .into_iter()
            .filter_map(|(found, noun)| found.map(|found| count(found, noun)))
            .collect();
        let parts = if parts.is_empty() { String::new() } else { format!(" with {}", parts.join(", ")) };
        format!(
            "{}{parts}; {}, {}",
            self.kind,
            count(self.defects.len(), "defect"),
            count(self.warnings.len(), "warning")
        )
    }
}

fn count(number: usize, noun: &str) -> String {
    match (number, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "policy") => format!("{number} policies"),
        _ => format!("{number} {noun}s"),
    }
}

fn check_path(path: &Path) -> Result<Checked, Defect> {
    let unreadable = |problem: String| Defect::of_file(&path.display().to_string(), problem);
    let metadata = fs::metadata(path).map_err(|error| unreadable(files::FileError::Io(error).to_string()))?;
    if metadata.is_dir() {
        return check_folder(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if is_case_file(&name) {
        return Err(unreadable("holds test cases: run `mcp-authz test`".into()));
    }
    let bytes = files::read(path, DOCUMENT_BYTES_MAX).map_err(|error| unreadable(error.to_string()))?;
    let Some(format) = Format::of_name(&name) else {
        return Err(unreadable("is no document: its name ends in neither .yaml, .yml nor .json".into()));
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(match Kind::of(&name, folder, &bytes, format) {
        Kind::Config => check_config(path),
        Kind::Webhook => check_webhook(path),
        Kind::Grants => {
            let mut loader = Loader::default();
            let grants = loader.grant_file(path);
            loader.into_checked("a grants file", Inventory { grants: Some(grants), ..Inventory::default() })
        }
        Kind::Policy => {
            let mut loader = Loader::default();
            let policies = usize::from(loader.policy_file(path));
            loader.into_checked("a policy file", Inventory { policies: Some(policies), ..Inventory::default() })
        }
        Kind::Servers => {
            let mut loader = Loader::default();
            let servers = loader.servers(path).map_or(0, |file| names(&file));
            loader.into_checked("a servers file", Inventory { servers: Some(servers), ..Inventory::default() })
        }
    })
}

fn names(file: &ServersFile) -> usize {
    file.names.as_ref().map_or(0, Vec::len)
}

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Config,
    Grants,
    Policy,
    Servers,
    Webhook,
}

impl Kind {
    /// Content tells; where it does not, the name of the file and of its folder do; else it is taken for a policy.
    fn of(name: &str, folder: &Path, bytes: &[u8], format: Format) -> Self {
        let report = Report::read(name, bytes, format);
        let has = |root: &Cursor<'_>, keys: &[&str]| keys.iter().any(|key| root.has_key(key));
        if let Some(root) = report.root() {
            if has(&root, &["listen", "paths", "danger_plaintext_tcp"]) {
                return Kind::Config;
            }
            if has(&root, &["webhook"]) {
                return Kind::Webhook;
            }
            if has(&root, &["tools", "default", "hide", "all_tools", "version"]) {
                return Kind::Policy;
            }
            if has(&root, &["servers"]) {
                return Kind::Servers;
            }
            if has(&root, &["grants"]) {
                return Kind::Grants;
            }
        }
        let stem = name.split('.').next().unwrap_or_default();
        let folder = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match (stem, folder.as_str()) {
            ("config", _) => Kind::Config,
            ("servers", _) => Kind::Servers,
            ("grants", _) | (_, "grants") => Kind::Grants,
            _ => Kind::Policy,
        }
    }
}

fn check_config(path: &Path) -> Checked {
    let kind = "settings and all that they name";
    match Config::load(path) {
        Ok(config) => {
            let mut checked = check_paths(kind, &config.paths);
            let mut warnings = config.warnings;
            warnings.append(&mut checked.warnings);
            if let Some(file) = &config.admin.token_file {
                check_token(file, &mut checked.defects, &mut warnings);
            }
            Checked { warnings, ..checked }
        }
        Err(mut defects) => {
            // The documents are checked all the same, if the settings at least say where they are.
            let mut checked = match Config::load_paths(path) {
                Some(paths) => check_paths(kind, &paths),
                None => Loader::default().into_checked("settings only", Inventory::default()),
            };
            defects.append(&mut checked.defects);
            Checked { defects, ..checked }
        }
    }
}

/// Settings of a process that is nothing but the admission webhook.
fn check_webhook(path: &Path) -> Checked {
    let (defects, warnings) = match WebhookConfig::load(path) {
        Ok(config) => (Vec::new(), config.warnings),
        Err(defects) => (defects, Vec::new()),
    };
    Checked { kind: "settings of a webhook", inventory: Inventory::default(), defects, warnings }
}

fn check_token(file: &Path, defects: &mut Vec<Defect>, warnings: &mut Vec<Defect>) {
    let name = file.display().to_string();
    if let Err(error) = token::read(file) {
        defects.push(Defect::of_file(&name, error.problem.to_string()));
    } else if files::is_shared(file) {
        let warning = Defect::of_file(&name, "can be read by others than its owner");
        warnings.push(warning.with_hint("chmod 600: whoever has it can reset quotas"));
    }
}

fn check_paths(kind: &'static str, paths: &Paths) -> Checked {
    let mut loader = Loader::default();
    let inventory = loader.check(paths);
    loader.into_checked(kind, inventory)
}

fn check_folder(path: &Path) -> Result<Checked, Defect> {
    let display = path.display().to_string();
    let folder = Folder::list(path).map_err(|error| Defect::of_file(&display, error.to_string()))?;
    for name in ["config.yaml", "config.yml", "config.json"] {
        if folder.documents().iter().any(|document| document == name) {
            return check_path(&path.join(name));
        }
    }
    if path.join("servers.yaml").is_file() && path.join("policies").is_dir() {
        return Ok(check_paths("all documents", &Paths::below(path)));
    }
    let names: Vec<&String> = folder.documents().iter().filter(|name| !is_case_file(name)).collect();
    if names.is_empty() {
        let empty = Defect::of_file(&display, "holds no document to check");
        return Err(empty.with_hint("documents end in .yaml, .yml or .json; folders in it are not looked into"));
    }
    // One kind for the whole folder, so that ids, labels and tokens are compared between its files.
    let kind_of = |name: &String| {
        let bytes = files::read(&folder.path_of(name), DOCUMENT_BYTES_MAX).unwrap_or_default();
        let format = Format::of_name(name).unwrap_or(Format::Yaml);
        Kind::of(name, path, &bytes, format)
    };
    let kinds: Vec<Kind> = names.iter().map(|name| kind_of(name)).collect();
    if kinds.iter().all(|kind| *kind == Kind::Grants) {
        let mut loader = Loader::default();
        let grants = loader.grants(path).grants.len();
        return Ok(loader.into_checked("grants", Inventory { grants: Some(grants), ..Inventory::default() }));
    }
    if kinds.iter().all(|kind| *kind == Kind::Policy) {
        let mut loader = Loader::default();
        let policies = loader.policies(path).len();
        return Ok(loader.into_checked("policies", Inventory { policies: Some(policies), ..Inventory::default() }));
    }
    let mut all = Checked {
        kind: "documents of several kinds",
        inventory: Inventory::default(),
        defects: Vec::new(),
        warnings: Vec::new(),
    };
    for name in names {
        match check_path(&path.join(name)) {
            Ok(mut checked) => {
                all.inventory.add(checked.inventory);
                all.defects.append(&mut checked.defects);
                all.warnings.append(&mut checked.warnings);
            }
            Err(problem) => all.defects.push(problem),
        }
    }
    Ok(all)
}

impl Loader<'_> {
    fn into_checked(self, kind: &'static str, inventory: Inventory) -> Checked {
        let (defects, warnings) = self.into_findings();
        Checked { kind, inventory, defects, warnings }
    }
}

#[cfg(test)]
mod tests;
