//! Looking back, forking, backing up, restoring: what a store offers over its years.
//!
//! `cargo run -p annals --example backup_and_restore`

use annals::backup::{self, RestoreOptions};
use annals::{AsOf, Expect, ForkOptions, NewEvent, Query, Seek, Store};

pub(crate) fn run() -> annals::Result<()> {
    let dir = std::env::temp_dir().join(format!("annals-backup-and-restore-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for temporary files");
    let outcome = in_directory(&dir);
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn in_directory(dir: &std::path::Path) -> annals::Result<()> {
    let store = Store::open(dir.join("shop"))?;
    let placed = store.append("order-1", Expect::NoStream, &[NewEvent::new("Placed", "12 pencils")])?;
    store.append("order-1", Expect::Any, &[NewEvent::new("Paid", "4.80")])?;

    // The store as it was: every question, answered from then.
    let then = store.as_of(AsOf::from(placed.position()))?;
    assert_eq!(then.read_stream("order-1", Seek::Beginning)?.count(), 1);
    let an_hour_ago = placed.first().recorded_at - 3_600_000_000_000;
    assert_eq!(store.as_of(AsOf::Time(an_hour_ago))?.head(), 0);

    // What if the order had been cancelled? A store of its own, which shares what is ended with this one.
    store.fork(dir.join("what-if"), &ForkOptions::new().as_of(AsOf::Position(1)))?;
    let what_if = Store::open(dir.join("what-if"))?;
    what_if.append("order-1", Expect::Any, &[NewEvent::new("Cancelled", "")])?;
    assert_eq!((what_if.head(), store.head()), (2, 2));

    // A backup, and one more that copies only what is new. Appends may go on meanwhile.
    store.backup(dir.join("backup"))?;
    store.append("order-1", Expect::Any, &[NewEvent::new("Shipped", "")])?;
    let report = store.backup(dir.join("backup"))?;
    println!("point {} holds {} events, {} bytes of it new", report.point, report.head, report.new_bytes);

    // A mistake: everything up to the payment is wanted back, in a new place.
    let until = RestoreOptions::new().until(AsOf::Position(2));
    backup::restore(dir.join("backup"), dir.join("restored"), &until, &mut |_, _| {})?;
    let restored = Store::open(dir.join("restored"))?;
    for event in restored.read_all(&Query::all(), Seek::Beginning)? {
        let event = event?;
        println!("{} {} {}", event.position(), event.stream(), event.event_type());
    }
    assert_eq!(restored.head(), 2);
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
