//! A consumer that is killed after it acted and before it noted so. It acts again, with ids made from the events it acts
//! on: what is stored already is told so and stored once.
//!
//! `cargo run -p annals --example idempotent_consumer`

use annals::{EventId, Expect, NewEvent, Query, Seek, Store};

/// What the consumer keeps of its own: the last position that it is done with. Here in memory; a file or a table will do.
#[derive(Debug, Default)]
struct Checkpoint(Option<u64>);

#[derive(Debug, Default, PartialEq)]
struct Run {
    issued: u32,
    repeated: u32,
}

/// One invoice for one order, whoever asks and how often: its id follows from the order's.
fn invoice_id(order: EventId) -> EventId {
    const INVOICES: u128 = 0x1047_01ce << 96;
    EventId::from(u128::from_be_bytes(order.to_bytes()) ^ INVOICES)
}

/// Issues invoices for the orders after the checkpoint. `killed_after` acts, it stops before the act is noted.
fn consume(store: &Store, checkpoint: &mut Checkpoint, killed_after: Option<u32>) -> annals::Result<Run> {
    let mut run = Run::default();
    for order in store.read_all(&Query::event_type("OrderPlaced"), Seek::after(checkpoint.0))? {
        let order = order?;
        let stream = format!("invoice-of-{}", order.stream());
        let invoice = NewEvent::new("InvoiceIssued", order.payload()).id(invoice_id(order.id())).causation(b"order");
        // The ids are looked at before the expectation: a repeated act is no conflict, although the stream is there.
        let receipt = store.append(&stream, Expect::NoStream, &[invoice])?;
        match receipt.already_committed() {
            true => run.repeated += 1,
            false => run.issued += 1,
        }
        if killed_after == Some(run.issued + run.repeated) {
            return Ok(run);
        }
        checkpoint.0 = Some(order.position().get());
    }
    Ok(run)
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    for order in 1..=5 {
        store.append(&format!("order-{order}"), Expect::NoStream, &[NewEvent::new("OrderPlaced", "12 pencils")])?;
    }
    let mut checkpoint = Checkpoint::default();
    let first = consume(&store, &mut checkpoint, Some(3))?;
    println!("killed at {checkpoint:?}: {first:?}");
    assert_eq!(first, Run { issued: 3, repeated: 0 });

    let second = consume(&store, &mut checkpoint, None)?;
    println!("up to {checkpoint:?}: {second:?}");
    assert_eq!(second, Run { issued: 2, repeated: 1 });

    // Even from the very beginning: nothing is issued twice.
    let third = consume(&store, &mut Checkpoint::default(), None)?;
    println!("all once more: {third:?}");
    assert_eq!(third, Run { issued: 0, repeated: 5 });
    assert_eq!(store.count(&Query::event_type("InvoiceIssued"))?, 5);
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
