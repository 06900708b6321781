//! From folders to a snapshot. Every file is read to its end before anything is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use mcp_authz_core::{
    decision::{PolicyDigest, pointer},
    document::{Defect, Format, quoted, suggestion},
    grant::{GrantsFiles, GrantsReader},
    policy::{Compiled, Policy, Source},
    server::{NAME_RULE, Reference, ServersFile, is_name},
};
use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};

use super::{Binding, FileKind, Kept, Loaded, LoadedFile, Snapshot};
use crate::{
    config::Paths,
    credential::{Credential, HeaderNames, SECRET_BYTES_MAX},
    files::{self, DOCUMENT_BYTES_MAX, FileError, Folder, Stamp},
};

/// How often reading starts again when files change under it.
const ATTEMPTS_MAX: u32 = 5;

pub(super) fn load(paths: &Paths, before: Option<&Snapshot>) -> Result<Loaded, Vec<Defect>> {
    for _ in 0..ATTEMPTS_MAX {
        let mut loader = Loader { before, ..Loader::default() };
        let outcome = loader.load(paths);
        // INVARIANT: nothing that was read has changed meanwhile, so all of it was there at one moment.
        if loader.is_steady() {
            return outcome;
        }
    }
    let message = "changes faster than it can be read: write files elsewhere and rename them into place";
    Err(vec![Defect::of_file(&paths.servers.display().to_string(), message)])
}

const RESPONSES_HINT: &str =
    "give Envoy the ext_proc filter of deploy/envoy.yaml, then set `envoy.response_phase: true`";

const SHARED_HINT: &str = "chmod 600, or `defaultMode: 0400` on the volume";

/// A file that was read.
struct Document {
    /// How it is called in messages.
    display: String,
    /// Its name in its folder.
    name: String,
    format: Format,
    bytes: Vec<u8>,
}

/// A file name without its extension.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Whether links out of a folder are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Anywhere,
    Inside,
}

/// Reads files and remembers what it saw of them.
#[derive(Default)]
pub(crate) struct Loader<'s> {
    /// What serves now, if anything does.
    before: Option<&'s Snapshot>,
    /// Whether documents are refused that promise something about responses.
    lacks_responses: bool,
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    defects: Vec<Defect>,
    warnings: Vec<Defect>,
    revision: Sha256,
    fingerprint: Sha256,
    files: Vec<LoadedFile>,
    kept: BTreeMap<String, Kept>,
    /// Bytes that the patterns of all policies so far take.
    pattern_bytes: usize,
}

/// Bytes that the patterns of all policies take together once they are compiled. Whoever may write policies must not be able to take
/// the memory of the process with a few lines of text.
pub(crate) const PATTERN_BYTES_MAX: usize = 64 << 20;

/// Policies by id, and every id in use, also of policies with defects.
pub(crate) struct Policies {
    compiled: BTreeMap<Arc<str>, Arc<Policy>>,
    /// `None` if the folder could not be listed.
    ids: Option<BTreeSet<String>>,
}

impl Policies {
    /// How many have no defect.
    pub(crate) fn len(&self) -> usize {
        self.compiled.len()
    }
}

/// How many of each kind were read; `None` for a kind that was not looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    pub(crate) servers: Option<usize>,
    pub(crate) policies: Option<usize>,
    pub(crate) grants: Option<usize>,
}

impl Inventory {
    /// Adds up kind by kind.
    pub(crate) fn add(&mut self, other: Self) {
        let sum = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        self.servers = sum(self.servers, other.servers);
        self.policies = sum(self.policies, other.policies);
        self.grants = sum(self.grants, other.grants);
    }
}

/// What the files say, before anybody asks whether there are defects.
struct Read {
    servers: Option<ServersFile>,
    policies: Policies,
    grants: GrantsFiles,
    bindings: Vec<Binding>,
}

impl Loader<'_> {
    /// Reads everything and keeps what was found for [`Loader::into_findings`].
    pub(crate) fn check(&mut self, paths: &Paths) -> Inventory {
        let Read { servers, policies, grants, .. } = self.read(paths);
        if let Some(servers) = &servers {
            self.warn_of_dead_ends(servers, &grants);
        }
        Inventory {
            servers: Some(servers.and_then(|servers| servers.names).map_or(0, |names| names.len())),
            policies: Some(policies.len()),
            grants: Some(grants.grants.len()),
        }
    }

    fn read(&mut self, paths: &Paths) -> Read {
        self.lacks_responses = !paths.response_phase;
        let servers = self.servers(&paths.servers);
        let policies = self.policies(&paths.policies);
        let grants = self.grants(&paths.grants);
        if let Some(servers) = &servers {
            self.check_policies(&servers.policies, &policies);
            self.check_servers(&grants.servers, servers);
            self.warn_of_missing_pins(servers, &policies);
            self.refuse_unseen_tools(servers, &paths.servers);
        }
        self.check_policies(&grants.policies, &policies);
        let bindings = match &servers {
            Some(servers) => self.bindings(servers, &policies, &paths.credentials),
            None => Vec::new(),
        };
        Read { servers, policies, grants, bindings }
    }

    fn load(&mut self, paths: &Paths) -> Result<Loaded, Vec<Defect>> {
        let Read { servers, policies, grants, bindings } = self.read(paths);
        if !self.defects.is_empty() {
            return Err(in_order(std::mem::take(&mut self.defects)));
        }
        let Some(servers) = servers else {
            // Whatever made it missing was noted; never serve without it.
            return Err(vec![Defect::of_file(&paths.servers.display().to_string(), "cannot be used")]);
        };
        self.warn_of_dead_ends(&servers, &grants);
        let grants = grants.grants;
        let grant_policies = grants.iter().map(|grant| find(&policies, grant.policy())).collect();
        let labels = grants.iter().map(|grant| (Arc::clone(grant.label()), grant.ordinal())).collect();
        let credential_headers =
            HeaderNames::of(bindings.iter().filter_map(|binding| binding.credential.header_name()));
        let snapshot = Snapshot {
            registry: servers.registry,
            bindings,
            credential_headers,
            policies: policies.compiled,
            grants,
            labels,
            grant_policies,
            files: std::mem::take(&mut self.files),
            kept: std::mem::take(&mut self.kept),
            revision: format!("sha256:{}", hex(&self.revision.clone().finalize())).into(),
            fingerprint: self.fingerprint.clone().finalize().into(),
        };
        Ok(Loaded { snapshot, warnings: in_order(std::mem::take(&mut self.warnings)) })
    }

    /// Everything found: defects, then warnings.
    pub(crate) fn into_findings(self) -> (Vec<Defect>, Vec<Defect>) {
        (in_order(self.defects), in_order(self.warnings))
    }

    fn is_steady(&self) -> bool {
        self.stamps.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }

    /// Reads one file; a file that cannot be read is a defect.
    fn file(&mut self, path: &Path, display: &str, bytes_max: u64) -> Option<Vec<u8>> {
        self.stamps.push((path.to_owned(), Stamp::of(path)));
        match files::read(path, bytes_max) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.defects.push(Defect::of_file(display, error.to_string()));
                None
            }
        }
    }

    /// Lists a folder; one that cannot be listed is a defect.
    fn folder(&mut self, path: &Path) -> Option<Folder> {
        self.stamps.push((path.to_owned(), Stamp::of(path)));
        self.stamps.push((path.join("..data"), Stamp::of(&path.join("..data"))));
        match Folder::list(path) {
            Ok(folder) => Some(folder),
            Err(error) => {
                self.defects.push(Defect::of_file(&path.display().to_string(), error.to_string()));
                None
            }
        }
    }

    /// Reads one document of a folder.
    fn document(&mut self, folder: &Folder, name: &str, links: Links) -> Option<Document> {
        let (path, display) = (folder.path_of(name), folder.display_of(name));
        let format = Format::of_name(name)?;
        if links == Links::Inside
            && let Err(error @ FileError::Outside) = files::check_inside(&path, folder.path())
        {
            self.defects.push(Defect::of_file(&display, error.to_string()));
            return None;
        }
        let bytes = self.file(&path, &display, DOCUMENT_BYTES_MAX)?;
        Some(Document { display, name: name.to_owned(), format, bytes })
    }

    /// Counts a document in the revision. Lengths keep apart what would run together.
    fn revise(&mut self, kind: FileKind, name: &str, bytes: &[u8]) -> PolicyDigest {
        let digest = PolicyDigest::of(bytes);
        self.files.push(LoadedFile { kind, name: name.to_owned(), digest: digest.clone() });
        for part in [kind.name().as_bytes(), name.as_bytes(), bytes] {
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes();
            for digest in [&mut self.revision, &mut self.fingerprint] {
                digest.update(length);
                digest.update(part);
            }
        }
        digest
    }

    pub(crate) fn servers(&mut self, path: &Path) -> Option<ServersFile> {
        let display = path.display().to_string();
        let bytes = self.file(path, &display, DOCUMENT_BYTES_MAX)?;
        self.revise(FileKind::Servers, "", &bytes);
        let format = Format::of_name(&display).unwrap_or(Format::Yaml);
        let mut file = ServersFile::read(&display, &bytes, format);
        self.defects.append(&mut file.defects);
        self.warnings.append(&mut file.warnings);
        Some(file)
    }

    /// Reads one policy that is in no folder of policies; says whether it has no defect.
    pub(crate) fn policy_file(&mut self, path: &Path) -> bool {
        let document = self.lone(path);
        document.is_some_and(|document| {
            let digest = PolicyDigest::of(&document.bytes);
            self.policy(&document, &digest).is_some()
        })
    }

    /// Reads one grants file that is in no folder of grants; says how many grants have no defect.
    pub(crate) fn grant_file(&mut self, path: &Path) -> usize {
        let Some(document) = self.lone(path) else { return 0 };
        let mut reader = GrantsReader::default();
        self.warn_if_shared(path, &document.display);
        reader.add(&document.display, &document.bytes, document.format);
        let mut files = reader.finish();
        self.defects.append(&mut files.defects);
        self.warnings.append(&mut files.warnings);
        files.grants.len()
    }

    fn lone(&mut self, path: &Path) -> Option<Document> {
        let display = path.display().to_string();
        let name = path.file_name()?.to_string_lossy().into_owned();
        let bytes = self.file(path, &display, DOCUMENT_BYTES_MAX)?;
        Some(Document { format: Format::of_name(&name).unwrap_or(Format::Yaml), display, name, bytes })
    }

    pub(crate) fn policies(&mut self, path: &Path) -> Policies {
        let Some(folder) = self.folder(path) else {
            return Policies { compiled: BTreeMap::new(), ids: None };
        };
        let mut compiled = BTreeMap::new();
        let mut ids: BTreeMap<String, String> = BTreeMap::new();
        for name in folder.documents().iter().filter(|name| !is_case_file(name)) {
            let id = stem(name);
            self.claim(id, folder.display_of(name), &mut ids);
            let Some(document) = self.document(&folder, name, Links::Anywhere) else { continue };
            let digest = self.revise(FileKind::Policy, name, &document.bytes);
            if let Some(policy) = self.policy(&document, &digest) {
                compiled.entry(Arc::from(id)).or_insert(policy);
            }
        }
        Policies { compiled, ids: Some(ids.into_keys().collect()) }
    }

    /// Notes that a file has that id; a second one is a defect.
    fn claim(&mut self, id: &str, display: String, ids: &mut BTreeMap<String, String>) {
        if let Some(first) = ids.get(id) {
            let message = format!("the policy id {} is taken by {first}", quoted(id));
            self.defects.push(Defect::of_file(&display, message));
        } else {
            ids.insert(id.to_owned(), display);
        }
    }

    /// Judges documents that are in no folder yet, as if each were a file of that name.
    pub(crate) fn given(&mut self, kind: FileKind, files: &BTreeMap<String, Vec<u8>>, has_responses: bool) {
        self.lacks_responses = !has_responses;
        let mut ids = BTreeMap::new();
        for (name, bytes) in files {
            let Some(format) = Format::of_name(name) else { continue };
            if u64::try_from(bytes.len()).map_or(true, |length| length > DOCUMENT_BYTES_MAX) {
                self.defects.push(Defect::of_file(name, FileError::TooLarge(DOCUMENT_BYTES_MAX).to_string()));
                continue;
            }
            match kind {
                FileKind::Grants => {}
                FileKind::Policy => {
                    self.claim(stem(name), name.clone(), &mut ids);
                    let document = Document { display: name.clone(), name: name.clone(), format, bytes: bytes.clone() };
                    // Whatever is wrong with it is noted.
                    drop(self.policy(&document, &PolicyDigest::of(bytes)));
                }
                FileKind::Servers => {
                    let mut file = ServersFile::read(name, bytes, format);
                    self.defects.append(&mut file.defects);
                    self.warnings.append(&mut file.warnings);
                    self.refuse_unseen_tools(&file, Path::new(name));
                }
            }
        }
    }

    /// Compiles one policy, named by its file, unless that was done before.
    fn policy(&mut self, document: &Document, digest: &PolicyDigest) -> Option<Arc<Policy>> {
        let id = stem(&document.name);
        if !is_name(id) {
            let message = format!("the file name {} gives no policy id: {NAME_RULE}", quoted(id));
            self.defects.push(Defect::of_file(&document.display, message));
        }
        let before = self.before.and_then(|before| before.kept(&document.name, digest));
        // Before it is compiled: that is where the memory goes.
        if self.pattern_bytes >= PATTERN_BYTES_MAX {
            let message = format!(
                "the patterns of the policies before it take {PATTERN_BYTES_MAX} bytes together, and more may not be"
            );
            let hint = "counted repetitions such as `{1000}` are the large ones";
            self.defects.push(Defect::of_file(&document.display, message).with_hint(hint));
            return None;
        }
        let kept = match before {
            Some(kept) => kept.clone(),
            None => self.compile(id, document)?,
        };
        self.warnings.extend_from_slice(&kept.warnings);
        let policy = Arc::clone(&kept.policy);
        self.pattern_bytes = self.pattern_bytes.saturating_add(policy.pattern_bytes());
        if self.lacks_responses && policy.has_result_rules() {
            let message = "has rules for results, and the settings do not say that Envoy shows responses";
            self.defects.push(Defect::of_file(&document.display, message).with_hint(RESPONSES_HINT));
        }
        self.kept.insert(document.name.clone(), kept);
        Some(policy)
    }

    fn compile(&mut self, id: &str, document: &Document) -> Option<Kept> {
        let source = Source { id, file: &document.display, bytes: &document.bytes, format: document.format };
        match Policy::compile(&source) {
            Ok(Compiled { policy, warnings }) => Some(Kept { policy: Arc::new(policy), warnings }),
            Err(mut defects) => {
                self.defects.append(&mut defects);
                None
            }
        }
    }

    pub(crate) fn grants(&mut self, path: &Path) -> GrantsFiles {
        let mut reader = GrantsReader::default();
        if let Some(folder) = self.folder(path) {
            for name in folder.documents() {
                let Some(document) = self.document(&folder, name, Links::Inside) else { continue };
                self.revise(FileKind::Grants, name, &document.bytes);
                self.warn_if_shared(&folder.path_of(name), &document.display);
                reader.add(&document.display, &document.bytes, document.format);
            }
        }
        let mut files = reader.finish();
        self.defects.append(&mut files.defects);
        self.warnings.append(&mut files.warnings);
        if files.grants.is_empty() && self.defects.is_empty() {
            let message = "holds no grant: every call will be refused";
            self.warnings.push(Defect::of_file(&path.display().to_string(), message));
        }
        files
    }

    fn warn_if_shared(&mut self, path: &Path, display: &str) {
        if files::is_shared(path) {
            let defect = Defect::of_file(display, "can be read by others than its owner");
            self.warnings.push(defect.with_hint(SHARED_HINT));
        }
    }

    fn check_policies(&mut self, references: &[Reference], policies: &Policies) {
        let Some(ids) = &policies.ids else { return };
        self.check_known(references, "policy", &ids.iter().map(String::as_str).collect());
    }

    fn check_servers(&mut self, references: &[Reference], servers: &ServersFile) {
        let Some(names) = &servers.names else { return };
        self.check_known(references, "server", &names.iter().map(AsRef::as_ref).collect());
    }

    fn check_known(&mut self, references: &[Reference], kind: &str, known: &BTreeSet<&str>) {
        for reference in references.iter().filter(|reference| !known.contains(reference.name.as_ref())) {
            let defect = reference.site.defect(format!("there is no {kind} {}", quoted(&reference.name)));
            self.defects.push(match suggestion(&reference.name, known.iter().copied()) {
                Some(close) => defect.with_hint(format!("did you mean `{close}`?")),
                None => defect,
            });
        }
    }

    /// Reads the secrets of all servers. Only servers without defects are in the registry; the rest count as noted.
    fn bindings(&mut self, servers: &ServersFile, policies: &Policies, folder: &Path) -> Vec<Binding> {
        let read =
            |loader: &mut Self, reference: &Reference| (reference.name.clone(), loader.secret(reference, folder));
        let secrets: BTreeMap<_, _> = servers.secrets.iter().map(|reference| read(self, reference)).collect();
        let mut bindings = Vec::new();
        for server in servers.registry.servers() {
            let policy = find(policies, server.policy());
            let file = server.credential().secret_file();
            let bytes = match file {
                None => Some(&[][..]),
                Some(name) => secrets.get(name).and_then(Option::as_ref).map(|bytes| bytes.as_slice()),
            };
            let Some(bytes) = bytes else { continue };
            match Credential::prepare(server.credential(), bytes) {
                Ok(credential) => bindings.push(Binding { policy, credential }),
                Err(error) => {
                    let own = pointer(&["servers", server.name(), "credential"]);
                    let site = servers.secrets.iter().find(|reference| reference.site.is_below(&own));
                    self.defects.extend(site.map(|reference| reference.site.defect(error.to_string())));
                }
            }
        }
        bindings
    }

    /// Reads one secret. Messages show the place of the path, not the path: people paste the secret itself there.
    fn secret(&mut self, reference: &Reference, folder: &Path) -> Option<Zeroizing<Vec<u8>>> {
        let path = folder.join(reference.name.as_ref());
        self.stamps.push((path.clone(), Stamp::of(&path)));
        let read = files::check_inside(&path, folder).and_then(|()| files::read(&path, SECRET_BYTES_MAX));
        match read {
            Ok(bytes) => {
                self.fingerprint.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
                self.fingerprint.update(&bytes);
                if files::is_shared(&path) {
                    let warning = reference.site.defect("the secret file can be read by others than its owner");
                    self.warnings.push(warning.with_hint(SHARED_HINT));
                }
                Some(Zeroizing::new(bytes))
            }
            Err(error) => {
                let defect = reference.site.defect(format!("the secret file {error}"));
                self.defects.push(defect.with_hint(format!("the path starts at {}", folder.display())));
                None
            }
        }
    }

    /// Refuses pins where no list of tools is ever seen.
    fn refuse_unseen_tools(&mut self, servers: &ServersFile, path: &Path) {
        let pinned = servers.registry.servers().iter().filter(|server| server.tools().is_some());
        for server in pinned.filter(|_| self.lacks_responses) {
            let name = quoted(server.name());
            let message =
                format!("the tools of {name} are pinned, and the settings do not say that Envoy shows responses");
            self.defects.push(Defect::of_file(&path.display().to_string(), message).with_hint(RESPONSES_HINT));
        }
    }

    /// Warns of policies that ask for schemas at servers that have none pinned.
    fn warn_of_missing_pins(&mut self, servers: &ServersFile, policies: &Policies) {
        let all = servers.registry.servers().iter().filter(|server| server.policy().is_some());
        for (server, reference) in all.zip(&servers.policies).filter(|(server, _)| server.tools().is_none()) {
            let policy = policies.compiled.get(&reference.name);
            if policy.is_some_and(|policy| policy.needs_schemas()) {
                let message =
                    format!("the policy has `schema_from`, and the tools of {} are not pinned", quoted(server.name()));
                let hint = "calls that need a schema will be denied: add `tools: {trust: first_use}`";
                self.warnings.push(reference.site.defect(message).with_hint(hint));
            }
        }
    }

    /// Warns of grants that allow nothing because no policy holds for them.
    fn warn_of_dead_ends(&mut self, servers: &ServersFile, grants: &GrantsFiles) {
        let all = servers.registry.servers().iter();
        let bare: BTreeSet<&Arc<str>> = all.filter(|server| server.policy().is_none()).map(|s| s.name()).collect();
        for grant in grants.grants.iter().filter(|grant| grant.policy().is_none()) {
            let Some(site) = grants.labels.get(grant.label()) else { continue };
            for server in grant.servers().iter().filter(|server| bare.contains(server)) {
                let message = format!("no policy holds for this grant at the server {}", quoted(server));
                let warning =
                    site.defect(message).with_hint("every call will be denied: name a `policy` in one of them");
                self.warnings.push(warning);
            }
        }
    }
}

/// Brings together what was found about one file, files in the order in which they were first spoken of.
fn in_order(mut defects: Vec<Defect>) -> Vec<Defect> {
    let mut files: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for defect in &defects {
        let next = files.len();
        files.entry(Arc::clone(&defect.file)).or_insert(next);
    }
    let file = |defect: &Defect| files.get(&defect.file).copied();
    defects.sort_by(|a, b| (file(a), a.place()).cmp(&(file(b), b.place())));
    defects
}

/// `x.test.json` and `x.test.yaml` hold cases for `mcp-authz test`, not policies.
pub(crate) fn is_case_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, _)| stem.ends_with(".test"))
}

fn find(policies: &Policies, id: Option<&Arc<str>>) -> Option<Arc<Policy>> {
    policies.compiled.get(id?).map(Arc::clone)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
