//! What the real server is configured with: one server, one grant, one policy of as many rules as asked for.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use crate::requests::TOKEN;

/// Rules of the policy that the server is measured with.
pub(crate) const RULES: usize = 100;

/// A policy of `rules` rules, one for each tool, of two conditions and a limit. The call in [`crate::requests`] passes.
pub(crate) fn policy(rules: usize) -> String {
    // The tool that is called is the last, so that a linear search would show.
    let name = |number| if number + 1 == rules { "tool_7".to_owned() } else { format!("other_{number}") };
    let tools: Vec<String> = (0..rules)
        .map(|number| {
            format!(
                concat!(
                    r#""{}":{{"require":[{{"conditions":[{{"path":"args.owner","op":"eq","value":"acme"}},"#,
                    r#"{{"path":"args.number","op":"lte","value":1000}}],"on_deny":"no"}}],"limits":[{{"#,
                    r#""counter":"calls_{}","window":"minute","scope":"grant","max":1000000000,"on_deny":"no"}}]}}"#
                ),
                name(number),
                number % 100
            )
        })
        .collect();
    format!(r#"{{"version":"1","default":"deny","tools":{{{}}}}}"#, tools.join(","))
}

/// Writes everything that `mcp-authz serve` reads; audit records go to a file, as JSON lines.
pub(crate) fn write(folder: &Path) -> anyhow::Result<PathBuf> {
    for part in ["policies", "grants", "credentials"] {
        fs::create_dir_all(folder.join(part))?;
    }
    let digest: String = sha2::Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(folder.join("policies/bench.json"), policy(RULES))?;
    fs::write(
        folder.join("servers.yaml"),
        concat!(
            "servers:\n  bench:\n    policy: bench\n    credential:\n",
            "      {kind: header, name: authorization, format: \"Bearer {secret}\", secret: upstream}\n"
        ),
    )?;
    fs::write(folder.join("credentials/upstream"), "not-a-secret-of-anyone")?;
    fs::write(
        folder.join("grants/bench.yaml"),
        format!("grants:\n  - {{label: bench, sha256: {digest}, servers: [bench]}}\n"),
    )?;
    let config = folder.join("config.yaml");
    fs::write(
        &config,
        format!(
            concat!(
                "listen:\n  grpc: [\"tcp://127.0.0.1:0\", \"unix://{0}/real.sock\"]\n  admin: \"127.0.0.1:0\"\n",
                "audit: {{sink: \"{0}/audit.jsonl\"}}\nlog: {{level: info, format: json}}\n"
            ),
            folder.display()
        ),
    )?;
    Ok(config)
}
