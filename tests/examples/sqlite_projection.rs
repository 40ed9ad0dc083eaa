//! A read model in SQLite that is made exactly once of the events: the checkpoint stands in the same transaction as what
//! was made of them. No consumer is needed: the database itself remembers how far it has come, and in which history.
//!
//! `cargo run -p annals-tests --example sqlite_projection`

use std::error::Error;

use annals::{Checkpoint, Expect, NewEvent, Query, Seek, Store};
use rusqlite::{Connection, OptionalExtension};

/// Balances by account, and how far they account for the log.
pub(crate) struct Balances {
    database: Connection,
}

impl Balances {
    pub(crate) fn open(database: Connection) -> rusqlite::Result<Self> {
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, cents INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1), checkpoint TEXT NOT NULL);",
        )?;
        Ok(Self { database })
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, Box<dyn Error>> {
        let query = self.database.query_row("SELECT checkpoint FROM progress", [], |row| row.get::<_, String>(0));
        Ok(query.optional()?.map(|text| text.parse()).transpose()?)
    }

    /// Takes in what was appended since the last time, at most `most` events in one transaction. Answers how many.
    ///
    /// `Diverged` says that the store has lost events that the balances account for: they must be made anew.
    pub(crate) fn catch_up(&mut self, store: &Store, most: usize) -> Result<usize, Box<dyn Error>> {
        let seek = match self.checkpoint()? {
            Some(checkpoint) => store.resume(&checkpoint)?,
            None => Seek::Beginning,
        };
        let transaction = self.database.transaction()?;
        let mut taken = 0;
        for event in store.read_all(&Query::prefix("account-"), seek)?.take(most) {
            let event = event?;
            let cents: i64 = std::str::from_utf8(event.payload())?.parse()?;
            transaction.execute(
                "INSERT INTO balance VALUES (?1, ?2) ON CONFLICT (account) DO UPDATE SET cents = cents + ?2",
                (event.stream(), cents),
            )?;
            let checkpoint = store.checkpoint(event.position().get());
            transaction.execute(
                "INSERT INTO progress VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET checkpoint = ?1",
                [checkpoint.to_string()],
            )?;
            taken += 1;
        }
        transaction.commit()?;
        Ok(taken)
    }

    pub(crate) fn of(&self, account: &str) -> rusqlite::Result<i64> {
        self.database.query_row("SELECT cents FROM balance WHERE account = ?1", [account], |row| row.get(0))
    }
}

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let store = Store::in_memory()?;
    for n in 1..=20 {
        let account = format!("account-{}", n % 2);
        store.append(&account, Expect::Any, &[NewEvent::new("Booked", n.to_string().as_bytes())])?;
    }
    let mut balances = Balances::open(Connection::open_in_memory()?)?;
    while balances.catch_up(&store, 7)? > 0 {}
    assert_eq!((balances.of("account-0")?, balances.of("account-1")?), (110, 100));
    assert_eq!(balances.catch_up(&store, 7)?, 0, "nothing is taken in twice");

    // A store that is not the one that these balances were made of says so.
    let other = Store::in_memory()?;
    let refused = balances.catch_up(&other, 7).unwrap_err();
    println!("{refused}");
    assert!(matches!(refused.downcast_ref(), Some(annals::Error::Diverged { .. })));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    run()
}
