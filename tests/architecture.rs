//! The invariants of `src/ARCHITECTURE.md`, held by looking at the sources.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a panic is its way to say no")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every Rust source below `dir`, as path relative to the repository and text without comments.
fn sources(dir: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(dir)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, code(&fs::read_to_string(&path).unwrap())));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {dir}");
    found.sort();
    found
}

/// The text without line comments, so that an invariant may be written about in prose.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/") || name.ends_with("contract.rs")
}

/// Sources below `dir` that name `word` although they are not in `allowed`.
fn offenders(dir: &str, word: &str, allowed: &[&str]) -> Vec<String> {
    sources(dir)
        .into_iter()
        .filter(|(name, _)| !is_test(name) && !allowed.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|(_, text)| text.contains(word))
        .map(|(name, _)| name)
        .collect()
}

#[track_caller]
fn nowhere_but(dir: &str, word: &str, allowed: &[&str]) {
    let offenders = offenders(dir, word, allowed);
    assert!(offenders.is_empty(), "`{word}` may be named in {allowed:?} only, but is in {offenders:?}");
}

#[test]
fn the_core_is_pure() {
    for word in [
        "tokio",
        "tonic",
        "prost",
        "redis",
        "tracing",
        "async ",
        ".await",
        "std::fs",
        "std::net",
        "std::env",
        "std::io",
        "std::process",
        "std::thread",
        "SystemTime",
        "Instant",
        "println!",
        "eprintln!",
        "Timestamp::now",
        "Zoned::now",
    ] {
        nowhere_but("src/core", word, &[]);
    }
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core/Cargo.toml")).unwrap();
    for dependency in ["tokio", "tonic", "prost", "redis", "tracing", "getrandom", "reqwest"] {
        assert!(!manifest.contains(dependency), "the core must not depend on {dependency}");
    }
}

#[test]
fn only_the_engine_of_redis_names_its_client() {
    for word in ["use redis::", "redis::aio", "redis::cmd", "redis::Client", "redis::RedisError", "redis::Value"] {
        nowhere_but("src", word, &["src/quota/redis"]);
    }
}

#[test]
fn only_the_adapter_knows_the_messages_of_envoy() {
    nowhere_but("src", "envoy_types", &[]);
    nowhere_but("src", "wire::", &["src/envoy"]);
    nowhere_but("src", "prost::", &["src/envoy"]);
}

#[test]
fn only_the_engine_of_redis_knows_its_client() {
    nowhere_but("src", "use redis::", &["src/quota/redis"]);
    nowhere_but("src", "redis::cmd(", &["src/quota/redis"]);
}

#[test]
fn answers_are_built_in_one_place() {
    for word in ["http_response:", "HttpResponse::Ok(", "OkHttpResponse {", "expose_header"] {
        nowhere_but(
            "src",
            word,
            &["src/envoy/respond.rs", "src/envoy/wire.rs", "src/credential.rs", "src/snapshot/tests", "src/state.rs"],
        );
    }
    let outside: Vec<String> = offenders("src", "Permit {", &["src/engine.rs"]);
    assert!(outside.is_empty(), "a permit is made in engine.rs only: {outside:?}");
    nowhere_but("src", "CheckResponse::default()", &[]);
}

#[test]
fn only_the_credential_module_exposes_a_secret() {
    nowhere_but("src", "expose_secret", &["src/credential.rs", "src/credential/"]);
}

#[test]
fn only_the_clock_reads_the_wall_clock() {
    nowhere_but("src", "SystemTime::now", &["src/clock.rs"]);
}

#[test]
fn a_request_takes_one_snapshot() {
    let adapter = sources("src/envoy").into_iter().find(|(name, _)| name == "src/envoy/check.rs").unwrap().1;
    assert_eq!(adapter.matches(".snapshot()").count(), 1);
    let responses: String =
        sources("src").into_iter().filter(|(name, _)| name == "src/response.rs").map(|(_, t)| t).collect();
    assert_eq!(responses.matches(".snapshot()").count(), 1, "and so does a response");
    for folder in ["src/response", "src/envoy/server"] {
        assert!(offenders(folder, ".snapshot()", &[]).is_empty(), "{folder}");
    }
}

#[test]
fn nothing_is_left_undone_in_the_sources() {
    for word in ["todo!", "unimplemented!", "unsafe {", "unsafe fn", "unsafe impl", "#[ignore", "#[allow("] {
        nowhere_but("src", word, &[]);
    }
    nowhere_but("tests/e2e", "#[ignore", &[]);
}

#[test]
fn the_top_level_is_as_designed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "Makefile",
        "README.md",
        "deploy",
        "helm",
        "policies",
        "proto",
        "src",
        "target",
        "tests",
    ];
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with('.') || expected.contains(&name.as_str()),
            "`{name}` does not belong at the top level"
        );
    }
}
