//! Lists lose what the caller may not use. The evaluator that judges calls decides.

use std::{borrow::Cow, ops::Range};

use super::{
    Job, Report, Withheld,
    judge::{Pass, is_asked},
};
use crate::{
    json::{Kind, Value},
    judge::{is_named_visible, is_tool_visible},
    mask::{Findings, Shown},
    mcp::{Method, refuse_twins, sound_name},
    number::Decimal,
    pins::{Observed, Sighting, Standing},
    splice::Splices,
};

/// A kind of list.
#[derive(Debug)]
pub(super) struct List {
    /// The method that asks for it.
    pub(super) method: Method,
    /// The member of the result that holds it.
    pub(super) member: &'static str,
    /// The member of an element by which a request names it.
    name: &'static str,
    /// The method of such a request.
    used_by: Method,
}

/// Every list of the protocol.
pub(super) const LISTS: [List; 4] = [
    List { method: Method::ToolsList, member: "tools", name: "name", used_by: Method::ToolsCall },
    List { method: Method::PromptsList, member: "prompts", name: "name", used_by: Method::PromptsGet },
    List { method: Method::ResourcesList, member: "resources", name: "uri", used_by: Method::ResourcesRead },
    List {
        method: Method::ResourcesTemplatesList,
        member: "resourceTemplates",
        name: "uriTemplate",
        used_by: Method::ResourcesRead,
    },
];

/// Members of a result that must not come in another spelling.
const MEMBERS: &[&str] = &["tools", "prompts", "resources", "resourceTemplates", "cacheScope", "ttlMs"];

/// What lists lost.
#[derive(Debug, Default)]
pub(super) struct Cut {
    hidden: u32,
    unapproved: u32,
    reported: u32,
    /// What is to be recorded before the list may leave.
    pub(super) sighting: Option<Sighting>,
}

impl Cut {
    pub(super) fn count(&self, report: &mut Report) {
        report.hidden = report.hidden.saturating_add(self.hidden);
        report.unapproved = report.unapproved.saturating_add(self.unapproved);
        report.reported = report.reported.saturating_add(self.reported);
    }
}

/// What becomes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Hidden,
    Shown,
    Unapproved,
}

/// Cuts out of every list in a result what may not be seen. By shape, whatever was asked.
///
/// # Errors
/// The result must be withheld.
pub(super) fn filter(
    job: &Job,
    result: Value<'_>,
    pass: Pass,
    splices: &mut Splices,
    findings: &mut Findings,
) -> Result<Cut, Withheld> {
    refuse_twins(result, MEMBERS).map_err(|_| Withheld::Shape)?;
    let is_last_page = result.get("nextCursor").is_none_or(|cursor| cursor.kind() == Kind::Null);
    let mut cut = Cut::default();
    let mut lists = Vec::new();
    for list in &LISTS {
        let Some(elements) = result.get(list.member) else { continue };
        if elements.kind() != Kind::Array {
            return Err(Withheld::Shape);
        }
        let fates = if list.used_by == Method::ToolsCall {
            let mut sighting = Sighting { is_last_page, ..Sighting::default() };
            let fates = tools(job, elements, &mut sighting.seen, &mut cut);
            // What is no list of tools teaches nobody what the server's tools are.
            let is_new = !sighting.seen.is_empty()
                || (is_last_page && job.pins.as_ref().is_some_and(|pins| pins.expects_last_page()));
            if is_new && pass == Pass::First && is_asked(&job.asked, Method::ToolsList) {
                cut.sighting = Some(sighting);
            }
            fates
        } else {
            let shows = |element: Value<'_>| {
                is_named_visible(&job.policy, list.used_by) && name_of(element, list.name).is_some()
            };
            elements.elements().map(|element| if shows(element) { Fate::Shown } else { Fate::Hidden }).collect()
        };
        lists.push((elements, fates));
    }
    if cut.sighting.is_some() {
        // All of it is judged once more; nothing must be found twice.
        return Ok(cut);
    }
    for (elements, mut fates) in lists {
        inspect(job, elements, &mut fates, splices, findings);
        let count = |fate| u32::try_from(fates.iter().filter(|one| **one == fate).count()).unwrap_or(u32::MAX);
        cut.hidden = cut.hidden.saturating_add(count(Fate::Hidden));
        cut.unapproved = cut.unapproved.saturating_add(count(Fate::Unapproved));
        cut_out(elements, &fates, splices);
    }
    Ok(cut)
}

/// What the policy says of the texts in definitions that would be shown.
fn inspect(job: &Job, elements: Value<'_>, fates: &mut [Fate], splices: &mut Splices, findings: &mut Findings) {
    let rules = job.policy.definitions();
    if rules.is_empty() {
        return;
    }
    for (element, fate) in elements.elements().zip(fates).filter(|(_, fate)| **fate == Fate::Shown) {
        if rules.judge(element, splices, findings) == Shown::Hidden {
            *fate = Fate::Hidden;
        }
    }
}

/// The fate of each tool, and the definitions that the pins do not know. They are asked about hidden tools as well: what they keep
/// is the server's, not the caller's.
fn tools(job: &Job, elements: Value<'_>, unknown: &mut Vec<Observed>, cut: &mut Cut) -> Vec<Fate> {
    let names: Vec<Option<Cow<'_, str>>> = elements.elements().map(|element| name_of(element, "name")).collect();
    let twins = twins(&names);
    let mut fates = Vec::with_capacity(names.len());
    for (element, name) in elements.elements().zip(&names) {
        let Some(name) = name.as_deref().filter(|name| twins.binary_search(name).is_err()) else {
            fates.push(Fate::Hidden);
            continue;
        };
        let standing = job.pins.as_ref().map_or(Standing::Approved, |pins| pins.standing(name, element));
        let is_visible = is_tool_visible(&job.policy, &job.who, name);
        fates.push(match standing {
            Standing::Approved if is_visible => Fate::Shown,
            Standing::Hidden if is_visible => Fate::Unapproved,
            Standing::Record(observed) => {
                unknown.push(observed);
                if is_visible { Fate::Unapproved } else { Fate::Hidden }
            }
            Standing::Reported if is_visible => {
                cut.reported = cut.reported.saturating_add(1);
                Fate::Shown
            }
            Standing::Approved | Standing::Hidden | Standing::Reported => Fate::Hidden,
        });
    }
    fates
}

/// Names that more than one element has, sorted: nobody knows which of them a call means.
fn twins<'n>(names: &'n [Option<Cow<'_, str>>]) -> Vec<&'n str> {
    // Equal names meet in one slot. Of the others few do, so that hardly any name is left to be sorted; who makes all of them meet
    // has won a sort.
    let mut slots = vec![0u8; names.len().saturating_mul(16).next_power_of_two()];
    let mask = slots.len().wrapping_sub(1);
    let slot =
        |name: &str| name.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) & mask;
    for name in names.iter().flatten() {
        slots.get_mut(slot(name)).into_iter().for_each(|count| *count = count.saturating_add(1));
    }
    let meets = |name: &&str| slots.get(slot(name)).is_none_or(|count| *count > 1);
    let mut sorted: Vec<&str> = names.iter().flatten().map(|name| &**name).filter(meets).collect();
    sorted.sort_unstable();
    let mut twins: Vec<&str> =
        sorted.windows(2).filter(|pair| pair.first() == pair.last()).filter_map(|pair| pair.first().copied()).collect();
    twins.dedup();
    twins
}

/// The name by which a request would ask for the element; `None` if no request could, or not everybody reads one name.
fn name_of<'d>(element: Value<'d>, member: &'static str) -> Option<Cow<'d, str>> {
    refuse_twins(element, &[member]).ok()?;
    let name = element.get(member)?;
    sound_name(name).ok()?;
    name.as_str()
}

/// Cuts the elements that are not shown, each with one comma.
fn cut_out(elements: Value<'_>, fates: &[Fate], splices: &mut Splices) {
    // Where the last element that stays ended; and the piece that goes, as far as it is known.
    let (mut kept, mut gone): (Option<usize>, Option<Range<usize>>) = (None, None);
    for (element, fate) in elements.elements().zip(fates) {
        let place = element.range();
        match (fate, kept) {
            (Fate::Shown, _) => {
                if let Some(piece) = gone.take() {
                    // Behind an element that stays, the comma before the piece goes with it; at the front, the one after.
                    splices.cut(if kept.is_none() { piece.start..place.start } else { piece });
                }
                kept = Some(place.end);
            }
            (Fate::Hidden | Fate::Unapproved, Some(kept)) => gone = Some(kept..place.end),
            (Fate::Hidden | Fate::Unapproved, None) => {
                let start = gone.as_ref().map_or(place.start, |piece| piece.start);
                gone = Some(start..place.end);
            }
        }
    }
    gone.into_iter().for_each(|piece| splices.cut(piece));
}

/// A result that is made for one caller must not be kept for others (2026-07-28, caching), nor for longer than a policy lasts.
pub(super) fn keep_private(result: Value<'_>, ttl_max_ms: u64, splices: &mut Splices) {
    if let Some(scope) = result.get("cacheScope")
        && scope.as_str().as_deref() != Some("private")
    {
        splices.replace(scope.range(), "\"private\"");
    }
    let Some(ttl) = result.get("ttlMs") else { return };
    let most = ttl_max_ms.to_string();
    let fits = match ttl.number_text() {
        // A string may be read as a number somewhere; what is none lasts no time.
        None => return splices.replace(ttl.range(), "0"),
        Some(text) => match (Decimal::parse(text), Decimal::parse(&most)) {
            (Some(found), Some(most)) => found <= most,
            _ => false,
        },
    };
    if !fits {
        splices.replace(ttl.range(), most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// "Aa" and "BB" meet in one slot.
        #[test]
        fn twins_are_what_every_pair_says(
            names in proptest::collection::vec(proptest::option::of("(Aa|BB|a|b|é){0,3}|[a-z]{1,8}"), 0..40),
        ) {
            let names: Vec<Option<Cow<'_, str>>> = names.into_iter().map(|name| name.map(Cow::Owned)).collect();
            let all: Vec<&str> = names.iter().flatten().map(|name| &**name).collect();
            let is_twin = |name: &&&str| all.iter().filter(|other| other == name).count() > 1;
            let expected: std::collections::BTreeSet<&str> = all.iter().filter(is_twin).copied().collect();
            prop_assert_eq!(twins(&names), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
