use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::join::{Any, Item, Join, Part};
use super::*;
use crate::active_index::{EventEntry, Expected, IndexWriter, Place};
use crate::query::{Query, QueryItem};
use crate::storage::{Memory, Storage};
use crate::{Durability, Expect, NewEvent, Options, Store};

const BASE: u64 = 1000;
const BOTH: [Direction; 2] = [Direction::Forward, Direction::Backward];

/// What a seek must answer.
fn wanted(positions: &BTreeSet<u64>, span: Span, direction: Direction, at: u64) -> Option<u64> {
    let mut within = positions.iter().copied().filter(|p| *p >= span.first && *p <= span.last);
    match direction {
        Direction::Forward => within.find(|p| *p >= at),
        Direction::Backward => within.rfind(|p| *p <= at),
    }
}

/// Seeks by these strides, each past what the one before answered, to the end.
fn compare(seek: &mut impl Seek, positions: &BTreeSet<u64>, span: Span, direction: Direction, strides: &[u64]) {
    let mut at = match direction {
        Direction::Forward => span.first,
        Direction::Backward => span.last,
    };
    for stride in strides.iter().chain(std::iter::repeat(&0)) {
        at = match direction {
            Direction::Forward => at + stride,
            Direction::Backward => at.saturating_sub(*stride),
        };
        let expected = wanted(positions, span, direction, at);
        assert_eq!(seek.seek(direction, at).unwrap(), expected, "{direction:?} from {at}");
        // The same again: nothing was passed over.
        assert_eq!(seek.seek(direction, at).unwrap(), expected, "{direction:?} from {at} again");
        let Some(found) = expected else { return };
        at = match direction {
            Direction::Forward => found + 1,
            Direction::Backward => found - 1,
        };
    }
}

fn positions(numbers: &[u32]) -> BTreeSet<u64> {
    numbers.iter().map(|number| BASE + u64::from(*number)).collect()
}

fn run(numbers: &[u32], before: usize) -> Run {
    let mut bytes = vec![0xaa; before * 4];
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend([0xbb; 8]);
    Run::new(Map::from(bytes), before * 4, numbers.len())
}

fn collected(numbers: &BTreeSet<u32>, span: Span) -> Cursor {
    Cursor::Collected(Window::new(numbers.iter().copied().collect(), BASE, span))
}

fn spans() -> impl Strategy<Value = Span> {
    (900..1300u64, 0..400u64).prop_map(|(first, len)| Span { first, last: first + len })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_list_answers_every_seek(
        mut numbers in vec(0..300u32, 0..120), before in 0..5usize, span in spans(), strides in vec(0..60u64, 0..30),
    ) {
        // A tag that an event carries twice is entered twice.
        numbers.sort_unstable();
        let positions = positions(&numbers);
        for direction in BOTH {
            let mut of_map = Cursor::Listed(Window::new(run(&numbers, before), BASE, span));
            compare(&mut of_map, &positions, span, direction, &strides);
            let mut of_heap = Cursor::Collected(Window::new(numbers.clone(), BASE, span));
            compare(&mut of_heap, &positions, span, direction, &strides);
        }
    }

    #[test]
    fn a_chain_answers_every_seek_backward(
        kinds in vec(0..8u8, 1..200), span in spans(), strides in vec(0..60u64, 0..30),
    ) {
        let index = Arc::new(ActiveIndex::new(Expected { segment_len: 4096, keys: 16, ids: None }));
        let mut writer = IndexWriter::new(index.clone());
        let (mut of_stream, mut of_type, mut of_tag) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (record, bits) in (0u32..).zip(&kinds) {
            let key = |bit: u8| if bits & bit == 0 { 7 } else { 70 };
            let place = Place { frame: 8, batch: 8 };
            let entry = EventEntry { place, recorded_at: 1, stream: key(1), event_type: key(2), id: 9 };
            prop_assert_eq!(writer.add_event(&entry), record);
            let note = |bit, set: &mut BTreeSet<u64>| {
                if bits & bit != 0 {
                    set.insert(BASE + u64::from(record));
                }
            };
            note(1, &mut of_stream);
            note(2, &mut of_type);
            note(4, &mut of_tag);
            if bits & 4 != 0 {
                writer.add_tag(70, record);
                writer.add_tag(70, record);
            }
        }
        for (kind, set) in [(KeyKind::Stream, of_stream), (KeyKind::Type, of_type), (KeyKind::Tag, of_tag)] {
            let mut chain = Cursor::Chain(Chain::new(index.clone(), kind, 70, BASE, span.first));
            prop_assert!(chain.count() >= set.len() as u64);
            compare(&mut chain, &set, span, Direction::Backward, &strides);
        }
    }

    #[test]
    fn joined_cursors_answer_what_sets_answer(
        sets in vec(proptest::collection::btree_set(0..300u32, 0..150), 1..6),
        split in 0..6usize, span in spans(), strides in vec(0..60u64, 0..30),
    ) {
        let absolute = |set: &BTreeSet<u32>| -> BTreeSet<u64> { set.iter().map(|n| BASE + u64::from(*n)).collect() };
        let (any, all) = sets.split_at(split.min(sets.len() - 1));
        let united: BTreeSet<u64> = any.iter().flat_map(absolute).collect();
        let mut common = absolute(&all[0]);
        all.iter().for_each(|set| common.retain(|p| absolute(set).contains(p)));
        let cursors = |sets: &[BTreeSet<u32>]| sets.iter().map(|set| collected(set, span)).collect::<Vec<_>>();
        let item = || {
            let mut parts: Vec<Part> = cursors(all).into_iter().map(Part::One).collect();
            if !any.is_empty() {
                parts.push(Part::Any(Any::new(cursors(any))));
            }
            Item::new(parts)
        };
        for direction in BOTH {
            let both: BTreeSet<u64> = match any.is_empty() {
                true => common.clone(),
                false => common.intersection(&united).copied().collect(),
            };
            compare(&mut item(), &both, span, direction, &strides);
            compare(&mut Any::new(cursors(any)), &united, span, direction, &strides);
            // An alternative more: each position once.
            let other = Item::new(cursors(&sets[..1]).into_iter().map(Part::One).collect());
            let either: BTreeSet<u64> = both.union(&absolute(&sets[0])).copied().collect();
            let mut join = Join::Items(Any::new(vec![item(), other]));
            compare(&mut join, &either, span, direction, &strides);
        }
    }

    #[test]
    fn passing_over_is_as_good_as_stepping(
        numbers in proptest::collection::btree_set(0..300u32, 0..100), count in 0..120u64, begun in any::<bool>(),
    ) {
        let span = Span { first: BASE, last: BASE + 300 };
        let all: Vec<u64> = numbers.iter().map(|n| BASE + u64::from(*n)).collect();
        let index = Arc::new(ActiveIndex::new(Expected { segment_len: 4096, keys: 16, ids: None }));
        let mut writer = IndexWriter::new(index.clone());
        for record in 0..300u32 {
            let stream = if numbers.contains(&record) { 70 } else { 7 };
            let place = Place { frame: 8, batch: 8 };
            writer.add_event(&EventEntry { place, recorded_at: 1, stream, event_type: 3, id: 9 });
        }
        for direction in BOTH {
            let left: Vec<u64> = match direction {
                Direction::Forward => all.iter().copied().skip(count as usize).collect(),
                Direction::Backward => all.iter().rev().copied().skip(count as usize).collect(),
            };
            let mut cursors = vec![
                Cursor::Listed(Window::new(run(&numbers.iter().copied().collect::<Vec<_>>(), 1), BASE, span)),
                collected(&numbers, span),
            ];
            if direction == Direction::Backward {
                cursors.push(Cursor::Chain(Chain::new(index.clone(), KeyKind::Stream, 70, BASE, span.first)));
            }
            for mut cursor in cursors {
                let start = if direction == Direction::Forward { span.first } else { span.last };
                if begun {
                    cursor.seek(direction, start).unwrap();
                }
                cursor.pass(direction, count);
                prop_assert_eq!(cursor.seek(direction, start).unwrap(), left.first().copied());
            }
        }
    }
}

/// 300 events in one segment: stream `s-n` for every third, the others in `t-0` to `t-3`.
fn store(sealed: bool) -> Store {
    let storage = Arc::new(Memory::new());
    let options = || {
        let options = Options::new().durability(Durability::Buffered).background(false);
        options.segment_bytes_max(64 << 10).ring_bytes(64 << 10)
    };
    let store = options().open_storage(storage.clone()).unwrap();
    for number in 0..300 {
        let stream = if number % 3 == 0 { format!("s-{number}") } else { format!("t-{}", number % 4) };
        let tags: &[&str] = if number == 200 { &["rare", "often"] } else { &["often"] };
        store.append(&stream, Expect::Any, &[NewEvent::new("T", b"p").tags(tags)]).unwrap();
    }
    if !sealed {
        return store;
    }
    store.append("next", Expect::Any, &[NewEvent::new("T", &[0; 60 << 10])]).unwrap();
    store.close().unwrap();
    // It is about the segment's own index, not about the tier that closing made of it.
    for name in storage.list().unwrap().iter().filter(|name| crate::tiers::is_index_name(name)) {
        storage.remove(name).unwrap();
    }
    options().open_storage(storage).unwrap()
}

/// How many positions the query leads to in the unit of these events, as far as cursors tell.
fn leading(store: &Store, query: &Query, after: u64, direction: Direction) -> Option<u64> {
    let core = &store.inner().core;
    let segments = core.segments.load_full();
    let unit = Unit::of(core, &segments, 300, core.log.watermark.written()).unwrap();
    assert_eq!(unit.span, Span { first: 1, last: 300 });
    let span = unit.span.common(Span { first: after + 1, last: 300 });
    keys::join(core, &unit, query, span, direction).unwrap().map(|join| join.count())
}

#[test]
fn a_prefix_is_joined_while_its_streams_are_few_and_else_left_to_the_events() {
    for sealed in [false, true] {
        let store = store(sealed);
        for direction in BOTH {
            let led = |query: &Query, after| leading(&store, query, after, direction).unwrap_or(0);
            // 104 streams in all: to name them costs less than half of 300 looks.
            assert_eq!(led(&Query::prefix("t-"), 0), 200);
            assert_eq!(led(&Query::prefix("s-"), 0), 100);
            assert_eq!(led(&Query::prefix("none"), 0), 0);
            // For 100 looks 100 are too many: every position is led to.
            assert_eq!(led(&Query::prefix("s-"), 200), 100);
            // An index that knows names by prefix has four to name, one in memory all of them.
            let joined = led(&Query::prefix("t-"), 200);
            assert!(if sealed { joined < 70 } else { joined == 100 }, "{joined}");
            // A part that is rare does not wait for names.
            let rare = QueryItem::new().tags_all(["rare"]).prefix("t-");
            assert_eq!(led(&Query::item(rare), 0), 1);
        }
    }
}

#[test]
fn the_rarest_part_leads_and_an_absent_one_ends_an_item() {
    for sealed in [false, true] {
        let store = store(sealed);
        for direction in BOTH {
            let led = |item: QueryItem, after| leading(&store, &Query::item(item), after, direction);
            assert_eq!(led(QueryItem::new().tags_all(["often", "rare"]).types(["T"]), 0), Some(1));
            assert_eq!(led(QueryItem::new().tags_all(["often", "absent"]), 0), None);
            assert_eq!(led(QueryItem::new().types(["T"]).tags_any(["absent", "rare"]), 0), Some(1));
            // Its newest position is not after 201.
            assert_eq!(led(QueryItem::new().tags_all(["often", "rare"]), 201), None);
            assert_eq!(led(QueryItem::new().streams(["s-0", "s-297"]).types(["T"]), 250), Some(1));
        }
    }
}

/// Tags that meet never, here and there, and often, so frequent that tiers hold them as bit maps.
#[test]
fn frequent_keys_are_joined_as_sets_are() {
    let options = Options::new().durability(Durability::Buffered).background(false).segment_bytes_max(64 << 10);
    let store = options.ring_bytes(64 << 10).open_storage(Arc::new(Memory::new())).unwrap();
    let payload = [0; 100];
    let has = |tag: &str, number: u64| match tag {
        "third" => number.is_multiple_of(3),
        "after a third" => number % 3 == 1,
        "half" => number.is_multiple_of(2),
        "seldom half" => number.is_multiple_of(2) && number.is_multiple_of(14),
        "early" => number < 700,
        _ => number >= 5_500,
    };
    let tags = ["third", "after a third", "half", "seldom half", "early", "late"];
    for number in 1..=6_000u64 {
        let of_event: Vec<&str> = tags.into_iter().filter(|tag| has(tag, number)).collect();
        store.append("s", Expect::Any, &[NewEvent::new("T", &payload).tags(&of_event)]).unwrap();
    }
    let core = &store.inner().core;
    let tiers = core.tiers.load_full();
    assert!(tiers.covered_until() > 3_000, "tiers were made of {} events", tiers.covered_until());
    let dense = |tag: &str| {
        let key = core.hash.key(KeyKind::Tag, tag);
        tiers.iter().any(|tier| tier.positions(key).unwrap().is_some_and(|positions| positions.is_bitmap()))
    };
    assert!(dense("third") && dense("half") && dense("early"));
    for first in tags {
        for second in tags {
            for third in [None, Some("half")] {
                let all: Vec<&str> = [Some(first), Some(second), third].into_iter().flatten().collect();
                let query = Query::item(QueryItem::new().tags_all(all.clone()));
                let wanted: Vec<u64> = (1..=6_000).filter(|number| all.iter().all(|tag| has(tag, *number))).collect();
                for from in [1, 64, 65, 1_000, 5_999] {
                    let found = store.read_all(&query, crate::Seek::At(from)).unwrap();
                    let found: Vec<u64> = found.map(|event| event.unwrap().position().get()).collect();
                    let onward: Vec<u64> = wanted.iter().copied().filter(|number| *number >= from).collect();
                    assert_eq!(found, onward, "{all:?} from {from}");
                    let found = store.read_all_back(&query, crate::Seek::At(from)).unwrap();
                    let found: Vec<u64> = found.map(|event| event.unwrap().position().get()).collect();
                    let back: Vec<u64> = wanted.iter().rev().copied().filter(|number| *number <= from).collect();
                    assert_eq!(found, back, "{all:?} back from {from}");
                }
            }
        }
    }
}
