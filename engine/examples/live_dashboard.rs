//! A dashboard in a process of its own: it counts orders while the shop that takes them runs elsewhere, goes on when the
//! shop is closed and opened again, and needs no right but to read.
//!
//! `cargo run -p annals --example live_dashboard -- shop-directory` follows a store that another program writes;
//! without a directory it shows both sides at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use annals::{Expect, Follower, NewEvent, Options, Query, ReadEvents, Seek, Store};

/// Orders by their kind, and the position up to which they are counted.
#[derive(Debug, Default)]
struct Counts {
    by_type: BTreeMap<String, u64>,
    position: u64,
}

impl Counts {
    /// Takes what came since. Works on anything that shows a log.
    fn take(&mut self, events: &impl ReadEvents) -> annals::Result<()> {
        let read = events.read_all(&Query::prefix("order-"), Seek::After(self.position))?;
        self.position = read.head();
        for event in read {
            *self.by_type.entry(event?.event_type().to_owned()).or_default() += 1;
        }
        Ok(())
    }
}

/// Counts until `enough` says so. What is counted is durable: no power cut takes it back.
fn watch(shop: &Path, mut enough: impl FnMut(&Counts) -> bool) -> annals::Result<Counts> {
    // The shop may not have been opened yet.
    let follower: Follower = Options::new().wait_for_store(Duration::from_secs(10)).follow(shop)?;
    let mut counts = Counts::default();
    while !enough(&counts) {
        // Sleeps until the shop's process has made something durable.
        if follower.wait_beyond(counts.position, Duration::from_secs(1))? > counts.position {
            counts.take(&follower)?;
        } else if follower.is_writer_alive() == Some(false) {
            println!("the shop is closed");
        }
    }
    Ok(counts)
}

fn take_orders(shop: &Path, numbers: std::ops::Range<u32>) -> annals::Result<()> {
    let store = Store::open(shop)?;
    for number in numbers {
        let order = format!("order-{number}");
        store.append(&order, Expect::NoStream, &[NewEvent::new("OrderPlaced", "12 pencils")])?;
        if number % 2 == 0 {
            store.append(&order, Expect::Exists, &[NewEvent::new("OrderShipped", "by mail")])?;
        }
    }
    store.close()
}

pub(crate) fn run() -> annals::Result<()> {
    let directory = std::env::temp_dir().join(format!("annals-live-dashboard-{}", std::process::id()));
    let shop = directory.join("shop");
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let dashboard = std::thread::spawn({
        let shop = shop.clone();
        move || watch(&shop, |counts| counts.position == 30)
    });
    take_orders(&shop, 0..10)?;
    // Closed and opened again: the dashboard goes on.
    take_orders(&shop, 10..20)?;
    let counts = dashboard.join().expect("the dashboard ends")?;
    println!("{counts:?}");
    assert_eq!(counts.by_type["OrderPlaced"], 20);
    assert_eq!(counts.by_type["OrderShipped"], 10);
    std::fs::remove_dir_all(&directory).expect("removed");
    Ok(())
}

fn main() -> annals::Result<()> {
    match std::env::args().nth(1) {
        Some(shop) => watch(Path::new(&shop), |counts| {
            println!("{counts:?}");
            false
        })
        .map(|_| ()),
        None => run(),
    }
}
