//! Every adapter of an event store keeps the same rules; a faster one that checks less would be no peer.

use annals_peers::engines::{ENGINES, Engine, Kind};
use annals_peers::peer::{Durability, Log, Outcome};
use annals_peers::workload::EventIn;

fn event<'a>(id: u8, stream: &'a str, revision: u64, payload: &'a [u8]) -> EventIn<'a> {
    EventIn { id: [id; 16], stream, revision, first_in_batch: true, event_type: "ThingCreated", payload }
}

fn later<'a>(id: u8, stream: &'a str, revision: u64, payload: &'a [u8]) -> EventIn<'a> {
    EventIn { first_in_batch: false, ..event(id, stream, revision, payload) }
}

fn for_each_store(check: impl Fn(&Engine, Durability, &dyn Log)) {
    for engine in ENGINES {
        for durability in [Durability::Buffered, Durability::Durable] {
            if !engine.serves(durability) {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let log = (engine.open)(dir.path(), durability, 1 << 20).unwrap();
            if log.store().is_some() {
                check(engine, durability, &*log);
            }
        }
    }
}

fn read(log: &dyn Log, stream: &str) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    log.store().unwrap().read_stream(stream, &mut |payload| payloads.push(payload.to_vec())).unwrap();
    payloads
}

#[test]
fn a_batch_over_streams_is_stored_and_read_back() {
    for_each_store(|engine, durability, log| {
        let name = format!("{} {durability:?}", engine.name);
        let mut writer = log.writer().unwrap();
        let batch = [event(1, "a", 0, b"one"), event(2, "b", 0, b"two"), later(3, "a", 1, b"three")];
        assert_eq!(writer.append(&batch).unwrap(), Outcome::Committed, "{name}");
        assert_eq!(writer.append(&[event(4, "a", 2, b"four")]).unwrap(), Outcome::Committed, "{name}");
        drop(writer);
        log.sync().unwrap();
        let store = log.store().unwrap();
        let scanned = store.scan().unwrap();
        assert_eq!((scanned.events, scanned.bytes), (4, 15), "{name}");
        assert_eq!(read(log, "a"), [b"one".to_vec(), b"three".to_vec(), b"four".to_vec()], "{name}");
        assert_eq!(read(log, "b"), [b"two".to_vec()], "{name}");
        assert_eq!(["a", "b", "c"].map(|stream| store.latest(stream).unwrap()), [3, 1, 0], "{name}");
    });
}

#[test]
fn a_wrong_revision_is_refused_and_stores_nothing() {
    for_each_store(|engine, durability, log| {
        let name = format!("{} {durability:?}", engine.name);
        let mut writer = log.writer().unwrap();
        assert_eq!(writer.append(&[event(1, "a", 0, b"one")]).unwrap(), Outcome::Committed, "{name}");
        for wrong in [0, 2, 7] {
            let batch = [event(2, "b", 0, b"two"), event(3, "a", wrong, b"three")];
            assert_eq!(writer.append(&batch).unwrap(), Outcome::Conflict, "{name} at {wrong}");
        }
        assert_eq!(writer.append(&[event(4, "c", 1, b"four")]).unwrap(), Outcome::Conflict, "{name}");
        assert_eq!(writer.append(&[event(2, "b", 0, b"two")]).unwrap(), Outcome::Committed, "{name}");
        drop(writer);
        log.sync().unwrap();
        assert_eq!(log.store().unwrap().scan().unwrap().events, 2, "{name}");
        assert_eq!(log.store().unwrap().latest("a").unwrap(), 1, "{name}");
    });
}

#[test]
fn an_id_is_stored_once() {
    for_each_store(|engine, durability, log| {
        // Shown beside because it makes ids of its own.
        if engine.kind == Kind::Beside {
            return;
        }
        let name = format!("{} {durability:?}", engine.name);
        let mut writer = log.writer().unwrap();
        assert_eq!(writer.append(&[event(1, "a", 0, b"one")]).unwrap(), Outcome::Committed, "{name}");
        let again = [event(2, "b", 0, b"two"), event(1, "a", 1, b"one")];
        assert_eq!(writer.append(&again).unwrap(), Outcome::Duplicate, "{name}");
        assert_eq!(writer.append(&again[..1]).unwrap(), Outcome::Committed, "{name}");
        drop(writer);
        log.sync().unwrap();
        assert_eq!(log.store().unwrap().scan().unwrap().events, 2, "{name}");
    });
}

#[test]
fn several_writers_append_to_streams_of_their_own() {
    for engine in ENGINES.iter().filter(|engine| engine.many_writers) {
        let dir = tempfile::tempdir().unwrap();
        let log = (engine.open)(dir.path(), Durability::Durable, 1 << 20).unwrap();
        let log = &*log;
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || {
                    let mut writer = log.writer().unwrap();
                    let stream = format!("stream-{thread}");
                    for number in 0..25 {
                        let event = event(thread * 25 + number + 1, &stream, u64::from(number), b"payload");
                        assert_eq!(writer.append(&[event]).unwrap(), Outcome::Committed, "{}", engine.name);
                    }
                });
            }
        });
        log.sync().unwrap();
        if let Some(store) = log.store() {
            assert_eq!(store.scan().unwrap().events, 100, "{}", engine.name);
            assert_eq!(store.latest("stream-3").unwrap(), 25, "{}", engine.name);
        }
    }
}

#[test]
fn tickets_are_all_answered() {
    for engine in ENGINES {
        let dir = tempfile::tempdir().unwrap();
        let log = (engine.open)(dir.path(), Durability::Durable, 1 << 20).unwrap();
        let Some(mut tickets) = log.tickets() else {
            continue;
        };
        for number in 0..100u8 {
            tickets.submit(&event(number + 1, "a", u64::from(number), b"payload")).unwrap();
        }
        (0..100).for_each(|_| tickets.wait_oldest().unwrap());
        drop(tickets);
        assert_eq!(log.store().unwrap().scan().unwrap().events, 100, "{}", engine.name);
    }
}
