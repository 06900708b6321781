//! `mcp-authz doctor`: whether an Envoy does what mcp-authz relies on.
//!
//! Pure: a configuration comes in as a tree, findings go out. What is not understood is unknown and never holds; a
//! configuration in which nothing is found is an error. [`checks::ALL`] lists every guarantee; each has at least one finding.

mod authz;
pub mod checks;
mod clusters;
mod expect;
mod gates;
mod gateway;
mod hcm;
mod istio;
mod order;
mod process;
mod read;
mod responses;
mod routes;
mod setup;
mod tree;
mod ways;
mod write;

use checks::Check;
pub use expect::{Expect, Version};
pub use read::{Document, ReadError};
use setup::Setup;
use tree::Tree;

/// What was found out about a guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is not kept.
    Broken,
    /// It is kept.
    Holds,
    /// It cannot be told from what was given.
    Unknown,
}

impl Verdict {
    /// `broken`, `holds` or `unknown`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Broken => "broken",
            Verdict::Holds => "holds",
            Verdict::Unknown => "unknown",
        }
    }
}

/// One guarantee at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which guarantee.
    pub check: &'static Check,
    /// Whether it is kept.
    pub verdict: Verdict,
    /// File and RFC 6901 pointer; empty where it holds everywhere.
    pub place: String,
    /// What was found there; empty where it holds.
    pub what: String,
}

/// Findings as they are made.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn note(&mut self, check: &'static Check, verdict: Verdict, place: String, what: String) {
        let finding = Finding { check, verdict, place, what };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    fn holds(&mut self, check: &'static Check) {
        self.note(check, Verdict::Holds, String::new(), String::new());
    }

    fn broken(&mut self, check: &'static Check, at: &Tree<'_>, what: impl Into<String>) {
        self.note(check, Verdict::Broken, at.place(), what.into());
    }

    fn unknown(&mut self, check: &'static Check, at: &Tree<'_>, what: impl Into<String>) {
        self.note(check, Verdict::Unknown, at.place(), what.into());
    }

    /// Holds or is broken.
    fn judge(&mut self, check: &'static Check, holds: bool, at: &Tree<'_>, what: impl Into<String>) {
        if holds {
            self.holds(check);
        } else {
            self.broken(check, at, what);
        }
    }

    /// One line at least for each guarantee, in the order of the table; `holds` only where nothing else was found.
    fn finish(self) -> Vec<Finding> {
        let mut out = Vec::new();
        for check in checks::ALL {
            let of = |verdict| self.0.iter().filter(move |f| f.check == *check && f.verdict == verdict).cloned();
            let before = out.len();
            out.extend(of(Verdict::Broken));
            out.extend(of(Verdict::Unknown));
            if out.len() == before {
                let nothing = Finding {
                    check,
                    verdict: Verdict::Unknown,
                    place: String::new(),
                    what: "there is nothing to tell it from".to_owned(),
                };
                out.push(of(Verdict::Holds).next().unwrap_or(nothing));
            }
        }
        out
    }
}

/// Judges the documents of one Envoy, or of what is made into one.
///
/// # Errors
/// Documents that hold no configuration; the caller gives others.
pub fn examine(documents: &[Document], expect: &Expect) -> Result<Vec<Finding>, ReadError> {
    let made = read::envoy(documents)?;
    let setup = Setup::read(&made)?;
    let gates = gates::of(&setup, expect);
    if gates.is_empty() {
        return Err(ReadError::NoGate);
    }
    let mut findings = Findings::default();
    authz::examine(&gates, &setup, expect, &mut findings);
    hcm::examine(&gates, &mut findings);
    routes::examine(&gates, &setup, expect, &mut findings);
    order::examine(&gates, &setup, &mut findings);
    responses::examine(&gates, &setup, expect, &mut findings);
    clusters::examine(&gates, &setup, expect, &mut findings);
    process::examine(&gates, &setup, expect, &mut findings);
    Ok(findings.finish())
}

#[cfg(test)]
mod tests;
