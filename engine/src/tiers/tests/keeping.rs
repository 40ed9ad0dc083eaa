use super::*;
use crate::storage::Fill;
use crate::tiers::stored::index_manifest_name;
use crate::tiers::{Due, Loaded, Replaced, TierKeeper, load, remove_unnamed};

fn loaded(closed: &Closed) -> Loaded {
    load(&closed.storage, &closed.names(), &closed.manifest, ReadMode::Mapped).expect("no later version")
}

/// Merges until nothing is due, as segments are sealed one after the other, and answers the tiers.
fn merge_all(closed: &Closed, keeper: &mut TierKeeper, mut tiers: Tiers) -> Tiers {
    let mut manifest = closed.manifest.clone();
    for count in 1..=closed.segments.len() {
        manifest.segments = closed.manifest.segments[..count].to_vec();
        // Tiers of more than that are there already.
        if tiers.iter().all(|tier| tier.entry().last_segment <= manifest.segments[count - 1].number) {
            tiers = merge_due(closed, &manifest, keeper, tiers);
        }
    }
    tiers
}

fn merge_due(closed: &Closed, manifest: &Manifest, keeper: &mut TierKeeper, mut tiers: Tiers) -> Tiers {
    let segments = &closed.segments[..manifest.segments.len()];
    while keeper.is_due(&tiers, segments, manifest) {
        let replaced: Option<Replaced> = keeper
            .merge_next(
                &closed.storage,
                &tiers,
                segments,
                manifest,
                (Due::BySize, &AtomicBool::new(false)),
                &mut |_| {},
            )
            .expect("memory");
        let replaced = replaced.expect("nobody stops it");
        replaced.remove_files(&closed.storage).expect("memory");
        tiers = replaced.tiers;
    }
    tiers
}

/// Tiers and the segments without one answer for everything, once.
fn check_list(closed: &Closed, tiers: &Tiers) {
    let last = closed.manifest.segments.last().expect("segments").last_position;
    let mut position = 1;
    while position <= last {
        position = match tiers.tier_at(position) {
            Some(tier) => {
                assert_eq!(tier.first_position(), position);
                closed.rows_of(tier).compare(tier, &[position]).expect("a sound tier");
                tier.last_position() + 1
            }
            None => {
                let mut alone = tiers.segments_without(&closed.segments);
                let segment = alone.find(|segment| segment.first_position() == position);
                let closing = segment.and_then(|segment| segment.closing()).expect("every position is answered for");
                closing.tally.last_position + 1
            }
        };
    }
    let alone = tiers.segments_without(&closed.segments).count() as u64;
    assert_eq!(alone + tiers.covered_segments(&closed.segments), closed.segments.len() as u64);
}

#[test]
fn a_store_gets_its_tiers_and_keeps_them() {
    let mut closed = Closed::of_segments(37);
    let Loaded { tiers, index, notices, .. } = loaded(&closed);
    assert!(tiers.iter().len() == 0 && notices.is_empty() && tiers.covered_until() == 0);
    let (segments, manifest) = (closed.segments.clone(), closed.manifest.clone());
    let mut keeper = TierKeeper::new(index, ReadMode::Mapped, false);
    let mut tiers = tiers;
    // Sealed one after the other.
    for count in [1, 4, 5, 16, 23, 37] {
        closed.manifest.segments = manifest.segments[..count].to_vec();
        closed.segments = segments[..count].to_vec();
        tiers = merge_all(&closed, &mut keeper, tiers);
        check_list(&closed, &tiers);
        let names = closed.names();
        assert_eq!(tier_files(&names), named_files(&tiers));
        assert!(names.iter().filter(|name| name.starts_with("INDEX-")).count() <= 2);
    }
    let covered: Vec<(u64, u64)> =
        tiers.iter().map(|tier| (tier.entry().first_segment, tier.entry().last_segment)).collect();
    assert_eq!(covered, [(1, 16), (17, 32), (33, 36)]);
    assert_eq!(tiers.covered_until(), closed.manifest.segments[35].last_position);

    let again = loaded(&closed);
    assert!(again.notices.is_empty());
    assert_eq!(again.index.generation, keeper.generation());
    assert_eq!(named_files(&again.tiers), named_files(&tiers));
    check_list(&closed, &again.tiers);
    assert!(!TierKeeper::new(again.index, ReadMode::Mapped, false).is_due(
        &again.tiers,
        &closed.segments,
        &closed.manifest
    ));
}

#[test]
fn a_broken_tier_is_dropped_and_made_again() {
    let closed = Closed::of_segments(12);
    let Loaded { tiers, index, .. } = loaded(&closed);
    let mut keeper = TierKeeper::new(index, ReadMode::Mapped, false);
    let tiers = merge_all(&closed, &mut keeper, tiers);
    assert_eq!(tiers.iter().len(), 3);
    assert!(keeper.drop_broken(&closed.storage, &tiers, &tiers.broken()).expect("memory").is_none());
    let second = tiers.iter().nth(1).expect("three tiers");
    closed.flip(second.name(), 4096 + 9, 2);
    second.check_all().expect_err("a bit is wrong");
    check_list(&closed, &tiers);
    assert_eq!(tiers.covered_until(), closed.manifest.segments[3].last_position);

    let replaced =
        keeper.drop_broken(&closed.storage, &tiers, &tiers.broken()).expect("memory").expect("one is broken");
    replaced.remove_files(&closed.storage).expect("memory");
    assert!(!has(&closed.names(), second.name()));
    check_list(&closed, &replaced.tiers);
    assert_eq!(named_files(&loaded(&closed).tiers), named_files(&replaced.tiers));

    let whole = merge_all(&closed, &mut keeper, replaced.tiers);
    check_list(&closed, &whole);
    let covered: Vec<(u64, u64)> =
        whole.iter().map(|tier| (tier.entry().first_segment, tier.entry().last_segment)).collect();
    assert_eq!(covered, [(1, 4), (5, 8), (9, 12)]);
}

#[test]
fn a_broken_index_manifest_falls_back_to_the_one_before() {
    let closed = Closed::of_segments(8);
    let Loaded { tiers, index, .. } = loaded(&closed);
    let mut keeper = TierKeeper::new(index, ReadMode::Mapped, false);
    let tiers = merge_all(&closed, &mut keeper, tiers);
    assert_eq!((tiers.iter().len(), keeper.generation()), (2, 2));
    closed.flip(&index_manifest_name(2), 60, 1);

    let before = loaded(&closed);
    assert_eq!((before.tiers.iter().len(), before.notices.len()), (1, 1));
    assert!(before.notices[0].contains("INDEX-"), "{}", before.notices[0]);
    // No number is given twice.
    assert_eq!((before.index.generation, before.index.next_file), (2, 3));
    let removed = remove_unnamed(&closed.storage, &closed.names(), &before.index).expect("memory");
    assert_eq!(removed, [tier_name(2)]);
    let mut keeper = TierKeeper::new(before.index, ReadMode::Mapped, false);
    let tiers = merge_all(&closed, &mut keeper, before.tiers);
    check_list(&closed, &tiers);
    assert_eq!((tiers.iter().len(), keeper.generation()), (2, 3));
    assert!(loaded(&closed).notices.is_empty());

    // Of another store.
    let mut other = closed.manifest.clone();
    other.store[0] ^= 1;
    let of_other = load(&closed.storage, &closed.names(), &other, ReadMode::Mapped).expect("no later version");
    assert_eq!((of_other.tiers.iter().len(), of_other.notices.len()), (0, 2));
}

#[test]
fn tiers_that_cannot_be_are_dropped_with_a_notice() {
    let closed = Closed::of_segments(16);
    let Loaded { tiers, index, .. } = loaded(&closed);
    let mut keeper = TierKeeper::new(index, ReadMode::Mapped, false);
    // Three of four segments each: the fourth would make one of them all.
    let mut fewer = Closed::open(closed.storage.clone());
    fewer.keep(12);
    let tiers = merge_all(&fewer, &mut keeper, tiers);
    let names: Vec<String> = tiers.iter().map(|tier| tier.name().to_owned()).collect();
    assert_eq!(names.len(), 3);
    closed.storage.remove(&names[0]).expect("it is there");
    closed.storage.remove(&names[1]).expect("it is there");
    closed.storage.create(&names[1], 5000, Fill::Zeroed).expect("memory");
    let found = loaded(&fewer);
    assert_eq!(found.notices.len(), 2);
    assert_eq!(named_files(&found.tiers).into_iter().collect::<Vec<_>>(), [names[2].clone()]);
    assert_eq!(found.tiers.covered_until(), 0);
    check_list(&fewer, &found.tiers);

    // Of a manifest that lists fewer segments than a tier covers.
    fewer.keep(11);
    let found = loaded(&fewer);
    assert_eq!((found.tiers.iter().len(), found.notices.len()), (0, 3));
    closed.storage.create(&format!("{}.new", tier_name(77)), 10, Fill::Zeroed).expect("memory");
    closed.storage.create("tier-of-somebody-else", 10, Fill::Zeroed).expect("memory");
    let mut removed = remove_unnamed(&fewer.storage, &fewer.names(), &found.index).expect("memory");
    removed.sort_unstable();
    assert_eq!(removed, [names[1].clone(), names[2].clone(), format!("{}.new", tier_name(77))]);
    assert!(has(&fewer.names(), "tier-of-somebody-else"));
}

/// Takes what is due of this kind until nothing is.
fn merge_every(closed: &Closed, keeper: &mut TierKeeper, mut tiers: Tiers, count: usize, due: Due) -> Tiers {
    let manifest = Manifest { segments: closed.manifest.segments[..count].to_vec(), ..closed.manifest.clone() };
    let (segments, stop) = (&closed.segments[..count], AtomicBool::new(false));
    loop {
        let next = keeper.merge_next(&closed.storage, &tiers, segments, &manifest, (due, &stop), &mut |_| {});
        let Some(replaced) = next.expect("memory") else { return tiers };
        replaced.remove_files(&closed.storage).expect("memory");
        tiers = replaced.tiers;
    }
}

/// As in a store that is always closed soon after it was opened.
#[test]
fn the_newest_are_merged_as_long_as_they_are_little() {
    let closed = Closed::of_segments(60);
    let Loaded { mut tiers, index, .. } = loaded(&closed);
    let mut keeper = TierKeeper::new(index, ReadMode::Mapped, false);
    let positions = |tier: &TierFile| tier.last_position() + 1 - tier.first_position();
    let of_one = closed.manifest.segments[0].last_position + 1 - closed.manifest.segments[0].first_position;
    for count in 1..=60 {
        tiers = merge_every(&closed, &mut keeper, tiers, count, Due::Rest);
        tiers = merge_every(&closed, &mut keeper, tiers, count, Due::Little(6 * of_one));
        assert!(tiers.iter().all(|tier| positions(tier) <= 6 * of_one));
        assert!(tiers.iter().len() <= count / 4 + 4, "{} of {count}", tiers.iter().len());
        assert_eq!(tiers.covered_segments(&closed.segments), count as u64);
    }
    check_list(&closed, &tiers);
    let few = merge_every(&closed, &mut keeper, tiers, 60, Due::BySize);
    assert!(few.iter().len() <= 7, "{}", few.iter().len());
}

/// Files that were made ahead and not used leave gaps in the numbers of segments.
#[test]
fn segments_are_counted_and_not_their_numbers() {
    let storage = Memory::new();
    for _ in 0..10 {
        let options = Options::new().durability(Durability::Buffered).segment_bytes_max(64 << 10).background(false);
        let store = options.open_storage(Arc::new(storage.clone())).expect("a store on the heap");
        store.reserve(4 << 20).expect("memory");
        for number in 0..120 {
            let event = NewEvent::new("Counted", &[7; 1000][..]);
            store.append(&format!("stream-{}", number % 9), Expect::Any, &[event]).expect("an append");
        }
        store.close().expect("a clean end");
    }
    let closed = Closed::open(storage);
    let entries = &closed.manifest.segments;
    let (first, last) = (entries[0].number, entries[entries.len() - 1].number);
    assert!(last - first > 20 * entries.len() as u64, "{first} to {last}, {} segments", entries.len());
    let sizes = |closed: &Closed| -> Vec<u64> {
        let Loaded { mut tiers, index, .. } = loaded(closed);
        let mut keeper = TierKeeper::new(index, ReadMode::Mapped, false);
        for count in 1..=closed.segments.len() {
            tiers = merge_every(closed, &mut keeper, tiers, count, Due::BySize);
        }
        check_list(closed, &tiers);
        let alone = |tier: &Arc<TierFile>| Tiers::new(vec![tier.clone()]).covered_segments(&closed.segments);
        tiers.iter().map(alone).collect()
    };
    // As many as in a store of as many segments without gaps.
    assert_eq!(sizes(&closed), sizes(&Closed::of_segments(entries.len())));
}
