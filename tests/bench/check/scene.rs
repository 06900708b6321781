//! What the real server is configured with: one server, one grant, one policy of as many rules as asked for.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use crate::requests::TOKEN;

/// Rules of the policy that the server is measured with.
pub(crate) const RULES: usize = 100;

/// How many grants, servers and policies stand beside the ones that are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) grants: usize,
    pub(crate) servers: usize,
    pub(crate) policies: usize,
}

impl Crowd {
    pub(crate) const NONE: Self = Self { grants: 0, servers: 0, policies: 0 };
    /// The numbers that a decision must not notice.
    pub(crate) const LARGE: Self = Self { grants: 100_000, servers: 9_999, policies: 9_999 };

    fn write(self, folder: &Path) -> std::io::Result<()> {
        /// Keeps a file below the limit of a document.
        const GRANTS_PER_FILE: usize = 5_000;
        for first in (0..self.grants).step_by(GRANTS_PER_FILE) {
            let grants: String = (first..self.grants.min(first + GRANTS_PER_FILE))
                .map(|n| {
                    let digest: String =
                        sha2::Sha256::digest(n.to_le_bytes()).iter().map(|b| format!("{b:02x}")).collect();
                    format!("  - {{label: g{n}, sha256: \"{digest}\", servers: [bench]}}\n")
                })
                .collect();
            fs::write(folder.join(format!("grants/crowd-{first}.yaml")), format!("grants:\n{grants}"))?;
        }
        (0..self.policies).try_for_each(|n| {
            fs::write(
                folder.join(format!("policies/p{n}.json")),
                r#"{"version":"1","default":"deny","tools":{"t":{}}}"#,
            )
        })
    }

    /// Every one of them with a credential header of its own.
    fn servers(self) -> String {
        (0..self.servers)
            .map(|n| {
                format!("  s{n}: {{policy: p{n}, credential: {{kind: header, name: x-key-{n}, secret: upstream}}}}\n")
            })
            .collect()
    }
}

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
pub(crate) fn write(folder: &Path, crowd: Crowd) -> anyhow::Result<PathBuf> {
    let audit = format!("audit: {{sink: \"{}/audit.jsonl\"}}\n", folder.display());
    write_with(folder, crowd, &audit)
}

/// The same with these further sections of settings.
pub(crate) fn write_with(folder: &Path, crowd: Crowd, sections: &str) -> anyhow::Result<PathBuf> {
    for part in ["policies", "grants", "credentials"] {
        fs::create_dir_all(folder.join(part))?;
    }
    crowd.write(folder)?;
    let digest: String = sha2::Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(folder.join("policies/bench.json"), policy(RULES))?;
    fs::write(
        folder.join("servers.yaml"),
        concat!(
            "servers:\n  bench:\n    policy: bench\n    credential:\n",
            "      {kind: header, name: authorization, format: \"Bearer {secret}\", secret: upstream}\n"
        )
        .to_owned()
            + &crowd.servers(),
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
                "ledger: {{embedded: {{folder: none}}}}\n",
                "log: {{level: info, format: json}}\n{1}"
            ),
            folder.display(),
            sections
        ),
    )?;
    Ok(config)
}
