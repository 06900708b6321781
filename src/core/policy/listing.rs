//! Which counters a policy has for one caller: for people who ask where they stand.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::limit::{Call, Facts, Limit, Owner, Part};
use super::{Entry, Policy};
use crate::principal::Principal;
use crate::quota::{Charge, CounterKey};

/// One counter of one caller, under one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What a call would hold there, with an amount of zero: counter, measure, mode, `max` and terms. The fingerprint of a
    /// [`Measure::Streak`](crate::quota::Measure::Streak) is none of any call: such a counter can be reset, but where it stands
    /// depends on the next call.
    pub charge: Charge,
    /// The tool whose calls it counts; `None` where several tools share it.
    pub tool: Option<Arc<str>>,
    /// The server whose calls it counts; `None` where it counts those of all.
    pub server: Option<Arc<str>>,
    /// The group whose calls it counts, if it counts by group.
    pub group: Option<Arc<str>>,
}

impl Policy {
    /// Every counter that a call of that caller can touch: of the tools that the policy names, on the given servers. In the
    /// order of the tools' names, then those of `all_tools`; a counter that several limits share comes once for each `max` and
    /// mode. Counters of `scope: tool` under `all_tools` exist for tools that the policy does not name too; those are not
    /// listed.
    #[must_use]
    pub fn counters(&self, who: &Principal, servers: &[&str]) -> Vec<Listed> {
        let mut named: Vec<(&str, &[Limit])> = self
            .tools
            .iter()
            .filter_map(|(name, entry)| match entry {
                Entry::Hidden => None,
                Entry::Listed(tool) => Some((&**name, &*tool.limits)),
            })
            .collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        let mut lister = Lister { policy: self, who, servers, seen: BTreeSet::new(), out: Vec::new() };
        for (tool, limits) in &named {
            limits.iter().for_each(|limit| lister.add(limit, Some(tool)));
        }
        for limit in &self.limits {
            if limit.counter.scope.has(Part::Tool) {
                named.iter().for_each(|(tool, _)| lister.add(limit, Some(tool)));
            } else {
                lister.add(limit, None);
            }
        }
        lister.out
    }
}

struct Lister<'a> {
    policy: &'a Policy,
    who: &'a Principal,
    servers: &'a [&'a str],
    seen: BTreeSet<(CounterKey, u64, &'static str)>,
    out: Vec<Listed>,
}

impl Lister<'_> {
    fn add(&mut self, limit: &Limit, tool: Option<&str>) {
        let scope = &limit.counter.scope;
        let own = tool.filter(|_| limit.counter.owner == Owner::Tool || scope.has(Part::Tool));
        let servers = if scope.has(Part::Server) { self.servers.to_vec() } else { vec![""] };
        let none = [Arc::from("")];
        let groups = if scope.has(Part::Group) { &*self.who.groups } else { &none };
        for server in servers {
            for group in groups {
                let call = Call { server, ..Call::of(tool.unwrap_or_default(), None) };
                let facts = Facts { policy: &self.policy.id, who: self.who, call: &call, compat: self.policy.compat };
                let charge = limit.listed(&facts, group);
                if !self.seen.insert((charge.counter.clone(), charge.max, charge.mode.name())) {
                    continue;
                }
                self.out.push(Listed {
                    charge,
                    tool: own.map(Arc::from),
                    server: scope.has(Part::Server).then(|| Arc::from(server)),
                    group: scope.has(Part::Group).then(|| Arc::clone(group)),
                });
            }
        }
    }
}
