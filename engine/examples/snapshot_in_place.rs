//! A state of some size, saved as an rkyv archive and read where it lies: nothing is decoded, nothing is copied.
//!
//! `cargo run -p annals --example snapshot_in_place`

use annals::{Expect, Loaded, NewEvent, Revision, Snapshot, Snapshots, Store};
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// How many of each article a warehouse has.
#[derive(Archive, Serialize, Deserialize, Debug, Default, PartialEq)]
struct Warehouse {
    /// By article, ascending.
    stock: Vec<(u32, i64)>,
}

impl Warehouse {
    fn add(&mut self, article: u32, count: i64) {
        match self.stock.binary_search_by_key(&article, |(article, _)| *article) {
            Ok(at) => self.stock[at].1 += count,
            Err(at) => self.stock.insert(at, (article, count)),
        }
    }
}

/// The archive in the snapshot, checked. States begin at multiples of 16 in memory, as rkyv asks.
fn in_place(snapshot: &Snapshot) -> Result<&ArchivedWarehouse, rancor::Error> {
    rkyv::access::<ArchivedWarehouse, rancor::Error>(snapshot.state())
}

fn booking(payload: &[u8]) -> Option<(u32, i64)> {
    let (article, count) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    Some((article.parse().ok()?, count.parse().ok()?))
}

/// How many of an article there are: from the archive, and what was booked since.
fn stock_of(store: &Store, kind: &Snapshots, wanted: u32) -> annals::Result<i64> {
    let Loaded::Complete(mut history) = kind.load(store, "warehouse-1")? else { panic!("nothing was truncated") };
    let mut count = 0;
    // An archive that is not one of this schema's would be passed over; one that is damaged was refused before.
    if let Some(snapshot) = history.snapshot()
        && let Ok(warehouse) = in_place(snapshot)
        && let Ok(at) = warehouse.stock.binary_search_by_key(&wanted, |row| row.0.into())
    {
        count = warehouse.stock[at].1.into();
    }
    for event in &mut history {
        if let Some((article, more)) = booking(event?.payload())
            && article == wanted
        {
            count += more;
        }
    }
    Ok(count)
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    // Compressed, it would have to be decoded at each load.
    let kind = Snapshots::of("warehouse", 1).compress(false);
    let mut warehouse = Warehouse::default();
    for number in 0..2_000u32 {
        let (article, count) = (number * 7 % 500, i64::from(number % 11));
        store.append("warehouse-1", Expect::Any, &[NewEvent::new("Booked", &format!("{article} {count}"))])?;
        warehouse.add(article, count);
    }
    let archive = rkyv::to_bytes::<rancor::Error>(&warehouse).expect("memory for the archive");
    kind.save(&store, "warehouse-1", Revision::new(2_000).expect("not zero"), &archive)?;
    store.append("warehouse-1", Expect::Any, &[NewEvent::new("Booked", b"7 -3")])?;

    let snapshot = kind.latest(&store, "warehouse-1")?.expect("saved above");
    assert_eq!(snapshot.state().as_ptr() as usize % 16, 0);
    let archived = in_place(&snapshot).expect("what was saved");
    assert_eq!(archived.stock.len(), 500);
    let saved = warehouse.stock[7].1;
    assert_eq!(stock_of(&store, &kind, 7)?, saved - 3);
    println!("{} of article 7, of {} articles in {} bytes", saved - 3, archived.stock.len(), snapshot.state().len());
    store.close()
}

fn main() -> annals::Result<()> {
    run()
}
