//! Which counters a policy has, whoever calls.

use std::sync::Arc;

use super::{Entry, Policy};
use crate::quota::Terms;

impl Policy {
    /// What every limit says of its counter, in no order that means anything; a counter of several limits comes several times.
    pub fn terms(&self) -> impl Iterator<Item = &Arc<Terms>> {
        let listed = self.tools.values().filter_map(|entry| match entry {
            Entry::Hidden => None,
            Entry::Listed(tool) => Some(&*tool.limits),
        });
        listed.flatten().chain(&*self.limits).map(|limit| &limit.terms)
    }
}
