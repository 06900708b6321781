//! Each way to tamper with a chain, and what is no tampering.

use proptest::prelude::*;

use super::super::{
    ArgsMode, Record,
    chain::{Chain, HASH_DIGITS, LINE_START, Signer},
};
use super::*;

/// A key that anybody can make; good enough to tell texts apart.
struct Key(&'static str);

impl Signer for Key {
    fn key_id(&self) -> &str {
        self.0
    }

    fn sign(&self, text: &[u8]) -> String {
        Hash::of_body(&[text, self.0.as_bytes()].concat()).as_str().to_owned()
    }
}

impl Checker for Key {
    fn key_id(&self) -> &str {
        self.0
    }

    fn is_of(&self, text: &[u8], signature: &str) -> bool {
        self.sign(text) == signature
    }
}

fn draft(time_ms: u64, tool: &str) -> String {
    let mut out = String::new();
    Record {
        time_ms,
        reason: None,
        rule: "",
        rule_exact: None,
        policy: None,
        policy_digest: None,
        server: None,
        principal: Some("p"),
        grant: None,
        method: "tools/call",
        tool: Some(tool),
        arguments: None,
        args: ArgsMode::Keys,
        args_key: None,
        request_id: None,
        stream_id: None,
        trace: None,
        is_unmetered: false,
        latency_us: 1,
    }
    .write(&mut out);
    out
}

/// The lines of a chain: a start, `n` decisions, a checkpoint behind each third, an end.
fn lines(id: u8, n: u64, previous: Option<Hash>, key: Option<Key>) -> Vec<String> {
    let signer = key.map(|key| Box::new(key) as Box<dyn Signer>);
    let mut chain = Chain::new([id; 16], previous, signer);
    let mut out = Vec::new();
    chain.start(1_000_000, "0", Some(3), &mut out);
    for (at, time_ms) in (1..=n).zip(1_000_001..) {
        assert!(chain.seal(draft(time_ms, "t\"\u{202e}").as_bytes(), &mut out));
        if at.is_multiple_of(3) {
            chain.checkpoint(time_ms, &mut out);
        }
    }
    chain.end(2_000_000, &mut out);
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

fn last(lines: &[String]) -> Option<Hash> {
    place(lines.last().unwrap().as_bytes()).map(|place| place.hash)
}

fn check(lines: &[String], keys: Vec<&dyn Checker>, options: Options) -> (Vec<String>, Summary) {
    let mut found = Vec::new();
    let mut verifier = Verifier::new(keys, options);
    let mut names = |finding: Finding| {
        assert!(!finding.to_string().is_empty());
        found.push(finding.name().to_owned());
    };
    for line in lines {
        verifier.line(line.as_bytes(), &mut names);
    }
    let summary = verifier.finish(&mut names);
    assert_eq!(summary.findings, u64::try_from(found.len()).unwrap());
    (found, summary)
}

fn found(lines: &[String]) -> Vec<String> {
    check(lines, Vec::new(), Options::default()).0
}

#[test]
fn a_chain_that_nobody_touched_is_whole() {
    let all = lines(1, 6, None, None);
    let (found, summary) = check(&all, Vec::new(), Options::default());
    assert_eq!(found, [""; 0]);
    assert_eq!((summary.records, summary.chains, summary.open, summary.headless), (10, 1, 0, 0));
    let (at, hash) = summary.last.unwrap();
    assert_eq!((at.seq, &*at.chain, Some(hash)), (10, "01".repeat(16).as_str(), last(&all)));
}

#[test]
fn every_byte_that_is_changed_is_noticed() {
    let all = lines(1, 2, None, None);
    for at in 0..all[1].len() {
        let mut changed = all.clone();
        let mut bytes = changed[1].clone().into_bytes();
        // Another character of the same kind, so that the line stays one that could be a record.
        bytes[at] = match bytes[at] {
            b'1' => b'2',
            b'0' | b'2'..=b'9' => b'1',
            b'a' => b'b',
            b'b'..=b'z' => b'a',
            _ => b' ',
        };
        changed[1] = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!found(&changed).is_empty(), "byte {at}: {}", changed[1]);
    }
}

#[test]
fn each_kind_of_tampering_has_a_name() {
    let all = lines(1, 6, None, None);
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = all.clone();
        change(&mut lines);
        found(&lines)
    };
    assert_eq!(with(&|lines| lines[3] = lines[3].replace("\"allow\"", "\"deny\"")), ["changed"]);
    assert_eq!(with(&|lines| drop(lines.remove(3))), ["missing"]);
    assert_eq!(with(&|lines| drop(lines.drain(2..5))), ["missing"]);
    assert_eq!(with(&|lines| lines.swap(3, 4)), ["missing", "moved"]);
    assert_eq!(with(&|lines| lines.insert(3, lines[3].clone())), ["repeated"]);
    assert_eq!(with(&|lines| lines.insert(5, lines[3].clone())), ["moved"]);
    assert_eq!(with(&|lines| lines.push(lines[3].clone())), ["moved"]);
    assert_eq!(with(&|lines| lines[9].truncate(200)), ["damaged"], "the end is cut off");
    assert_eq!(with(&|lines| lines[3].truncate(200)), ["missing", "damaged"]);
    assert_eq!(with(&|lines| lines[3].insert(0, 'x')), ["missing"], "no record any more");
    // The hash made anew: the next one tells.
    let rehashed = with(&|lines| {
        let body = lines[3].split_off(HASH_AT).replace("\"allow\"", "\"deny\"");
        let hash = Hash::of_body(body.as_bytes());
        lines[3] = format!("{{\"event_hash\":\"{}\",{body}", hash.as_str());
    });
    assert_eq!(rehashed, ["unlinked"]);
}

/// Where the hashed part of a line begins.
const HASH_AT: usize = 15 + 64 + 2;

#[test]
fn an_end_that_is_cut_off_is_open_and_an_anchor_tells() {
    let all = lines(1, 6, None, None);
    let anchors = vec![last(&all).unwrap()];
    let options = Options { anchors, ..Options::default() };
    assert_eq!(check(&all, Vec::new(), options.clone()).0, [""; 0]);
    let (found, summary) = check(&all[..7], Vec::new(), options);
    assert_eq!((found, summary.open), (vec!["anchor".to_owned()], 1));
}

#[test]
fn chains_that_follow_each_other_are_linked() {
    let first = lines(1, 3, None, None);
    let second = lines(2, 3, last(&first), None);
    let third = lines(3, 1, last(&second), None);
    let all = [first.clone(), second.clone(), third.clone()].concat();
    let (found, summary) = check(&all, Vec::new(), Options::default());
    assert_eq!((found, summary.chains, summary.open), (vec![], 3, 0));
    let check = |lines: &[Vec<String>]| check(&lines.concat(), Vec::new(), Options::default());
    assert_eq!(check(&[first.clone(), third.clone()]).0, ["unlinked"], "one file is missing");
    assert_eq!(check(&[first.clone(), second[..4].to_vec(), third.clone()]).0, ["unlinked"], "its end is");
    let (found, summary) = check(&[second.clone(), third]);
    assert_eq!((found, summary.headless), (vec![], 1), "older files may be elsewhere");
    assert_eq!(check(&[first.clone(), second[2..].to_vec()]).0, ["missing"]);
    assert_eq!(check(&[second, first]).0, [""; 0], "two processes that know nothing of each other");
}

#[test]
fn a_line_that_broke_off_is_no_loss_where_the_next_one_follows() {
    let first = lines(1, 3, None, None);
    let second = lines(2, 3, last(&first[..5]), None);
    let mut torn = first[5].clone();
    torn.truncate(300);
    let all = [first[..5].to_vec(), vec![torn.clone()], second].concat();
    let (found, summary) = check(&all, Vec::new(), Options::default());
    assert_eq!((found, summary.torn), (vec![], 1));
    let twice = [first[..3].to_vec(), vec![torn.clone(), torn]].concat();
    assert_eq!(self::found(&twice), ["damaged", "damaged"]);
}

#[test]
fn processes_may_write_into_one_stream_and_others_too() {
    let (one, two) = (lines(1, 4, None, None), lines(2, 4, None, None));
    let mixed: Vec<String> = one
        .iter()
        .zip(&two)
        .flat_map(|(one, two)| [one.clone(), "level=info".to_owned(), String::new(), two.clone(), "{}".to_owned()])
        .collect();
    let (found, summary) = check(&mixed, Vec::new(), Options::default());
    assert_eq!((found, summary.foreign, summary.chains), (vec![], 14, 2));
    let excerpt = &mixed[6..];
    assert_eq!(self::found(excerpt), ["missing"]);
    let options = Options { is_excerpt: true, ..Options::default() };
    let (found, summary) = check(excerpt, Vec::new(), options);
    assert_eq!((found, summary.headless), (vec![], 2));
}

#[test]
fn lost_records_and_times_that_go_back_are_told_and_no_tampering() {
    let mut chain = Chain::new([1; 16], None, None);
    let mut out = Vec::new();
    chain.start(10_000_000, "0", None, &mut out);
    chain.gap(10_000_001, 17, &mut out);
    for time in [10_000_000, 9_999_001, 9_000_000, 9_000_001] {
        assert!(chain.seal(draft(time, "t").as_bytes(), &mut out));
    }
    let lines: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    let (found, summary) = check(&lines, Vec::new(), Options::default());
    assert_eq!((found, summary.lost, summary.clock_back), (vec![], 17, 1));
}

#[test]
fn a_chain_made_anew_is_told_by_its_signatures() {
    let key = Key("k");
    let all = lines(1, 7, None, Some(Key("k")));
    let signed = |lines: &[String]| check(lines, vec![&key], Options::default());
    let (found, summary) = signed(&all);
    assert_eq!((found, summary.signatures, summary.unsigned), (vec![], 4, 0));
    // All anew without a key, and with another one.
    let starts = lines(1, 7, None, None);
    assert_eq!(signed(&starts).0, ["unsigned"; 4]);
    assert_eq!(signed(&lines(1, 7, None, Some(Key("other")))).0, ["signature"; 4]);
    // All anew but for the signatures.
    let texts = |line: &String| ["key_id", "signature"].map(|name| word(line.as_bytes(), name).map(str::to_owned));
    let mut chain =
        Chain::new([1; 16], None, Some(Box::new(Replay(all.iter().filter_map(|l| texts(l)[1].clone()).collect()))));
    let mut out = Vec::new();
    chain.start(1_000_000, "0", Some(3), &mut out);
    for at in 1..=3 {
        assert!(chain.seal(draft(1_000_000 + at, "other").as_bytes(), &mut out));
    }
    chain.checkpoint(1_000_003, &mut out);
    let forged: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(signed(&forged).0, ["signature"], "the start is as it was, the records are not");
    // What comes after the last signature is not covered.
    let (found, summary) = signed(&all[..7]);
    assert_eq!((found, summary.unsigned), (vec![], 2));
    // A chain that continues it covers it.
    let second = lines(2, 1, last(&all[..7]), Some(Key("k")));
    assert_eq!(signed(&[all[..7].to_vec(), second].concat()).1.unsigned, 0);
}

/// Signs with what another chain was signed with.
struct Replay(Vec<String>);

impl Signer for Replay {
    fn key_id(&self) -> &str {
        "k"
    }

    fn sign(&self, text: &[u8]) -> String {
        let is_start = text.starts_with(b"mcp-authz audit 1\nchain_start");
        self.0[usize::from(!is_start)].clone()
    }
}

#[test]
fn so_many_chains_and_not_one_more() {
    let start = |id: usize| {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&id.to_be_bytes());
        let mut out = Vec::new();
        Chain::new(name, None, None).start(1, "0", None, &mut out);
        out.pop();
        String::from_utf8(out).unwrap()
    };
    let mut all: Vec<String> = (0..CHAINS_MAX).map(start).collect();
    assert_eq!(found(&all), [""; 0]);
    all.push(start(CHAINS_MAX));
    assert_eq!(found(&all), ["many_chains"]);
    // Those that have ended make room.
    let ended = lines(9, 1, None, None);
    assert_eq!(found(&[ended, all[..CHAINS_MAX].to_vec()].concat()), [""; 0]);
}

proptest! {
    #[test]
    fn no_line_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..700_usize, all in any::<bool>()) {
        let mut line = lines(1, 1, None, None).remove(1).into_bytes();
        line.truncate(cut);
        let start = if all { line } else { Vec::new() };
        let _place = place(&[start, bytes].concat());
    }

    #[test]
    fn any_sequence_that_is_not_the_whole_is_noticed(order in proptest::collection::vec(0..10_usize, 1..12)) {
        let all = lines(1, 6, None, None);
        let picked: Vec<String> = order.iter().map(|at| all[*at].clone()).collect();
        // A run of the chain as it stands is no tampering; everything else is.
        let is_run = order.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
        prop_assert_eq!(found(&picked).is_empty(), is_run, "{:?}", order);
    }
}

/// The lines anew, as somebody makes them who has no key: each in its place, with a hash that fits.
fn made_anew(lines: &[String]) -> Vec<String> {
    let mut previous: Option<Hash> = None;
    let mut out = Vec::new();
    for (line, seq) in lines.iter().zip(1_u64..) {
        let old = place(line.as_bytes()).unwrap();
        let body = line.strip_prefix(LINE_START).unwrap().get(HASH_DIGITS..).unwrap();
        let body = body.strip_prefix("\",").unwrap().replace(&format!("-{}\"", old.seq), &format!("-{seq}\""));
        let body = body.replace(&format!("\"seq\":\"{}\"", old.seq), &format!("\"seq\":\"{seq}\""));
        let link = |hash: Option<Hash>| hash.map_or("null".to_owned(), |hash| format!("\"{}\"", hash.as_str()));
        let body = body.replace(&link(old.previous), &link(previous));
        let hash = Hash::of_body(body.as_bytes());
        out.push(format!("{LINE_START}{}\",{body}", hash.as_str()));
        previous = Some(hash);
    }
    out
}

#[test]
fn checkpoints_cannot_be_taken_out() {
    let key = Key("k");
    let all = lines(1, 9, None, Some(Key("k")));
    let checked = |lines: &[String]| check(lines, vec![&key], Options::default()).0;
    assert_eq!(checked(&all), [""; 0]);
    let without = |n: usize| {
        let is_left = |line: &&String| !line.contains("\"checkpoint\"") && !line.contains("chain_end");
        made_anew(&all.iter().filter(is_left).take(n).cloned().collect::<Vec<_>>())
    };
    // Three may follow the start; the next one is a checkpoint.
    assert_eq!(checked(&without(4)), [""; 0], "cut off, as by a crash");
    assert_eq!(checked(&without(5)), ["uncovered"]);
    assert_eq!(checked(&without(9)), ["uncovered"], "told once");
    let mut quiet = all.iter().filter(|line| !line.contains("\"checkpoint\"")).cloned().collect::<Vec<_>>();
    quiet[0] = quiet[0].replace("\"checkpoint_records\":\"3\"", "\"checkpoint_records\":\"1000000\"");
    assert_eq!(checked(&made_anew(&quiet)).first().map(String::as_str), Some("signature"), "it is signed");
}

#[test]
fn a_chain_that_another_continued_does_not_come_again() {
    let old = lines(1, 2, None, Some(Key("k")));
    let new = lines(2, 1, last(&old), Some(Key("k")));
    let key = Key("k");
    for keys in [vec![], vec![&key as &dyn Checker]] {
        let again = [old.clone(), new.clone(), old.clone()].concat();
        assert_eq!(check(&again, keys, Options::default()).0, vec!["moved"; old.len()]);
    }
}
