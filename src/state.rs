//! The snapshot that serves now, and how it came to be.
//!
//! Owns the swap on reload. Files with defects never replace a good snapshot; whoever asks is told of them until they are
//! mended. Writes no log: the caller gets the outcome and tells the world.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use mcp_authz_core::{document::Defect, policy::Policy};

use crate::{
    config::Paths,
    retired::Retired,
    snapshot::{Loaded, Snapshot},
};

/// Policies that are kept after they were replaced, the latest first: responses to calls that they decided are still to come.
pub const REPLACED_MAX: usize = 64;

/// What is known about loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What serves.
    pub revision: Arc<str>,
    /// Unix milliseconds at which it began to serve.
    pub loaded_at_ms: u64,
    /// Reloads that found no defect.
    pub reloads_ok: u64,
    /// Reloads that kept the last good snapshot.
    pub reloads_failed: u64,
    /// Defects of the last reload; empty if it found none.
    pub defects: Vec<Defect>,
    /// Warnings of what serves.
    pub warnings: Vec<Defect>,
}

/// A reload that found no defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether another snapshot serves now: some file, or some secret, is not as it was.
    pub changed: bool,
    /// What served until now.
    pub from: Arc<str>,
    /// What serves; the same as `from` if only secrets changed.
    pub to: Arc<str>,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

/// Everything that was replaced and is in use.
#[derive(Debug, Default)]
struct Retirement {
    snapshots: Retired<Snapshot>,
    policies: Retired<Policy>,
    lists: Retired<VecDeque<Arc<Policy>>>,
}

/// The snapshot that serves now.
#[derive(Debug)]
pub struct State {
    paths: Paths,
    current: ArcSwap<Snapshot>,
    replaced: ArcSwap<VecDeque<Arc<Policy>>>,
    /// What Checks and responses may still hold, see [`State::sweep`].
    retired: Retirement,
    status: Mutex<Status>,
    /// Held while files are read, so that reloads follow one another.
    reloading: Mutex<()>,
}

impl State {
    /// Loads the first snapshot; gives warnings beside it. Blocks on files.
    ///
    /// # Errors
    /// Every defect of every file; there is nothing to serve.
    pub fn load(paths: &Paths, now_ms: u64) -> Result<(Self, Vec<Defect>), Vec<Defect>> {
        let Loaded { snapshot, warnings } = Snapshot::load(paths)?;
        let status = Status {
            revision: snapshot.revision().into(),
            loaded_at_ms: now_ms,
            reloads_ok: 0,
            reloads_failed: 0,
            defects: Vec::new(),
            warnings: warnings.clone(),
        };
        let current = ArcSwap::from_pointee(snapshot);
        let state = Self {
            paths: paths.clone(),
            current,
            replaced: ArcSwap::default(),
            retired: Retirement::default(),
            status: Mutex::new(status),
            reloading: Mutex::new(()),
        };
        Ok((state, warnings))
    }

    /// The subject of a grant as it is now; `grant:<label>` for one that is gone.
    #[must_use]
    pub fn subject(&self, grant: &str) -> Arc<str> {
        let current = self.current.load();
        let found = current.grant(grant).map(|grant| Arc::clone(&grant.principal().subject));
        found.unwrap_or_else(|| format!("grant:{grant}").into())
    }

    /// What serves now. A request takes it once and keeps it until its end.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Guard::into_inner(self.current.load())
    }

    /// Policies that were replaced or taken away, the latest first; at most [`REPLACED_MAX`].
    #[must_use]
    pub fn replaced(&self) -> Arc<VecDeque<Arc<Policy>>> {
        Guard::into_inner(self.replaced.load())
    }

    /// What is known about loading.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the documents are.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Notes a reload that failed before the documents were read, because of the settings file; gives the defects back.
    pub fn refuse(&self, defects: Vec<Defect>) -> Vec<Defect> {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.reloads_failed = status.reloads_failed.saturating_add(1);
        status.defects.clone_from(&defects);
        defects
    }

    /// Reads all files again and serves what they say, if they have no defect. Blocks on files.
    ///
    /// # Errors
    /// Every defect of every file; the last good snapshot serves on.
    pub fn reload(&self, now_ms: u64) -> Result<Reloaded, Vec<Defect>> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.snapshot().load_next(&self.paths);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(defects) => {
                status.reloads_failed = status.reloads_failed.saturating_add(1);
                status.defects.clone_from(&defects);
                Err(defects)
            }
            Ok(Loaded { snapshot, warnings }) => {
                status.reloads_ok = status.reloads_ok.saturating_add(1);
                status.defects.clear();
                status.warnings.clone_from(&warnings);
                let to: Arc<str> = snapshot.revision().into();
                let from = std::mem::replace(&mut status.revision, Arc::clone(&to));
                let changed = !snapshot.is_same(&self.current.load());
                if changed {
                    status.loaded_at_ms = now_ms;
                    self.retain(&snapshot);
                    self.retire(&Arc::new(snapshot));
                }
                drop(status);
                self.sweep();
                Ok(Reloaded { changed, from, to, warnings })
            }
        }
    }

    /// Puts the next snapshot into force. What was there before waits until no Check and no response holds it.
    fn retire(&self, next: &Arc<Snapshot>) {
        let old = self.current.swap(Arc::clone(next));
        let stays = |policy: &Arc<Policy>| next.policy(policy.id()).is_some_and(|next| Arc::ptr_eq(next, policy));
        for policy in old.policies().filter(|policy| !stays(policy)) {
            self.retired.policies.add(Arc::clone(policy));
        }
        self.retired.snapshots.add(old);
    }

    /// Frees, on the calling thread, what was replaced and is not in use any more; gives how much of it still is. To be called from
    /// time to time by a thread that serves no Checks: freeing ten thousand policies takes milliseconds.
    pub fn sweep(&self) -> usize {
        let Retirement { snapshots, policies, lists } = &self.retired;
        // Snapshots and lists first: they hold policies.
        [snapshots.sweep(), lists.sweep(), policies.sweep()].into_iter().fold(0, usize::saturating_add)
    }

    /// Keeps what is about to be replaced. Before the swap, so that whoever misses a policy there finds it here.
    fn retain(&self, next: &Snapshot) {
        let now = self.snapshot();
        let stays =
            |policy: &Arc<Policy>| next.policy(policy.id()).is_some_and(|next| next.digest() == policy.digest());
        let gone: Vec<&Arc<Policy>> = now.policies().filter(|policy| !stays(policy)).collect();
        if gone.is_empty() {
            return;
        }
        let before = self.replaced();
        // One that was put back into force and is replaced again stands here once.
        let is_same = |a: &Policy, b: &Policy| a.id() == b.id() && a.digest() == b.digest();
        let older = before.iter().filter(|policy| !gone.iter().any(|gone| is_same(gone, policy)));
        let kept = gone.iter().copied().chain(older).take(REPLACED_MAX).cloned().collect();
        self.retired.lists.add(self.replaced.swap(Arc::new(kept)));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn files(root: &Path) -> Paths {
        fs::create_dir(root.join("policies")).unwrap();
        fs::create_dir(root.join("grants")).unwrap();
        fs::create_dir(root.join("credentials")).unwrap();
        fs::write(root.join("policies/p.yaml"), "version: '1'\ndefault: allow\n").unwrap();
        fs::write(root.join("credentials/token"), "one\n").unwrap();
        fs::write(
            root.join("servers.yaml"),
            "servers: {s: {policy: p, credential: {kind: header, name: authorization, secret: token}}}\n",
        )
        .unwrap();
        Paths {
            policies: root.join("policies"),
            servers: root.join("servers.yaml"),
            grants: root.join("grants"),
            credentials: root.join("credentials"),
            response_phase: true,
        }
    }

    fn header(state: &State) -> String {
        state.snapshot().server("s").unwrap().credential.expose_header().unwrap().1.to_owned()
    }

    #[test]
    fn files_with_defects_keep_the_last_good_snapshot_until_they_are_mended() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::load(&files(folder.path()), 1).unwrap().0;
        let first = state.snapshot();
        fs::write(folder.path().join("policies/p.yaml"), "version: '1'\ndefualt: allow\n").unwrap();
        let defects = state.reload(2).unwrap_err();
        assert!(defects[1].to_string().contains("unknown key `defualt`"), "{defects:?}");
        assert!(Arc::ptr_eq(&state.snapshot(), &first));
        let status = state.status();
        assert_eq!((status.reloads_ok, status.reloads_failed, status.loaded_at_ms), (0, 1, 1));
        assert_eq!(status.defects, defects);
        fs::write(folder.path().join("policies/p.yaml"), "version: '1'\ndefault: deny\n").unwrap();
        let Reloaded { changed, from, to, .. } = state.reload(3).unwrap();
        assert_eq!((from.as_ref(), to.as_ref()), (first.revision(), state.snapshot().revision()));
        assert!(changed && from != to);
        let status = state.status();
        assert_eq!((status.reloads_ok, status.reloads_failed, status.loaded_at_ms), (1, 1, 3));
        assert_eq!(status.defects, []);
        assert!(!state.reload(4).unwrap().changed);
        assert_eq!(state.status().loaded_at_ms, 3);
    }

    #[test]
    fn a_rotated_secret_is_served_and_names_no_other_revision() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::load(&files(folder.path()), 1).unwrap().0;
        assert_eq!(header(&state), "one");
        fs::write(folder.path().join("credentials/token"), "two\n").unwrap();
        let Reloaded { changed, from, to, .. } = state.reload(2).unwrap();
        assert_eq!((changed, from, header(&state).as_str()), (true, to, "two"));
    }

    #[test]
    fn replaced_policies_are_kept_up_to_a_limit_the_latest_first() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::load(&files(folder.path()), 1).unwrap().0;
        let write = |n: usize| {
            let text = format!("version: '1'\ndefault: allow\nhide: [t{n}]\n");
            fs::write(folder.path().join("policies/p.yaml"), text).unwrap();
            state.reload(2).unwrap();
            state.snapshot().policy("p").unwrap().digest().clone()
        };
        let digests: Vec<_> = (0..=REPLACED_MAX).map(write).collect();
        let replaced = || state.replaced().iter().map(|policy| policy.digest().clone()).collect::<Vec<_>>();
        // The very first one, and all but the one in force: one too many.
        let expected: Vec<_> = digests.iter().rev().skip(1).cloned().collect();
        assert_eq!(replaced(), expected, "the first is gone, {REPLACED_MAX} are left");
        write(REPLACED_MAX - 1);
        assert_eq!(replaced().len(), REPLACED_MAX);
        write(REPLACED_MAX);
        assert_eq!(replaced().first(), digests.get(REPLACED_MAX - 1), "back in force and replaced again");
        assert_eq!(replaced().iter().filter(|digest| Some(*digest) == digests.get(REPLACED_MAX - 1)).count(), 1);
        assert!(!state.reload(3).unwrap().changed && replaced().len() == REPLACED_MAX);
    }

    #[test]
    fn what_was_replaced_is_freed_by_a_sweep_and_never_by_its_last_user() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::load(&files(folder.path()), 1).unwrap().0;
        let (used, policy) = (state.snapshot(), Arc::clone(state.snapshot().policy("p").unwrap()));
        let (snapshot, of_policy) = (Arc::downgrade(&used), Arc::downgrade(&policy));
        fs::write(folder.path().join("policies/p.yaml"), "version: '1'\ndefault: deny\n").unwrap();
        assert!(state.reload(2).unwrap().changed);
        // What a thread does that serves Checks.
        std::thread::spawn(move || drop(used)).join().unwrap();
        assert_eq!(snapshot.strong_count(), 1, "kept for the sweep");
        assert_eq!(state.sweep(), 1, "the policy is still in use");
        assert_eq!(snapshot.strong_count(), 0);
        // As if so many others had been replaced since.
        drop(state.replaced.swap(Arc::default()));
        std::thread::spawn(move || drop(policy)).join().unwrap();
        assert_eq!((of_policy.strong_count(), state.sweep(), of_policy.strong_count()), (1, 0, 0));
    }

    #[test]
    fn reloads_leave_nothing_behind_that_nobody_uses() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::load(&files(folder.path()), 1).unwrap().0;
        for n in 0..REPLACED_MAX * 2 {
            let text = format!("version: '1'\ndefault: allow\nhide: [t{n}]\n");
            fs::write(folder.path().join("policies/p.yaml"), text).unwrap();
            state.reload(2).unwrap();
        }
        // Those that responses may still come for.
        assert_eq!(state.sweep(), REPLACED_MAX);
    }

    #[test]
    fn there_is_no_state_without_a_good_first_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let paths = files(folder.path());
        fs::remove_dir(folder.path().join("grants")).unwrap();
        let defects = State::load(&paths, 1).unwrap_err();
        assert!(defects[0].to_string().ends_with("grants: cannot be read: no such file or directory"), "{defects:?}");
    }
}
