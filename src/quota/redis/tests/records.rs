//! Audit records in a stream.

use mcp_authz_core::audit::chain::Chain;

use super::*;

/// The lines of a chain with so many records about it.
fn lines(id: u8, n: usize) -> Vec<String> {
    let mut chain = Chain::new([id; 16], None, None);
    let mut out = Vec::new();
    for _ in 0..n {
        chain.gap(1, 1, &mut out);
    }
    String::from_utf8(out).unwrap().split_inclusive('\n').map(str::to_owned).collect()
}

/// What the stream has, in order.
fn kept(server: &RedisServer) -> Vec<String> {
    let keys = server.cli(&["keys", "*audit"]);
    let (key, None) = (keys.lines().next().unwrap(), keys.lines().nth(1)) else { panic!("{keys}") };
    let entries = server.connect().call(&["XRANGE", key, "-", "+"]).unwrap();
    let entry = |entry: &test_redis::Value| {
        let [_, fields] = entry.items() else { panic!("{entry:?}") };
        let [name, record] = fields.items() else { panic!("{fields:?}") };
        assert_eq!(name.text(), Some("record"));
        format!("{}\n", record.text().unwrap())
    };
    entries.items().iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_is_kept_once_and_in_order() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    let (one, two) = (lines(1, 150), lines(2, 3));
    let keep = async |lines: &[String]| {
        ledger.keep_records(lines.concat().as_bytes(), 1_000_000, Duration::from_secs(5)).await.unwrap();
    };
    keep(&one[..100]).await;
    // The answer was lost, and what comes again has more behind it.
    keep(&one[90..]).await;
    keep(&two).await;
    keep(&two).await;
    keep(&[]).await;
    assert_eq!(kept(&server), [one, two].concat());
    let keys = server.cli(&["keys", "*audit:*"]);
    for key in keys.lines() {
        assert!(server.cli(&["pttl", key]).trim().parse::<i64>().unwrap() > 0, "{key} stays for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_ends_about_where_it_should() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    let all = lines(1, 2_000);
    ledger.keep_records(all.concat().as_bytes(), 1_000, Duration::from_secs(5)).await.unwrap();
    let kept = kept(&server);
    // Redis removes whole nodes of a stream.
    assert!((1_000..1_200).contains(&kept.len()), "{}", kept.len());
    assert!(all.ends_with(&kept));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_gone_is_an_error() {
    let mut server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    server.kill();
    let all = lines(1, 1).concat();
    assert!(ledger.keep_records(all.as_bytes(), 1_000, Duration::from_secs(1)).await.is_err());
}
