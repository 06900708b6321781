//! The unit for systemd: a sandbox with nothing left open that mcp-authz does not need.

use std::collections::BTreeMap;

use super::text;

#[test]
fn the_unit_shuts_what_is_not_needed() {
    let unit = text("deploy/mcp-authz.service");
    let mut settings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in unit.lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            settings.entry(key).or_default().push(value);
        }
    }
    for (key, value) in [
        ("CapabilityBoundingSet", ""),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("ExecStart", "/usr/local/bin/mcp-authz serve --config /etc/mcp-authz/config.yaml"),
        ("NoNewPrivileges", "yes"),
        ("PrivateDevices", "yes"),
        ("ProtectHome", "yes"),
        ("ProtectSystem", "strict"),
        ("RestartPreventExitStatus", "64"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("User", "mcp-authz"),
        ("UMask", "0077"),
    ] {
        assert_eq!(settings.get(key), Some(&vec![value]), "{key}");
    }
    // The folders that the settings of INSTALL.md write to.
    let install = text("deploy/INSTALL.md");
    for (key, folder) in
        [("RuntimeDirectory", "/run/"), ("StateDirectory", "/var/lib/"), ("LogsDirectory", "/var/log/")]
    {
        let name = settings[key][0];
        assert!(install.contains(&format!("{folder}{name}")), "{key}");
    }
    assert!(settings["TimeoutStopSec"][0].parse::<u64>().unwrap() > 10, "a stop waits for timeouts.drain_ms");
}
