//! Tiers of the index stay few, however a store came to its segments.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use annals::{Durability, Expect, NewEvent, Options, Store};

const SEGMENT: u64 = 64 << 10;

fn open(path: &Path) -> Store {
    Options::new().durability(Durability::Buffered).segment_bytes_max(SEGMENT).open(path).unwrap()
}

/// A segment holds about a hundred of these.
fn append(store: &Store, count: u32) {
    for number in 0..count {
        let event = NewEvent::new("Counted", &[7; 500][..]);
        store.append(&format!("stream-{}", number % 16), Expect::Any, &[event]).unwrap();
    }
}

fn tiers(path: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("tier-") && name.ends_with(".idx")).collect()
}

/// Four of a size become one of the next: as many as the digits of `count`, written to the base of four, are together.
fn of_sizes(count: usize) -> usize {
    std::iter::successors(Some(count), |left| Some(left / 4)).take_while(|left| *left > 0).map(|left| left % 4).sum()
}

/// Each closing covers what it finds. Without merging there as well the fourth would leave four tiers: what is merged at an
/// opening does not know of those to come.
#[test]
fn a_store_that_is_closed_soon_after_each_opening_has_few_tiers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for closings in 1..=40 {
        let store = open(&path);
        append(&store, 150);
        store.close().unwrap();
        let found = tiers(&path).len();
        assert!(found <= of_sizes(closings) + 2, "{found} after {closings}");
    }
    assert!(open(&path).stats().segments >= 50);
}

/// Each clean close leaves a gap in the numbers of segments, which are no segments that a tier covers.
#[test]
fn segments_get_a_tier_in_quiet_however_often_the_store_was_closed_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for _ in 0..20 {
        let store = open(&path);
        append(&store, 400);
        store.close().unwrap();
    }
    let store = open(&path);
    let before = tiers(&path);
    append(&store, 800);
    let begun = Instant::now();
    while tiers(&path).is_subset(&before) {
        assert!(begun.elapsed() < Duration::from_secs(60), "none but {before:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    store.close().unwrap();
}
