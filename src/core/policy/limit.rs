//! One limit: what it charges for a call, and which counter it names.

use std::sync::Arc;

use super::condition::{Compat, Path};
use crate::decision::{Denial, Reason};
use crate::json::{Kind, Value};
use crate::number::{self, AmountError};
use crate::principal::Principal;
use crate::quota::{Charge, CounterKey, Measure, Mode, Terms};

/// Who shares a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Calls under one grant.
    Grant,
    /// Every call under the policy.
    Policy,
}

impl Scope {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Scope::Grant => "grant",
            Scope::Policy => "policy",
        }
    }
}

/// How many units a call costs.
#[derive(Clone, Debug)]
pub(super) enum Amount {
    /// What the number at the path says.
    From(Path),
    One,
}

/// One limit of a tool or of `all_tools`.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) measure: Measure,
    pub(super) scope: Scope,
    pub(super) max: u64,
    pub(super) amount: Amount,
    /// The rest, the refusal among it: that holds the rule and the message of every other refusal by this limit.
    pub(super) terms: Arc<Terms>,
}

impl Limit {
    /// What one call has to hold.
    ///
    /// `tool` is the tool that the limit belongs to, or `None` for a limit of `all_tools`.
    pub(super) fn charge(
        &self,
        policy: &str,
        tool: Option<&str>,
        who: &Principal,
        arguments: Option<Value<'_>>,
        compat: Compat,
    ) -> Result<Charge, Denial> {
        let amount = self.units(arguments, compat).map_err(|reason| self.refuse(reason))?;
        if amount > self.max {
            return Err(self.refuse(Reason::NeverFits));
        }
        Ok(Charge {
            counter: self.key(policy, tool, who),
            amount,
            max: self.max,
            measure: self.measure.clone(),
            mode: Mode::Consume,
            terms: Arc::clone(&self.terms),
        })
    }

    /// What a call of that caller would hold, with an amount of zero.
    pub(super) fn listed(&self, policy: &str, tool: Option<&str>, who: &Principal) -> Charge {
        let (counter, terms) = (self.key(policy, tool, who), Arc::clone(&self.terms));
        Charge { counter, amount: 0, max: self.max, measure: self.measure.clone(), mode: Mode::Consume, terms }
    }

    /// Whether some call could pass an unused counter.
    pub(super) fn can_pass(&self) -> bool {
        self.max > 0 || matches!(self.amount, Amount::From(_))
    }

    /// Parts in a fixed order and number. An empty tool is no tool, and an empty grant no grant: neither may be empty by
    /// name. Neither `max` nor the policy's digest is a part, so that an edit does not hand out a fresh quota.
    fn key(&self, policy: &str, tool: Option<&str>, who: &Principal) -> CounterKey {
        let grant = match self.scope {
            Scope::Grant => &*who.grant,
            Scope::Policy => "",
        };
        CounterKey::of(&[
            policy,
            tool.unwrap_or_default(),
            &self.terms.name,
            &self.terms.window,
            self.scope.name(),
            grant,
        ])
    }

    pub(super) fn units(&self, arguments: Option<Value<'_>>, compat: Compat) -> Result<u64, Reason> {
        let Amount::From(path) = &self.amount else { return Ok(1) };
        let value = path.find(arguments).filter(|value| value.kind() == Kind::Number).ok_or(Reason::BadIncrement)?;
        match (number::amount(value.raw()), compat) {
            (Ok(amount), _) => Ok(amount),
            // The predecessor lets these pass and gives credit for them. They pass; there is no credit.
            (Err(AmountError::Negative), Compat::Lenient) => Ok(0),
            (Err(AmountError::Negative | AmountError::TooLarge | AmountError::Unreadable), _) => {
                Err(Reason::BadIncrement)
            }
        }
    }

    fn refuse(&self, reason: Reason) -> Denial {
        Denial { reason, ..self.terms.denial.clone() }
    }
}
