//! `mcp-authz eval`: decides one request and explains it.

use std::{
    collections::BTreeSet,
    fs, io,
    io::{Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use mcp_authz_core::{
    answer::unknown_tool_text,
    decision::{Decision, Denial, Rule},
    json::{Document, Limits},
    judge::{is_concealed, judge_pinned},
    mcp::{Body, Message, ProtocolVersion},
    number::units_text,
    pins::Known,
    policy::{Call, ConditionStep, Explanation, POLICY_BYTES_MAX, Policy, Source, Step, StepKind, StepOutcome},
    principal::Principal,
    quota::{Actual, Charge, Mode},
    selftest::MirroredHeaders,
    text::push_json_string,
};
use serde_json::{Value, json};

use super::{FAILED, USAGE, test::load};
use crate::files;

const EXAMPLES: &str = "\
Examples:
  mcp-authz eval --policy policies/refunds.yaml --tool create_refund --args '{\"amount\": 5000}'
  mcp-authz eval --policy policies/refunds.yaml --request request.json --output json
  cat request.json | mcp-authz eval --policy policies/refunds.yaml --request - --grant triage-bot

Counters are taken as unused. Exit status: 0 allowed, 1 denied, 64 something cannot be read.";

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group(clap::ArgGroup::new("call").required(true).args(["tool", "request"])))]
pub struct Args {
    /// The policy, *.json or *.yaml.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The tool to call.
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// The arguments of the call, a JSON object.
    #[arg(long, value_name = "JSON", requires = "tool", conflicts_with = "request")]
    args: Option<String>,
    /// A whole JSON-RPC message; `-` reads it from standard input.
    #[arg(long, value_name = "FILE|-")]
    request: Option<PathBuf>,
    /// Label of the grant under which the call is made.
    #[arg(long, value_name = "LABEL", default_value = "eval")]
    grant: String,
    /// Who calls; `grant:LABEL` without it.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// A group of the caller; may be given several times.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// The server that is called.
    #[arg(long, value_name = "NAME", default_value = "eval")]
    server: String,
    /// The `inputSchema` of the tool, a JSON file; for policies with `schema_from`.
    #[arg(long, value_name = "FILE")]
    input_schema: Option<PathBuf>,
    /// How to tell it.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Json,
    Text,
}

/// Decides the request and writes the decision with every step that led to it.
pub fn run(args: Args, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let output = args.output;
    let told = match read(args, err) {
        Ok(question) => {
            let explanation = question.explain();
            let text = match output {
                Output::Json => format!("{:#}\n", to_json(&question.policy, &explanation)),
                Output::Text => to_text(&question.policy, &explanation),
            };
            out.write_all(text.as_bytes()).map(|()| match explanation.decision {
                Decision::Deny(_) => ExitCode::from(FAILED),
                Decision::Proceed(_) => ExitCode::SUCCESS,
            })
        }
        Err(text) => err.write_all(text.as_bytes()).map(|()| ExitCode::from(USAGE)),
    };
    told.unwrap_or(ExitCode::from(USAGE))
}

/// Everything the decision depends on.
struct Question {
    policy: Policy,
    body: Vec<u8>,
    who: Principal,
    server: String,
    /// The schema of the tool, if it is given.
    schema: Option<String>,
}

/// The policy and the request, or what is wrong with them.
fn read(args: Args, err: &mut impl Write) -> Result<Question, String> {
    let loaded = load(&args.policy, POLICY_BYTES_MAX).map_err(|error| error + "\n")?;
    let id = args.policy.file_stem().and_then(|stem| stem.to_str()).unwrap_or("policy");
    let source = Source { id, file: &loaded.file, bytes: &loaded.bytes, format: loaded.format };
    let compiled = Policy::compile(&source)
        .map_err(|defects| defects.iter().map(|defect| format!("{defect}\n")).collect::<String>())?;
    for warning in &compiled.warnings {
        writeln!(err, "warning: {warning}").map_err(|error| error.to_string())?;
    }
    let body = match (&args.tool, &args.request) {
        (Some(tool), _) => call_body(tool, args.args.as_deref())?,
        (None, Some(request)) => request_body(request)?,
        (None, None) => return Err("either --tool or --request is needed\n".to_owned()),
    };
    let schema = args.input_schema.as_deref().map(read_schema).transpose()?;
    let mut who = Principal::of_grant(&args.grant);
    if let Some(subject) = args.subject {
        who.subject = subject.into();
    }
    // Sorted, each once, as those of a grant.
    who.groups = args.groups.into_iter().map(Arc::from).collect::<BTreeSet<Arc<str>>>().into_iter().collect();
    Ok(Question { policy: compiled.policy, body, who, server: args.server, schema })
}

fn call_body(tool: &str, arguments: Option<&str>) -> Result<Vec<u8>, String> {
    let mut name = String::new();
    push_json_string(&mut name, tool);
    let arguments = match arguments {
        None => String::new(),
        Some(text) => {
            // Read alone first, so that it cannot close the object it is put into.
            Document::parse(text.as_bytes(), Limits::default()).map_err(|error| format!("--args: {error}\n"))?;
            format!(",\"arguments\":{text}")
        }
    };
    let params = format!("{{\"name\":{name}{arguments}}}");
    Ok(format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{params}}}").into_bytes())
}

/// One byte more than the limit is read, so that the parser sees that it is too long.
fn request_body(path: &Path) -> Result<Vec<u8>, String> {
    let limit = u64::try_from(Limits::default().bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map(|_| bytes).map_err(|error| format!("{}: {error}\n", path.display()))
}

fn read_schema(path: &Path) -> Result<String, String> {
    let say = |error: &dyn std::fmt::Display| format!("{}: {error}\n", path.display());
    let bytes = files::read(path, files::DOCUMENT_BYTES_MAX).map_err(|error| say(&error))?;
    // Read alone first, so that it cannot close the definition that it is put into.
    Document::parse(&bytes, Limits::default()).map_err(|error| say(&error))?;
    String::from_utf8(bytes).map_err(|error| say(&error))
}

impl Question {
    /// Judges the message as the server does; only a tool call has steps to tell.
    fn explain(&self) -> Explanation {
        let refused = |denial| Explanation { decision: Decision::Deny(denial), steps: Vec::new() };
        let document = match Document::parse(&self.body, Limits::default()) {
            Ok(document) => document,
            Err(error) => return refused(Denial::built_in(error.defect.reason())),
        };
        let mirrored = MirroredHeaders::of(document.root());
        let message = match Message::read(&document, &mirrored.headers(), ProtocolVersion::ALL) {
            Ok(message) => message,
            Err(error) => return refused(Denial::with_message(error.reason, error.message)),
        };
        let known = match (&message.body, &self.schema) {
            (Body::ToolCall(call), Some(schema)) => Known::of_schema(&call.name(), schema),
            _ => Known::Off,
        };
        let mut decision = judge_pinned(Some(&self.policy), &self.who, &self.server, &message, &known);
        if let (Decision::Deny(denial), Body::ToolCall(call)) = (&mut decision, message.body)
            && is_concealed(Some(&self.policy), &self.who, &call.name(), denial.reason)
        {
            denial.message = unknown_tool_text(&call.name()).into();
        }
        let steps = match message.body {
            Body::ToolCall(call) => {
                let name = call.name();
                let call =
                    Call { server: &self.server, tool: &name, arguments: call.arguments, request_bytes: message.bytes };
                let mut steps = self.policy.explain(&self.who, &call).steps;
                steps.extend(schema_step(&self.policy, &call, &known));
                steps
            }
            Body::Notification(_) | Body::Request(_) | Body::Response => Vec::new(),
        };
        Explanation { decision, steps }
    }
}

/// What the schema of the tool said, if the policy asks for it.
fn schema_step(policy: &Policy, call: &Call<'_>, known: &Known) -> Option<Step> {
    let rule = policy.schema_rule(call.tool)?;
    let (outcome, note) = match known.refuse(policy, call) {
        Some(denial) if matches!(known, Known::Off) => {
            (StepOutcome::Denies(denial.reason), "give the schema of the tool as --input-schema".to_owned())
        }
        Some(denial) => (StepOutcome::Denies(denial.reason), denial.message.to_string()),
        None => (StepOutcome::Passes, "the arguments fit the schema of the tool".to_owned()),
    };
    let exact = rule.exact.map(|exact| exact.to_string());
    Some(Step { kind: StepKind::Schema, exact, outcome, note, conditions: Vec::new() })
}

fn to_text(policy: &Policy, explanation: &Explanation) -> String {
    let mut out = String::new();
    match &explanation.decision {
        Decision::Deny(Denial { reason, rule: Rule { pointer, exact }, message, .. }) => {
            out.push_str(&format!("deny {pointer}\n"));
            if let Some(exact) = exact {
                out.push_str(&format!("  exact    {exact}\n"));
            }
            out.push_str(&format!("  reason   {reason}\n  message  {}\n", one_line(message)));
        }
        Decision::Proceed(charges) => {
            out.push_str("allow\n");
            charges.iter().for_each(|charge| out.push_str(&format!("  charge   {}\n", charge_text(charge))));
        }
    }
    out.push_str(&format!("  policy   {} {}\n", policy.id(), policy.digest()));
    explanation.steps.iter().for_each(|step| push_step(&mut out, step));
    out
}

/// Texts of the policy and of the request end no line and move no cursor.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn push_step(out: &mut String, step: &Step) {
    let (word, reason) = match step.outcome {
        StepOutcome::Denies(reason) => ("deny", format!(" [{reason}]")),
        StepOutcome::Passes => ("pass", String::new()),
    };
    let rule = step.exact.as_deref().unwrap_or_default();
    let parts = [rule, &step.note].into_iter().filter(|part| !part.is_empty()).map(one_line);
    let told = parts.collect::<Vec<_>>().join(": ");
    out.push_str(&format!("{word} {:<8} {told}{reason}\n", step.kind.name()));
    for ConditionStep { path, operator, value, found, truth, .. } in &step.conditions {
        let line = one_line(&format!("{path} {operator} {value}"));
        out.push_str(&format!("       {:<16} {line} (found: {found})\n", truth.name()));
    }
}

fn charge_text(charge: &Charge) -> String {
    let (rule, window) = (&charge.terms.denial.rule.pointer, &*charge.terms.window);
    let shown = |units| units_text(units, charge.terms.scale);
    let held = if charge.terms.actual == Actual::Held { "" } else { " until the answer is known," };
    match charge.mode {
        Mode::Attempt | Mode::Consume => {
            format!("{}{held} of {} per {window}, {rule}", shown(charge.amount), shown(charge.max))
        }
        Mode::Gate => format!("none: passes below {} per {window}, {rule}", shown(charge.max)),
        Mode::Track => format!("{}{held} per {window}, without a limit, {rule}", shown(charge.amount)),
    }
}

fn to_json(policy: &Policy, explanation: &Explanation) -> Value {
    let mut out = json!({
        "policy": { "id": &**policy.id(), "digest": policy.digest().to_string() },
        "steps": explanation.steps.iter().map(step_json).collect::<Vec<_>>(),
    });
    let decision = match &explanation.decision {
        Decision::Deny(denial) => json!({
            "decision": "deny",
            "rule": &*denial.rule.pointer,
            "exact": denial.rule.exact.as_deref(),
            "reason": denial.reason.name(),
            "message": &*denial.message,
        }),
        Decision::Proceed(charges) => json!({
            "decision": "allow",
            "rule": "",
            "charges": charges.iter().map(charge_json).collect::<Vec<_>>(),
        }),
    };
    if let (Value::Object(out), Value::Object(decision)) = (&mut out, decision) {
        out.extend(decision);
    }
    out
}

fn charge_json(charge: &Charge) -> Value {
    json!({
        "counter": charge.counter.as_str(),
        "amount": charge.amount,
        "max": charge.max,
        "mode": charge.mode.name(),
        "scale": charge.terms.scale,
        "scope": &*charge.terms.scope,
        "window": &*charge.terms.window,
        "rule": &*charge.terms.denial.rule.pointer,
    })
}

fn step_json(step: &Step) -> Value {
    let (outcome, reason) = match step.outcome {
        StepOutcome::Denies(reason) => ("deny", Some(reason.name())),
        StepOutcome::Passes => ("pass", None),
    };
    let conditions = step.conditions.iter().map(|condition| {
        json!({
            "exact": condition.exact,
            "path": condition.path,
            "op": condition.operator,
            "value": condition.value,
            "found": condition.found,
            "truth": condition.truth.name(),
        })
    });
    json!({
        "step": step.kind.name(),
        "outcome": outcome,
        "reason": reason,
        "exact": step.exact,
        "note": step.note,
        "conditions": conditions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
