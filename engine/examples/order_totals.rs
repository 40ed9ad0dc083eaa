//! A table that is kept up to date by a subscription: what is there first, then what comes, in one loop. Its place is kept
//! with the table, so that it goes on where it stopped.
//!
//! `cargo run -p annals --example order_totals`

use std::collections::BTreeMap;

use annals::{Event, Expect, Message, NewEvent, Query, Seek, Store};

/// Totals by customer, and the last position that they hold. A program keeps both in one file or one transaction.
#[derive(Debug, Default, PartialEq)]
struct Totals {
    cents: BTreeMap<String, u64>,
    position: Option<u64>,
}

impl Totals {
    fn add(&mut self, event: &Event) {
        let cents: u64 = std::str::from_utf8(event.payload()).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        *self.cents.entry(event.stream().to_owned()).or_default() += cents;
    }
}

/// Follows until the store is closed.
fn keep_up_to_date(store: &Store, mut totals: Totals) -> annals::Result<Totals> {
    let mut orders = store.subscribe(&Query::event_type("OrderPlaced"), Seek::after(totals.position))?;
    for delivery in &mut orders {
        match delivery? {
            Message::Event(event) => totals.add(&event),
            // Nothing more for now: a good moment to show or save the table.
            Message::CaughtUp { head } => println!("up to {head}: {:?}", totals.cents),
            Message::Gap { first, last, why } => println!("{first} to {last} were removed: {why:?}"),
            _ => {}
        }
    }
    totals.position = Some(orders.position());
    Ok(totals)
}

fn place(store: &Store, customer: &str, cents: u64) -> annals::Result<()> {
    store.append(customer, Expect::Any, &[NewEvent::new("OrderPlaced", cents.to_string().as_bytes())])?;
    Ok(())
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    place(&store, "ada", 1200)?;
    place(&store, "bob", 350)?;

    // What came before and what comes meanwhile is the same to the loop; it ends when the store is closed, and a place that
    // was not reached by then is reached by the next one.
    let followed = store.clone();
    let totals = std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let followed = followed;
            keep_up_to_date(&followed, Totals::default())
        });
        place(&store, "ada", 800)?;
        store.close()?;
        follower.join().expect("it does not panic")
    })?;
    println!("stopped at {:?}", totals.position);
    assert!(totals.position <= Some(3));
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
