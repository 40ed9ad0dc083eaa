//! An account with a long history: its balance is kept in snapshots, and decided on what came since.
//!
//! `cargo run -p annals --example account_snapshots`

use annals::{CleanSnapshots, Error, History, Loaded, NewEvent, Revision, Snapshots, Store};

/// What is saved: sixteen bytes. Whoever changes this, or how events are folded, gives another schema.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Account {
    balance: i64,
    bookings: u64,
}

const SCHEMA: u32 = 1;

impl Account {
    fn decode(state: &[u8]) -> Option<Self> {
        let (balance, bookings) = state.split_first_chunk::<8>()?;
        Some(Self { balance: i64::from_le_bytes(*balance), bookings: u64::from_le_bytes(bookings.try_into().ok()?) })
    }

    fn encode(self) -> Vec<u8> {
        [self.balance.to_le_bytes(), self.bookings.to_le_bytes()].concat()
    }

    fn apply(&mut self, event_type: &str, payload: &[u8]) {
        let amount = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        match event_type {
            "MoneyDeposited" => self.balance += amount,
            "MoneyWithdrawn" => self.balance -= amount,
            _ => {}
        }
        self.bookings += 1;
    }
}

/// The account, and the history that it was made of: what an append expects, and whether a snapshot is due, is known by that.
fn load(store: &Store, accounts: &Snapshots, stream: &str) -> annals::Result<(Account, History)> {
    let mut history = match accounts.load(store, stream)? {
        Loaded::Complete(history) => history,
        // Events were truncated that no snapshot of this schema covers: no balance is better than a wrong one.
        Loaded::Incomplete { first_available } => panic!("{stream} can be read from {first_available} on alone"),
    };
    let mut account = history.snapshot().and_then(|snapshot| Account::decode(snapshot.state())).unwrap_or_default();
    for event in &mut history {
        let event = event?;
        account.apply(event.event_type(), event.payload());
    }
    Ok((account, history))
}

/// Loads, decides, appends; once more from the start whenever somebody else was faster.
fn withdraw(store: &Store, accounts: &Snapshots, stream: &str, amount: i64) -> annals::Result<bool> {
    loop {
        let (account, history) = load(store, accounts, stream)?;
        if account.balance < amount {
            return Ok(false);
        }
        accounts.save_if_due(store, &history, || account.encode())?;
        match store.append(stream, history.expect(), &[NewEvent::new("MoneyWithdrawn", &amount.to_string())]) {
            Ok(_) => return Ok(true),
            Err(Error::Conflict(_)) => continue,
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    let accounts = Snapshots::of("account", SCHEMA).every_events(100);
    store.append("account-7", annals::Expect::NoStream, &[NewEvent::new("MoneyDeposited", b"1000")])?;
    let mut paid = 0;
    while withdraw(&store, &accounts, "account-7", 3)? {
        paid += 1;
    }
    assert_eq!(paid, 333);

    // Of 334 events 34 are read, and the rest is a snapshot.
    let (account, history) = load(&store, &accounts, "account-7")?;
    assert_eq!(account, Account { balance: 1, bookings: 334 });
    assert_eq!(history.snapshot().map(|snapshot| snapshot.revision().get()), Some(300));
    assert_eq!(history.event_count(), 34);
    println!("{account:?}, of {} events since the snapshot", history.event_count());

    // Another schema: what was saved is passed over, and the stream is read from its beginning.
    let (again, history) = load(&store, &Snapshots::of("account", SCHEMA + 1), "account-7")?;
    assert_eq!((again, history.event_count()), (account, 334));

    // What a snapshot covers may go. The receipt would say if none reached so far.
    let cut = Revision::new(301).expect("not zero");
    let removed = store.truncate_before("account-7", history.expect(), cut)?;
    assert!(!removed.is_unreached);
    let cleaned = store.clean_snapshots(&CleanSnapshots::new())?;
    assert_eq!((cleaned.kept, cleaned.superseded), (1, 2));
    assert_eq!(load(&store, &accounts, "account-7")?.0, account);
    store.close()
}

fn main() -> annals::Result<()> {
    run()
}
