//! Rows that no store makes easily: hashes that meet, the smallest and the largest of them, keys dense in one tier and
//! absent from the next.

use annals_format::index_file::{FileIdentity, FileKind, root_of};
use annals_format::tier::{TierParts, encode};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::storage::Fill;
use crate::tiers::file::Expected;

const EXPECTED: Expected = Expected { store: [9; 16], name_hash_seed: 5, final_checksum: 77 };

/// Relative positions and names of one tier.
#[derive(Debug, Clone)]
struct MadeUp {
    position_count: u32,
    keys: BTreeMap<u64, BTreeSet<u32>>,
    ids: BTreeSet<(u64, u32)>,
    streams: BTreeSet<String>,
    types: BTreeSet<String>,
}

fn hashes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), Just(u64::MAX - 1), 1..9u64, any::<u64>()]
}

fn made_up() -> impl Strategy<Value = MadeUp> {
    prop_oneof![1..70u32, 1000..4000u32].prop_flat_map(|count| {
        let positions = prop_oneof![
            btree_set(0..count, 1..5),
            btree_set(0..count, 1..60),
            (0..count, 1..7usize).prop_map(move |(from, step)| (from..count).step_by(step).collect()),
        ];
        let keys = btree_map(hashes(), positions, 0..30);
        let ids = btree_set((hashes(), 0..count), 0..60);
        let names = || btree_set("[ab]{1,4}", 0..40);
        (keys, ids, names(), names()).prop_map(move |(keys, ids, streams, types)| MadeUp {
            position_count: count,
            keys,
            ids,
            streams,
            types,
        })
    })
}

impl MadeUp {
    /// Writes it as the tier of segment `number`.
    fn store(&self, storage: &Memory, number: u64, first_position: u64) -> TierFile {
        let lists: Vec<(u64, Vec<u32>)> =
            self.keys.iter().map(|(hash, set)| (*hash, set.iter().copied().collect())).collect();
        let keys: Vec<(u64, &[u32])> = lists.iter().map(|(hash, list)| (*hash, list.as_slice())).collect();
        let ids: Vec<(u64, u32)> = self.ids.iter().copied().collect();
        let streams: Vec<&[u8]> = self.streams.iter().map(|name| name.as_bytes()).collect();
        let types: Vec<&[u8]> = self.types.iter().map(|name| name.as_bytes()).collect();
        let last_position = first_position + u64::from(self.position_count) - 1;
        let identity = FileIdentity {
            kind: FileKind::Tier,
            store: EXPECTED.store,
            number,
            generation: 3,
            name_hash_seed: EXPECTED.name_hash_seed,
            first_position,
            last_position,
            final_checksum: EXPECTED.final_checksum,
        };
        let parts = TierParts { keys: &keys, ids: &ids, streams: &streams, types: &types };
        let bytes = encode(&identity, &parts).expect("a small tier");
        let file = storage.create(&tier_name(number), bytes.len() as u64, Fill::Allocated).expect("memory");
        file.write_at(0, &[IoSlice::new(&bytes)]).expect("memory");
        let entry = TierEntry {
            number,
            first_segment: number,
            last_segment: number,
            first_position,
            last_position,
            generation: 3,
            len: bytes.len() as u64,
            root: root_of(&bytes),
        };
        TierFile::listed(storage, &entry, EXPECTED, ReadMode::Mapped).expect("it is there")
    }

    fn hold(&self, held: &mut Held, first_position: u64) {
        let at = |position: &u32| first_position + u64::from(*position);
        for (hash, positions) in &self.keys {
            held.keys.entry(*hash).or_default().extend(positions.iter().map(at));
        }
        self.ids.iter().for_each(|(hash, position)| held.ids.entry(*hash).or_default().push(at(position)));
        held.streams.extend(self.streams.iter().cloned());
        held.types.extend(self.types.iter().cloned());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_rows_merge(parts in vec(made_up(), 1..=8), first in 1..1u64 << 40, seeks in vec(0..20_000u64, 4)) {
        let storage = Memory::new();
        let (mut tiers, mut held, mut next) = (Vec::new(), Held::default(), first);
        for (number, part) in (1..).zip(&parts) {
            tiers.push(part.store(&storage, number, next));
            part.hold(&mut held, next);
            next += u64::from(part.position_count);
        }
        let inputs: Vec<MergeInput<'_>> = tiers.iter().map(MergeInput::Tier).collect();
        let plan = MergePlan { storage: &storage, expected: EXPECTED, number: 20, generation: 4, inputs: &inputs };
        let entry = merge(&plan, &mut |_| {}, &AtomicBool::new(false)).expect("neighbours").expect("nobody stops it");
        prop_assert_eq!((entry.first_position, entry.last_position), (first, next - 1));
        let tier = TierFile::listed(&storage, &entry, EXPECTED, ReadMode::Pread).expect("it is there");
        let seeks: Vec<u64> = seeks.iter().map(|seek| first.saturating_sub(50) + seek).collect();
        held.compare(&tier, &seeks).expect("a sound tier");
    }
}
