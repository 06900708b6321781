//! What a policy does to the values in a result: masking, blocking, reporting.
//!
//! A message is walked once. Each string is judged as a reader sees it: unescaped, without hidden characters, and as JSON where
//! it holds a JSON text; what is found is spliced in the source. What cannot be judged is withheld.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use crate::{json::Document, policy::Policy, splice::Splices};

mod condition;
mod definition;
mod echo;
mod fold;
mod path;
mod plan;
mod rule;
mod scan;
mod source;
mod style;
mod text;
mod walk;

pub use definition::{DefinitionRules, Shown};
pub use path::{PATH_STEPS_MAX, STEP_CHARS_MAX};
pub use rule::Detector;

pub(crate) use path::Path;
pub(crate) use rule::{
    ConditionRule, Detectors, Hidden, Links, PathList, PolicyRules, ResultCondition, Rule, RuleSet, Style, Then, What,
};

/// Bytes of one string, unescaped; a longer one is not judged and not passed.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Hits in one message; one with more is not passed.
pub const HITS_MAX: usize = 65_536;
/// JSON texts inside of strings of JSON texts; deeper ones are not passed.
pub const NESTED_MAX: usize = 4;
/// Values masked by a path that are looked for elsewhere in the message; one with more is not passed.
pub const ECHOES_MAX: usize = 10_000;
/// Names of new fields in one report.
pub const NEW_FIELDS_MAX: usize = 64;
/// Bytes of one name in it.
pub const FIELD_NAME_BYTES_MAX: usize = 64;

/// What stands for a value that `reveal` does not show.
const MASKED: &str = "[masked]";
/// The same where a client reads a URI.
const MASKED_URI: &str = "masked:value";

/// The key under which values are hashed where a policy asks for `hash`: equal values stay equal, and nobody without the key
/// can try values out.
#[derive(Clone)]
pub struct MaskKey(pub Arc<[u8; 32]>);

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(REDACTED)")
    }
}

/// What a rule did, for the audit record and the metrics. Names and numbers only, never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// RFC 6901 pointer of the rule in its policy.
    pub rule: Arc<str>,
    /// What it did.
    pub action: Action,
    /// How often.
    pub count: u32,
}

/// What a rule does when it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The whole result is withheld.
    Block,
    /// The value is replaced.
    Mask,
    /// The value stays, and is counted.
    Report,
}

/// What the rules found in one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What rules did; one entry for a rule.
    pub hits: Vec<Hit>,
    /// Where `reveal` or the report of fields met fields that the policy does not know: paths of names, never values. Bounded.
    pub new_fields: Vec<String>,
}

/// What a message comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It may pass, with the splices made.
    Pass,
    /// It must be withheld; the text is for the agent, from the policy.
    Block(Arc<str>),
}

/// The rules for the results of one tool, or of a tool that is not known.
#[derive(Clone, Copy, Debug)]
pub struct ResultRules<'p> {
    /// Those of the tool, or of every tool.
    own: Option<&'p RuleSet>,
    /// Those of the root, which apply as well.
    shared: &'p RuleSet,
}

impl ResultRules<'_> {
    /// Whether nothing needs to be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets().all(RuleSet::is_empty)
    }

    /// Longest result that may pass, in bytes, where the policy says so.
    #[must_use]
    pub fn bytes_max(&self) -> Option<usize> {
        self.sets().filter_map(|set| set.bytes_max.as_ref()).map(|(max, _)| *max).min()
    }

    /// Judges one JSON-RPC message from the server: a response, a notification or a request. The splices are of the message's
    /// text. A message that is withheld leaves no splices, and in the findings only the rule that withholds it.
    pub fn judge(
        &self,
        message: &Document<'_>,
        key: &MaskKey,
        splices: &mut Splices,
        findings: &mut Findings,
    ) -> Judged {
        if self.is_empty() {
            return Judged::Pass;
        }
        if let Some(blocked) = self.too_large(message.bytes(), findings) {
            return Judged::Block(blocked);
        }
        let plan = self.plan();
        let mut walk = walk::Walk::new(&plan, key);
        let judged = walk.message(message.root());
        walk.finish(judged.is_err(), findings);
        match judged {
            Ok(edits) => {
                edits.into_iter().for_each(|edit| splices.replace(edit.range, edit.with));
                Judged::Pass
            }
            Err(text) => Judged::Block(text),
        }
    }

    /// The same for text that is no JSON, as bodies of HTTP errors may be. `None` leaves it as it is. Nothing in it has a path, so
    /// every rule that looks for something looks at all of it; and with `reveal` none of it is shown.
    ///
    /// # Errors
    /// It must be withheld; the text is for the agent.
    pub fn judge_text(&self, text: &str, key: &MaskKey, findings: &mut Findings) -> Result<Option<String>, Arc<str>> {
        if self.is_empty() {
            return Ok(None);
        }
        if let Some(blocked) = self.too_large(text.len(), findings) {
            return Err(blocked);
        }
        let plan = self.plan();
        let mut walk = walk::Walk::new(&plan, key);
        let judged = walk.whole_text(text);
        walk.finish(judged.is_err(), findings);
        let edits = judged?;
        if edits.is_empty() {
            return Ok(None);
        }
        let mut splices = Splices::default();
        edits.into_iter().for_each(|edit| splices.replace(edit.range, edit.with));
        splices.apply(text).map(Some).ok_or_else(unreadable)
    }

    fn sets(&self) -> impl Iterator<Item = &RuleSet> {
        self.own.into_iter().chain([self.shared])
    }

    fn plan(&self) -> plan::Plan<'_> {
        // Those of the tool first: of rules that find the same, the first decides what stands there.
        let sets: Vec<&RuleSet> = self.sets().collect();
        plan::Plan::of(&sets, &plan::Known { envelope: &ENVELOPE, opaque: &OPAQUE, content: &CONTENT })
    }

    fn too_large(&self, bytes: usize, findings: &mut Findings) -> Option<Arc<str>> {
        let mut bounds = self.sets().filter_map(|set| set.bytes_max.as_ref());
        let (max, rule) = bounds.find(|(max, _)| bytes > *max)?;
        findings.hits.push(Hit { rule: Arc::clone(rule), action: Action::Block, count: 1 });
        Some(format!("The result has more than {max} bytes, which policy rule {rule} allows").into())
    }
}

impl Policy {
    /// The rules for results of that tool; for `None`, of a tool that is not known: the rules of every tool together.
    #[must_use]
    pub fn results(&self, tool: Option<&str>) -> ResultRules<'_> {
        let rules = self.result_rules();
        let own = match tool {
            Some(name) => self.result_rules_of(name),
            None => Some(&rules.every_tool),
        };
        ResultRules { own, shared: &rules.shared }
    }

    /// The rules for messages that belong to no call of a tool: those at the root of the policy.
    #[must_use]
    pub fn messages(&self) -> ResultRules<'_> {
        ResultRules { own: None, shared: &self.result_rules().shared }
    }

    /// Whether some rule looks at results, or at what lists say.
    #[must_use]
    pub fn has_result_rules(&self) -> bool {
        !self.results(None).is_empty()
    }

    /// The rules for what lists say of tools, prompts and resources: `inspect` at the root of the policy.
    #[must_use]
    pub fn definitions(&self) -> DefinitionRules<'_> {
        DefinitionRules::of(&self.result_rules().shared)
    }
}

/// What `reveal` never takes away, because clients could not read the message without it: types, codes, tokens of the protocol,
/// and what servers and clients can do. Everything else, `uri` and names included, may be a value of somebody.
static ENVELOPE: LazyLock<Vec<Path>> = LazyLock::new(|| parsed(ENVELOPE_PATHS));

/// Where servers write what `structuredContent` holds once more.
static CONTENT: LazyLock<Vec<Path>> = LazyLock::new(|| parsed(&["result.content"]));

/// Tokens of the protocol, which clients send back as they are: they look random, and masked they are worth nothing.
static OPAQUE: LazyLock<Vec<Path>> = LazyLock::new(|| parsed(OPAQUE_PATHS));

fn parsed(texts: &[&str]) -> Vec<Path> {
    texts.iter().filter_map(|text| Path::parse(text).ok()).collect()
}

const OPAQUE_PATHS: &[&str] = &[
    "params.elicitationId",
    "params.progressToken",
    "params.requestId",
    "params.taskId",
    "result._meta.progressToken",
    "result.nextCursor",
    "result.requestState",
    "result.task.taskId",
    "result.taskId",
];

const ENVELOPE_PATHS: &[&str] = &[
    "error.code",
    "params.elicitationId",
    "params.level",
    "params.maxTokens",
    "params.messages[*].content.mimeType",
    "params.messages[*].content.type",
    "params.messages[*].content[*].mimeType",
    "params.messages[*].content[*].type",
    "params.messages[*].role",
    "params.mode",
    "params.progress",
    "params.progressToken",
    "params.requestId",
    "params.requestedSchema.properties.*.type",
    "params.requestedSchema.required",
    "params.requestedSchema.type",
    "params.status",
    "params.taskId",
    "params.total",
    "result._meta.progressToken",
    "result.cacheScope",
    "result.capabilities",
    "result.completion.hasMore",
    "result.completion.total",
    "result.content[*].annotations",
    "result.content[*].mimeType",
    "result.content[*].resource.mimeType",
    "result.content[*].type",
    "result.contents[*].mimeType",
    "result.inputRequests.*.method",
    "result.inputRequests.*.params.elicitationId",
    "result.inputRequests.*.params.mode",
    "result.inputRequests.*.params.requestedSchema.properties.*.type",
    "result.inputRequests.*.params.requestedSchema.required",
    "result.inputRequests.*.params.requestedSchema.type",
    "result.isError",
    "result.messages[*].content.mimeType",
    "result.messages[*].content.type",
    "result.messages[*].role",
    "result.nextCursor",
    "result.protocolVersion",
    "result.requestState",
    "result.resultType",
    "result.serverInfo.name",
    "result.serverInfo.version",
    "result.status",
    "result.supportedVersions",
    "result.task.pollInterval",
    "result.task.status",
    "result.task.taskId",
    "result.task.ttl",
    "result.taskId",
    "result.ttlMs",
];

/// What the agent is told by a rule without a text of its own.
pub(crate) fn blocked_by(pointer: &str) -> Arc<str> {
    format!("The result is withheld by policy rule {pointer}").into()
}

fn in_a_name(pointer: &str) -> Arc<str> {
    format!("The name of a member holds what policy rule {pointer} masks, and names cannot be changed").into()
}

fn too_deep() -> Arc<str> {
    format!("The result holds JSON texts in strings of JSON texts more than {NESTED_MAX} levels deep").into()
}

fn too_long() -> Arc<str> {
    format!("The result holds a string of more than {TEXT_BYTES_MAX} bytes").into()
}

fn too_many() -> Arc<str> {
    format!("The policy would change the result in more than {HITS_MAX} places").into()
}

fn unreadable() -> Arc<str> {
    "The result holds a text that not every reader reads alike".into()
}

#[cfg(test)]
mod tests;
