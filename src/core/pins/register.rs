//! The pins of one server, and the few things that can happen to them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Bounds, Definition, Digest, NAME_BYTES_MAX, Sighting, Trust};

/// What is kept of one tool: never nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// What somebody approved, or what was seen first.
    pub approved: Option<Arc<Definition>>,
    /// What was seen last, if it is something else.
    pub pending: Option<Arc<Definition>>,
}

/// The pins of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    pub(super) sealed: bool,
    pub(super) tools: BTreeMap<Box<str>, Pin>,
}

/// What a sighting came to; all zero and `false` if it was no news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Tools that were approved because they were seen first.
    pub pinned: u32,
    /// Tools whose name is new and waits for approval.
    pub new: u32,
    /// Tools whose definition changed and waits for approval.
    pub changed: u32,
    /// Tools that are again what was approved.
    pub restored: u32,
    /// Tools for which there is no room.
    pub left_out: u32,
    /// The set of names is complete from now on.
    pub sealed: bool,
}

impl Noted {
    /// Whether there is something to keep.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.sealed || [self.pinned, self.new, self.changed, self.restored].iter().any(|count| *count > 0)
    }
}

/// Why an approval was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What waits is not what was shown.
    #[error("what waits for approval is not what that digest names: look at it again")]
    Changed,
    /// No room for it.
    #[error("the approved definitions of this server would be larger than they may be: forget tools that are gone")]
    Full,
    /// It was too long to be kept.
    #[error("the definition is longer than the limit, so nobody can have read it: it cannot be approved")]
    TooLong,
    /// Nothing of that name waits.
    #[error("nothing of that name waits for approval")]
    Unknown,
}

impl Pins {
    /// What is kept of a tool.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Pin> {
        self.tools.get(name)
    }

    /// Every tool by name.
    pub fn tools(&self) -> impl ExactSizeIterator<Item = (&str, &Pin)> {
        self.tools.iter().map(|(name, pin)| (&**name, pin))
    }

    /// Every tool that waits for approval, by name.
    pub fn pending(&self) -> impl Iterator<Item = (&str, &Pin, &Arc<Definition>)> {
        self.tools().filter_map(|(name, pin)| Some((name, pin, pin.pending.as_ref()?)))
    }

    /// Whether every name that is not known is new.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Whether no tool is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Names all that waits: who approves everything says with it what everything was.
    #[must_use]
    pub fn pending_digest(&self) -> Digest {
        let mut text = String::new();
        for (name, _, definition) in self.pending() {
            crate::text::push_json_string(&mut text, name);
            text.push_str(&definition.digest.hex());
        }
        Digest::of_text(&text)
    }

    /// Whether a tool of that name that is not known could be kept.
    pub(super) fn has_room_for(&self, name: &str, bounds: &Bounds) -> bool {
        let new = self.tools.values().filter(|pin| pin.approved.is_none()).count();
        name.len() <= NAME_BYTES_MAX && self.tools.len() < bounds.tools_max && new < bounds.pending_max
    }

    /// Takes down what a list showed at `now_ms`, Unix ms. The same sighting twice is no news the second time.
    pub fn note(&mut self, sighting: &Sighting, trust: Trust, bounds: &Bounds, now_ms: u64) -> Noted {
        let mut noted = Noted::default();
        let is_first_use = trust == Trust::FirstUse && !self.sealed;
        for seen in &sighting.seen {
            let digest = Digest(seen.digest);
            if !self.tools.contains_key(&seen.name) && !self.has_room_for(&seen.name, bounds) {
                noted.left_out = noted.left_out.saturating_add(1);
                continue;
            }
            let fits = !seen.definition.is_empty() && seen.definition.len() <= bounds.definition_bytes_max;
            let (approved_bytes, pending_bytes) = self.bytes_without(&seen.name);
            let has_room = |used: usize| fits && used.saturating_add(seen.definition.len()) <= bounds.bytes_max;
            let pin = self.tools.entry(seen.name.clone()).or_default();
            let is = |one: &Option<Arc<Definition>>| one.as_ref().is_some_and(|one| one.digest == digest);
            let count = if is(&pin.approved) {
                if pin.pending.take().is_none() {
                    continue;
                }
                &mut noted.restored
            } else if is(&pin.pending) {
                continue;
            } else if is_first_use && pin.approved.is_none() && pin.pending.is_none() && has_room(approved_bytes) {
                pin.approved = Some(Arc::new(Definition::new(digest, seen.definition.clone(), now_ms)));
                &mut noted.pinned
            } else {
                // That it is another one must be known, even where there is no room for its text.
                let text = if has_room(pending_bytes) { seen.definition.clone() } else { Box::default() };
                pin.pending = Some(Arc::new(Definition::new(digest, text, now_ms)));
                if pin.approved.is_some() { &mut noted.changed } else { &mut noted.new }
            };
            *count = count.saturating_add(1);
        }
        // A server that has no tools yet, as while it starts, does not say that it will have none.
        if sighting.is_last_page && !self.sealed && !self.tools.is_empty() {
            self.sealed = true;
            noted.sealed = true;
        }
        noted
    }

    /// Approves what waits under that name, if it is what the digest names.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed.
    pub fn approve(&mut self, name: &str, digest: Digest, bounds: &Bounds) -> Result<(), Refusal> {
        let (approved_bytes, _) = self.bytes_without(name);
        let pin = self.tools.get_mut(name).ok_or(Refusal::Unknown)?;
        let pending = pin.pending.as_ref().ok_or(Refusal::Unknown)?;
        if pending.digest != digest {
            return Err(Refusal::Changed);
        }
        if pending.text.is_empty() {
            return Err(Refusal::TooLong);
        }
        if approved_bytes.saturating_add(pending.text.len()) > bounds.bytes_max {
            return Err(Refusal::Full);
        }
        pin.approved = pin.pending.take();
        Ok(())
    }

    /// Approves all that waits, if it is what the digest names: everything or nothing. How many tools that were.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed.
    pub fn approve_all(&mut self, digest: Digest, bounds: &Bounds) -> Result<usize, Refusal> {
        if self.pending().next().is_none() {
            return Err(Refusal::Unknown);
        }
        if self.pending_digest() != digest {
            return Err(Refusal::Changed);
        }
        let mut next = self.clone();
        let all: Vec<(Box<str>, Digest)> = self.pending().map(|(name, _, one)| (name.into(), one.digest)).collect();
        for (name, digest) in &all {
            next.approve(name, *digest, bounds)?;
        }
        *self = next;
        Ok(all.len())
    }

    /// Takes over definitions that are the same as before, with what was compiled of them.
    #[must_use]
    pub fn sharing(mut self, before: &Self) -> Self {
        for (name, pin) in &mut self.tools {
            let Some(old) = before.tools.get(name) else { continue };
            for (new, old) in [(&mut pin.approved, &old.approved), (&mut pin.pending, &old.pending)] {
                if new.is_some() && new == old {
                    new.clone_from(old);
                }
            }
        }
        self
    }

    /// Forgets a tool; if it is listed again it is new. Whether it was known.
    pub fn forget(&mut self, name: &str) -> bool {
        self.tools.remove(name).is_some()
    }

    /// Bytes of approved definitions and of those that wait, without those of one tool.
    fn bytes_without(&self, name: &str) -> (usize, usize) {
        let bytes = |one: &Option<Arc<Definition>>| one.as_ref().map_or(0, |one| one.text.len());
        self.tools.iter().filter(|(other, _)| ***other != *name).fold(
            (0_usize, 0_usize),
            |(approved, pending), (_, pin)| {
                (approved.saturating_add(bytes(&pin.approved)), pending.saturating_add(bytes(&pin.pending)))
            },
        )
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pinned, new, changed, restored, left_out, sealed } = self;
        write!(f, "pinned {pinned}, new {new}, changed {changed}, restored {restored}, left out {left_out}")?;
        if *sealed { f.write_str(", complete") } else { Ok(()) }
    }
}
