//! The process around it: the log that settles, the version, the admin port.

use std::time::Duration;

use super::{Expect, Findings, Version, checks, gates::Gate, hcm::is_local, setup::Setup, tree::Tree};

/// The newest patch release of each line, when this was written.
const TESTED: &[Version] = &[
    Version { major: 1, minor: 36, patch: 4 },
    Version { major: 1, minor: 38, patch: 3 },
    Version { major: 1, minor: 39, patch: 3 },
    Version { major: 1, minor: 40, patch: 0 },
];
/// Shorter than the default lease of a call in flight, with room for one entry that is lost.
const INTERVAL_MAX: Duration = Duration::from_secs(60);

pub(super) fn examine(gates: &[Gate<'_>], setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    for gate in gates.iter().filter(|gate| gate.asks && !gate.routes.is_empty()) {
        settles(gate, findings);
    }
    match setup.version.or(expect.version) {
        None => findings.note(
            checks::VERSION,
            super::Verdict::Unknown,
            String::new(),
            "the version of Envoy is not known (--envoy-version)".to_owned(),
        ),
        Some(version) => self::version(version, findings),
    }
    for admin in &setup.admins {
        if admin.has("address") {
            findings.judge(checks::ADMIN_CLOSED, is_local(admin), admin, "the admin port listens for other machines");
        }
    }
    if setup.has_bootstrap {
        findings.holds(checks::ADMIN_CLOSED);
    }
}

fn settles(gate: &Gate<'_>, findings: &mut Findings) {
    let logs = gate.hcm.items("access_log");
    let Some(log) = logs.iter().find(|log| is_grpc(log)) else {
        findings.broken(checks::SETTLE_LOG, &gate.hcm, "there is no envoy.access_loggers.http_grpc");
        findings.broken(checks::SETTLE_INTERVAL, &gate.hcm, "there is no envoy.access_loggers.http_grpc");
        return;
    };
    let filter = log.get("filter").map(|filter| filter.value().to_string());
    match filter {
        Some(filter) if !filter.contains("settle") => {
            findings.unknown(checks::SETTLE_LOG, log, "its filter says nothing of `settle`");
        }
        Some(_) | None => findings.holds(checks::SETTLE_LOG),
    }
    let options = gate.hcm.get("access_log_options");
    let interval = options.as_ref().and_then(|options| options.duration("access_log_flush_interval"));
    let interval = interval.or_else(|| gate.hcm.duration("access_log_flush_interval"));
    let is_short = interval.is_some_and(|time| !time.is_zero() && time <= INTERVAL_MAX);
    findings.judge(
        checks::SETTLE_INTERVAL,
        is_short,
        options.as_ref().unwrap_or(&gate.hcm),
        "access_log_flush_interval is missing or longer",
    );
}

pub(super) fn is_grpc(log: &Tree<'_>) -> bool {
    log.typed("typed_config").is_some_and(|typed| typed.is("grpc.v3.HttpGrpcAccessLogConfig"))
}

fn version(version: Version, findings: &mut Findings) {
    let line = TESTED.iter().find(|tested| (tested.major, tested.minor) == (version.major, version.minor));
    let (verdict, what) = match line {
        Some(tested) if version >= *tested => (super::Verdict::Holds, String::new()),
        Some(tested) => (super::Verdict::Broken, format!("it is {version}; {tested} came after it")),
        None if TESTED.iter().all(|tested| version < *tested) => (super::Verdict::Broken, format!("it is {version}")),
        None => (super::Verdict::Unknown, format!("it is {version}, which was not tested")),
    };
    findings.note(checks::VERSION, verdict, String::new(), what);
}
