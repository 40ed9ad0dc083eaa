//! Reads a store as a subscription, for a test that counts what it asks of the system: `read_child DIR all|tagged EVENTS`
//! hands out so many events and ends. With 0 events everything is done but the reading, and it takes as long: what the
//! store's threads do meanwhile is the same.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use annals::{DeliveryRef, Query, Seek, Store};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("read_child DIR all|tagged EVENTS");
    let (dir, what, wanted) = (next(), next(), next());
    let query = if what == "all" { Query::all() } else { Query::tag("t") };
    let mut left: u64 = wanted.parse().expect("a number of events");
    let end = Instant::now() + Duration::from_millis(1500);
    let store = Store::open(dir).expect("the store opens");
    let mut subscription = store.subscribe(&query, Seek::Beginning).expect("a query");
    let mut bytes = 0;
    while left > 0 {
        let ended = subscription.for_each_ready(|next| {
            if let DeliveryRef::Event(event) = next {
                bytes += event.payload().len();
                left -= 1;
            }
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(ended.expect("it reads").is_some(), "the store holds fewer events");
    }
    println!("{bytes}");
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}
