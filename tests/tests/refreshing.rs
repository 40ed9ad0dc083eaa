//! Looking again beside a writer: cheap when nothing came, and never other than a new opening would show.

use std::sync::Arc;

use annals::storage::{Access, Storage};
use annals::{Durability, Error, Expect, NewEvent, Options, ReadMode, ReadOnly, Store, View};
use annals_tests::counted::Counted;
use annals_tests::model::{Ground, on_each_ground, repetitions, seed};
use annals_tests::sim_disk::Dice;
use annals_tests::told::told;

fn options() -> Options {
    Options::new().background(false).durability(Durability::Buffered)
}

fn append(store: &Store, stream: &str, text: &str, durability: Durability) {
    store.append_with(stream, Expect::Any, &[NewEvent::new("T", text)], durability).unwrap();
}

fn heads(beside: &ReadOnly) -> (u64, u64) {
    (beside.reader_in(View::Written).head(), beside.reader_in(View::Durable).head())
}

#[test]
fn an_idle_refresh_reads_a_few_pages_however_long_the_segment_is() {
    on_each_ground(|ground| {
        for mode in [ReadMode::Mapped, ReadMode::Pread] {
            let files = Counted::new(ground.storage());
            let store = options().open_storage(ground.storage()).unwrap();
            let text = "x".repeat(1000);
            for _ in 0..700 {
                append(&store, "s", &text, Durability::Buffered);
            }
            let open = || options().read_mode(mode).open_read_only_storage(Arc::new(files.clone())).unwrap();
            let mut beside = open();
            assert!(files.take().0 > 1 << 20, "a first look reads the segment");

            let idle = |beside: &mut ReadOnly, when: &str| {
                let before = heads(beside);
                beside.refresh().unwrap();
                let (bytes, calls) = files.take();
                assert!(bytes <= 20 << 10 && calls <= 8, "{when}: {bytes} bytes by {calls} calls");
                assert_eq!(heads(beside), before);
            };
            idle(&mut beside, "bytes of the end in the ring alone");
            store.sync().unwrap();
            let written = beside.reader_in(View::Written).head();
            beside.refresh().unwrap();
            assert_eq!(heads(&beside), (written, written), "what became durable is shown");
            let _ = files.take();
            idle(&mut beside, "all synced");

            append(&store, "s", &text, Durability::Buffered);
            beside.refresh().unwrap();
            let (bytes, _) = files.take();
            assert!(bytes <= 128 << 10, "one event more costs {bytes} bytes");
            assert_eq!(heads(&beside), (written + 1, written));
            idle(&mut beside, "one event in the ring");

            store.close().unwrap();
            beside.refresh().unwrap();
            let _ = files.take();
            idle(&mut beside, "closed");
            for name in ground.storage().list().unwrap() {
                ground.storage().remove(&name).unwrap();
            }
        }
    });
}

#[test]
fn whatever_happens_a_refresh_shows_what_a_new_opening_shows() {
    let seed = seed();
    let histories = repetitions("ANNALS_HISTORIES", 12, 600);
    for history in 0..histories {
        let mut dice = Dice::new(seed.wrapping_add(history));
        let ground = if history % 2 == 0 { Ground::memory() } else { Ground::disk() };
        // Everybody gets the lock, so that a store can be forgotten: a killed process.
        let storage: Arc<dyn Storage> = Arc::new(Counted::new(ground.storage()));
        let writing = || {
            let small = options().segment_bytes_max(128 << 10).ring_bytes(64 << 10);
            small.open_storage(storage.clone()).unwrap()
        };
        let mode = if dice.chance(1, 2) { ReadMode::Mapped } else { ReadMode::Pread };
        let opened = || options().read_mode(mode).open_read_only_storage(storage.clone()).unwrap();
        let mut store = writing();
        let mut beside = opened();
        let mut kept = Vec::new();
        for step in 0..60 {
            match dice.below(20) {
                0 => {
                    store.close().unwrap();
                    if dice.chance(1, 2) {
                        beside.refresh().unwrap();
                    }
                    store = writing();
                }
                1 => {
                    std::mem::forget(store);
                    if dice.chance(1, 2) {
                        beside.refresh().unwrap();
                    }
                    store = writing();
                }
                2 | 3 => drop(store.sync().unwrap()),
                _ => {
                    for _ in 0..=dice.below(3) {
                        let len = if dice.chance(1, 8) { dice.below(50_000) } else { dice.below(3_000) };
                        let durability = if dice.chance(1, 6) { Durability::Durable } else { Durability::Buffered };
                        let stream = format!("s-{}", dice.below(3));
                        append(&store, &stream, &"x".repeat(len as usize), durability);
                    }
                }
            }
            if dice.chance(1, 3) {
                continue;
            }
            beside.refresh().unwrap();
            let fresh = opened();
            let context = format!("seed {seed}, history {history}, step {step}");
            assert_eq!(beside.reader_in(View::Written).head(), store.reader_in(View::Written).head(), "{context}");
            for view in [View::Written, View::Durable] {
                assert_eq!(told(&beside.reader_in(view)), told(&fresh.reader_in(view)), "{context}");
            }
            if dice.chance(1, 8) {
                let reader = beside.reader_in(View::Written);
                kept.push((told(&reader), reader));
            }
        }
        drop(store);
        for (before, reader) in kept {
            assert_eq!(told(&reader), before, "a reader shows for ever what it showed");
        }
    }
}

#[test]
fn a_refresh_reports_the_loss_of_what_became_durable_since() {
    let ground = Ground::memory();
    let storage = ground.storage();
    let store = options().open_storage(storage.clone()).unwrap();
    append(&store, "s", "1", Durability::Durable);
    let mut beside = options().open_read_only_storage(storage.clone()).unwrap();
    let segment = storage.list().unwrap().into_iter().find(|name| name.ends_with("1.log")).unwrap();
    let content = |name: &str| {
        let file = storage.open(name, Access::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    };
    let before = [segment.as_str(), "RING"].map(|name| (name.to_owned(), content(name)));
    append(&store, "s", "2", Durability::Durable);
    for (name, bytes) in before {
        let file = storage.open(&name, Access::ReadWrite).unwrap();
        file.write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
    }
    for _ in 0..2 {
        match beside.refresh() {
            Err(Error::Corrupt(corrupt)) => assert_eq!(corrupt.file, segment),
            other => panic!("{other:?}"),
        }
        assert_eq!(beside.reader().head(), 1, "what it showed stays");
    }
}
