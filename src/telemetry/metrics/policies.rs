//! What serves: a series for each policy with the digest of its file, and one with the revision of everything.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::MetricType,
    registry::Registry,
};

/// Hexadecimal digits of a digest that a label shows.
const DIGITS: usize = 12;

/// What one configuration shows.
#[derive(Debug, Default)]
struct Shown {
    revision: String,
    policies: Vec<(Arc<str>, String)>,
}

/// Replaced as a whole when the configuration changes; no Check reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies(Arc<ArcSwap<Shown>>);

impl Policies {
    pub(super) fn register(&self, registry: &mut Registry) {
        let family = |part| Family { policies: self.clone(), part };
        let help = "The revision of policies, servers and grants that serves";
        registry.register("mcp_authz_config", help, family(Part::Revision));
        registry.register("mcp_authz_policy", "The policies that serve", family(Part::Policies));
    }

    /// Takes over what serves now, at most `max` policies; gives how many were left out.
    pub(super) fn set<'a>(
        &self,
        revision: &str,
        policies: impl Iterator<Item = (&'a Arc<str>, &'a str)>,
        max: usize,
    ) -> usize {
        let mut shown: Vec<_> = policies.map(|(id, digest)| (Arc::clone(id), short(digest))).collect();
        let left_out = shown.len().saturating_sub(max);
        shown.truncate(max);
        self.0.store(Arc::new(Shown { revision: short(revision), policies: shown }));
        left_out
    }
}

/// The first digits of `sha256:…`.
fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(DIGITS).collect()
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Policies,
    Revision,
}

#[derive(Debug)]
struct Family {
    policies: Policies,
    part: Part,
}

impl EncodeMetric for Family {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let shown = self.policies.0.load_full();
        match self.part {
            Part::Policies => shown
                .policies
                .iter()
                .try_for_each(|(policy, digest)| encoder.encode_info(&[("policy", &**policy), ("digest", digest)])),
            Part::Revision => encoder.encode_info(&[("revision", &*shown.revision)]),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Info
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn what_serves_is_shown_with_short_digests_up_to_the_limit() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let set = |policies: &[(&Arc<str>, &str)], max| {
            metrics.set_policies("sha256:0123456789abcdef", policies.iter().copied(), max)
        };
        let page = || {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
            page.lines().filter(|line| line.contains("_info{") && !line.contains("build")).map(str::to_owned).collect()
        };
        assert_eq!(set(&[(&a, "sha256:00112233445566"), (&b, "sha256:aabbccddeeff00")], 2), 0);
        let lines: Vec<String> = page();
        assert_eq!(
            lines,
            [
                r#"mcp_authz_config_info{revision="0123456789ab"} 1"#,
                r#"mcp_authz_policy_info{policy="a",digest="001122334455"} 1"#,
                r#"mcp_authz_policy_info{policy="b",digest="aabbccddeeff"} 1"#,
            ]
        );
        assert_eq!(set(&[(&a, "sha256:ffffffffffffff"), (&b, "sha256:aabbccddeeff00")], 1), 1);
        let lines: Vec<String> = page();
        assert_eq!(lines.get(1..).unwrap(), [r#"mcp_authz_policy_info{policy="a",digest="ffffffffffff"} 1"#]);
    }
}
