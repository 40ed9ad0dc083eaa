//! Tiers of the index stay few, however a store came to its segments.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use annals::{Durability, Expect, NewEvent, Options, Store};

const SEGMENT: u64 = 64 << 10;

fn open(path: &Path) -> Store {
    Options::new().durability(Durability::Buffered).segment_bytes_max(SEGMENT).open(path).unwrap()
}

/// Fills three segments and some of a fourth.
fn fill(store: &Store) {
    for number in 0..400u32 {
        let event = NewEvent::new("Counted", &[7; 500][..]);
        store.append(&format!("stream-{}", number % 16), Expect::Any, &[event]).unwrap();
    }
}

fn tiers(path: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("tier-") && name.ends_with(".idx")).collect()
}

/// Three of each size but the largest at most: 1, from 4, from 16 and from 64 segments on.
const FEW: usize = 10;

#[test]
fn a_store_that_is_closed_soon_after_each_opening_has_few_tiers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for round in 0..40 {
        let store = open(&path);
        fill(&store);
        store.close().unwrap();
        assert!(tiers(&path).len() <= FEW, "{} after {} rounds", tiers(&path).len(), round + 1);
    }
    assert!(open(&path).stats().segments >= 100);
}

/// Each clean close leaves a gap in the numbers of segments, which are no segments that a tier covers.
#[test]
fn segments_get_a_tier_in_quiet_however_often_the_store_was_closed_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for _ in 0..20 {
        let store = open(&path);
        fill(&store);
        store.close().unwrap();
    }
    let store = open(&path);
    let before = tiers(&path);
    fill(&store);
    fill(&store);
    let begun = Instant::now();
    while tiers(&path).is_subset(&before) {
        assert!(begun.elapsed() < Duration::from_secs(60), "none but {before:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    store.close().unwrap();
}
