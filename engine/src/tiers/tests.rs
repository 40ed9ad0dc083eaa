//! Tiers answer as the indexes of their segments do, whatever was merged with what, and whatever is wrong with them they
//! never say that something is absent which is there.

mod damage;
mod keeping;
mod made_up;
mod same_answers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use annals_format::index_manifest::TierEntry;
use annals_format::manifest::Manifest;

use super::file::TierNames;
use super::merge::{MergePlan, merge};
use super::source::MergeInput;
use super::stored::is_index_name;
use super::stored::{expected, tier_name};
use super::{PositionsAt, TierFile, TierPositions, Tiers};
use crate::manifest::load_newest;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::prepare::segment_name;
use crate::sealed_index::SealedIndex;
use crate::segment::{Rebuild, Segment, SegmentCache, SegmentIndex};
use crate::storage::{Access, Memory, Storage};
use crate::{Durability, Expect, NewEvent, Options, Result};

/// A store on the heap that was closed, its sealed segments opened.
struct Closed {
    storage: Memory,
    manifest: Manifest,
    segments: Vec<Arc<Segment>>,
    indexes: Vec<Arc<SealedIndex>>,
}

/// One event: stream, type, tags and length of the payload, each chosen by number.
type Choice = (u8, u8, u8, u16);

impl Closed {
    fn of_events(events: &[Choice]) -> Self {
        let storage = Memory::new();
        let options = Options::new().durability(Durability::Buffered).segment_bytes_max(64 << 10).background(false);
        let store = options.open_storage(Arc::new(storage.clone())).expect("a store on the heap");
        for (number, (stream, event_type, tag, len)) in events.iter().enumerate() {
            let tags = [format!("customer:{}", tag % 40), format!("every:{}", tag % 3), format!("once:{number}")];
            let tags: Vec<&str> = tags.iter().take(usize::from(tag % 4)).map(String::as_str).collect();
            let payload = vec![*stream; usize::from(*len)];
            let event_type = format!("Type{}", event_type % 5);
            let event = NewEvent::new(&event_type, &payload).tags(&tags);
            store.append(&format!("stream-{}", stream % 90), Expect::Any, &[event]).expect("an append");
        }
        store.close().expect("a clean end");
        Self::open(storage)
    }

    /// With as many sealed segments as this, each of about thirty events.
    fn of_segments(count: usize) -> Self {
        Self::of_segments_with(count, 33, 1900)
    }

    /// With as many sealed segments as this, each of some hundred events: tiers of them have several blocks.
    fn of_long_segments(count: usize) -> Self {
        Self::of_segments_with(count, 500, 20)
    }

    fn of_segments_with(count: usize, per_segment: usize, payload_len: u16) -> Self {
        let events: Vec<Choice> = (0..(count + 2) * per_segment)
            .map(|n| (n.wrapping_mul(7919) as u8, (n / 3) as u8, n.wrapping_mul(31) as u8, payload_len))
            .collect();
        let mut closed = Self::of_events(&events);
        assert!(closed.segments.len() >= count, "{} segments were sealed", closed.segments.len());
        closed.keep(count);
        closed
    }

    /// As if no more segments than the first of them were sealed.
    fn keep(&mut self, count: usize) {
        self.manifest.segments.truncate(count);
        self.segments.truncate(count);
        self.indexes.truncate(count);
    }

    fn open(storage: Memory) -> Self {
        // The tiers that the store made of itself.
        for name in storage.list().expect("names").iter().filter(|name| is_index_name(name)) {
            storage.remove(name).expect("a file that is there");
        }
        let manifest = load_newest(&storage, &storage.list().expect("names")).expect("a manifest").expect("a store");
        let hash = NameHash { seed: manifest.name_hash_seed };
        let cache = SegmentCache::new(Arc::new(storage.clone()), ReadMode::Mapped, hash, Rebuild::Write, usize::MAX);
        let (mut segments, mut indexes) = (Vec::new(), Vec::new());
        for entry in &manifest.segments {
            let segment = Arc::new(Segment::listed(entry, segment_name(entry.number), &cache));
            if let SegmentIndex::Sealed(index) = &segment.opened_with_keys().expect("a listed segment").index {
                indexes.push(index.clone());
            }
            segments.push(segment);
        }
        assert_eq!(segments.len(), indexes.len());
        Self { storage, manifest, segments, indexes }
    }

    fn names(&self) -> Vec<String> {
        self.storage.list().expect("names")
    }

    fn segment_inputs(&self) -> Vec<MergeInput<'_>> {
        let pairs = self.indexes.iter().zip(&self.manifest.segments);
        pairs.map(|(index, entry)| MergeInput::Segment { index, entry }).collect()
    }

    /// Merges neighbours into the file with this number.
    fn merge(&self, number: u64, inputs: &[MergeInput<'_>]) -> Result<Option<TierEntry>> {
        let (first, last) = (inputs[0].segments().0, inputs[inputs.len() - 1].segments().1);
        let covered: Vec<_> =
            self.manifest.segments.iter().filter(|entry| (first..=last).contains(&entry.number)).cloned().collect();
        let expected = expected(&self.manifest, &covered);
        let plan = MergePlan { storage: &self.storage, expected, number, generation: 1, inputs };
        merge(&plan, &mut |_| {}, &AtomicBool::new(false))
    }

    fn listed(&self, entry: &TierEntry, mode: ReadMode) -> TierFile {
        let covered = super::stored::covered(&self.manifest.segments, entry).expect("segments of the manifest");
        TierFile::listed(&self.storage, entry, expected(&self.manifest, covered), mode).expect("the file is there")
    }

    fn merged(&self, number: u64, inputs: &[MergeInput<'_>], mode: ReadMode) -> TierFile {
        let entry = self.merge(number, inputs).expect("neighbours merge").expect("nobody stops it");
        self.listed(&entry, mode)
    }

    /// What the segments from number `first` to `last` hold, by their own indexes.
    fn rows(&self, first: u64, last: u64) -> Held {
        let mut held = Held::default();
        for (index, entry) in self.indexes.iter().zip(&self.manifest.segments) {
            if !(first..=last).contains(&entry.number) {
                continue;
            }
            let rows = index.rows().expect("a sound index");
            let at = |record: u32| entry.first_position + u64::from(record);
            for (hash, positions) in (0..rows.key_count()).filter_map(|key| rows.key(key)) {
                held.keys.entry(hash).or_default().extend(positions.iter().map(|record| at(record.to_native())));
            }
            rows.ids().for_each(|(hash, record)| held.ids.entry(hash).or_default().push(at(record)));
            let text = |name: &[u8]| String::from_utf8(name.to_vec()).expect("text");
            held.streams.extend(rows.streams_from(b"").map(|row| text(row.name)));
            held.types.extend(rows.types_from(b"").map(|row| text(row.name)));
        }
        held
    }

    fn rows_of(&self, tier: &TierFile) -> Held {
        self.rows(tier.entry().first_segment, tier.entry().last_segment)
    }

    fn flip(&self, name: &str, at: usize, bits: u8) {
        let file = self.storage.open(name, Access::ReadWrite).expect("the file is there");
        let mut byte = [0];
        file.read_at(at as u64, &mut byte).expect("memory");
        file.write_at(at as u64, &[IoSlice::new(&[byte[0] ^ bits])]).expect("memory");
    }
}

/// Rows of some segments, in positions of the log.
#[derive(Default, Debug)]
struct Held {
    keys: BTreeMap<u64, Vec<u64>>,
    ids: BTreeMap<u64, Vec<u64>>,
    streams: BTreeSet<String>,
    types: BTreeSet<String>,
}

impl Held {
    /// Asks for everything in each way. An answer that is wrong panics, an error is answered.
    fn compare(&self, tier: &TierFile, seeks: &[u64]) -> Result<()> {
        self.compare_keys(tier, seeks)?;
        self.compare_ids(tier)?;
        for prefix in ["", "stream-1", "stream-89", "Type", "t", "~"] {
            let wanted = |names: &BTreeSet<String>| -> Vec<String> {
                names.iter().filter(|name| name.starts_with(prefix)).cloned().collect()
            };
            assert_eq!(all(tier.streams_from(prefix)?)?, wanted(&self.streams));
            assert_eq!(all(tier.types_from(prefix)?)?, wanted(&self.types));
        }
        Ok(())
    }

    fn compare_keys(&self, tier: &TierFile, seeks: &[u64]) -> Result<()> {
        for (hash, wanted) in &self.keys {
            let positions: TierPositions<'_> = tier.positions(*hash)?.expect("the key is there");
            assert_eq!(positions.len() as usize, wanted.len());
            assert_eq!(&positions.clone().ascending(0).collect::<Result<Vec<u64>>>()?, wanted);
            let mut falling = positions.clone().descending(u64::MAX).collect::<Result<Vec<u64>>>()?;
            falling.reverse();
            assert_eq!(&falling, wanted);
            let mut aside: PositionsAt = positions.put_aside();
            let bounds = [0, tier.first_position(), tier.last_position(), u64::MAX];
            for bound in seeks.iter().copied().chain(bounds) {
                let mut walking = tier.positions_at(aside)?;
                let after = wanted.iter().copied().find(|position| *position >= bound);
                let before = wanted.iter().copied().rfind(|position| *position <= bound);
                assert_eq!((walking.seek_ge(bound)?, walking.seek_le(bound)?), (after, before));
                aside = walking.put_aside();
                for count in [0, 1, 2, 7, 70] {
                    let mut walking = tier.positions_at(aside)?;
                    let onward = wanted.iter().copied().filter(|position| *position >= bound).nth(count as usize);
                    assert_eq!(walking.nth_ge(bound, count)?, onward, "{count} from {bound}");
                    let mut walking = tier.positions_at(aside)?;
                    let back = wanted.iter().rev().copied().filter(|position| *position <= bound).nth(count as usize);
                    assert_eq!(walking.nth_le(bound, count)?, back, "{count} before {bound}");
                }
            }
            if positions.is_bitmap() {
                assert_eq!(&by_words(positions.clone(), tier)?, wanted);
                assert_eq!(&by_words_back(positions, tier)?, wanted);
            }
        }
        for absent in self.keys.keys().map(|hash| hash ^ 1).filter(|hash| !self.keys.contains_key(hash)) {
            assert!(tier.positions(absent)?.is_none());
        }
        Ok(())
    }

    fn compare_ids(&self, tier: &TierFile) -> Result<()> {
        for (hash, wanted) in &self.ids {
            tier.prefetch_id(*hash);
            assert_eq!(&tier.candidates_of_id(*hash)?[..], wanted);
        }
        for absent in self.ids.keys().map(|hash| hash.rotate_left(7)).filter(|hash| !self.ids.contains_key(hash)) {
            assert!(tier.candidates_of_id(absent)?.is_empty());
        }
        Ok(())
    }
}

fn bits_of(first: u64, word: &[u8; 8]) -> impl Iterator<Item = u64> + use<> {
    let word = u64::from_le_bytes(*word);
    (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| first + bit)
}

/// All positions of a bit map, as its words tell.
fn by_words(mut positions: TierPositions<'_>, tier: &TierFile) -> Result<Vec<u64>> {
    let (mut found, mut at) = (Vec::new(), tier.first_position());
    while let Some((first, words)) = positions.words_from(at)? {
        assert!(!words.is_empty());
        found.extend((first..).step_by(64).zip(words).flat_map(|(first, word)| bits_of(first, word)));
        at = first + 64 * words.len() as u64;
    }
    found.retain(|position| *position <= tier.last_position());
    Ok(found)
}

fn by_words_back(mut positions: TierPositions<'_>, tier: &TierFile) -> Result<Vec<u64>> {
    let (mut found, mut at) = (Vec::new(), tier.last_position());
    while let Some((first, words)) = positions.words_to(at)? {
        assert!(!words.is_empty());
        let firsts = (0..).map(|number| first - 64 * number);
        found.extend(words.iter().rev().zip(firsts).flat_map(|(word, first)| bits_of(first, word)));
        let Some(before) = (first - 64 * (words.len() as u64 - 1)).checked_sub(1) else { break };
        if before < tier.first_position() {
            break;
        }
        at = before;
    }
    found.retain(|position| *position <= tier.last_position());
    found.sort_unstable();
    Ok(found)
}

fn all(mut names: TierNames<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    while let Some(name) = names.next()? {
        found.push(name.to_owned());
    }
    Ok(found)
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|there| there == name)
}

fn tier_files(names: &[String]) -> BTreeSet<String> {
    names.iter().filter(|name| name.starts_with("tier-")).cloned().collect()
}

fn named_files(tiers: &Tiers) -> BTreeSet<String> {
    tiers.iter().map(|tier| tier_name(tier.entry().number)).collect()
}
