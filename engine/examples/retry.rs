//! A producer that is killed before it hears the answer: with ids of its own it simply sends again.
//!
//! `cargo run -p annals --example retry`

use annals::{Error, Expect, NewEvent, Store};

/// The id of an order's event: made from what the order is, so that a second attempt makes the same.
fn id_of(order: u64) -> u128 {
    0x0bde_0000_0000_4000_8000_0000_0000_0000 | u128::from(order)
}

fn place(store: &Store, order: u64, text: &str) -> annals::Result<bool> {
    let stream = format!("order-{order}");
    let receipt = store.append(&stream, Expect::NoStream, &[NewEvent::new("OrderPlaced", text).id(id_of(order))])?;
    Ok(receipt.already_committed())
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    assert!(!place(&store, 1, "12 pencils")?);
    // The same again is told so, although the stream exists now: a lost answer never becomes a conflict.
    assert!(place(&store, 1, "12 pencils")?);
    // The same id for something else is an error that names where the first one stands.
    match place(&store, 1, "13 pencils") {
        Err(Error::DuplicateId { id, at }) => println!("{id} is taken, at position {at}"),
        other => panic!("{other:?}"),
    }
    println!("{} event stored", store.head());
    assert_eq!(store.head(), 1);
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
