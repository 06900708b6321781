//! What every place that keeps pins must do.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::store::{Found, Store, Version};

pub(crate) fn soon() -> Instant {
    Instant::now().checked_add(Duration::from_secs(10)).unwrap()
}

fn data(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

async fn read(store: &impl Store, server: &str, known: &Version) -> Found {
    let found = store.read(&[(server.into(), known.clone())], soon()).await.unwrap();
    <[Found; 1]>::try_from(found).unwrap()[0].clone()
}

async fn write(store: &impl Store, server: &str, known: &Version, next: &Version, text: &str) -> bool {
    store.write(server, known, next, &data(text), soon()).await.unwrap()
}

/// What was written is read, until something else is.
pub(crate) async fn what_was_written_is_read(store: &impl Store) {
    let nothing = Version::default();
    assert_eq!(read(store, "a", &nothing).await, Found::Nothing);
    let first = nothing.next(0).unwrap();
    assert!(write(store, "a", &nothing, &first, "one\n\0é").await);
    assert_eq!(read(store, "a", &nothing).await, Found::Other { version: first.clone(), data: data("one\n\0é") });
    assert_eq!(read(store, "a", &first).await, Found::Same);
    let second = first.next(0).unwrap();
    assert!(write(store, "a", &first, &second, "").await);
    assert_eq!(read(store, "a", &first).await, Found::Other { version: second, data: data("") });
    assert_eq!(read(store, "b", &nothing).await, Found::Nothing, "servers are apart");
}

/// Who read before somebody else wrote does not write over it.
pub(crate) async fn the_first_writer_wins(store: &impl Store) {
    let nothing = Version::default();
    let (mine, yours) = (nothing.next(0).unwrap(), nothing.next(0).unwrap());
    assert_ne!(mine, yours);
    assert!(write(store, "a", &nothing, &mine, "mine").await);
    assert!(!write(store, "a", &nothing, &yours, "yours").await);
    assert!(!write(store, "a", &yours, &yours.next(0).unwrap(), "yours").await);
    assert_eq!(read(store, "a", &nothing).await, Found::Other { version: mine, data: data("mine") });
}

/// Many at once: one of them.
pub(crate) async fn of_many_writers_one_wins(store: Arc<impl Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let next = Version::default().next(0).unwrap();
            write(&*store, "a", &Version::default(), &next, &n.to_string()).await.then_some((next, n))
        });
    }
    let won: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let [(version, n)] = won.as_slice() else { panic!("{won:?}") };
    let found = read(&*store, "a", &Version::default()).await;
    assert_eq!(found, Found::Other { version: version.clone(), data: data(&n.to_string()) });
}

/// Many servers in one question, in their order.
pub(crate) async fn many_servers_are_read_in_order(store: &impl Store) {
    let nothing = Version::default();
    let names: Vec<Arc<str>> = (0..150).map(|n| format!("s{n}").into()).collect();
    let mut versions = Vec::new();
    for name in names.iter().step_by(3) {
        let version = nothing.next(7).unwrap();
        assert_eq!(version.number(), Some(8));
        assert!(write(store, name, &nothing, &version, name).await);
        versions.push(version);
    }
    let wanted: Vec<(Arc<str>, Version)> = names.iter().map(|name| (Arc::clone(name), nothing.clone())).collect();
    let found = store.read(&wanted, soon()).await.unwrap();
    assert_eq!(found.len(), names.len());
    for (at, (name, found)) in names.iter().zip(&found).enumerate() {
        match found {
            Found::Other { version, data } => {
                assert_eq!((version, &**data), (&versions[at / 3], name.as_bytes()));
                assert_eq!(at % 3, 0);
            }
            Found::Nothing => assert_ne!(at % 3, 0),
            Found::Same => panic!("nothing was known"),
        }
    }
}

/// Makes a module of tests of the stores that `$store` makes.
macro_rules! store_contract {
    ($store:expr) => {
        #[tokio::test]
        async fn what_was_written_is_read() {
            let (store, _keep) = $store.await;
            $crate::pins::contract::what_was_written_is_read(&*store).await;
        }

        #[tokio::test]
        async fn the_first_writer_wins() {
            let (store, _keep) = $store.await;
            $crate::pins::contract::the_first_writer_wins(&*store).await;
        }

        #[tokio::test]
        async fn of_many_writers_one_wins() {
            let (store, _keep) = $store.await;
            $crate::pins::contract::of_many_writers_one_wins(store).await;
        }

        #[tokio::test]
        async fn many_servers_are_read_in_order() {
            let (store, _keep) = $store.await;
            $crate::pins::contract::many_servers_are_read_in_order(&*store).await;
        }
    };
}
pub(crate) use store_contract;
