//! A consumer whose effects are events: each order is answered by one shipment, in one batch with the acknowledgement of
//! the order. Killed anywhere, it goes on where it was; no shipment is missing and none is there twice.
//!
//! `cargo run -p annals --example exactly_once`

use std::time::Duration;

use annals::{Batch, ConsumerOptions, Expect, NewEvent, Query, Store};

/// Prepares shipments for the orders that wait. `killed_after` so many it stops, with one more in hand.
fn ship(store: &Store, killed_after: Option<u32>) -> annals::Result<u32> {
    let options = ConsumerOptions::new().query(Query::event_type("OrderPlaced"));
    let orders = store.consumer("shipping", options)?;
    let mut prepared = 0;
    while let Some(order) = orders.next(Duration::ZERO)? {
        if killed_after == Some(prepared) {
            return Ok(prepared);
        }
        let shipment = format!("shipment-of-{}", order.stream());
        let batch =
            Batch::new().event(&shipment, NewEvent::new("ShipmentPrepared", order.payload())).acknowledge(&order);
        // Written wholly or not at all; refused if somebody else has taken the consumer over meanwhile.
        store.commit(&batch)?;
        prepared += 1;
    }
    Ok(prepared)
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    for order in 1..=5 {
        store.append(&format!("order-{order}"), Expect::NoStream, &[NewEvent::new("OrderPlaced", "12 pencils")])?;
    }
    let first = ship(&store, Some(3))?;
    println!("killed after {first}: {:?}", store.consumers());
    let second = ship(&store, None)?;
    println!("then {second} more: {:?}", store.consumers());
    assert_eq!((first, second), (3, 2));
    for order in 1..=5 {
        assert_eq!(store.count(&Query::stream(format!("shipment-of-order-{order}")))?, 1);
    }
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
