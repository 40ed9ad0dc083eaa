//! Accounts whose balances compaction folds into snapshots: the program tells once how, and loads read little ever after.
//!
//! `cargo run -p annals --example folded_by_compaction`

use annals::{
    CompactionOptions, Event, Expect, Fold, FoldError, Loaded, NewEvent, Revision, Snapshot, Snapshots, Store,
};

/// How a balance is made of the events of an account.
struct Balance;

impl Fold for Balance {
    type State = i64;

    fn begin(&self, snapshot: Option<&Snapshot>) -> Result<i64, FoldError> {
        match snapshot {
            Some(snapshot) => Ok(i64::from_le_bytes(snapshot.state().try_into()?)),
            None => Ok(0),
        }
    }

    fn apply(&self, balance: &mut i64, event: &Event) -> Result<(), FoldError> {
        let amount: i64 = std::str::from_utf8(event.payload())?.parse()?;
        match event.event_type() {
            "MoneyDeposited" => *balance += amount,
            "MoneyWithdrawn" => *balance -= amount,
            other => return Err(format!("nobody knows what {other} is").into()),
        }
        Ok(())
    }

    fn encode(&self, balance: &i64) -> Result<Vec<u8>, FoldError> {
        Ok(balance.to_le_bytes().to_vec())
    }
}

/// The balance, and how many events were read for it.
fn balance(store: &Store, accounts: &Snapshots, stream: &str) -> Result<(i64, u64), FoldError> {
    let Loaded::Complete(mut history) = accounts.load(store, stream)? else {
        return Err("its beginning is gone, and no snapshot reaches so far".into());
    };
    Ok((history.replay(&Balance)?, history.event_count()))
}

pub(crate) fn run() -> Result<(), FoldError> {
    let store = Store::in_memory()?;
    let accounts = Snapshots::of("balance", 1).every_events(100).keep(1);
    store.register_fold("account-", &accounts, Balance)?;
    for n in 1..=250 {
        store.append("account-7", Expect::Any, &[NewEvent::new("MoneyDeposited", n.to_string().as_bytes())])?;
    }
    store.append("account-8", Expect::Any, &[NewEvent::new("MoneyStolen", b"5")])?;
    for _ in 0..99 {
        store.append("account-8", Expect::Any, &[NewEvent::new("MoneyDeposited", b"1")])?;
    }
    store.append("cart-1", Expect::Any, &[NewEvent::new("ItemAdded", b"pencil")])?;
    assert_eq!(balance(&store, &accounts, "account-7")?, (31_375, 250));

    // What it would do; then what it did. The carts are nobody's, and of account 8 nothing is saved.
    let plan = store.compact(&CompactionOptions::new().dry_run(true))?;
    assert_eq!(plan.folds.folded, 2);
    let report = store.compact(&CompactionOptions::new())?;
    assert_eq!((report.folds.folded, report.folds.events, report.folds.failed), (1, 250, 1));
    assert_eq!(report.folds.failures[0].reason, "nobody knows what MoneyStolen is");
    assert_eq!(balance(&store, &accounts, "account-7")?, (31_375, 0));

    // Now the events may go: the snapshot takes their place.
    let cut = Revision::new(251).expect("not zero");
    assert!(!store.truncate_before("account-7", Expect::Any, cut)?.is_unreached);
    store.append("account-7", Expect::Any, &[NewEvent::new("MoneyWithdrawn", b"375")])?;
    assert_eq!(balance(&store, &accounts, "account-7")?, (31_000, 1));
    Ok(store.close()?)
}

fn main() -> Result<(), FoldError> {
    run()
}
