//! Which counters a policy has for one caller: for people who ask where they stand.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::limit::Limit;
use super::{Entry, Policy};
use crate::principal::Principal;
use crate::quota::Charge;

/// One counter of one caller, under one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What a call would hold there, with an amount of zero: counter, measure, mode, `max` and terms.
    pub charge: Charge,
    /// The tool whose calls it counts; `None` where several tools share it.
    pub tool: Option<Arc<str>>,
    /// The server whose calls it counts; `None` where it counts those of all.
    pub server: Option<Arc<str>>,
    /// The group whose calls it counts, if it counts by group.
    pub group: Option<Arc<str>>,
}

impl Policy {
    /// Every counter that a call of that caller can touch, in the order of the tools' names, then those of `all_tools`.
    #[must_use]
    pub fn counters(&self, who: &Principal, _servers: &[&str]) -> Vec<Listed> {
        let mut named: Vec<(&str, &[Limit])> = self
            .tools
            .iter()
            .filter_map(|(name, entry)| match entry {
                Entry::Hidden => None,
                Entry::Listed(tool) => Some((&**name, &*tool.limits)),
            })
            .collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        let mut add = |limit: &Limit, tool: Option<&str>| {
            let charge = limit.listed(&self.id, tool, who);
            if seen.insert((charge.counter.clone(), charge.max)) {
                out.push(Listed { charge, tool: tool.map(Arc::from), server: None, group: None });
            }
        };
        for (tool, limits) in &named {
            limits.iter().for_each(|limit| add(limit, Some(tool)));
        }
        self.limits.iter().for_each(|limit| add(limit, None));
        out
    }
}
