//! A rolling restart under load: two replicas with one Redis, each replaced by a new one, and no request fails.

use std::{
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};

use super::{
    chart::{Manifests, tool},
    documents::{Identity, host, identities, secrets},
    kubelet::ENVOY,
    names::Names,
    process::{Process, until},
    replica::Replica,
    stack::{Envoy, answering, clusters},
};

/// Callers at once.
const CALLERS: usize = 8;
/// Calls that must have passed between two steps, so that every step happens under load.
const CALLS: u64 = 150;

const POLICY: &str = r#"{
  "version": "1",
  "default": "deny",
  "tools": {"work": {"limits": [{"counter": "calls", "window": "day", "scope": "grant", "max": 1000000}]}}
}
"#;

/// Redis with TLS and the user of the scenario.
fn redis(folder: &Path, identity: &Identity) -> (Process, u16) {
    let folder = folder.join("redis");
    std::fs::create_dir_all(&folder).unwrap();
    for (file, text) in
        [("tls.crt", &identity.certificate), ("tls.key", &identity.key), ("ca.crt", &identity.authority)]
    {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"]);
    command.args(["--tls-cert-file", "tls.crt", "--tls-key-file", "tls.key", "--tls-ca-cert-file", "ca.crt"]);
    command.args([
        "--appendonly",
        "yes",
        "--save",
        "",
        "--user",
        "mcp-authz",
        "on",
        ">secret",
        "~pq1:*",
        "&*",
        "+@all",
    ]);
    let mut process = Process::start("redis", &folder, {
        command.current_dir(&folder);
        command
    });
    until("Redis listens", || {
        process.assert_running();
        process.output().contains("Ready to accept connections").then_some(())
    });
    (process, port)
}

/// What the callers saw.
#[derive(Default)]
struct Seen {
    passed: AtomicU64,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Seen {
    fn call_on(&self, envoy: &Envoy) {
        while !self.stop.load(Ordering::Relaxed) {
            match envoy.call("work", &json!({})) {
                Ok((200, answer)) if answer.contains("\"done\"") => {
                    self.passed.fetch_add(1, Ordering::Relaxed);
                }
                other => self.failed.lock().unwrap().push(format!("{other:?}")),
            }
        }
    }

    /// Waits until the load has gone on for a while; a failed call ends it.
    fn goes_on(&self) {
        let before = self.passed.load(Ordering::Relaxed);
        until("the load goes on", || {
            // A copy: a panic that holds the lock would hide the reason behind those of the callers.
            let failed = self.failed.lock().unwrap().clone();
            assert!(failed.is_empty(), "{failed:?}");
            (self.passed.load(Ordering::Relaxed) >= before.saturating_add(CALLS)).then_some(())
        });
    }
}

/// Ends the load also if the test fails, because the threads are waited for.
struct Ending<'s>(&'s Seen);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_rolling_restart_loses_no_request() {
    tool("envoy", "bin/envoy");
    let folder = tempfile::tempdir().unwrap();
    let [server, envoy, store] = identities([&host(), ENVOY, "localhost"]);
    let (_redis, port) = redis(folder.path(), &store);
    let manifests = Manifests::of(
        "production-redis",
        &json!({
            "quotas.redis.url": format!("rediss://localhost:{port}"),
            // A loaded machine must not look like a lost request.
            "envoy.checkMs": 10_000,
            "extraConfig": {"ledger": {"redis": {"timeout_ms": 4_000}}},
            "policies.inline": {"demo.json": POLICY},
        }),
    );
    // All certificates of this test are of one authority, as those of a cluster often are.
    let (secrets, names, upstream) = (secrets(&server), Names::start(), answering());
    let mut born = 0_usize;
    let mut start = || {
        born = born.saturating_add(1);
        Replica::start(&manifests, &secrets, &folder.path().join(format!("pod-{born}"))).ready()
    };
    let mut running = vec![start(), start()];
    let tell = |running: &[Replica]| names.set(&running.iter().map(|replica| replica.address).collect::<Vec<_>>());
    tell(&running);
    let envoy = Envoy::start(folder.path(), &clusters(&manifests), upstream, &names, &envoy);
    let knows = |count: usize| {
        let both = ["mcp_authz", "mcp_authz_responses"];
        both.iter().all(|cluster| envoy.healthy(cluster).len() == count).then_some(())
    };
    until("Envoy finds both", || knows(2));
    until("a new Redis is trusted", || envoy.call("work", &json!({})).unwrap().1.contains("\"done\"").then_some(()));

    let seen = Seen::default();
    std::thread::scope(|scope| {
        let _ending = Ending(&seen);
        for _ in 0..CALLERS {
            scope.spawn(|| seen.call_on(&envoy));
        }
        seen.goes_on();
        for _ in 0..2 {
            // maxSurge 1, maxUnavailable 0: the new one is ready before the old one goes.
            running.push(start());
            tell(&running);
            until("Envoy finds the new one", || knows(3));
            seen.goes_on();
            let old = running.remove(0);
            tell(&running);
            let gone = format!("{}:", old.address);
            old.stop(|| envoy.healthy("mcp_authz").iter().all(|address| !address.starts_with(&gone)).then_some(()));
            seen.goes_on();
        }
    });
    let failed = seen.failed.lock().unwrap();
    assert!(failed.is_empty(), "{failed:?}\n{}", envoy.output());
    let strategy: &Value = &manifests.kind("Deployment")[0]["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(*strategy, json!({"maxSurge": 1, "maxUnavailable": 0}), "the test rolls out in another way");
}
