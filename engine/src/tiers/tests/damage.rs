use super::*;
use crate::error::Error;
use crate::prepare::index_name;
use crate::tiers::source::Source;

/// Everything asked of a tier of which one byte is wrong: it answers as it should, or says that it is broken.
fn ask_damaged(closed: &Closed, held: &Held, entry: &TierEntry, mode: ReadMode) -> bool {
    let tier = closed.listed(entry, mode);
    for part in 0..4 {
        let asked = match part {
            0 => held.compare_ids(&tier),
            1 => held.compare_keys(&tier, &[7, 100]),
            2 => held.compare(&tier, &[]),
            _ => tier.check_all(),
        };
        if let Err(error) = asked {
            assert!(matches!(error, Error::Corrupt(_)), "{error}");
            assert!(error.to_string().contains(tier.name()), "{error}");
            assert!(tier.is_broken());
            assert!(tier.unless_broken(tier.check_all()).expect("its segments answer").is_none());
            return false;
        }
        assert!(!tier.is_broken());
    }
    true
}

#[test]
fn a_flipped_bit_is_never_an_absence() {
    let closed = Closed::of_long_segments(8);
    let entry = closed.merge(1, &closed.segment_inputs()).expect("merges").expect("done");
    let held = closed.rows(entry.first_segment, entry.last_segment);
    let name = tier_name(1);
    assert!(ask_damaged(&closed, &held, &entry, ReadMode::Mapped));
    for (n, at) in (0..entry.len as usize).step_by(1009).chain(entry.len as usize - 6..entry.len as usize).enumerate() {
        let mode = if n % 2 == 0 { ReadMode::Mapped } else { ReadMode::Pread };
        closed.flip(&name, at, 1 << (n % 8));
        // Some bytes are magic, version or reserved; all are covered by the root.
        assert!(!unsupported_or_sound(&closed, &held, &entry, mode, at), "byte {at}");
        closed.flip(&name, at, 1 << (n % 8));
    }
    assert!(ask_damaged(&closed, &held, &entry, ReadMode::Pread), "all is as it was");
}

/// The version and the flags of a header are looked at before its checksum: a later version may have another one.
fn unsupported_or_sound(closed: &Closed, held: &Held, entry: &TierEntry, mode: ReadMode, at: usize) -> bool {
    if (8..12).contains(&at) {
        let tier = closed.listed(entry, mode);
        assert!(tier.positions(1).is_err());
        return false;
    }
    ask_damaged(closed, held, entry, mode)
}

#[test]
fn a_block_is_verified_when_it_is_first_asked_for() {
    let closed = Closed::of_long_segments(8);
    let entry = closed.merge(1, &closed.segment_inputs()).expect("merges").expect("done");
    assert!(entry.len > 3 * (16 << 10), "a tier of several blocks");
    let held = closed.rows(entry.first_segment, entry.last_segment);
    let tier = closed.listed(&entry, ReadMode::Mapped);
    held.compare(&tier, &[]).expect("a sound tier");
    closed.flip(tier.name(), 4096 + 100, 4);
    // What was verified is not looked at again; who asks for that is told.
    tier.candidates_of_id(1).expect("verified before");
    assert!(!tier.is_broken());
    assert!(tier.check_all().is_err() && tier.is_broken());

    // Keys lie in the first block, and a look-up of an id reads no key.
    let tier = closed.listed(&entry, ReadMode::Mapped);
    held.compare_ids(&tier).expect("other blocks are sound");
    assert!(!tier.is_broken());
    let first = held.keys.keys().next().expect("a key");
    assert!(tier.positions(*first).is_err() && tier.is_broken());
}

#[test]
fn a_tier_of_another_history_is_known() {
    let closed = Closed::of_segments(4);
    let entry = closed.merge(1, &closed.segment_inputs()).expect("merges").expect("done");
    let mut other = closed.manifest.clone();
    other.segments[2].final_checksum ^= 1;
    let tier = TierFile::listed(&closed.storage, &entry, expected(&other, &other.segments), ReadMode::Mapped);
    let tier = tier.expect("its length is right");
    assert!(matches!(tier.positions(1), Err(Error::Corrupt(_))) && tier.is_broken());

    let tiers = Tiers::new(vec![Arc::new(tier)]);
    assert!(tiers.tier_at(1).is_none() && tiers.sound().next().is_none());
    assert_eq!(tiers.segments_without(&closed.segments).count(), closed.segments.len());

    let wrong = TierEntry { root: entry.root ^ 1, ..entry };
    let tier = closed.listed(&wrong, ReadMode::Mapped);
    assert!(tier.candidates_of_id(1).is_err() && tier.is_broken());
}

#[test]
fn a_broken_input_is_not_merged() {
    let closed = Closed::of_segments(8);
    let inputs = closed.segment_inputs();
    let first = closed.merged(1, &inputs[..4], ReadMode::Mapped);
    let second = closed.merged(2, &inputs[4..], ReadMode::Mapped);
    closed.flip(second.name(), 4096 + 50, 1);
    assert!(closed.merge(3, &[MergeInput::Tier(&first), MergeInput::Tier(&second)]).is_err());
    assert!(second.is_broken() && !first.is_broken());
    assert_eq!(tier_files(&closed.names()).len(), 2);
}

/// A tier gets its length by the counts, before any position is read: a count that is not true is not passed on.
#[test]
fn a_count_beyond_the_positions_of_a_segment_is_refused() {
    let closed = Closed::of_segments(2);
    let inputs = closed.segment_inputs();
    let source = Source::open(&inputs[0], closed.manifest.segments[0].first_position, || true).expect("it opens");
    let count = &closed.indexes[0].rows().expect("keys").keys[0].count;
    assert_eq!(source.key_len(0), Ok(count.to_native()));
    let name = index_name(closed.manifest.segments[0].number);
    let file = closed.storage.open(&name, Access::Read).expect("the file is there");
    // It was verified when it was opened, and changes in memory afterwards.
    let at = std::ptr::from_ref(count).addr() - file.map().expect("memory").as_ptr().addr();
    closed.flip(&name, at + 3, 0x40);
    assert!(source.key_len(0).is_err());
    let error = closed.merge(1, &inputs).expect_err("a row of a damaged index");
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
}
