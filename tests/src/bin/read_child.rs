//! Reads a store as a subscription, for a test that counts what it asks of the system: `read_child DIR all|tagged EVENTS`
//! hands out so many events and ends. With 0 events everything is done but the reading. Without the store's threads, whose work
//! goes by the clock.

use std::ops::ControlFlow;

use annals::{MessageRef, Options, Query, Seek};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("read_child DIR all|tagged EVENTS");
    let (dir, what, wanted) = (next(), next(), next());
    let query = if what == "all" { Query::all() } else { Query::tag("t") };
    let mut left: u64 = wanted.parse().expect("a number of events");
    let store = Options::new().background(false).open(dir).expect("the store opens");
    let mut subscription = store.subscribe(&query, Seek::Beginning).expect("a query");
    let mut bytes = 0;
    while left > 0 {
        let ended = subscription.for_each_ready(|next| {
            if let MessageRef::Event(event) = next {
                bytes += event.payload().len();
                left -= 1;
            }
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(ended.expect("it reads").is_some(), "the store holds fewer events");
    }
    println!("{bytes}");
}
