use mcp_authz_core::audit::ArgsMode;

use super::*;
use crate::telemetry::audit::{Checkpoints, Rotation, Sink};

const LISTEN: &str = "listen: {grpc: ['tcp://127.0.0.1:0'], admin: '127.0.0.1:0'}\n";

fn parse(text: &str) -> Result<Config, Vec<Defect>> {
    Config::parse("config.yaml", text.as_bytes(), Format::Yaml, Path::new("/etc/x"))
}

/// Settings with a good `listen` and the given text after it.
fn with(more: &str) -> Config {
    parse(&format!("{LISTEN}{more}")).unwrap_or_else(|defects| panic!("{defects:?}"))
}

fn defects(text: &str) -> Vec<String> {
    let defects = parse(text).expect_err(text);
    defects.iter().map(|d| d.to_string().replacen("config.yaml:", "", 1)).collect()
}

fn defects_with(more: &str) -> Vec<String> {
    defects(&format!("{LISTEN}{more}"))
}

#[test]
fn every_setting_has_its_default() {
    let config = with("");
    assert_eq!(config.listen.grpc, [Endpoint::Tcp("127.0.0.1:0".parse().unwrap())]);
    assert!(config.tls.is_none());
    assert_eq!(config.paths.policies, Path::new("/etc/x/policies"));
    assert_eq!(config.paths.servers, Path::new("/etc/x/servers.yaml"));
    assert_eq!(config.paths.grants, Path::new("/etc/x/grants"));
    assert_eq!(config.paths.credentials, Path::new("/etc/x/credentials"));
    let limits = Limits {
        body_bytes_max: 1_048_576,
        json_depth_max: 64,
        json_nodes_max: 100_000,
        checks_in_flight_max: 1_024,
        header_bytes_max: 65_536,
        headers_max: 200,
        counters_max: 1_000_000,
        reservations_max: 1_000_000,
        metric_counters_max: 1_000,
        metric_policies_max: 1_000,
        pinned_tools_max: 1_000,
        pinned_definition_bytes_max: 65_536,
        pending_tools_max: 200,
    };
    assert_eq!(config.limits, limits);
    let timeouts = [config.timeouts.check, config.timeouts.margin, config.timeouts.lease, config.timeouts.drain];
    assert_eq!(timeouts.map(|time| time.as_millis()), [1_000, 20, 120_000, 10_000]);
    assert!(!config.envoy.accept_lossy_body && !config.envoy.response_phase && !config.paths.response_phase);
    let audit = Audit {
        sink: Sink::Stdout,
        args: ArgsMode::Keys,
        danger_full_args: false,
        outcomes: true,
        fail_closed: false,
        buffer_bytes_max: 4_194_304,
        file: Rotation { bytes_max: 0, files_max: 0 },
        signing_key: None,
        checkpoints: Checkpoints { records: 1_000, every: Duration::from_secs(60) },
        redis_entries_max: 1_000_000,
    };
    assert_eq!(config.audit, audit);
    assert_eq!(config.log, Log { level: Level::Info, format: log::Format::Text });
    assert_eq!(config.admin, Admin::default());
    assert_eq!(config.reload, Reload { watch: true, poll: Duration::from_secs(1) });
    let account = "/var/run/secrets/kubernetes.io/serviceaccount".into();
    assert_eq!((config.kubernetes, config.webhook), (Kubernetes { events: false, account }, None));
    let folder = Some("/var/lib/mcp-authz".into());
    assert_eq!(config.ledger, Ledger { engine: Engine::Embedded { folder }, leaks_max: 10_000 });
}

#[test]
fn every_setting_is_read() {
    let config = parse(
        "listen:
  grpc: ['tcp://0.0.0.0:9191', 'unix:///run/a.sock', 'unix://b.sock', 'tcp://[::1]:1', 'tcp://localhost:2']
  admin: '[::1]:9192'
tls: {certificate: tls/tls.crt, key: /k, client_ca: ca, allowed_sans: ['spiffe://c/ns/mesh/sa/envoy']}
danger_plaintext_tcp: false
paths: {policies: p, servers: /s.yaml, grants: ../g, credentials: c}
limits: {body_bytes_max: 1024, json_depth_max: 8, json_nodes_max: 100, checks_in_flight_max: 1, header_bytes_max: 1024, headers_max: 10, counters_max: 100, reservations_max: 101, metric_counters_max: 0}
timeouts: {check_ms: 10, margin_ms: 9, lease_ms: 1000, drain_ms: 0}
envoy: {accept_lossy_body: true, response_phase: true}
audit: {sink: audit.jsonl, fail_closed: true, buffer_bytes_max: 65536, args: full, danger_full_args: true, outcomes: false, file: {bytes_max: 1, files_max: 2}, signing_key: k, checkpoint_records: 3, checkpoint_ms: 4000, redis: {entries_max: 5000}}
log: {level: debug, format: json}
admin: {token_file: ../admin.token}
",
    )
    .unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(
        config.listen.grpc.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["tcp://0.0.0.0:9191", "unix:///run/a.sock", "unix:///etc/x/b.sock", "tcp://[::1]:1", "tcp://127.0.0.1:2"]
    );
    let tls = config.tls.unwrap();
    assert_eq!((tls.certificate.as_path(), tls.key.as_path()), (Path::new("/etc/x/tls/tls.crt"), Path::new("/k")));
    let clients = tls.clients.unwrap();
    assert_eq!(clients.ca, Path::new("/etc/x/ca"));
    assert_eq!(clients.allowed_sans, ["spiffe://c/ns/mesh/sa/envoy"]);
    assert_eq!(config.paths.policies, Path::new("/etc/x/p"));
    assert_eq!(config.paths.servers, Path::new("/s.yaml"));
    assert_eq!((config.limits.reservations_max, config.limits.metric_counters_max), (101, 0));
    assert_eq!((config.limits.json().depth_max, config.limits.headers().count_max), (8, 10));
    assert_eq!(config.timeouts.margin, Duration::from_millis(9));
    assert!(config.envoy.accept_lossy_body && config.audit.fail_closed);
    assert!(config.envoy.response_phase && config.paths.response_phase);
    let audit = Audit {
        sink: Sink::File("/etc/x/audit.jsonl".into()),
        args: ArgsMode::Full,
        danger_full_args: true,
        outcomes: false,
        fail_closed: true,
        buffer_bytes_max: 65_536,
        file: Rotation { bytes_max: 1, files_max: 2 },
        signing_key: Some("/etc/x/k".into()),
        checkpoints: Checkpoints { records: 3, every: Duration::from_secs(4) },
        redis_entries_max: 5_000,
    };
    assert_eq!(config.audit, audit);
    assert_eq!(config.log, Log { level: Level::Debug, format: log::Format::Json });
    assert_eq!(config.admin.token_file.as_deref(), Some(Path::new("/etc/x/../admin.token")));
}

#[test]
fn every_number_has_a_range() {
    for (section, key, min, max) in [
        ("limits", "body_bytes_max", 1_024, 67_108_864),
        ("limits", "json_depth_max", 8, 512),
        ("limits", "json_nodes_max", 100, 10_000_000),
        ("limits", "checks_in_flight_max", 1, 1_000_000),
        ("limits", "header_bytes_max", 1_024, 1_048_576),
        ("limits", "headers_max", 10, 10_000),
        ("limits", "counters_max", 100, 100_000_000),
        ("limits", "reservations_max", 100, 10_000_000),
        ("limits", "metric_counters_max", 0, 100_000),
        ("limits", "pinned_tools_max", 1, 100_000),
        ("limits", "pinned_definition_bytes_max", 1_024, 1_048_576),
        ("limits", "pending_tools_max", 1, 100_000),
        ("timeouts", "check_ms", 21, 60_000),
        ("timeouts", "margin_ms", 0, 999),
        ("timeouts", "lease_ms", 1_000, 86_400_000),
        ("timeouts", "drain_ms", 0, 600_000),
        ("ledger", "leaks_max", 1, 1_000_000),
        ("audit", "buffer_bytes_max", 65_536, 1_073_741_824_i64),
        ("audit", "checkpoint_ms", 1_000, 86_400_000),
        ("audit", "checkpoint_records", 1, 1_000_000),
    ] {
        for (value, fits) in [(min, true), (max, true), (min - 1, false), (max + 1, false)] {
            let text = format!("{LISTEN}{section}: {{{key}: {value}}}\n");
            assert_eq!(parse(&text).is_ok(), fits, "{text}");
        }
    }
    assert_eq!(
        defects_with("limits: {json_depth_max: 513, headers_max: '10'}\n"),
        [
            "2: /limits/headers_max: expected a whole number from 10 to 10000, found a string (write it without quotes and units)",
            "2: /limits/json_depth_max: expected a whole number from 8 to 512, found `513`",
        ]
    );
    assert_eq!(
        defects_with("timeouts: {check_ms: 20}\n"),
        ["2: /timeouts: `margin_ms` (20) must be less than `check_ms` (20)"]
    );
}

#[test]
fn every_defect_of_every_section_is_told_at_once() {
    assert_eq!(
        defects(
            "listne: 1
tls: {certificate: ''}
danger_plaintext_tcp: yes
paths: {policy: x}
limits: []
timeouts: {check_ms: 1s}
envoy: {accept_lossy_body: 1}
audit: {sink: stdot}
log: {level: verbose, format: xml}
"
        ),
        [
            "1: unknown key `listne` (did you mean `listen`?)",
            "1: missing key `listen`",
            "2: /tls: missing key `key`",
            "2: /tls/certificate: must not be empty",
            "3: /danger_plaintext_tcp: expected `true` or `false`, found a string (only these two words, unquoted)",
            "4: /paths: unknown key `policy` (known: `policies`, `servers`, `grants`, `credentials`)",
            "5: /limits: expected a map, found a list",
            "6: /timeouts/check_ms: expected a whole number from 10 to 60000, found a string (write it without quotes and units)",
            "7: /envoy/accept_lossy_body: expected `true` or `false`, found a number",
            "8: /audit/sink: expected `stdout`, `stderr`, `otlp`, `redis`, `none` or a path, found `stdot` (for a file beside the settings write `./` before its name)",
            "9: /log/format: expected one of `text`, `json`, found `xml`",
            "9: /log/level: expected one of `error`, `warn`, `info`, `debug`, found `verbose`",
        ]
    );
    assert_eq!(defects("5"), ["1: expected a map, found a number"]);
    assert_eq!(
        defects_with("audit: {sink: none, fail_closed: true}\n"),
        ["2: /audit: `fail_closed` with the sink `none` would deny every call"]
    );
    assert_eq!(
        defects_with("audit: {args: full}\n"),
        [
            "2: /audit: `args: full` writes every value of every call, secrets among them (use `hmac` or `redacted`, or set `danger_full_args: true`)"
        ]
    );
    assert_eq!(
        defects_with("audit: {sink: redis}\n"),
        [
            "1: `audit.sink: redis` writes into the Redis of `ledger.redis`, and there is none (set `ledger.redis`, or name another sink)"
        ]
    );
    assert!(parse(&format!("{LISTEN}audit: {{sink: redis}}\nledger: {{redis: {{url: 'redis://a'}}}}\n")).is_ok());
}

#[test]
fn addresses_are_literal() {
    let listen = |grpc: &str| defects(&format!("listen: {{admin: '127.0.0.1:1', grpc: {grpc}}}"));
    for address in [
        "127.0.0.1:1",
        "tcp://127.0.0.1",
        "tcp://example.com:1",
        "tcp://:1",
        "tcp://127.0.0.1:65536",
        "unix://",
        "http://x",
        "tcp://localhost:+1",
        "",
    ] {
        assert_eq!(
            listen(&format!("['{address}']")),
            [format!(
                "1: /listen/grpc/0: `{address}` is no address to listen on (such as `tcp://127.0.0.1:9191` or `unix:///run/mcp-authz/authz.sock`)"
            )]
        );
    }
    assert_eq!(listen("[]"), ["1: /listen/grpc: must not be empty: Envoy could not ask anything"]);
    assert_eq!(listen("['unix:///a', 'unix:///a']"), ["1: /listen/grpc/1: `unix:///a` is listed twice"]);
    assert_eq!(listen("['tcp://127.0.0.1:1']"), ["1: /listen: `admin` and `grpc` cannot listen on the same address"]);
    let many = |count: usize| vec!["'tcp://127.0.0.1:0'"; count].join(", ");
    assert!(parse(&format!("listen: {{admin: '127.0.0.1:0', grpc: [{}]}}", many(16))).is_ok());
    assert_eq!(listen(&format!("[{}]", many(17))), ["1: /listen/grpc: more than 16 addresses"]);
    let socket = |bytes: usize| format!("['unix:///{}']", "a".repeat(bytes - 1));
    assert!(parse(&format!("listen: {{admin: '127.0.0.1:0', grpc: {}}}", socket(96))).is_ok());
    assert_eq!(listen(&socket(97)), ["1: /listen/grpc/0: the path of a socket has at most 96 bytes"]);
    assert_eq!(
        defects("listen: {grpc: [5], admin: 'example.com:1'}"),
        [
            "1: /listen/admin: is no address to listen on (such as `127.0.0.1:9192`)",
            "1: /listen/grpc/0: expected a string, found a number (quote it)"
        ]
    );
}

#[test]
fn checks_from_the_network_need_client_certificates() {
    let text = |more: &str| format!("listen: {{grpc: ['tcp://0.0.0.0:1'], admin: '127.0.0.1:2'}}\n{more}");
    let refused = [
        "1: /listen/grpc/0: Checks from the network need client certificates (set `tls.client_ca`, listen on 127.0.0.1 or a Unix socket, or set `danger_plaintext_tcp: true`)",
    ];
    assert_eq!(defects(&text("")), refused);
    assert_eq!(defects(&text("tls: {certificate: c, key: k}")), refused);
    assert!(parse(&text("tls: {certificate: c, key: k, client_ca: a}")).is_ok());
    assert!(parse(&text("danger_plaintext_tcp: true")).is_ok());
}

#[test]
fn names_in_client_certificates_are_exact() {
    let tls = |more: &str| defects_with(&format!("tls: {{certificate: c, key: k{more}}}"));
    assert_eq!(tls(", allowed_sans: [a]"), ["2: /tls/allowed_sans: names of client certificates need `client_ca`"]);
    assert_eq!(
        tls(", client_ca: a, allowed_sans: []"),
        ["2: /tls/allowed_sans: must not be empty (leave it out to take any certificate of `client_ca`)"]
    );
    assert_eq!(
        tls(", client_ca: a, allowed_sans: ['*.x', 'a b', '']"),
        [
            "2: /tls/allowed_sans/0: `*.x` is no exact name (such as `spiffe://cluster.local/ns/mesh/sa/envoy` or `envoy.mesh.svc`; no wildcards)",
            "2: /tls/allowed_sans/1: `a b` is no exact name (such as `spiffe://cluster.local/ns/mesh/sa/envoy` or `envoy.mesh.svc`; no wildcards)",
            "2: /tls/allowed_sans/2: must not be empty",
        ]
    );
}

#[test]
fn an_open_admin_address_is_a_warning() {
    let warnings = parse("listen: {grpc: ['tcp://127.0.0.1:1'], admin: '0.0.0.0:2'}").unwrap().warnings;
    assert_eq!(
        warnings[0].to_string(),
        "config.yaml:1: /listen/admin: metrics and policies can be read by anybody who reaches this address"
    );
}

#[test]
fn a_settings_file_that_cannot_be_read_is_a_defect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let problem = |path: &Path| Config::load(path).unwrap_err()[0].to_string();
    assert_eq!(problem(&path), format!("{}: cannot be read: no such file or directory", path.display()));
    assert_eq!(problem(folder.path()), format!("{}: is not a regular file", folder.path().display()));
    std::fs::write(&path, LISTEN).unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.paths.policies, folder.path().join("policies"));
}

fn redis(more: &str) -> crate::quota::redis::Settings {
    match with(&format!("ledger: {{redis: {more}}}\n")).ledger.engine {
        Engine::Redis(settings) => *settings,
        Engine::Embedded { .. } => panic!("{more}"),
    }
}

#[test]
fn one_line_selects_redis() {
    use crate::quota::redis::{Settings, Topology};
    let expected = Settings::new(Topology::standalone("redis://redis.example:6379").unwrap());
    assert_eq!(redis("{url: 'redis://redis.example'}"), expected);
}

#[test]
fn every_setting_of_redis_is_read() {
    use crate::quota::redis::{Durability, Topology};
    let all = redis(
        "{sentinel: {urls: ['rediss://a:1', 'rediss://b:2'], master: m, password_file: sp}, domain: d-1_x, username: u,
  password_file: p, tls: {ca: ca, certificate: c, key: k}, timeout_ms: 41, durability: 'wait:2', wait_timeout_ms: 51,
  secret_file: s, allow_unsafe: true, journal_max: 101}",
    );
    let Topology::Sentinel { sentinels, master, password_file } = &all.topology else { panic!("{all:?}") };
    assert_eq!(sentinels.iter().map(ToString::to_string).collect::<Vec<_>>(), ["rediss://a:1", "rediss://b:2"]);
    assert_eq!((master.as_str(), password_file.as_deref()), ("m", Some(Path::new("/etc/x/sp"))));
    assert_eq!((all.domain.as_str(), all.username.as_deref()), ("d-1_x", Some("u")));
    assert_eq!(all.password_file.as_deref(), Some(Path::new("/etc/x/p")));
    assert_eq!(all.secret_file.as_deref(), Some(Path::new("/etc/x/s")));
    assert_eq!(all.tls.key.as_deref(), Some(Path::new("/etc/x/k")));
    assert_eq!((all.timeout.as_millis(), all.wait_timeout.as_millis()), (41, 51));
    assert_eq!((all.durability, all.allow_unsafe, all.journal_max), (Durability::Wait(2), true, 101));
    let cluster = redis("{cluster: ['redis://a', 'redis://b:7']}");
    assert!(matches!(&cluster.topology, Topology::Cluster { nodes } if nodes.len() == 2));
}

#[test]
fn settings_of_redis_have_ranges() {
    for (key, min, max) in [("timeout_ms", 1, 10_000), ("wait_timeout_ms", 1, 10_000), ("journal_max", 100, 10_000_000)]
    {
        for (value, fits) in [(min, true), (max, true), (min - 1, false), (max + 1, false)] {
            let text = format!("{LISTEN}ledger: {{redis: {{url: 'redis://a', {key}: {value}}}}}\n");
            assert_eq!(parse(&text).is_ok(), fits, "{text}");
        }
    }
    let domain = |length: usize| {
        parse(&format!("{LISTEN}ledger: {{redis: {{url: 'redis://a', domain: {}}}}}\n", "d".repeat(length)))
    };
    assert!(domain(48).is_ok() && domain(49).is_err());
    let cluster = |count: usize| {
        let urls: Vec<String> = (0..count).map(|n| format!("'redis://a:{}'", n + 1)).collect();
        parse(&format!("{LISTEN}ledger: {{redis: {{cluster: [{}]}}}}\n", urls.join(", ")))
    };
    assert!(cluster(16).is_ok() && cluster(17).is_err() && cluster(0).is_err());
    for (text, fits) in [("wait:1", true), ("wait:10", true), ("wait:0", false), ("wait:11", false), ("sync", false)] {
        let text = format!("{LISTEN}ledger: {{redis: {{url: 'redis://a', durability: '{text}'}}}}\n");
        assert_eq!(parse(&text).is_ok(), fits, "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_ledger_is_told() {
    for (ledger, told) in [
        (
            "{embedded: {}, redis: {url: 'redis://a'}}",
            "/ledger/redis: a second engine (counters are kept in one place: remove `embedded` or `redis`)",
        ),
        ("{redis: {}}", "/ledger/redis: needs one of `url`, `sentinel` and `cluster`"),
        (
            "{redis: {url: 'redis://a', cluster: ['redis://a']}}",
            "/ledger/redis: needs one of `url`, `sentinel` and `cluster`",
        ),
        (
            "{redis: {url: 'redis://u:hunter2@a'}}",
            "/ledger/redis/url: an address with a password in it would end up in logs (write the user as `username` and put the password into a file named by `password_file`)",
        ),
        (
            "{redis: {url: 'a:6379'}}",
            "/ledger/redis/url: `a:6379` is no address of a Redis server (such as `redis://redis.example:6379`, `rediss://redis.example:6380` or `unix:///run/redis.sock`)",
        ),
        (
            "{redis: {url: 'rediss://a'}}",
            "/ledger/redis: `rediss` needs `tls.ca` (the PEM file with the authorities that sign the server's certificate)",
        ),
        (
            "{redis: {url: 'redis://a', tls: {ca: x}}}",
            "/ledger/redis/tls: no address asks for TLS (write `rediss://` in place of `redis://`)",
        ),
        (
            "{redis: {url: 'rediss://a', tls: {ca: x, key: y}}}",
            "/ledger/redis/tls: `certificate` and `key` need each other",
        ),
        ("{redis: {url: 'redis://a', username: u}}", "/ledger/redis: `username` needs `password_file`"),
        (
            "{redis: {url: 'redis://a', domain: A}}",
            "/ledger/redis/domain: must be 1 to 48 of `a` to `z`, `0` to `9`, `-` and `_`",
        ),
        (
            "{redis: {cluster: ['redis://a', 'rediss://a'], tls: {ca: x}}}",
            "/ledger/redis/cluster: some addresses with TLS and some without",
        ),
        (
            "{redis: {cluster: ['redis://a/1']}}",
            "/ledger/redis/cluster/0: there are no databases but on a standalone server",
        ),
        (
            "{embedded: {folder: state}}",
            "/ledger/embedded/folder: expected `none` or a path, found `state` (for a folder beside the settings write `./` before its name)",
        ),
    ] {
        let told = vec![format!("2: {told}")];
        assert_eq!(defects_with(&format!("ledger: {ledger}\n")), told);
    }
    let config = with("ledger: {embedded: {folder: none}}");
    assert_eq!(config.ledger.engine, Engine::Embedded { folder: None });
    assert_eq!(
        config.warnings[0].to_string(),
        "config.yaml:2: /ledger/embedded/folder: a restart hands out every quota anew, and forgets which tools were approved"
    );
    let config = with("ledger: {embedded: {folder: ./state}}");
    assert_eq!(config.ledger.engine, Engine::Embedded { folder: Some("/etc/x/./state".into()) });
}
