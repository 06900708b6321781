//! Everything a decision depends on besides the request, the time and the counters: loaded together, never changed.
//!
//! Owns the reading of all documents and the references between them. A snapshot exists only if no file has a defect, so
//! whoever holds one never sees half of a change.

pub(crate) mod load;

use std::{collections::BTreeMap, sync::Arc};

use mcp_authz_core::{
    decision::{PolicyDigest, Reason},
    document::Defect,
    grant::{Grant, Grants},
    policy::Policy,
    principal::Principal,
    server::{Registry, Server},
};

use crate::{
    config::Paths,
    credential::{Credential, HeaderNames},
};

/// What belongs to a server besides its entry.
#[derive(Debug)]
struct Binding {
    policy: Option<Arc<Policy>>,
    credential: Credential,
}

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// Grants.
    Grants,
    /// One policy.
    Policy,
    /// The registry of servers.
    Servers,
}

impl FileKind {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grants => "grants",
            Self::Policy => "policy",
            Self::Servers => "servers",
        }
    }

    /// How the admin port calls a file of that name: by its folder, which is always called alike, wherever it is mounted.
    #[must_use]
    pub fn path_of(self, name: &str) -> String {
        match self {
            Self::Grants => format!("grants/{name}"),
            Self::Policy => format!("policies/{name}"),
            Self::Servers => "servers.yaml".to_owned(),
        }
    }
}

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedFile {
    /// What it is about.
    pub kind: FileKind,
    /// Its name in its folder; empty for the servers file, of which there is one.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: PolicyDigest,
}

/// A policy with what its compilation found.
#[derive(Clone, Debug)]
struct Kept {
    policy: Arc<Policy>,
    warnings: Vec<Defect>,
}

/// All documents at one moment.
#[derive(Debug)]
pub struct Snapshot {
    registry: Registry,
    /// By [`Server::ordinal`].
    bindings: Vec<Binding>,
    policies: BTreeMap<Arc<str>, Arc<Policy>>,
    grants: Grants,
    /// Where each grant is, by label.
    labels: BTreeMap<Arc<str>, usize>,
    /// By [`Grant::ordinal`].
    grant_policies: Vec<Option<Arc<Policy>>>,
    revision: Arc<str>,
    /// Every document, in the order in which it was read.
    files: Vec<LoadedFile>,
    /// By file name: a policy that did not change is not compiled again, and its memory not freed.
    kept: BTreeMap<String, Kept>,
    /// Names of the headers that credentials of any server are put in, sorted.
    credential_headers: HeaderNames,
    /// Like the revision, with the secrets. Never shown.
    fingerprint: [u8; 32],
}

/// One server of a snapshot with what belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct BoundServer<'s> {
    /// The entry of the registry.
    pub server: &'s Server,
    /// For principals whose grant names no policy.
    pub policy: Option<&'s Arc<Policy>>,
    /// What Envoy puts on requests to it.
    pub credential: &'s Credential,
}

/// Who calls, and which policy holds for the call.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'s> {
    /// Who.
    pub principal: &'s Principal,
    /// The grant's policy, else the server's; `None` means that nothing is allowed.
    pub policy: Option<&'s Arc<Policy>>,
}

/// A snapshot fresh from its files.
#[derive(Debug)]
pub struct Loaded {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

impl Snapshot {
    /// Reads every file and checks every reference. Blocks on files.
    ///
    /// # Errors
    /// Every defect of every file; the operator mends them.
    pub fn load(paths: &Paths) -> Result<Loaded, Vec<Defect>> {
        load::load(paths, None)
    }

    /// As [`Snapshot::load`] of the same paths, and takes over the policies whose files are byte for byte as they were.
    ///
    /// # Errors
    /// As [`Snapshot::load`].
    pub fn load_next(&self, paths: &Paths) -> Result<Loaded, Vec<Defect>> {
        load::load(paths, Some(self))
    }

    /// What was made of the file of exactly that name and content.
    fn kept(&self, name: &str, digest: &PolicyDigest) -> Option<&Kept> {
        self.kept.get(name).filter(|kept| kept.policy.digest() == digest)
    }

    /// Every document that was read: policies, servers, grants. Never a secret.
    #[must_use]
    pub fn files(&self) -> &[LoadedFile] {
        &self.files
    }

    /// The server of that name.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<BoundServer<'_>> {
        self.bound(self.registry.by_name(name)?)
    }

    /// The server that claims this host and exactly this path without its query.
    #[must_use]
    pub fn server_by_route(&self, host: &str, path: &str) -> Option<BoundServer<'_>> {
        self.bound(self.registry.by_route(host, path)?)
    }

    fn bound<'s>(&'s self, server: &'s Arc<Server>) -> Option<BoundServer<'s>> {
        let binding = self.bindings.get(server.ordinal())?;
        Some(BoundServer { server, policy: binding.policy.as_ref(), credential: &binding.credential })
    }

    /// Finds out who presents a token to a server at `now_ms`, in Unix milliseconds.
    ///
    /// # Errors
    /// Why the token is refused; all refusals take the same steps.
    pub fn resolve<'s>(&'s self, token: &[u8], server: BoundServer<'s>, now_ms: u64) -> Result<Caller<'s>, Reason> {
        let grant = self.grants.resolve(token, server.server.name(), now_ms)?;
        let own = self.grant_policies.get(grant.ordinal()).and_then(Option::as_ref);
        // A grant that names a policy is never judged by another one.
        let policy = if grant.policy().is_some() { own } else { server.policy };
        Ok(Caller { principal: grant.principal(), policy })
    }

    /// Every server in the order of the file.
    pub fn servers(&self) -> impl Iterator<Item = BoundServer<'_>> {
        self.registry.servers().iter().filter_map(|server| self.bound(server))
    }

    /// The policy of that id.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<&Arc<Policy>> {
        self.policies.get(id)
    }

    /// Every policy by id.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// The grant of that label.
    #[must_use]
    pub fn grant(&self, label: &str) -> Option<&Grant> {
        self.grants.iter().as_slice().get(*self.labels.get(label)?)
    }

    /// Every grant, in an order that says nothing.
    pub fn grants(&self) -> std::slice::Iter<'_, Grant> {
        self.grants.iter()
    }

    /// Names the documents that the snapshot was made of: `sha256:` and 64 hexadecimal digits, over the names and bytes of
    /// the servers file and all policies and grant files. Secrets take no part: from a published digest a weak one could
    /// be guessed.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Every server's name in the order of the file.
    pub fn server_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.registry.servers().iter().map(|server| server.name().as_ref())
    }

    /// Lower-case names of the headers that carry a credential to some server, sorted. What a client sends in one of them
    /// must never pass for a credential of ours.
    #[must_use]
    pub fn credential_headers(&self) -> &HeaderNames {
        &self.credential_headers
    }

    /// Whether both were made of the same bytes, secrets included.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

#[cfg(test)]
mod tests;
