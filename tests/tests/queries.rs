//! Queries of every kind against a filter over all events: both directions, every seek, conditions, counts.
//!
//! `ANNALS_SEED` sets the seed, `ANNALS_QUERIES` the number of queries, `ANNALS_LONG` the long form.

use annals::{
    Batch, Durability, Error, Event, EventId, NewEvent, Options, Position, Query, QueryItem, Read, ReadMode, Reader,
    Seek,
};
use annals_tests::model::{Ask, AskItem, Attempt, Content, Ground, Plain, Verdict, repetitions, seed};
use annals_tests::sim_disk::Dice;

fn small() -> Options {
    Options::new().durability(Durability::Buffered).segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

const STREAMS: [&str; 8] = ["a", "a-1", "a-10", "a-2", "b", "z", "acc", "acc-1"];

/// Names of streams: a few that are written all the time, and many that are not, under one prefix.
fn stream(dice: &mut Dice) -> String {
    if dice.chance(1, 3) { format!("u-{}", dice.below(200)) } else { STREAMS[dice.index(STREAMS.len())].to_owned() }
}

/// Appends random batches to store and model alike.
fn grow(store: &annals::Store, plain: &mut Plain, dice: &mut Dice, events: u64) {
    let until = plain.head() + events;
    while plain.head() < until {
        let count = 1 + dice.below(6).saturating_sub(3);
        let content = |dice: &mut Dice| {
            let stream = stream(dice);
            let len = 200 + dice.below(600);
            Content::random(dice, stream, len)
        };
        let attempt = Attempt { events: (0..count).map(|_| (content(dice), None)).collect(), ..Attempt::default() };
        let receipt = attempt.with_batch(|batch| store.commit(batch)).unwrap();
        let ids: Vec<EventId> = receipt.events().iter().map(|event| event.id).collect();
        plain.commit(&attempt, &ids, receipt.first().recorded_at);
    }
}

fn positions(read: annals::Result<Read>) -> Result<Vec<u64>, u64> {
    match read {
        Ok(read) => Ok(read.map(|event| event.unwrap().position().get()).collect()),
        Err(Error::AheadOfLog { given, .. }) => Err(given),
        Err(error) => panic!("{error}"),
    }
}

fn any_seek(dice: &mut Dice, plain: &Plain) -> Seek {
    let near = |dice: &mut Dice| dice.below(plain.head() + 3);
    match dice.below(6) {
        0 => Seek::Beginning,
        1 => Seek::End,
        2 => Seek::At(near(dice)),
        3 => Seek::After(near(dice)),
        4 => {
            let some = plain.at(1 + dice.below(plain.head())).expect("there are events alone");
            Seek::Time((some.recorded_at + dice.below(3)).saturating_sub(1))
        }
        _ => Seek::After(plain.head()),
    }
}

fn position(event: Option<Event>) -> Option<u64> {
    event.map(|event| event.position().get())
}

fn check(reader: &Reader, plain: &Plain, dice: &mut Dice) {
    let ask = if dice.chance(1, 12) { crowded(dice) } else { Ask::random(dice) };
    let query = ask.query();
    let seek = any_seek(dice, plain);
    let head = plain.head();
    assert_eq!(reader.head(), head);
    let told = || format!("{ask:?} {seek:?}");
    assert_eq!(positions(reader.read_all(&query, seek)), plain.read_all(&ask, seek, false, head), "{}", told());
    assert_eq!(positions(reader.read_all_back(&query, seek)), plain.read_all(&ask, seek, true, head), "{}", told());
    let all = plain.read_all(&ask, Seek::Beginning, false, head).unwrap();
    if dice.chance(1, 4) {
        assert_eq!(reader.count(&query).unwrap(), all.len() as u64, "{ask:?}");
        assert_eq!(position(reader.last(&query).unwrap()), all.last().copied(), "{ask:?}");
        let name = stream(dice);
        for revision in [Seek::At(dice.below(40)), Seek::After(dice.below(400)), seek] {
            // A place in a stream is a revision, but a time is one anywhere.
            let forward = positions(reader.read_stream(&name, revision)).unwrap();
            assert_eq!(forward, plain.read_stream(&name, revision, false, head), "{name} {revision:?}");
            let back = positions(reader.read_stream_back(&name, revision)).unwrap();
            assert_eq!(back, plain.read_stream(&name, revision, true, head), "{name} {revision:?} back");
        }
    }
}

/// A query with many names in each part, and items that overlap.
fn crowded(dice: &mut Dice) -> Ask {
    let item = |dice: &mut Dice| AskItem {
        streams: (0..dice.below(60)).map(|_| stream(dice)).collect(),
        prefixes: if dice.chance(1, 3) { vec!["u-".to_owned()] } else { Vec::new() },
        types: ["T", "Ta", "U", "V"][..1 + dice.index(4)].iter().map(|name| (*name).to_owned()).collect(),
        tags_all: if dice.chance(1, 2) { vec!["x".to_owned(), "x".to_owned()] } else { Vec::new() },
        tags_any: if dice.chance(1, 2) {
            vec!["k:1".to_owned(), "k:2".to_owned(), "no".to_owned()]
        } else {
            Vec::new()
        },
    };
    Ask(Some((0..1 + dice.below(3)).map(|_| item(dice)).collect()))
}

#[test]
fn every_query_answers_what_a_filter_answers() {
    let mut dice = Dice::new(seed());
    let queries = repetitions("ANNALS_QUERIES", 4_000, 400_000);
    let ground = Ground::memory();
    let mut plain = Plain::default();
    let store = ground.open(small().mapped_segments_max(2));
    grow(&store, &mut plain, &mut dice, 1_000);
    // While it grows: the segment that is written, some that are not sealed yet, some that are.
    for _ in 0..queries / 4 {
        if dice.chance(1, 10) {
            grow(&store, &mut plain, &mut dice, 3);
        }
        check(&store.reader(), &plain, &mut dice);
    }
    assert!(store.stats().segments > 8);
    store.close().unwrap();
    let store = ground.open(small().mapped_segments_max(1));
    for _ in 0..queries / 4 {
        check(&store.reader(), &plain, &mut dice);
    }
    store.close().unwrap();
    for options in [small().mapped_segments_max(3), small().read_mode(ReadMode::Pread)] {
        let store = options.open_read_only_storage(ground.storage()).unwrap();
        for _ in 0..queries / 4 {
            check(&store.reader(), &plain, &mut dice);
        }
    }
}

#[test]
fn every_condition_is_judged_as_a_filter_judges_it() {
    let mut dice = Dice::of(seed(), 1);
    let rounds = repetitions("ANNALS_QUERIES", 2_000, 200_000);
    let ground = Ground::memory();
    let mut plain = Plain::default();
    let store = ground.open(small().mapped_segments_max(2));
    grow(&store, &mut plain, &mut dice, 500);
    let (mut held, mut failed) = (0, 0);
    for _ in 0..rounds {
        let head = plain.head();
        let after = |dice: &mut Dice| match dice.below(4) {
            0 => None,
            1 => Position::new(dice.below(head + 1)),
            2 => Position::new(head),
            _ => Position::new(head - dice.below(20)),
        };
        let ask = |dice: &mut Dice| if dice.chance(1, 2) { Ask::narrow(dice) } else { Ask::random(dice) };
        let conditions = (0..1 + dice.below(3)).map(|_| (ask(&mut dice), after(&mut dice))).collect();
        let name = stream(&mut dice);
        let content = Content::random(&mut dice, name, 300);
        let attempt = Attempt { events: vec![(content, None)], conditions, ..Attempt::default() };
        let verdict = plain.judge(&attempt);
        match (verdict, attempt.with_batch(|batch| store.commit(batch))) {
            (Verdict::Commit, Ok(receipt)) => {
                plain.commit(&attempt, &[receipt.first().id], receipt.first().recorded_at);
                held += 1;
            }
            (Verdict::Conflict(head, refusals), Err(Error::Conflict(conflict))) => {
                assert_eq!((conflict.head, &conflict.failed), (head, &refusals), "{attempt:?}");
                failed += 1;
            }
            (verdict, outcome) => panic!("{verdict:?}, but {outcome:?}: {attempt:?}"),
        }
    }
    assert!(held > rounds / 10 && failed > rounds / 10, "{held} held, {failed} failed");
}

/// What a condition or a read does not reach is not opened: damage there is nobody's concern.
#[test]
fn nothing_at_or_below_after_is_looked_at() {
    let ground = Ground::memory();
    let mut plain = Plain::default();
    let mut dice = Dice::of(seed(), 2);
    let store = ground.open(small());
    grow(&store, &mut plain, &mut dice, 1_000);
    store.close().unwrap();
    let writing = ground.open(small().mapped_segments_max(1));
    let store = small().open_read_only_storage(ground.storage()).unwrap();
    let segments = annals::inspect::segments_in(&*ground.storage()).unwrap();
    let (gone, kept) = segments.split_at(segments.len() / 2);
    let after = gone.last().and_then(|info| info.last_position).unwrap();
    assert!(!kept.is_empty());
    // What is kept was opened last; of the others nothing is left open in either.
    writing.at(Position::new(plain.head()).unwrap()).unwrap();
    for info in gone {
        ground.storage().remove(&info.file).unwrap();
    }
    let query = Query::item(QueryItem::new().types(["T", "Ta", "U", "V"]));
    let reader = store.reader();
    let found = positions(reader.read_all(&query, Seek::After(after))).unwrap();
    assert_eq!(found, (after + 1..=plain.head()).collect::<Vec<_>>());
    let mut back = reader.read_all_back(&query, Seek::End).unwrap();
    for expected in (after + 1..=plain.head()).rev() {
        assert_eq!(back.next().unwrap().unwrap().position().get(), expected);
    }
    assert!(matches!(back.next(), Some(Err(Error::Corrupt(_)))));
    assert!(back.next().is_none());
    // To a stream whose last event is among what is kept: of a new one the whole index would be asked.
    let known = plain.at(plain.head()).unwrap().content.stream.clone();
    let append = |after: Option<Position>| {
        let batch = Batch::new().event(&known, NewEvent::new("New", b"")).condition(Query::tag("absent"), after);
        writing.commit(&batch)
    };
    append(Position::new(after)).unwrap();
    assert!(matches!(append(None), Err(Error::Corrupt(_))));
}
