use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::error::Error;

fn mode_of(number: usize) -> ReadMode {
    if number.is_multiple_of(2) { ReadMode::Mapped } else { ReadMode::Pread }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Neighbours at random become one, over and over; each tier answers as its segments do.
    #[test]
    fn tiers_answer_as_their_segments(
        events in prop_oneof![
            vec((any::<u8>(), any::<u8>(), any::<u8>(), 1500..6000u16), 250..900),
            vec((any::<u8>(), any::<u8>(), any::<u8>(), 0..100u16), 2000..5000),
        ],
        merges in vec((any::<prop::sample::Index>(), 2..=8usize), 1..8),
        seeks in vec(1..5000u64, 4),
    ) {
        let closed = Closed::of_events(&events);
        let mut made: Vec<TierFile> = Vec::new();
        // Where each unit now is: a segment, or a tier that was made.
        let mut units: Vec<Result<usize, usize>> = (0..closed.segments.len()).map(Ok).collect();
        for (number, (at, count)) in merges.iter().enumerate() {
            if units.is_empty() {
                break;
            }
            let start = at.index(units.len());
            let range = start..(start + count).min(units.len());
            let segments = closed.segment_inputs();
            let inputs: Vec<MergeInput<'_>> = units[range.clone()]
                .iter()
                .map(|unit| match unit {
                    Ok(segment) => segments[*segment],
                    Err(tier) => MergeInput::Tier(&made[*tier]),
                })
                .collect();
            let tier = closed.merged(number as u64 + 1, &inputs, mode_of(number));
            closed.rows_of(&tier).compare(&tier, &seeks).expect("a sound tier");
            tier.check_all().expect("a sound tier");
            prop_assert!(!tier.is_broken());
            made.push(tier);
            units.splice(range, [Err(made.len() - 1)]);
        }
    }
}

#[test]
fn all_ways_of_merging_make_the_same_rows() {
    let closed = Closed::of_segments(16);
    let inputs = closed.segment_inputs();
    let halves: Vec<TierFile> = (0..2)
        .map(|half| {
            let quarters: Vec<TierFile> = (0..2)
                .map(|quarter| {
                    let number = 10 + half * 2 + quarter;
                    closed.merged(number, &inputs[number as usize * 4 - 40..][..4], ReadMode::Mapped)
                })
                .collect();
            let quarters: Vec<MergeInput<'_>> = quarters.iter().map(MergeInput::Tier).collect();
            closed.merged(20 + half, &quarters, ReadMode::Pread)
        })
        .collect();
    let whole = closed.merged(30, &halves.iter().map(MergeInput::Tier).collect::<Vec<_>>(), ReadMode::Mapped);
    let at_once: Vec<TierFile> =
        (0..2).map(|half| closed.merged(40 + half, &inputs[half as usize * 8..][..8], ReadMode::Mapped)).collect();
    let again = closed.merged(30, &at_once.iter().map(MergeInput::Tier).collect::<Vec<_>>(), ReadMode::Mapped);
    assert_eq!(whole.entry(), again.entry(), "the root stands for every byte");
    assert_eq!((whole.entry().first_segment, whole.entry().last_segment), (1, 16));
    closed.rows(1, 16).compare(&whole, &[1, 50, 333]).expect("a sound tier");
}

#[test]
fn a_merge_that_is_stopped_leaves_nothing() {
    let closed = Closed::of_segments(8);
    let inputs = closed.segment_inputs();
    let before = closed.names();
    let expected = expected(&closed.manifest, &closed.manifest.segments);
    let plan = MergePlan { storage: &closed.storage, expected, number: 1, generation: 1, inputs: &inputs };
    let stop = AtomicBool::new(false);
    let mut paced = 0;
    let mut pace = |bytes: u64| {
        paced += bytes;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    assert_eq!(merge(&plan, &mut pace, &stop).expect("stopping is no error"), None);
    assert!(paced > 0);
    assert_eq!(closed.names(), before);
    // And once more, undisturbed.
    let mut paced = 0;
    let entry = merge(&plan, &mut |bytes| paced += bytes, &AtomicBool::new(false)).expect("merges").expect("done");
    assert_eq!(paced + 4096, entry.len);
}

#[test]
fn what_is_no_row_of_neighbours_is_refused() {
    let closed = Closed::of_segments(4);
    let inputs = closed.segment_inputs();
    for wrong in [vec![inputs[0], inputs[2]], vec![inputs[1], inputs[0]]] {
        assert!(matches!(closed.merge(1, &wrong), Err(Error::Corrupt(_))));
    }
    assert!(tier_files(&closed.names()).is_empty());
}
