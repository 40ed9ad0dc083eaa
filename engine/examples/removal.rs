//! What is not needed any more goes: a cart is summed up and cut, sessions expire, an account is closed for good.
//!
//! `cargo run -p annals --example removal`

use annals::{
    Batch, Error, EventId, Expect, Lookup, NewEvent, Query, RemovalReason, Retention, Revision, Scope, Seek, Store,
    StreamState,
};

fn texts(store: &Store, stream: &str) -> annals::Result<Vec<String>> {
    let read = store.read_stream(stream, Seek::Beginning)?;
    read.map(|event| Ok(String::from_utf8_lossy(event?.payload()).into_owned())).collect()
}

/// The sum of a cart takes the place of what it was made of, in one batch.
fn sum_up(store: &Store, cart: &str) -> annals::Result<()> {
    let items = texts(store, cart)?;
    let Some(last) = store.stream_state(cart)?.last() else { return Ok(()) };
    let sum = format!("{} items", items.len());
    let next = Revision::new(last.get() + 1).expect("more than 0");
    let batch = Batch::new()
        .expect(cart, Expect::At(last))
        .truncate_before(cart, next)
        .event(cart, NewEvent::new("SummedUp", &sum));
    store.commit(&batch).map(drop)
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    for item in ["pencils", "paper", "ink"] {
        store.append("cart-1", Expect::Any, &[NewEvent::new("Added", item)])?;
    }
    sum_up(&store, "cart-1")?;
    println!("cart-1 holds {:?}, {:?}", texts(&store, "cart-1")?, store.stream_state("cart-1")?);
    assert_eq!(texts(&store, "cart-1")?, ["3 items"]);

    // Of each session the newest two events are kept.
    store.set_retention(&Scope::Prefix("session-".to_owned()), Retention::new().max_count(2))?;
    for page in ["/", "/shop", "/cart", "/pay"] {
        store.append("session-1", Expect::Any, &[NewEvent::new("Seen", page)])?;
    }
    assert_eq!(texts(&store, "session-1")?.len(), 4);
    for cut in store.sweep()?.cuts {
        println!("let go of {cut:?}");
    }
    assert_eq!(texts(&store, "session-1")?, ["/cart", "/pay"]);

    // Closed for good: no reader finds it, no append is taken, and the id still says what became of it.
    let id = EventId::from(7);
    store.append("account-7", Expect::NoStream, &[NewEvent::new("Opened", "Ada").id(id)])?;
    let removed = store.tombstone("account-7", Expect::Exists)?;
    println!("{} event hidden, the account is {:?}", removed.hidden, removed.state);
    assert!(matches!(store.stream_state("account-7")?, StreamState::Tombstoned { .. }));
    assert_eq!(store.count(&Query::stream("account-7"))?, 0);
    assert!(matches!(store.by_id(id)?, Lookup::Removed { why: RemovalReason::Tombstoned, .. }));
    let refused = store.append("account-7", Expect::Any, &[NewEvent::new("Opened", "Ada")]);
    assert!(matches!(refused, Err(Error::Conflict(_))));

    // What is only deleted may come again, and goes on where it was.
    store.append("note", Expect::NoStream, &[NewEvent::new("Written", "milk")])?;
    store.delete("note", Expect::Any)?;
    let receipt = store.append("note", Expect::Deleted, &[NewEvent::new("Written", "bread")])?;
    assert_eq!((texts(&store, "note")?, receipt.revision().get()), (vec!["bread".to_owned()], 2));
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
