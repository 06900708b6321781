//! What the chart says and this version of the program does not know yet. Empty the list when the test below asks for it.

use std::process::Command;

/// Sections of config.yaml, each with something in it that must be refused as long as it stands here.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("telemetry", "{otlp: {endpoint: \"http://127.0.0.1:4317\"}}"),
    ("kubernetes", "{events: false}"),
    ("reload", "{watch: true}"),
];

/// Whether somebody has to send SIGHUP after files have changed: until the process looks at its mounts itself.
pub(crate) fn needs_hangup() -> bool {
    SECTIONS.iter().any(|(section, _)| *section == "reload")
}

/// Settings without those sections.
pub(crate) fn without(settings: &str) -> String {
    let mut keep = true;
    let lines = settings.lines().filter(|line| {
        if !line.starts_with([' ', '-', '#']) {
            keep = !SECTIONS
                .iter()
                .any(|(section, _)| line.strip_prefix(section).is_some_and(|rest| rest.starts_with(':')));
        }
        keep
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn what_is_pending_is_really_unknown() {
    for (section, text) in SECTIONS {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        let settings = format!("listen: {{grpc: [\"unix://a.sock\"], admin: \"127.0.0.1:0\"}}\n{section}: {text}\n");
        std::fs::write(&file, settings).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_mcp-authz")).arg("check").arg(&file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let unknown = format!("unknown key `{section}`");
        assert!(
            String::from_utf8_lossy(&said).contains(&unknown),
            "the program knows `{section}` now: take it out of SECTIONS in tests/helm/pending.rs"
        );
    }
}
