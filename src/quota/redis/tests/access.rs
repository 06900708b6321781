//! Who we are, over what, and whether the server is fit.

use std::{io::Write as _, path::PathBuf};

use super::*;

/// What a user of ours has to be permitted; the table in `deploy/QUOTAS.md` says the same.
pub(super) const RIGHTS: &[&str] = &[
    "~pq1:*",
    "resetchannels",
    "-@all",
    "+evalsha",
    "+eval",
    "+get",
    "+mget",
    "+set",
    "+del",
    "+exists",
    "+pexpireat",
    "+hget",
    "+hgetall",
    "+hset",
    "+hdel",
    "+hincrby",
    "+zadd",
    "+zrem",
    "+zscore",
    "+zcount",
    "+zrangebyscore",
    "+zremrangebyscore",
    "+time",
    "+info",
    "+wait",
    "+config|get",
    "+cluster|myid",
    "+cluster|slots",
    "+cluster|nodes",
];

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path
}

async fn refused(settings: Settings) -> String {
    match RedisLedger::connect(settings, Arc::new(SystemClock::new()), Arc::new(|_| {})).await {
        Ok(ledger) => format!("it was not refused: {ledger:?}"),
        Err(error) => error.to_string(),
    }
}

fn add_user(server: &RedisServer, password: &str, rights: &[&str]) {
    let password = format!(">{password}");
    let mut command = vec!["ACL", "SETUSER", "quota", "reset", "on", password.as_str()];
    command.extend(rights);
    tell(server, &command);
}

#[tokio::test]
async fn a_user_with_the_listed_rights_can_do_everything() {
    let server = RedisServer::start(&["--appendonly", "yes"]);
    let folder = tempfile::tempdir().unwrap();
    add_user(&server, "secret", RIGHTS);
    let login = Settings {
        username: Some("quota".into()),
        password_file: Some(file(&folder, "password", "secret\n")),
        durability: Durability::Wait(1),
        ..settings(&server)
    };
    let (ledger, _) = ready(login.clone()).await;
    let error = ledger.reserve(&call(&ledger, "1", 9), HOLD, soon()).await.unwrap_err();
    assert!(error.to_string().contains("did not answer"), "there is no replica that could confirm: {error:?}");
    drop(ledger);
    let (ledger, _) = ready(Settings { durability: Durability::Async, ..login.clone() }).await;
    assert_eq!(ledger.reserve(&call(&ledger, "2", 9), HOLD, soon()).await.unwrap().code, Code::Held);
    ledger.accept_loss().await.unwrap();
    crate::pins::contract::what_was_written_is_read(&ledger).await;
    // Every one of them is needed, but for what only some topologies and settings use.
    let spare = ["resetchannels", "-@all", "+wait", "+config|get", "+cluster|myid", "+cluster|slots", "+cluster|nodes"];
    for right in RIGHTS.iter().filter(|right| !spare.contains(right)) {
        let fewer: Vec<&str> = RIGHTS.iter().copied().filter(|r| r != right).collect();
        add_user(&server, "secret", &fewer);
        let why = refused(Settings { durability: Durability::Async, ..login.clone() }).await;
        assert!(why.contains("NOPERM") || why.contains("is unsafe"), "{right} is not needed: {why}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_at_the_start() {
    let server = RedisServer::start(&["--requirepass", "right"]);
    let folder = tempfile::tempdir().unwrap();
    let with = |text: &str| Settings { password_file: Some(file(&folder, "password", text)), ..settings(&server) };
    assert!(refused(with("wrong")).await.contains("denies access"));
    assert!(refused(settings(&server)).await.contains("NOAUTH"));
    let missing = Settings { password_file: Some(folder.path().join("none")), ..settings(&server) };
    assert!(refused(missing).await.contains("no such file"));
    assert!(refused(with("")).await.contains("is not one line of text"));
    ready(with("right\n")).await;
}

#[tokio::test]
async fn a_password_can_be_changed_while_it_runs() {
    let server = RedisServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    add_user(&server, "old", RIGHTS);
    let path = file(&folder, "password", "old");
    let login = Settings { username: Some("quota".into()), password_file: Some(path), ..settings(&server) };
    let (ledger, _) = ready(login).await;
    add_user(&server, "new", RIGHTS);
    tell(&server, &["CLIENT", "KILL", "USER", "quota"]);
    wait_for("it is thrown out", async || !ledger.is_connected()).await;
    let error = ledger.reserve(&call(&ledger, "1", 9), HOLD, soon()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused(_)), "{error:?}");
    file(&folder, "password", "new");
    assert!(ledger.connected(Instant::now() + PATIENCE).await);
    assert_eq!(ledger.reserve(&call(&ledger, "2", 9), HOLD, soon()).await.unwrap().code, Code::Held);
}

#[tokio::test]
async fn a_store_that_would_lose_counts_is_refused_with_what_to_change() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let strict = Settings { allow_unsafe: false, ..settings(&server) };
    let why = refused(strict.clone()).await;
    assert!(why.contains("`maxmemory-policy noeviction`") && why.contains("`appendonly yes`"), "{why}");
    assert!(why.contains("allow_unsafe"), "{why}");
    tell(&server, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let why = refused(strict.clone()).await;
    assert!(!why.contains("maxmemory-policy") && why.contains("`appendonly yes`"), "{why}");
    tell(&server, &["CONFIG", "SET", "save", "60 1"]);
    ready(strict.clone()).await;
    tell(&server, &["CONFIG", "SET", "save", ""]);
    tell(&server, &["CONFIG", "SET", "appendonly", "yes"]);
    ready(strict.clone()).await;
    let other = RedisServer::start(&[]);
    tell(&server, &["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    let why = refused(Settings { allow_unsafe: true, ..strict }).await;
    assert!(why.contains("it is a replica") && !why.contains("allow_unsafe"), "{why}");
}

#[tokio::test]
async fn a_store_that_begins_to_evict_is_not_used_until_it_stops() {
    let server = RedisServer::start(&["--appendonly", "yes"]);
    let (ledger, said) = ready(Settings { allow_unsafe: false, ..settings(&server) }).await;
    tell(&server, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    wait_for("it is found out", async || said.has(Event::Unsafe) && !ledger.is_connected()).await;
    assert!(ledger.reserve(&call(&ledger, "1", 9), HOLD, soon()).await.is_err());
    tell(&server, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert!(ledger.connected(Instant::now() + PATIENCE).await);
    assert_eq!(ledger.reserve(&call(&ledger, "2", 9), HOLD, soon()).await.unwrap().code, Code::Held);
}

#[tokio::test]
async fn replicas_with_different_secret_files_are_found_out() {
    let server = RedisServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, text: &str| Settings { secret_file: Some(file(&folder, name, text)), ..settings(&server) };
    let (one, _) = ready(with("one", &"01".repeat(32))).await;
    let (same, _) = ready(with("same", &"01".repeat(32))).await;
    assert_eq!(one.keys().sign(b"x"), same.keys().sign(b"x"));
    assert!(refused(with("two", &"02".repeat(32))).await.contains("secret_file"));
    assert!(refused(settings(&server)).await.contains("secret_file"));
    assert!(refused(with("odd", "01")).await.contains("64 hexadecimal digits"));
    assert!(!server.cli(&["GET", "pq1:{default}:secret"]).contains("0101"), "the secret itself stays in its file");
}

#[tokio::test]
async fn tls_trusts_whom_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let pem = |name: &str, text: &str| file(&folder, name, text);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    // A certificate of the same name as its authority would pass for one that signed itself.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = pem("ca", &authority.self_signed(&authority_key).unwrap().pem());
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let issue = |name: &str, host: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (pem(&format!("{name}.crt"), &certificate.pem()), pem(&format!("{name}.key"), &key.serialize_pem()))
    };
    let ((server_crt, server_key), (client_crt, client_key)) = (issue("server", "localhost"), issue("client", "us"));
    let text = |path: &PathBuf| path.display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let server = RedisServer::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &text(&server_crt),
        "--tls-key-file",
        &text(&server_key),
        "--tls-ca-cert-file",
        &text(&ca),
    ]);
    let tls = |host: &str, files: TlsFiles| Settings {
        topology: Topology::standalone(&format!("rediss://{host}:{port}")).unwrap(),
        tls: files,
        ..settings(&server)
    };
    let files = TlsFiles { ca: Some(ca), certificate: Some(client_crt), key: Some(client_key) };
    let (ledger, _) = start(tls("localhost", files.clone())).await;
    assert!(ledger.connected(soon()).await, "{}", server.log());
    assert_eq!(ledger.reserve(&call(&ledger, "1", 9), HOLD, soon()).await.unwrap().code, Code::Held);
    assert!(
        refused(tls("127.0.0.1", files.clone())).await.contains("TLS failed"),
        "another name than the certificate's"
    );
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = TlsFiles { ca: Some(pem("other", &stranger.cert.pem())), ..files.clone() };
    assert!(refused(tls("localhost", other)).await.contains("TLS failed"));
    assert!(refused(tls("localhost", TlsFiles { ca: None, ..files })).await.contains("`tls.ca`"));
}
