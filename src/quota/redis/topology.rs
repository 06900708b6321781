//! Who is the master of our slot.

use std::collections::BTreeMap;

use redis::{Cmd, Value};

use super::{
    connection::{Connection, OpenError, Opener},
    server::{text, texts, until},
    settings::{Place, Topology},
};

/// Where the master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Master {
    pub(super) place: Place,
    /// Its id, in a cluster.
    pub(super) node: Option<String>,
}

/// The slot of a key whose hash tag is `tag`.
pub(super) fn slot_of(tag: &str) -> u16 {
    // CRC-16/XMODEM, as the cluster specification has it.
    let mut crc = 0_u16;
    for byte in tag.bytes() {
        crc ^= u16::from(byte).wrapping_shl(8);
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc.wrapping_shl(1) } else { crc.wrapping_shl(1) ^ 0x1021 };
        }
    }
    crc & 0x3fff
}

impl Topology {
    /// Asks who is master now.
    pub(super) async fn master(&self, opener: &Opener, domain: &str) -> Result<Master, OpenError> {
        match self {
            Topology::Standalone(place) => Ok(Master { place: place.clone(), node: None }),
            Topology::Sentinel { sentinels, master, password_file } => {
                by_sentinels(&opener.of_sentinels(password_file.clone()), sentinels, master).await
            }
            Topology::Cluster { nodes } => by_nodes(opener, nodes, slot_of(domain)).await,
        }
    }
}

/// Most of the sentinels that answer have to agree: one that is cut off may still believe in an old master.
async fn by_sentinels(opener: &Opener, sentinels: &[Place], master: &str) -> Result<Master, OpenError> {
    let mut votes: BTreeMap<(String, u16), (usize, Place)> = BTreeMap::new();
    let mut answers = 0_usize;
    let mut last = OpenError::Timeout;
    for sentinel in sentinels {
        let connection = match opener.open(sentinel).await {
            Ok(connection) => connection,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let mut command = Cmd::new();
        command.arg("SENTINEL").arg("get-master-addr-by-name").arg(master);
        match connection.ask(&command, until()).await {
            Err(failure) => last = OpenError::of(failure),
            Ok(value) => {
                let texts = texts(&value);
                let [host, port] = texts.as_slice() else { continue };
                let Ok(port) = port.parse::<u16>() else { continue };
                answers = answers.saturating_add(1);
                let place = sentinel.moved_to((*host).to_owned(), port);
                let vote = votes.entry(((*host).to_owned(), port)).or_insert((0, place));
                vote.0 = vote.0.saturating_add(1);
            }
        }
    }
    let most = votes.into_values().max_by_key(|(count, _)| *count);
    match most {
        Some((count, place)) if count.saturating_mul(2) > answers => Ok(Master { place, node: None }),
        _ => Err(last),
    }
}

/// The first node that answers knows, or sends us to one that does.
async fn by_nodes(opener: &Opener, nodes: &[Place], slot: u16) -> Result<Master, OpenError> {
    let mut last = OpenError::Timeout;
    for place in nodes {
        let connection = match opener.open(place).await {
            Ok(connection) => connection,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg("SLOTS");
        match connection.ask(&command, until()).await {
            Err(failure) => last = OpenError::of(failure),
            Ok(value) => {
                if let Some(master) = master_of(&value, slot, place) {
                    return Ok(master);
                }
            }
        }
    }
    Err(last)
}

/// Looks the slot up in the answer of CLUSTER SLOTS.
fn master_of(value: &Value, slot: u16, asked: &Place) -> Option<Master> {
    let Value::Array(ranges) = value else { return None };
    ranges.iter().find_map(|range| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = range.as_slice() else { return None };
        if !(*first..=*last).contains(&i64::from(slot)) {
            return None;
        }
        let [host, Value::Int(port), id, ..] = master.as_slice() else { return None };
        let port = u16::try_from(*port).ok()?;
        // A node that does not know its own address says nothing: it is the one that we asked.
        let place = match text(host) {
            None | Some("") => asked.clone(),
            Some(host) => asked.moved_to(host.to_owned(), port),
        };
        Some(Master { place, node: Some(text(id)?.to_owned()) })
    })
}

/// Whether that node of the cluster is a master in good health: then its slot was moved away on purpose.
pub(super) async fn is_healthy_master(connection: &Connection, node: &str) -> bool {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("NODES");
    let Ok(value) = connection.ask(&command, until()).await else { return false };
    text(&value).is_some_and(|table| is_master_in(table, node))
}

fn is_master_in(table: &str, node: &str) -> bool {
    table.lines().any(|line| {
        let mut words = line.split(' ');
        let id = words.next();
        let flags = words.nth(1).unwrap_or_default();
        let connected = words.nth(4) == Some("connected");
        let has = |flag: &str| flags.split(',').any(|f| f == flag);
        id == Some(node) && has("master") && !has("fail") && !has("fail?") && (connected || has("myself"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of the specification, and what `CLUSTER KEYSLOT` of a server says.
        assert_eq!(slot_of("123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("default"), 5_718);
        assert_eq!(slot_of(""), 0);
    }

    #[test]
    fn the_master_of_a_slot_is_found() {
        let node = |host: &str, port: i64, id: &str| {
            Value::Array(vec![
                Value::BulkString(host.into()),
                Value::Int(port),
                Value::BulkString(id.into()),
                Value::Array(vec![]),
            ])
        };
        let range = |first: i64, last: i64, master: Value| {
            Value::Array(vec![Value::Int(first), Value::Int(last), master, node("r", 9, "rrr")])
        };
        let slots = Value::Array(vec![range(0, 99, node("a", 1, "aaa")), range(100, 16_383, node("", 2, "bbb"))]);
        let asked = Place::parse("rediss://b:2").unwrap();
        let master = |slot| master_of(&slots, slot, &asked).unwrap();
        assert_eq!((master(99).place.to_string(), master(99).node.unwrap()), ("rediss://a:1".into(), "aaa".into()));
        assert_eq!((master(100).place.to_string(), master(100).node.unwrap()), ("rediss://b:2".into(), "bbb".into()));
        assert_eq!(master_of(&Value::Array(vec![]), 1, &asked), None);
        assert_eq!(master_of(&Value::Nil, 1, &asked), None);
    }

    #[test]
    fn a_failed_node_is_no_healthy_master() {
        let table = "aaa 127.0.0.1:1@2,h myself,master - 0 0 1 connected 0-5\n\
                     bbb 127.0.0.1:2@3,h master - 0 0 2 connected\n\
                     ccc 127.0.0.1:3@4,h master,fail - 0 0 3 disconnected\n\
                     ddd 127.0.0.1:4@5,h slave aaa 0 0 1 connected\n\
                     eee 127.0.0.1:5@6,h master,fail? - 0 0 3 connected\n";
        let healthy = |node| is_master_in(table, node);
        assert!(healthy("aaa") && healthy("bbb"));
        assert!(!healthy("ccc") && !healthy("ddd") && !healthy("eee") && !healthy("zzz"));
    }
}
