//! Counts allocations: scans, filtered reads and look-ups make none per event, a subscription that follows none at all, an
//! append to a known stream none on average.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::ControlFlow;

use annals::{
    Durability, Expect, Message, MessageRef, NewEvent, Next, Options, Position, Query, QueryItem, Read, ReadMode, Seek,
    Store, Subscription, View,
};
use annals_tests::model::Ground;

struct Counting;

thread_local! {
    /// Of this thread alone: the store's own threads prepare segments and write indexes as they like.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // While a thread ends its counter may be gone already.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call is handed on to the system's allocator as it came; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: `at` came from `alloc` above, so from the system's allocator, with this layout.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

/// A store of so many events of 300 bytes, in three streams and several segments, closed and opened again.
fn reopened_with(ground: &Ground, events: usize) -> Store {
    let store = ground.open(Options::new().durability(Durability::Buffered));
    for n in 0..events {
        let event = NewEvent::new("T", &[7; 300]).tags(&["t"]).metadata(b"meta");
        store.append(["a", "b", "c"][n % 3], Expect::Any, &[event]).unwrap();
    }
    store.close().unwrap();
    let store = ground.open(Options::new());
    assert!(store.stats().segments > 2);
    store
}

#[test]
fn a_scan_by_the_borrowed_form_allocates_nothing_per_event() {
    let ground = Ground::disk();
    let events = 20_000;
    let store = reopened_with(&ground, events);
    let mut bytes = 0;
    let mut scan = || {
        let read = store.read_all(&Query::all(), Seek::Beginning).unwrap();
        read.for_each_event(|event| {
            bytes += event.payload().len() + event.stream().len() + event.tags().count();
            ControlFlow::<()>::Continue(())
        })
        .unwrap();
    };
    scan();
    let made = allocations(&mut scan);
    println!("{made} allocations in a scan of {events} events in {} segments", store.stats().segments);
    assert_eq!(bytes, 2 * events * (300 + 1 + 1));
    assert!(made < 100, "{made} allocations: some per segment, none per event");
}

#[test]
fn filtered_reads_and_look_ups_allocate_nothing_per_event() {
    let ground = Ground::disk();
    let events = 20_000;
    let store = reopened_with(&ground, events);
    let item = || QueryItem::new().tags_all(["t"]).types(["T"]);
    let dense = Query::item(item());
    let joined = Query::item(item().streams(["a", "b"])).or(item().streams(["c"]).tags_any(["t", "u"]));
    let prefix = Query::prefix("");
    let counted = |what: &str, wanted: usize, read: &dyn Fn() -> annals::Result<Read>| {
        let mut found = 0;
        let mut all = || read().unwrap().for_each(|event| found += event.unwrap().revision().get().min(1));
        all();
        let made = allocations(&mut all);
        println!("{made} allocations in {what} of {wanted} events");
        assert_eq!(found, 2 * wanted as u64, "{what}");
        assert!(made < 200, "{made} allocations in {what}: some per segment, none per event");
    };
    for query in [&dense, &joined, &prefix] {
        counted("a filtered read", events, &|| store.read_all(query, Seek::Beginning));
        counted("a filtered read back", events, &|| store.read_all_back(query, Seek::End));
    }
    let of_a = events.div_ceil(3);
    counted("a stream", of_a, &|| store.read_stream("a", Seek::Beginning));
    counted("a stream back", of_a, &|| store.read_stream_back("a", Seek::End));
    counted("all back", events, &|| store.read_all_back(&Query::all(), Seek::End));
    let made = allocations(|| {
        for position in 1..=events as u64 {
            store.at(Position::new(position).unwrap()).unwrap().unwrap();
        }
    });
    assert_eq!(made, 0, "looking up a position");
}

#[test]
fn an_append_of_one_event_to_a_known_stream_of_a_warm_store_makes_none_on_average() {
    let ground = Ground::disk();
    let store = ground.open(Options::new().durability(Durability::Buffered));
    let payload = [7; 100];
    let streams: Vec<String> = (0..100).map(|n| format!("account-{n}")).collect();
    let mut next = 0u128;
    let mut append = |count: usize| {
        for _ in 0..count {
            next += 1;
            let id = next.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let event = NewEvent::new("Deposited", &payload).id(id).tags(&["currency:eur"]);
            store.append(&streams[next as usize % streams.len()], Expect::Any, &[event]).unwrap();
        }
    };
    append(100_000);
    let segments = store.stats().segments;
    let appends = 100_000;
    let made = allocations(|| append(appends));
    let rolls = store.stats().segments - segments;
    println!(
        "{made} allocations in {appends} appends and {rolls} rolls: {:.3} per 1,000",
        made as f64 * 1000.0 / appends as f64
    );
    assert!(made * 1000 < appends as u64, "{made} allocations in {appends} appends");
}

/// Events handed out until there is nothing left.
fn drain(subscription: &mut Subscription, borrowed: bool) -> u64 {
    let mut count = 0;
    if borrowed {
        let count = &mut count;
        let each = |next: MessageRef<'_>| {
            *count += u64::from(matches!(next, MessageRef::Event(event) if !event.payload().is_empty()));
            ControlFlow::<()>::Continue(())
        };
        subscription.for_each_ready(each).unwrap();
        return *count;
    }
    loop {
        match subscription.try_next().unwrap() {
            Next::Message(Message::Event(event)) => count += u64::from(!event.payload().is_empty()),
            Next::Message(_) => {}
            _ => return count,
        }
    }
}

#[test]
fn a_subscription_that_follows_a_writer_allocates_nothing_between_two_segments() {
    for (mode, query) in [
        (ReadMode::Mapped, Query::all()),
        (ReadMode::Mapped, Query::item(QueryItem::new().streams(["a", "b"]).tags_all(["t"]))),
    ] {
        for borrowed in [false, true] {
            let ground = Ground::disk();
            // Without threads that put another tier in place at any moment, which a subscription takes up as a segment.
            let options = Options::new().durability(Durability::Buffered).read_mode(mode).background(false);
            let store = ground.open(options);
            let mut subscription = store.subscribe(&query, Seek::Beginning).unwrap();
            let (mut followed, mut at_segments, mut quiet) = (0, 0, 0);
            for round in 0..20_000u64 {
                let segments = store.stats().segments;
                // One event or a few, so that windows of all sizes come.
                let batch: Vec<_> = (0..1 + round % 5).map(|_| NewEvent::new("T", &[7; 300]).tags(&["t"])).collect();
                store.append(["a", "b"][round as usize % 2], Expect::Any, &batch).unwrap();
                let is_quiet = store.stats().segments == segments && round > 100;
                let made = allocations(|| followed += drain(&mut subscription, borrowed));
                if is_quiet {
                    assert_eq!(made, 0, "in round {round}");
                    quiet += 1;
                } else {
                    at_segments += made;
                }
            }
            assert_eq!(followed, 60_000);
            let segments = store.stats().segments;
            println!("none in {quiet} rounds, {at_segments} in the first hundred and at {segments} segments");
            assert!(at_segments < 100 * segments);
        }
    }
}

#[test]
fn a_subscription_that_is_behind_allocates_nothing_per_event() {
    let ground = Ground::disk();
    let events = 20_000;
    let store = reopened_with(&ground, events);
    for query in [Query::all(), Query::tag("t"), Query::prefix("")] {
        for borrowed in [false, true] {
            let read = || {
                let mut subscription = store.subscribe(&query, Seek::Beginning).unwrap();
                assert_eq!(drain(&mut subscription, borrowed), events as u64);
            };
            read();
            let made = allocations(read);
            println!("{made} allocations for {events} events in {} segments", store.stats().segments);
            assert!(made < 200, "{made} allocations: some per segment, none per event");
        }
    }
}

/// What is read allocates nothing; what is learnt of the segment that is being written grows an index by doubling.
#[test]
fn a_follower_allocates_nothing_per_event() {
    let ground = Ground::disk();
    let store = ground.open(Options::new().durability(Durability::Buffered).background(false));
    let append = |count: usize| {
        for n in 0..count {
            let stream = ["a", "b", "c"][n % 3];
            store.append(stream, Expect::Any, &[NewEvent::new("T", &[7; 300]).tags(&["t"])]).unwrap();
        }
        store.sync().unwrap();
    };
    append(20_000);
    for view in [View::Durable, View::Written] {
        let follower = Options::new().view(view).follow_storage(ground.storage()).unwrap();
        let mut subscription = follower.subscribe(&Query::all(), Seek::Beginning).unwrap();
        let mut seen = 0;
        let mut take = || {
            let taken = subscription.for_each_ready(|message| {
                seen += usize::from(matches!(message, MessageRef::Event(_)));
                ControlFlow::<()>::Continue(())
            });
            taken.unwrap();
        };
        let made = allocations(&mut take);
        println!("{view:?}: {made} allocations in what was there");
        assert!(made < 200, "{made} allocations: some per segment, none per event");
        append(20_000);
        let made = allocations(&mut take);
        println!("{view:?}: {made} allocations in 20,000 events that came");
        assert!(made < 500, "{made} allocations: some per segment, none per event");
        // Nothing came.
        let made = allocations(|| (0..1000).for_each(|_| take()));
        assert_eq!(made, 0, "{view:?}: looking when nothing came");
        assert_eq!(seen, store.head() as usize);
    }
}
