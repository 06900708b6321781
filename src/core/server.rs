//! The upstream MCP servers: how a request finds one, and what holds for every request to it.
//!
//! Owns the meaning of `servers.yaml`. The secret of a credential is not here: a server only says which file holds it.

mod rules;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use crate::{
    document::{Cursor, Defect, Fields, Format, Report, Site, quoted},
    http::plain_path,
    mcp::ProtocolVersion,
    pins,
};

/// Servers in one file.
const SERVERS_MAX: usize = 10_000;

/// Whether a text may name a server or a policy: 1 to 63 of `a`–`z`, `0`–`9`, `_`, `.`, `-`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
}

/// What [`is_name`] asks for, in words.
pub const NAME_RULE: &str = "1 to 63 of a-z, 0-9, `_`, `.`, `-`";

/// A name that a document uses and another file must define.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Policy id, server name, or path of a secret file below the credentials folder.
    pub name: Arc<str>,
    /// Where it is used.
    pub site: Site,
}

/// How the upstream recognizes us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSpec {
    /// `authorization: Basic …`
    Basic {
        /// Holds no colon.
        username: String,
        /// Path of the file with the password, below the credentials folder.
        password: Arc<str>,
    },
    /// One header.
    Header {
        /// Lower-case name, never one that carries the message itself.
        name: String,
        /// Text with `{secret}` in it exactly once.
        format: String,
        /// Path of the file with the secret, below the credentials folder.
        secret: Arc<str>,
    },
    /// The upstream asks for nothing.
    None,
}

impl CredentialSpec {
    /// Path of the file that holds the secret.
    #[must_use]
    pub fn secret_file(&self) -> Option<&Arc<str>> {
        match self {
            CredentialSpec::Basic { password, .. } => Some(password),
            CredentialSpec::Header { secret, .. } => Some(secret),
            CredentialSpec::None => None,
        }
    }
}

/// One upstream MCP server.
#[derive(Debug)]
pub struct Server {
    name: Arc<str>,
    ordinal: usize,
    policy: Option<Arc<str>>,
    credential: CredentialSpec,
    resource_metadata: Option<String>,
    origins: Vec<String>,
    hosts: Option<Vec<String>>,
    versions: Vec<ProtocolVersion>,
    tools: Option<pins::Rules>,
}

impl Server {
    /// The name that Envoy's `context_extensions["server"]` and grants use.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Position among the servers of its registry, from 0.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Id of the policy for principals whose grant names none.
    #[must_use]
    pub fn policy(&self) -> Option<&Arc<str>> {
        self.policy.as_ref()
    }

    /// How the upstream recognizes us.
    #[must_use]
    pub fn credential(&self) -> &CredentialSpec {
        &self.credential
    }

    /// URL of the RFC 9728 document for the 401 challenge; holds nothing that a quoted string must escape.
    #[must_use]
    pub fn resource_metadata(&self) -> Option<&str> {
        self.resource_metadata.as_deref()
    }

    /// Whether a request with this `Origin` header may pass. One without the header is not asked about.
    #[must_use]
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == origin)
    }

    /// Whether a request with this `:authority` may pass: always, unless hosts are listed.
    #[must_use]
    pub fn allows_host(&self, authority: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|host| host.eq_ignore_ascii_case(authority)))
    }

    /// Whether the server takes messages of this revision.
    #[must_use]
    pub fn speaks(&self, version: ProtocolVersion) -> bool {
        self.versions.contains(&version)
    }

    /// The revisions it takes, oldest first; never empty.
    #[must_use]
    pub fn versions(&self) -> &[ProtocolVersion] {
        &self.versions
    }

    /// By which rules definitions of its tools are pinned; `None` if they are trusted as they come.
    #[must_use]
    pub fn tools(&self) -> Option<pins::Rules> {
        self.tools
    }
}

/// Map from a name to a position; asked, never walked.
#[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
type Index<T> = std::collections::HashMap<Box<str>, T>;

/// Every server, found by name or by route in time that does not grow with their number.
#[derive(Debug, Default)]
pub struct Registry {
    servers: Vec<Arc<Server>>,
    by_name: Index<usize>,
    /// Host in lower case, then path.
    by_route: Index<Index<usize>>,
}

impl Registry {
    /// The server of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.get(*self.by_name.get(name)?)
    }

    /// The server that claims this host (port included, any case) and exactly this path without its query.
    #[must_use]
    pub fn by_route(&self, host: &str, path: &str) -> Option<&Arc<Server>> {
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        self.servers.get(*self.by_route.get(host.as_ref())?.get(path)?)
    }

    /// Every server in the order of the file.
    #[must_use]
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }
}

/// What a servers file says. The registry is to be used only if there are no defects.
#[derive(Debug)]
pub struct ServersFile {
    /// The servers without defects.
    pub registry: Registry,
    /// Every server name in the file, also of a server with a defect; `None` if not even the names could be read.
    pub names: Option<Vec<Arc<str>>>,
    /// Policies that servers name.
    pub policies: Vec<Reference>,
    /// Secret files that servers name.
    pub secrets: Vec<Reference>,
    /// What is wrong, in the order of the lines.
    pub defects: Vec<Defect>,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

impl ServersFile {
    /// Reads the file to its end, whatever it finds.
    #[must_use]
    pub fn read(file: &str, bytes: &[u8], format: Format) -> Self {
        let report = Report::read(file, bytes, format);
        let mut reader = Reader::default();
        let entries = report
            .root()
            .and_then(|root| root.fields(&["servers"]))
            .and_then(|fields| fields.required("servers"))
            .and_then(|servers| servers.entries().map(|entries| (servers, entries)));
        let names = entries.map(|(servers, entries)| {
            if entries.len() > SERVERS_MAX {
                servers.defect(format!("more than {SERVERS_MAX} servers"));
            } else if entries.is_empty() {
                servers.warn("no server is defined: every request will be denied", None);
            }
            for (name, cursor) in entries.iter().take(SERVERS_MAX) {
                reader.server(name, cursor);
            }
            entries.iter().map(|(name, _)| Arc::from(*name)).collect()
        });
        let Reader { registry, policies, secrets, routes: _ } = reader;
        let (defects, warnings) = report.finish();
        Self { registry, names, policies, secrets, defects, warnings }
    }
}

const KEYS: &[&str] = &["match", "policy", "credential", "resource_metadata", "origins", "hosts", "protocol", "tools"];

#[derive(Default)]
struct Reader {
    registry: Registry,
    policies: Vec<Reference>,
    secrets: Vec<Reference>,
    /// Who claims a host and a path.
    routes: BTreeMap<(String, String), Arc<str>>,
}

impl Reader {
    fn server(&mut self, name: &str, cursor: &Cursor<'_>) {
        if !is_name(name) {
            cursor.defect(format!("{} is no server name: {NAME_RULE}", quoted(name)));
        }
        let Some(fields) = cursor.fields(KEYS) else { return };
        let name: Arc<str> = name.into();
        let routes = fields.optional("match").map(|list| self.routes(&name, &list)).unwrap_or_default();
        let policy = fields.optional("policy").and_then(|value| self.policy(&value));
        let credential = fields.required("credential").and_then(|value| self.credential(&value));
        let resource_metadata = fields.optional("resource_metadata").and_then(|value| rules::metadata_url(&value));
        let origins = fields.optional("origins").map(|list| rules::texts(&list, rules::origin)).unwrap_or_default();
        let hosts = fields.optional("hosts").map(|list| rules::non_empty_texts(&list, rules::host));
        let versions = rules::versions(&fields);
        let tools = rules::tools(&fields);
        let Some(credential) = credential else { return };
        let ordinal = self.registry.servers.len();
        let server = Server { name, ordinal, policy, credential, resource_metadata, origins, hosts, versions, tools };
        self.registry.by_name.insert(server.name.as_ref().into(), ordinal);
        for (host, path) in routes {
            self.registry.by_route.entry(host.into()).or_default().insert(path.into(), ordinal);
        }
        self.registry.servers.push(Arc::new(server));
    }

    fn policy(&mut self, value: &Cursor<'_>) -> Option<Arc<str>> {
        let name: Arc<str> = value.non_empty()?.into();
        self.policies.push(Reference { name: Arc::clone(&name), site: value.site() });
        Some(name)
    }

    /// The hosts and paths that the server claims; a claim of two servers is a defect of the later one.
    fn routes(&mut self, name: &Arc<str>, list: &Cursor<'_>) -> Vec<(String, String)> {
        let Some(items) = list.items() else { return Vec::new() };
        if items.is_empty() {
            list.defect_with_hint("must not be empty", "leave `match` out to be found by name only");
        }
        let mut routes = Vec::new();
        for item in items {
            let Some(fields) = item.fields(&["host", "path"]) else { continue };
            let host = fields.required("host").and_then(|value| rules::host(&value));
            let path = fields.required("path").and_then(|value| path(&value));
            let (Some(host), Some(path)) = (host, path) else { continue };
            let route = (host, path);
            if let Some(owner) = self.routes.get(&route) {
                let what = quoted(&format!("{}{}", route.0, route.1));
                item.defect(format!("{what} is claimed by the server {} already", quoted(owner)));
                continue;
            }
            self.routes.insert(route.clone(), Arc::clone(name));
            routes.push(route);
        }
        routes
    }

    fn credential(&mut self, value: &Cursor<'_>) -> Option<CredentialSpec> {
        const ALL: &[&str] = &["kind", "name", "format", "secret", "username", "password"];
        // The kind says which keys are known, so it is read before the keys are judged.
        let kind = value
            .entries()?
            .into_iter()
            .find_map(|(key, kind)| (key == "kind").then_some(kind))
            .and_then(|kind| kind.one_of(&["header", "basic", "none"]));
        match kind {
            Some("header") => self.header(&value.fields(&["kind", "name", "format", "secret"])?),
            Some("basic") => self.basic(&value.fields(&["kind", "username", "password"])?),
            Some(_) => value.fields(&["kind"]).map(|_| CredentialSpec::None),
            None => {
                // Notes a missing kind; one of another type is noted already.
                let _kind = value.fields(ALL)?.required("kind");
                None
            }
        }
    }

    fn header(&mut self, fields: &Fields<'_>) -> Option<CredentialSpec> {
        let name = fields.required("name").and_then(|value| rules::header_name(&value));
        let format = match fields.optional("format") {
            Some(value) => rules::header_format(&value),
            None => Some("{secret}".to_owned()),
        };
        let secret = fields.required("secret").and_then(|value| self.secret(&value));
        Some(CredentialSpec::Header { name: name?, format: format?, secret: secret? })
    }

    fn basic(&mut self, fields: &Fields<'_>) -> Option<CredentialSpec> {
        let username = fields.required("username").and_then(|value| rules::username(&value));
        let password = fields.required("password").and_then(|value| self.secret(&value));
        Some(CredentialSpec::Basic { username: username?, password: password? })
    }

    fn secret(&mut self, value: &Cursor<'_>) -> Option<Arc<str>> {
        let path: Arc<str> = rules::secret_path(value)?.into();
        self.secrets.push(Reference { name: Arc::clone(&path), site: value.site() });
        Some(path)
    }
}

fn path(value: &Cursor<'_>) -> Option<String> {
    let path = value.string()?;
    match plain_path(path.as_bytes()) {
        Ok(plain) if plain == path => Some(path.to_owned()),
        Ok(_) => {
            value.defect("a path to match has no query");
            None
        }
        Err(_) => {
            value.defect_with_hint(
                "is no path that can be matched exactly",
                "it starts with `/` and holds no `//`, `.` or `..` segment, `;`, space or encoded separator",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
