//! Four workers share the events of one consumer by stream. What fails is tried again, while later events of its stream
//! wait and other streams go on; what fails for good is put aside with its stream, and replayed once the cause is gone.
//!
//! `cargo run -p annals --example workers`

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use annals::{ConsumerOptions, Expect, NewEvent, Query, Retry, Store};

/// The world outside: mail to customer 7 is refused until the address is put right.
#[derive(Debug, Default)]
struct Mail {
    address_is_right: AtomicBool,
    sent: AtomicU32,
}

impl Mail {
    fn send(&self, stream: &str) -> Result<(), &'static str> {
        if stream == "customer-7" && !self.address_is_right.load(Ordering::Relaxed) {
            return Err("no such address");
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Works until everything up to the head is sent or put aside.
fn work(store: &Store, mail: &Mail, replay: bool) -> annals::Result<usize> {
    let options = ConsumerOptions::new()
        .query(Query::prefix("customer-"))
        .retry(Retry::times(3).pause(Duration::from_millis(1), Duration::from_millis(10)))
        .lanes(4);
    let consumer = store.consumer("mail", options)?;
    if replay {
        consumer.replay_all()?;
    }
    std::thread::scope(|scope| {
        let lanes = consumer.lanes();
        let workers = lanes.into_iter().map(|lane| {
            scope.spawn(move || -> annals::Result<()> {
                // Longer than any pause: whoever is handed nothing for so long has nothing left to do.
                while let Some(event) = lane.next(Duration::from_millis(200))? {
                    match mail.send(event.stream()) {
                        Ok(()) => lane.ack(&event)?,
                        Err(reason) => drop(lane.fail(&event, reason)?),
                    }
                }
                Ok(())
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    assert_eq!(consumer.lag(), 0);
    let parked = consumer.parked();
    for event in &parked {
        println!("{} of {} waits: {} ({} tries)", event.position, event.stream, event.reason, event.attempts);
    }
    Ok(parked.len())
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    for n in 0..100 {
        let customer = format!("customer-{}", n % 10);
        store.append(&customer, Expect::Any, &[NewEvent::new("Invoiced", format!("invoice {n}").as_bytes())])?;
    }
    let mail = Mail::default();
    let parked = work(&store, &mail, false)?;
    assert_eq!((parked, mail.sent.load(Ordering::Relaxed)), (10, 90));

    mail.address_is_right.store(true, Ordering::Relaxed);
    let parked = work(&store, &mail, true)?;
    assert_eq!((parked, mail.sent.load(Ordering::Relaxed)), (0, 100));
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
