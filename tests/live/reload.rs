//! Mounts that are swapped under a process.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use mcp_authz_core::decision::PolicyDigest;
use serde_json::Value;
use tokio::time::Instant;

use super::process::{Pod, SERVERS, policy, until};

fn digest(text: &str) -> String {
    PolicyDigest::of(text.as_bytes()).as_str().to_owned()
}

#[test]
fn a_good_edit_serves_and_a_bad_one_never() {
    let mut pod = Pod::new("");
    let process = pod.start();
    let first = process.digest("policies/p.yaml");
    assert_eq!(first, digest(&policy("first")));

    pod.policies.update(&[("p.yaml", "version: '1'\ndefualt: deny\n"), ("q.yaml", "tools: 3\n")]);
    let page = process.reloaded(1, 0);
    let defects = page.get("defects_of_last_reload").unwrap().to_string();
    for part in ["p.yaml:2", "unknown key `defualt`", "q.yaml:1"] {
        assert!(defects.contains(part), "all defects are told: {defects}");
        until("a defect is not in the log", || process.log().contains(part).then_some(()));
    }
    assert_eq!(process.digest("policies/p.yaml"), first, "the last good one goes on serving");
    process.measures("mcp_authz_config_reloads_total{outcome=\"failure\"} 1\n");

    let second = policy("second");
    pod.policies.update(&[("p.yaml", &second), ("more.json", r#"{"version": "1", "default": "deny"}"#)]);
    until("the edit does not serve", || (process.digest("policies/p.yaml") == digest(&second)).then_some(()));
    let page = process.reloaded(1, 1);
    assert_eq!(page.get("defects_of_last_reload"), Some(&Value::Array(Vec::new())));
    let short = digest(&second).get(7..19).unwrap().to_owned();
    process.measures(&format!("mcp_authz_policy_info{{policy=\"p\",digest=\"{short}\"}} 1\n"));
    process.measures("mcp_authz_policy_info{policy=\"more\",");
}

#[test]
fn every_mount_is_watched() {
    let mut pod = Pod::new("");
    let process = pod.start();
    let mut reloads = 0;
    let mut next = |what: &str| {
        reloads += 1;
        let page = process.reloaded(0, reloads);
        assert_eq!(page.get("reloads_failed"), Some(&Value::from(0)), "{what}: {page}");
        page.get("revision").and_then(Value::as_str).unwrap().to_owned()
    };
    let servers = SERVERS.replace("x-key", "x-other-key");
    pod.servers.update(&[("servers.yaml", &servers)]);
    let after_servers = next("servers");
    pod.credentials.update(&[("token", "two\n")]);
    assert_eq!(next("credentials"), after_servers, "a secret takes no part in the revision");
    let sha = "00".repeat(32);
    let grants = format!("grants: [{{label: a, sha256: \"{sha}\", servers: [s]}}]\n");
    pod.grants.update(&[("grants.yaml", &grants)]);
    assert_ne!(next("grants"), after_servers);
    assert_eq!(process.digest("grants/grants.yaml"), digest(&grants));
    assert_eq!(process.digest("servers.yaml"), digest(&servers));
}

#[test]
fn a_plain_folder_waits_for_a_signal() {
    let mut pod = Pod::new("");
    let plain = pod.folder.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    std::fs::write(plain.join("p.yaml"), policy("first")).unwrap();
    let settings = std::fs::read_to_string(pod.folder.path().join("config.yaml")).unwrap();
    let settings = settings.replace("paths: {", "paths: {policies: plain, ");
    std::fs::write(pod.folder.path().join("config.yaml"), settings).unwrap();
    let process = pod.start();
    std::fs::write(plain.join("p.yaml"), policy("second")).unwrap();
    // Proof that mounts were looked at since: another one is noticed, and with it everything is read.
    pod.grants.update(&[("grants.yaml", "grants: []  # again\n")]);
    process.reloaded(0, 1);
    assert_eq!(process.digest("policies/p.yaml"), digest(&policy("second")));
    std::fs::write(plain.join("p.yaml"), policy("third")).unwrap();
    let hangup = std::process::Command::new("kill").args(["-HUP", &process.child.id().to_string()]).status().unwrap();
    assert!(hangup.success());
    process.reloaded(0, 2);
    assert_eq!(process.digest("policies/p.yaml"), digest(&policy("third")));
}

#[test]
fn a_storm_of_swaps_is_answered_from_complete_revisions_only() {
    const SWAPS: u32 = 1_000;
    const FILES: usize = 5;
    let files = |n: u32| -> Vec<(String, String)> {
        (0..FILES).map(|file| (format!("p{file}.yaml").replace("p0.", "p."), policy(&format!("v{n}")))).collect()
    };
    let mut pod = Pod::new("");
    let update = |pod: &mut Pod, n: u32| {
        let files = files(n);
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
        pod.policies.update(&files);
    };
    update(&mut pod, 0);
    let process = pod.start();
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let seen = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let page = process.json("/policy");
                let policies = page.get("policies").and_then(Value::as_array).unwrap();
                let digests: BTreeSet<String> =
                    policies.iter().map(|policy| policy.get("digest").unwrap().to_string()).collect();
                assert_eq!((digests.len(), policies.len()), (1, FILES), "half of a change: {page}");
                seen.extend(digests);
            }
            seen
        });
        let storm = Instant::now();
        for n in 1..=SWAPS {
            update(&mut pod, n);
            // Spread over some ten seconds, however fast the disk is.
            thread::sleep((storm + Duration::from_millis(10) * n).saturating_duration_since(Instant::now()));
        }
        let last = digest(&policy(&format!("v{SWAPS}")));
        until("the last version does not serve", || (process.digest("policies/p.yaml") == last).then_some(()));
        over.store(true, Ordering::Relaxed);
        looking.join().unwrap()
    });
    let page = process.reloaded(0, 1);
    let of = |key: &str| page.get(key).and_then(Value::as_u64).unwrap();
    // One reload for a look at most, however many swaps there were.
    let reloads = u128::from(of("reloads_ok") + of("reloads_failed"));
    assert!(reloads <= begun.elapsed().as_millis() / 200 + 1, "{page}");
    let lines = u128::try_from(process.log().lines().count()).unwrap();
    assert!(lines <= 20 + 10 * reloads, "the log is flooded");
    assert!(!seen.is_empty());
}
