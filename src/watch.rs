//! Notices that mounted files were replaced: a ConfigMap or a Secret of Kubernetes, or a folder that is itself a link, as `git-sync`
//! keeps it.
//!
//! The kubelet writes a new version beside the old one and then moves one link, `..data`. So one look at that link tells whether
//! anything in the folder changed, and there is never half of a change to be seen. A plain folder has no such moment: whoever writes
//! files one after the other would have them read in between, so there SIGHUP says when all is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{
    config::Config,
    files::{MOUNTED, Stamp},
};

/// Folders of credentials that are looked at, beside the one that they are in.
pub const CREDENTIAL_FOLDERS_MAX: usize = 1_000;

/// Where a folder leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Leads {
    /// To the version behind `..data`.
    Mount(Stamp),
    /// Nowhere.
    Nowhere,
    /// To a plain folder, through all links.
    Plain(PathBuf),
}

impl Leads {
    fn of(folder: &Path) -> Self {
        match Stamp::of(&folder.join(MOUNTED)) {
            Some(stamp) => Self::Mount(stamp),
            None => folder.canonicalize().map_or(Self::Nowhere, Self::Plain),
        }
    }
}

/// What one look showed. Equal to another if nothing was replaced in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View(BTreeMap<PathBuf, Leads>);

impl View {
    /// Folders that lead elsewhere than they did, sorted.
    #[must_use]
    pub fn changed_since<'v>(&'v self, before: &'v Self) -> Vec<&'v Path> {
        let names: BTreeSet<&PathBuf> = self.0.keys().chain(before.0.keys()).collect();
        names.into_iter().filter(|name| self.0.get(*name) != before.0.get(*name)).map(PathBuf::as_path).collect()
    }
}

/// The folders that matter.
#[derive(Clone, Debug)]
pub struct Folders {
    fixed: BTreeSet<PathBuf>,
    /// Each folder directly in it counts as well: one Secret for each server.
    credentials: PathBuf,
}

impl Folders {
    /// Every folder that a reload reads something of: those of the settings, the documents, the credentials, the TLS files and the
    /// admin token.
    #[must_use]
    pub fn of(file: &Path, config: &Config) -> Self {
        let paths = &config.paths;
        let tls = config
            .tls
            .iter()
            .flat_map(|tls| [Some(&tls.certificate), Some(&tls.key), tls.clients.as_ref().map(|clients| &clients.ca)]);
        let files = [Some(&paths.servers), config.admin.token_file.as_ref()].into_iter().chain(tls).flatten();
        let mut fixed: BTreeSet<PathBuf> = files.map(|file| parent(file)).collect();
        fixed.extend([parent(file), paths.policies.clone(), paths.grants.clone()]);
        Self { fixed, credentials: paths.credentials.clone() }
    }

    /// Only the folders of these files.
    #[must_use]
    pub fn of_files<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        Self { fixed: files.into_iter().map(parent).collect(), credentials: PathBuf::new() }
    }

    /// Looks at every folder: a link or two for each. Blocks on files.
    #[must_use]
    pub fn look(&self) -> View {
        let own = self.credentials.clone();
        let below = folders_in(&self.credentials).unwrap_or_default();
        let all = self.fixed.iter().cloned().chain([own]).chain(below).filter(|folder| *folder != Path::new(""));
        View(all.map(|folder| (folder.clone(), Leads::of(&folder))).collect())
    }
}

fn parent(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The folders of a folder, by name; hidden ones are versions of a mount.
fn folders_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    found.truncate(CREDENTIAL_FOLDERS_MAX);
    Ok(found)
}

/// Looks again and again.
#[derive(Debug)]
pub struct Watch {
    folders: Folders,
    seen: View,
    every: Duration,
}

impl Watch {
    /// Takes the first look, which has to come before the files are read for the first time: what is replaced from then on is
    /// noticed. Blocks on files.
    #[must_use]
    pub fn new(folders: Folders, every: Duration) -> Self {
        let seen = folders.look();
        Self { folders, seen, every }
    }

    /// Waits until a folder leads elsewhere than at the last time; gives the names of those that do. Whoever gets them reads everything
    /// after that: a change during the reading is the next one. The future may be dropped.
    pub async fn changed(&mut self) -> Vec<String> {
        let mut ticks = interval_at(Instant::now().checked_add(self.every).unwrap_or_else(Instant::now), self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let folders = self.folders.clone();
            // A mount may hang; only this task waits for it.
            let Ok(view) = tokio::task::spawn_blocking(move || folders.look()).await else { continue };
            let changed: Vec<String> =
                view.changed_since(&self.seen).iter().map(|folder| folder.display().to_string()).collect();
            if !changed.is_empty() {
                self.seen = view;
                return changed;
            }
        }
    }
}

#[cfg(test)]
mod tests;
