//! Does a history of one counter have an order that explains every answer?
//!
//! Each client writes down when it asked, when it was answered, and what the answer said is used. A counter is linearizable if
//! its operations can be put in one line so that none stands before another that had been answered before it was asked, and each
//! answer is right at its place.

use std::collections::BTreeSet;

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// When it was asked; any clock that all clients share.
    pub(crate) asked: u64,
    /// When it was answered; `None` if nobody knows whether it ever happened.
    pub(crate) answered: Option<u64>,
    pub(crate) act: Act,
}

/// What was asked and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Units were added; `used` with them.
    Add { amount: u64, used: Option<u64> },
    /// The limit was reached: nothing was added, so much was in use.
    Refuse { used: u64 },
    /// Units were given back.
    Return { amount: u64 },
}

impl Act {
    /// What is used afterwards, if this can have happened where so much was used.
    const fn after(self, before: u64) -> Option<u64> {
        match self {
            Act::Add { amount, used: None } => Some(before + amount),
            Act::Add { amount, used: Some(used) } if before + amount == used => Some(used),
            Act::Refuse { used } if before == used => Some(before),
            Act::Return { amount } => before.checked_sub(amount),
            Act::Add { .. } | Act::Refuse { .. } => None,
        }
    }
}

/// How far a search has come: every certain operation before `low` has its place, those in `beyond` too, and of the uncertain
/// ones those in `maybe`. What is used follows from that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stage {
    low: usize,
    beyond: Vec<usize>,
    maybe: Vec<usize>,
    used: u64,
}

/// The counter's value at the end of an order that explains the history.
///
/// # Errors
/// The longest explained part, if there is none.
pub(crate) fn explain(history: &[Op], start: u64) -> Result<u64, String> {
    let mut certain: Vec<&Op> = history.iter().filter(|op| op.answered.is_some()).collect();
    certain.sort_by_key(|op| op.asked);
    let uncertain: Vec<&Op> = history.iter().filter(|op| op.answered.is_none()).collect();
    let mut stack = vec![Stage { low: 0, beyond: Vec::new(), maybe: Vec::new(), used: start }];
    let mut seen = BTreeSet::new();
    let mut best = (0, String::new());
    while let Some(mut stage) = stack.pop() {
        // A refusal that fits changes nothing, so taking it now excludes no order.
        while let Some(index) = fitting_refusal(&certain, &stage) {
            stage.place(index);
        }
        if stage.low == certain.len() {
            return Ok(stage.used);
        }
        let placed = stage.low + stage.beyond.len();
        if placed >= best.0 {
            let open: Vec<_> = candidates(&certain, &stage).take(6).collect();
            best = (placed, format!("{placed} of {} explained, {} used, open: {open:?}", certain.len(), stage.used));
        }
        if !seen.insert(stage.clone()) {
            continue;
        }
        let horizon = horizon(&certain, &stage);
        for (index, op) in uncertain.iter().enumerate() {
            if op.asked <= horizon
                && !stage.maybe.contains(&index)
                && let Some(used) = op.act.after(stage.used)
            {
                let mut next = Stage { used, ..stage.clone() };
                next.maybe.push(index);
                next.maybe.sort_unstable();
                stack.push(next);
            }
        }
        // Last in, first tried: answers that say what is used leave the fewest ways to go on.
        let mut next: Vec<(bool, Stage)> = candidates(&certain, &stage)
            .filter_map(|(index, op)| {
                let mut next = Stage { used: op.act.after(stage.used)?, ..stage.clone() };
                next.place(index);
                Some((matches!(op.act, Act::Add { used: Some(_), .. }), next))
            })
            .collect();
        next.sort_by_key(|(sure, _)| *sure);
        stack.extend(next.into_iter().map(|(_, stage)| stage));
    }
    Err(best.1)
}

/// No operation that was asked later than this can be next: another had been answered by then.
fn horizon(certain: &[&Op], stage: &Stage) -> u64 {
    let open = (stage.low..certain.len()).filter(|index| stage.beyond.binary_search(index).is_err());
    let mut horizon = u64::MAX;
    for index in open {
        if certain[index].asked > horizon {
            break;
        }
        horizon = horizon.min(certain[index].answered.unwrap_or(u64::MAX));
    }
    horizon
}

fn fitting_refusal(certain: &[&Op], stage: &Stage) -> Option<usize> {
    let mut open = candidates(certain, stage);
    open.find(|(_, op)| op.act == Act::Refuse { used: stage.used }).map(|(index, _)| index)
}

fn candidates<'a>(certain: &'a [&'a Op], stage: &'a Stage) -> impl Iterator<Item = (usize, &'a Op)> {
    let horizon = horizon(certain, stage);
    certain
        .iter()
        .enumerate()
        .skip(stage.low)
        .take_while(move |(_, op)| op.asked <= horizon)
        .filter(|(index, _)| stage.beyond.binary_search(index).is_err())
        .map(|(index, op)| (index, *op))
}

impl Stage {
    fn place(&mut self, index: usize) {
        if let Err(at) = self.beyond.binary_search(&index) {
            self.beyond.insert(at, index);
        }
        while self.beyond.first() == Some(&self.low) {
            self.beyond.remove(0);
            self.low += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn op(asked: u64, answered: u64, act: Act) -> Op {
        Op { asked, answered: Some(answered), act }
    }

    const fn add(amount: u64, used: u64) -> Act {
        Act::Add { amount, used: Some(used) }
    }

    #[test]
    fn an_order_that_overlaps_is_found() {
        let history =
            [op(0, 9, add(1, 3)), op(1, 5, add(1, 1)), op(2, 6, add(1, 2)), op(7, 8, Act::Refuse { used: 3 })];
        assert_eq!(explain(&history, 0), Ok(3));
    }

    #[test]
    fn a_lost_update_is_found_out() {
        let history = [op(0, 5, add(1, 1)), op(1, 6, add(1, 1))];
        assert!(explain(&history, 0).is_err());
    }

    #[test]
    fn an_answer_from_the_past_is_found_out() {
        let stale = [op(0, 1, add(1, 1)), op(2, 3, add(1, 2)), op(4, 5, Act::Refuse { used: 1 })];
        assert!(explain(&stale, 0).is_err());
        let swapped = [op(0, 1, add(1, 2)), op(2, 3, add(1, 1))];
        assert!(explain(&swapped, 0).is_err());
    }

    #[test]
    fn what_nobody_answered_may_have_happened_or_not() {
        let lost = Op { asked: 2, answered: None, act: Act::Add { amount: 5, used: None } };
        let with = [op(0, 1, add(1, 1)), lost.clone(), op(3, 4, add(1, 7))];
        assert_eq!(explain(&with, 0), Ok(7));
        let without = [op(0, 1, add(1, 1)), lost.clone(), op(3, 4, add(1, 2))];
        assert_eq!(explain(&without, 0), Ok(2));
        let too_early = [op(0, 1, add(1, 6)), lost];
        assert!(explain(&too_early, 0).is_err());
    }

    #[test]
    fn a_return_that_nobody_made_is_found_out() {
        let made = [op(0, 1, add(2, 2)), op(2, 9, Act::Return { amount: 2 }), op(3, 4, add(1, 1))];
        assert_eq!(explain(&made, 0), Ok(1));
        let missing = [op(0, 1, add(2, 2)), op(3, 4, add(1, 1))];
        assert!(explain(&missing, 0).is_err());
    }
}
