//! Index manifests: what is encoded decodes to the same, and what contradicts itself is refused.

mod samples;

use annals_format::index_file::FILE_LEN_MAX;
use annals_format::index_manifest::{DirectoryEntry, IndexManifest, NEXT_FILE_MAX, TierEntry};
use annals_format::{Fault, NUMBER_MAX};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn round_trip(
        generation in 1..=NUMBER_MAX,
        seed in any::<u64>(),
        tiers in vec((1..9u64, 0..9u64, 0..3u64, 0..1000u64, 4096..=FILE_LEN_MAX, any::<u32>()), 0..20),
        directories in vec((0..9u64, 0..=NUMBER_MAX, 4096..=FILE_LEN_MAX, any::<u32>()), 0..4),
    ) {
        let mut manifest = IndexManifest { generation, name_hash_seed: seed, ..samples::index_manifest() };
        (manifest.tiers, manifest.directories, manifest.next_file) = (Vec::new(), Vec::new(), 100);
        let (mut segment, mut position) = (0, 0);
        for (n, (segments, gap, records, tier_generation, len, root)) in tiers.into_iter().enumerate() {
            let (first_segment, first_position) = (segment + 1 + gap, position + 1 + gap);
            (segment, position) = (first_segment + segments - 1, first_position + records - 1);
            manifest.tiers.push(TierEntry {
                number: 99 - n as u64,
                first_segment,
                last_segment: segment,
                first_position,
                last_position: position,
                generation: tier_generation,
                len,
                root,
            });
        }
        let mut coverage = 0;
        for (n, (later, row_count, len, root)) in directories.into_iter().enumerate() {
            coverage += later;
            let entry = DirectoryEntry { number: n as u64 + 1, coverage, row_count, generation: 0, len, root };
            manifest.directories.push(entry);
        }
        let bytes = manifest.encode();
        prop_assert_eq!(bytes.len(), 128 + manifest.tiers.len() * 64 + manifest.directories.len() * 48);
        prop_assert_eq!(IndexManifest::decode(&bytes), Ok(manifest));
    }
}

/// What a decoder answers to the sample changed so.
fn changed(change: impl FnOnce(&mut IndexManifest)) -> Result<IndexManifest, Fault> {
    let mut manifest = samples::index_manifest();
    change(&mut manifest);
    IndexManifest::decode(&manifest.encode())
}

#[test]
fn contradictions_are_refused() {
    assert_eq!(changed(|_| ()), Ok(samples::index_manifest()));
    let order = |change: fn(&mut IndexManifest)| matches!(changed(change), Err(Fault::Order { .. }));
    assert!(order(|m| m.tiers[1].number = m.tiers[0].number), "a number twice");
    assert!(order(|m| m.directories[0].number = m.tiers[0].number), "a number twice");
    assert!(order(|m| m.tiers.swap(0, 1)), "tiers out of order");
    assert!(order(|m| m.tiers[1].first_position -= 1), "positions of two tiers");
    assert!(order(|m| m.tiers[1].first_segment -= 1), "a segment of two tiers");
    assert!(order(|m| m.tiers[1].last_segment = m.tiers[1].first_segment - 1), "segments backwards");
    assert!(order(|m| m.tiers[1].last_position = m.tiers[1].first_position - 2), "positions backwards");
    assert!(order(|m| m.directories.swap(0, 1)), "directories out of order");
    let count = |change: fn(&mut IndexManifest)| matches!(changed(change), Err(Fault::Count { .. }));
    assert!(count(|m| m.next_file = 18), "a number not below the next");
    assert!(
        count(|m| m.next_file = NEXT_FILE_MAX + 1) && count(|m| m.next_file = NUMBER_MAX),
        "counted on, it would end"
    );
    assert!(changed(|m| m.next_file = NEXT_FILE_MAX).is_ok());
    assert!(count(|m| m.next_file = 0) && count(|m| m.generation = 0) && count(|m| m.tiers[0].number = 0));
    assert!(count(|m| m.tiers[0].first_position = 0) && count(|m| m.tiers[0].first_segment = 0));
    assert!(count(|m| m.directories[0].coverage = NUMBER_MAX + 1) && count(|m| m.generation = u64::MAX));
    let length = |change: fn(&mut IndexManifest)| matches!(changed(change), Err(Fault::Length { .. }));
    assert!(length(|m| m.tiers[0].len = 4095) && length(|m| m.directories[0].len = FILE_LEN_MAX + 1));
    // Gaps, empty tiers and an empty index are none.
    assert!(changed(|m| m.tiers[1].first_position += 5).is_ok());
    assert!(changed(|m| m.tiers[1].last_position = m.tiers[1].first_position - 1).is_ok());
    assert!(changed(|m| (m.tiers, m.directories) = (Vec::new(), Vec::new())).is_ok());
}
