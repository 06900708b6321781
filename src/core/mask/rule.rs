//! The rules of a policy for results, compiled: what they look for, where, and what they do.

use std::ops::{BitOr, BitOrAssign};
use std::sync::Arc;

use super::Action;
use super::path::Path;
use crate::policy::{Compat, Test};

/// A built-in detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Detector {
    /// E-mail addresses.
    Email,
    /// Payment cards: issuer range, length, Luhn.
    PaymentCard,
    /// IBAN: length of its country, check digits (ISO 7064 mod 97-10).
    Iban,
    /// US social security numbers.
    UsSsn,
    /// Phone numbers: E.164 with its plus sign, and North American ones with separators.
    Phone,
    /// IPv4 and IPv6 addresses.
    IpAddress,
    /// JSON Web Tokens, signed or encrypted.
    Jwt,
    /// PEM blocks of private keys.
    PrivateKey,
    /// AWS access keys and, beside a name that says so, secret keys.
    AwsKey,
    /// Google API keys, client secrets and access tokens.
    GcpKey,
    /// GitHub tokens.
    GithubToken,
    /// Slack tokens and webhooks.
    SlackToken,
    /// Stripe secret and restricted keys, webhook secrets.
    StripeKey,
    /// Strings that look random.
    HighEntropy,
}

impl Detector {
    /// Every detector, in the order of the documentation.
    pub const ALL: &[Detector] = &[
        Detector::Email,
        Detector::PaymentCard,
        Detector::Iban,
        Detector::UsSsn,
        Detector::Phone,
        Detector::IpAddress,
        Detector::Jwt,
        Detector::PrivateKey,
        Detector::AwsKey,
        Detector::GcpKey,
        Detector::GithubToken,
        Detector::SlackToken,
        Detector::StripeKey,
        Detector::HighEntropy,
    ];

    /// The word in a policy, and in a replacement.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Detector::AwsKey => "aws_key",
            Detector::Email => "email",
            Detector::GcpKey => "gcp_key",
            Detector::GithubToken => "github_token",
            Detector::HighEntropy => "high_entropy",
            Detector::Iban => "iban",
            Detector::IpAddress => "ip_address",
            Detector::Jwt => "jwt",
            Detector::PaymentCard => "payment_card",
            Detector::Phone => "phone",
            Detector::PrivateKey => "private_key",
            Detector::SlackToken => "slack_token",
            Detector::StripeKey => "stripe_key",
            Detector::UsSsn => "us_ssn",
        }
    }
}

/// A set of detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detectors(u32);

impl Detectors {
    /// Links are found in the same pass, and are no detector of a policy.
    pub(crate) const LINKS: Detectors = Detectors(1 << 31);

    pub(crate) const fn of(detector: Detector) -> Self {
        Self(1 << detector as u8)
    }

    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Detector::ALL.iter().fold(Self::default(), |set, detector| set | Self::of(*detector))
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn has(self, detector: Detector) -> bool {
        self.0 & Self::of(detector).0 != 0
    }

    pub(crate) const fn meets(self, other: Detectors) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn without(self, detector: Detector) -> Self {
        Self(self.0 & !Self::of(detector).0)
    }
}

impl BitOr for Detectors {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Detectors {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What stands in the place of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Always the same; without a text the name in brackets.
    Fixed(Option<Box<str>>),
    /// A keyed digest: equal values stay equal.
    Hash,
    /// What tells little of the value stays.
    Partial,
}

/// What a rule looks for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Detect(Detectors),
    Pattern(Box<regex::Regex>),
    /// The whole value at each of its paths.
    Value,
}

/// What a rule does with what it found.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// Withholds the message; the text is for the agent.
    Block(Arc<str>),
    Mask {
        style: Style,
        /// Stands in the replacement; detectors have names of their own.
        name: Box<str>,
    },
}

/// A rule of `mask`, or one of `block_if` that looks for something.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) pointer: Arc<str>,
    pub(crate) what: What,
    /// Where it looks: at these values and below them. Everywhere without one.
    pub(crate) paths: Box<[Path]>,
    pub(crate) then: Then,
}

/// A rule of `block_if` with conditions.
#[derive(Clone, Debug)]
pub(crate) struct ConditionRule {
    pub(crate) pointer: Arc<str>,
    pub(crate) all: Box<[ResultCondition]>,
    pub(crate) compat: Compat,
    pub(crate) text: Arc<str>,
}

/// One of its conditions: it holds if it holds for one of the values at its paths.
#[derive(Clone, Debug)]
pub(crate) struct ResultCondition {
    pub(crate) paths: Box<[Path]>,
    pub(crate) test: Test,
}

/// A list of paths with the rule it belongs to: `reveal`, or what `report_new_fields` knows.
#[derive(Clone, Debug)]
pub(crate) struct PathList {
    pub(crate) pointer: Arc<str>,
    pub(crate) paths: Box<[Path]>,
}

/// `inspect.hidden_text`.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    pub(crate) pointer: Arc<str>,
    pub(crate) action: Action,
}

/// `inspect.links`.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    pub(crate) pointer: Arc<str>,
    pub(crate) action: Action,
    /// In lower case; one that starts with a dot stands for every host below it.
    pub(crate) hosts: Box<[Box<str>]>,
}

impl Links {
    /// Whether links to that host, in lower case, are fine.
    pub(crate) fn allows(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| {
            if known.starts_with('.') { host.len() > known.len() && host.ends_with(&**known) } else { **known == *host }
        })
    }
}

/// Everything that one place of a policy says of results: its root, or one tool.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleSet {
    pub(crate) rules: Vec<Arc<Rule>>,
    pub(crate) conditions: Vec<Arc<ConditionRule>>,
    pub(crate) reveals: Vec<Arc<PathList>>,
    pub(crate) new_fields: Vec<Arc<PathList>>,
    pub(crate) hidden: Vec<Arc<Hidden>>,
    pub(crate) links: Vec<Arc<Links>>,
    /// The bound and the pointer of its rule.
    pub(crate) bytes_max: Option<(usize, Arc<str>)>,
}

impl RuleSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.conditions.is_empty()
            && self.reveals.is_empty()
            && self.new_fields.is_empty()
            && self.hidden.is_empty()
            && self.links.is_empty()
            && self.bytes_max.is_none()
    }

    /// How many rules there are, for the bound on all of a policy.
    pub(crate) fn count(&self) -> usize {
        [self.rules.len(), self.conditions.len(), self.reveals.len(), self.new_fields.len()]
            .into_iter()
            .fold(self.hidden.len().saturating_add(self.links.len()), usize::saturating_add)
    }

    /// Adds the rules of another place: all of them apply.
    pub(crate) fn join(&mut self, other: &RuleSet) {
        self.rules.extend(other.rules.iter().cloned());
        self.conditions.extend(other.conditions.iter().cloned());
        self.reveals.extend(other.reveals.iter().cloned());
        self.new_fields.extend(other.new_fields.iter().cloned());
        self.hidden.extend(other.hidden.iter().cloned());
        self.links.extend(other.links.iter().cloned());
        let tighter = match (&self.bytes_max, &other.bytes_max) {
            (Some((own, _)), Some((max, _))) => max < own,
            (None, Some(_)) => true,
            (Some(_) | None, None) => false,
        };
        if tighter {
            self.bytes_max.clone_from(&other.bytes_max);
        }
    }
}

/// What the rules of a policy come to, by tool.
#[derive(Clone, Debug, Default)]
pub(crate) struct PolicyRules {
    /// Those of the root.
    pub(crate) shared: RuleSet,
    /// Those of every tool together, for where the tool is not known.
    pub(crate) every_tool: RuleSet,
}
