//! Stores under their contract, and the board over them.

use std::fs;

use mcp_authz_core::{
    document::Format,
    json::{Document, Limits},
    pins::Standing,
    server::ServersFile,
};
use prometheus_client::registry::Registry;
use test_redis::RedisServer;

use super::{contract::store_contract, *};
use crate::{
    clock::ManualClock,
    config::Paths,
    quota::redis::{RedisLedger, Settings, Topology},
};

const T: u64 = 1_700_000_000_000;
const SERVERS: &str = "servers:
  one: {credential: {kind: none}, tools: {trust: first_use}}
  two: {credential: {kind: none}, tools: {trust: pinned}}
  off: {credential: {kind: none}, tools: {trust: off}}
  none: {credential: {kind: none}}
";

async fn redis(server: &RedisServer) -> RedisLedger {
    let url = format!("unix://{}", server.socket().display());
    let settings = Settings {
        allow_unsafe: true,
        timeout: Duration::from_millis(500),
        fence: Duration::ZERO,
        ..Settings::new(Topology::standalone(&url).unwrap())
    };
    let clock = Arc::new(ManualClock::new(T));
    let ledger = RedisLedger::connect(settings, clock, Arc::new(|_| ())).await.unwrap();
    assert!(ledger.connected(later(Duration::from_secs(20))).await);
    ledger
}

/// Says something to the server that it does not refuse.
#[track_caller]
fn tell(server: &RedisServer, command: &[&str]) {
    let answer = server.cli(command);
    assert!(!answer.contains("ERR") && !answer.contains("WRONG"), "{command:?}: {answer}");
}

mod contract_in_memory {
    use super::*;

    store_contract!(async { (Arc::new(FolderStore::new(None)), ()) });
}

mod contract_in_files {
    use super::*;

    store_contract!(async {
        let folder = tempfile::tempdir().unwrap();
        (Arc::new(FolderStore::new(Some(folder.path()))), folder)
    });
}

mod contract_in_redis {
    use super::*;

    store_contract!(async {
        let server = RedisServer::start(&[]);
        (Arc::new(redis(&server).await), server)
    });
}

struct Rig<S> {
    board: Arc<Pinboard<S>>,
    folder: tempfile::TempDir,
    registry: Registry,
}

fn rig<S: Store>(store: S) -> Rig<S> {
    rig_with(store, Bounds::default())
}

fn rig_with<S: Store>(store: S, bounds: Bounds) -> Rig<S> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["policies", "grants", "credentials"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("servers.yaml"), SERVERS).unwrap();
    let state = Arc::new(State::load(&Paths::below(folder.path()), T).unwrap().0);
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, T);
    let board = Pinboard::new(store, state, Arc::new(ManualClock::new(T)), metrics, bounds);
    Rig { board: Arc::new(board), folder, registry }
}

impl<S: Store> Rig<S> {
    fn counted(&self, line: &str) -> bool {
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &self.registry).unwrap();
        out.lines().any(|one| one == line)
    }

    /// A list as the response phase handles it: what each tool comes to.
    async fn list(&self, server: &str, tools: &[(&str, &str)]) -> Result<Vec<Standing>, PinsError> {
        let view = self.board.book(server).await?.expect("the server has pins");
        let texts: Vec<(&str, String)> = tools
            .iter()
            .map(|(name, text)| (*name, format!(r#"{{"name":"{name}","description":"{text}"}}"#)))
            .collect();
        let judge = |view: &View| -> Vec<Standing> {
            let one = |(name, text): &(&str, String)| {
                view.standing(name, Document::parse(text.as_bytes(), Limits::default()).unwrap().root())
            };
            texts.iter().map(one).collect()
        };
        let records = judge(&view).into_iter().filter_map(|one| match one {
            Standing::Record(observed) => Some(observed),
            Standing::Approved | Hidden | Standing::Reported => None,
        });
        let sighting = Sighting { seen: records.collect(), is_last_page: true };
        if sighting.seen.is_empty() && !view.expects_last_page() {
            return Ok(judge(&view));
        }
        Ok(judge(&self.board.record(server, sighting).await?))
    }
}

use Standing::{Approved, Hidden};

fn server(name: &str) -> Arc<Server> {
    let file = ServersFile::read("servers.yaml", SERVERS.as_bytes(), Format::Yaml);
    Arc::clone(file.registry.by_name(name).unwrap())
}

fn may_be_called(board: &Pinboard<impl Store>, name: &str, tool: &str) -> Option<bool> {
    match board.known(&server(name)) {
        Known::Off => Some(true),
        Known::Unavailable => None,
        Known::View(view) => Some(view.may_be_called(tool)),
    }
}

#[tokio::test]
async fn a_changed_tool_is_hidden_and_denied_until_it_is_approved() {
    let rig = rig(FolderStore::new(None));
    let board = &rig.board;
    board.refresh().await.unwrap();
    assert_eq!(rig.list("one", &[("a", "1"), ("b", "1")]).await.unwrap(), [Approved, Approved]);
    assert_eq!(rig.list("one", &[("a", "2"), ("b", "1")]).await.unwrap(), [Hidden, Approved]);
    assert_eq!((may_be_called(board, "one", "a"), may_be_called(board, "one", "b")), (Some(false), Some(true)));
    board.refresh().await.unwrap();
    assert!(rig.counted("mcp_authz_pins_pending 1"));
    assert!(rig.counted("mcp_authz_pin_events_total{event=\"changed\"} 1"));
    let view = board.look("one").await.unwrap();
    let digest = view.pins().get("a").unwrap().pending.as_ref().unwrap().digest();
    let approved = view.pins().get("a").unwrap().approved.as_ref().unwrap().digest();
    let error = board.approve("one", Approval::Tool("a", approved)).await.unwrap_err();
    assert!(matches!(error, PinsError::Refused(Refusal::Changed)), "{error:?}");
    assert_eq!(board.approve("one", Approval::Tool("a", digest)).await.unwrap(), 1);
    assert_eq!(rig.list("one", &[("a", "2"), ("b", "1")]).await.unwrap(), [Approved, Approved]);
    assert_eq!(may_be_called(board, "one", "a"), Some(true));
    board.forget("one", "a").await.unwrap();
    assert_eq!(rig.list("one", &[("a", "2")]).await.unwrap(), [Hidden], "a forgotten tool is new");
}

#[tokio::test]
async fn only_servers_with_trust_have_pins() {
    let rig = rig(FolderStore::new(None));
    for name in ["off", "none", "unheard-of"] {
        assert!(rig.board.book(name).await.unwrap().is_none());
        assert!(matches!(rig.board.record(name, Sighting::default()).await, Err(PinsError::Off(_))));
    }
    assert!(matches!(rig.board.known(&server("off")), Known::Off));
    assert_eq!(rig.list("two", &[("a", "1")]).await.unwrap(), [Hidden]);
}

#[tokio::test(start_paused = true)]
async fn nothing_may_be_called_before_pins_were_read_nor_long_after() {
    let rig = rig(FolderStore::new(None));
    assert_eq!(may_be_called(&rig.board, "one", "a"), None, "not read yet");
    rig.board.refresh().await.unwrap();
    assert_eq!(may_be_called(&rig.board, "one", "a"), Some(true));
    tokio::time::advance(STALE_MAX).await;
    assert_eq!(may_be_called(&rig.board, "one", "a"), Some(true), "at the limit");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(may_be_called(&rig.board, "one", "a"), None, "above it");
    assert_eq!(may_be_called(&rig.board, "off", "a"), Some(true));
}

#[tokio::test]
async fn what_was_compiled_is_kept_when_another_tool_changes() {
    let store = FolderStore::new(None);
    let (rig, other) = (self::rig(store.clone()), self::rig(store));
    rig.list("one", &[("a", "1"), ("b", "1")]).await.unwrap();
    let before = Arc::clone(rig.board.look("one").await.unwrap().approved("a").unwrap());
    other.list("one", &[("b", "2")]).await.unwrap();
    let view = rig.board.look("one").await.unwrap();
    assert!(view.pins().get("b").unwrap().pending.is_some(), "it is another state");
    assert!(Arc::ptr_eq(view.approved("a").unwrap(), &before));
}

/// Two replicas see the first list at the same time, and it is not the same list.
async fn two_replicas_agree(one: Rig<impl Store>, other: Rig<impl Store>) {
    for round in 0..20 {
        let tool = format!("t{round}");
        let (mine, yours) = ([(&*tool, "1"), ("x", "1")], [(&*tool, "2"), ("y", "1")]);
        let (first, second) = tokio::join!(one.list("one", &mine), other.list("one", &yours));
        let shown = [&first.unwrap()[0], &second.unwrap()[0]].into_iter().filter(|one| **one == Approved).count();
        assert_eq!(shown, usize::from(round == 0), "only the first list is trusted, and of it one");
        let (mine, yours) = (one.board.look("one").await.unwrap(), other.board.look("one").await.unwrap());
        assert_eq!(mine.pins(), yours.pins());
        let pin = mine.pins().get(&tool).unwrap();
        assert!(pin.pending.is_some());
        assert_eq!(pin.approved.is_some(), round == 0);
    }
}

#[tokio::test]
async fn two_replicas_agree_at_first_use_over_one_store() {
    let store = FolderStore::new(None);
    two_replicas_agree(rig(store.clone()), rig(store)).await;
}

#[tokio::test]
async fn two_replicas_agree_at_first_use_over_redis() {
    let server = RedisServer::start(&[]);
    two_replicas_agree(rig(redis(&server).await), rig(redis(&server).await)).await;
}

#[tokio::test]
async fn files_outlive_the_process_and_damage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let open = || rig(FolderStore::new(Some(folder.path())));
    open().list("one", &[("a", "1")]).await.unwrap();
    let rig = open();
    assert_eq!(rig.list("one", &[("a", "2")]).await.unwrap(), [Hidden], "what was pinned is still known");
    let file = folder.path().join("pins/one.pins");
    // What a write that was cut off leaves behind.
    fs::write(folder.path().join("pins/one.pins-new"), "half").unwrap();
    assert_eq!(open().list("one", &[("a", "1")]).await.unwrap(), [Approved]);
    let good = fs::read(&file).unwrap();
    for damage in [&good[..good.len() - 1], &good[..good.len() / 2], &good[20..], b"", b"\n", b"1-0\n"] {
        fs::write(&file, damage).unwrap();
        let rig = open();
        rig.board.refresh().await.unwrap();
        let error = rig.list("one", &[("a", "1")]).await.unwrap_err();
        assert!(matches!(error, PinsError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("mcp-authz pins reset --server one"), "{error}");
        assert_eq!(may_be_called(&rig.board, "one", "a"), None);
        assert_eq!(may_be_called(&rig.board, "two", "a"), Some(false), "other servers are not concerned");
        assert!(rig.counted("mcp_authz_errors_total{kind=\"pins\"} 2"));
    }
    let rig = open();
    rig.board.reset("one").await.unwrap();
    assert_eq!(rig.list("one", &[("a", "3")]).await.unwrap(), [Approved], "the first list again");
    assert_eq!(open().list("one", &[("a", "3")]).await.unwrap(), [Approved]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_fails_closed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pins"), "a file where the folder should be").unwrap();
    let rig = rig(FolderStore::new(Some(folder.path())));
    let error = rig.list("one", &[("a", "1")]).await.unwrap_err();
    assert!(matches!(error, PinsError::Store(_)), "{error:?}");
    assert!(rig.board.refresh().await.is_err());
    assert_eq!(may_be_called(&rig.board, "one", "a"), None);
}

#[tokio::test]
async fn damage_in_redis_concerns_one_server_and_can_be_reset() {
    let server = RedisServer::start(&[]);
    let key = "pq1:{default}:pins:one";
    let damages: [&[&str]; 5] = [
        &["HSET", key, "d", "garbage"],
        &["HDEL", key, "d"],
        &["HDEL", key, "v"],
        &["HSET", key, "v", "x"],
        &["SET", key, "something else"],
    ];
    for damage in damages {
        tell(&server, &["DEL", key, "pq1:{default}:pins:two"]);
        let rig = rig(redis(&server).await);
        rig.list("one", &[("a", "1")]).await.unwrap();
        rig.list("two", &[("a", "1")]).await.unwrap();
        tell(&server, damage);
        // Another process, which never saw the good data; an emptied version makes this one look again, too.
        let other = self::rig(redis(&server).await);
        let result = other.list("one", &[("a", "1")]).await;
        if damage[0] == "HSET" && damage[2] == "v" {
            assert_eq!(result.unwrap(), [Approved], "a version alone says nothing about the data");
            continue;
        }
        assert!(matches!(result, Err(PinsError::Corrupt { .. })), "{damage:?}: {result:?}");
        other.board.refresh().await.unwrap();
        assert_eq!(may_be_called(&other.board, "one", "a"), None);
        assert_eq!(other.list("two", &[("a", "1")]).await.unwrap(), [Hidden]);
        other.board.reset("one").await.unwrap();
        assert_eq!(other.list("one", &[("a", "2")]).await.unwrap(), [Approved]);
    }
}

#[tokio::test]
async fn what_the_store_lost_is_put_back() {
    let server = RedisServer::start(&[]);
    let rig = rig(redis(&server).await);
    rig.list("one", &[("a", "1")]).await.unwrap();
    tell(&server, &["DEL", "pq1:{default}:pins:one"]);
    assert_eq!(rig.list("one", &[("a", "2")]).await.unwrap(), [Hidden], "an emptied store is no first use");
    assert!(rig.counted("mcp_authz_pin_events_total{event=\"put_back\"} 1"));
    let other = self::rig(redis(&server).await);
    assert_eq!(other.list("one", &[("a", "1")]).await.unwrap(), [Approved]);
}

#[tokio::test]
async fn a_store_that_is_away_fails_closed() {
    let mut server = RedisServer::start(&[]);
    let rig = rig(redis(&server).await);
    rig.list("one", &[("a", "1")]).await.unwrap();
    rig.board.refresh().await.unwrap();
    server.kill();
    let started = Instant::now();
    assert!(rig.list("one", &[("a", "1")]).await.is_err());
    assert!(started.elapsed() < WITHIN * 3, "it does not wait for it");
    assert_eq!(may_be_called(&rig.board, "one", "a"), Some(true), "calls go on for a while");
    assert!(rig.board.last("one").await.unwrap().is_some(), "and so does what they bring");
}

#[tokio::test]
async fn bounds_hold_in_the_store_too() {
    let rig = rig_with(FolderStore::new(None), Bounds { tools_max: 1, ..Bounds::default() });
    assert_eq!(rig.list("one", &[("a", "1"), ("b", "1")]).await.unwrap(), [Approved, Hidden]);
    assert_eq!(rig.board.look("one").await.unwrap().pins().tools().len(), 1);
    assert!(rig.folder.path().exists());
}
