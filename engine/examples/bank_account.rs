//! An account as an aggregate: load its stream, decide, append what was decided if nobody else did meanwhile.
//!
//! `cargo run -p annals --example bank_account`

use annals::{Error, Expect, NewEvent, Receipt, Seek, Store};

/// What the events of one account add up to.
#[derive(Debug, Default, PartialEq)]
struct Account {
    /// Number of events seen: the revision that the next append expects.
    revision: u64,
    balance: i64,
    is_open: bool,
}

#[derive(Debug, PartialEq)]
enum Refused {
    NoSuchAccount,
    NotEnough { balance: i64 },
}

impl Account {
    fn load(store: &Store, stream: &str) -> annals::Result<Self> {
        let mut account = Self::default();
        for event in store.read_stream(stream, Seek::Beginning)? {
            let event = event?;
            account.apply(event.event_type(), event.payload());
            account.revision = event.revision().get();
        }
        Ok(account)
    }

    fn apply(&mut self, event_type: &str, payload: &[u8]) {
        let amount = || std::str::from_utf8(payload).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        match event_type {
            "AccountOpened" => self.is_open = true,
            "MoneyDeposited" => self.balance += amount(),
            "MoneyWithdrawn" => self.balance -= amount(),
            // A type this version does not know changes nothing.
            _ => {}
        }
    }

    fn decide_to_withdraw(&self, amount: i64) -> Result<&'static str, Refused> {
        match self {
            Self { is_open: false, .. } => Err(Refused::NoSuchAccount),
            Self { balance, .. } if *balance < amount => Err(Refused::NotEnough { balance: *balance }),
            _ => Ok("MoneyWithdrawn"),
        }
    }
}

/// Loads, decides, appends; once more from the start whenever somebody else was faster.
fn withdraw(store: &Store, stream: &str, amount: i64) -> annals::Result<Result<Receipt, Refused>> {
    loop {
        let account = Account::load(store, stream)?;
        let event_type = match account.decide_to_withdraw(amount) {
            Ok(event_type) => event_type,
            Err(refused) => return Ok(Err(refused)),
        };
        let text = amount.to_string();
        match store.append(stream, Expect::revision(account.revision), &[NewEvent::new(event_type, &text)]) {
            Ok(receipt) => return Ok(Ok(receipt)),
            Err(Error::Conflict(_)) => continue,
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    let opened = [NewEvent::new("AccountOpened", b""), NewEvent::new("MoneyDeposited", b"100")];
    store.append("account-7", Expect::NoStream, &opened)?;

    // Ten customers at ten cash machines: only three can have their 30.
    let paid = std::thread::scope(|scope| {
        let machines: Vec<_> = (0..10).map(|_| scope.spawn(|| withdraw(&store, "account-7", 30))).collect();
        machines.into_iter().map(|machine| machine.join().expect("no machine panics")).collect::<Vec<_>>()
    });
    let mut count = 0;
    for outcome in paid {
        match outcome? {
            Ok(receipt) => {
                println!("paid out at revision {}", receipt.revision());
                count += 1;
            }
            Err(refused) => println!("refused: {refused:?}"),
        }
    }
    let account = Account::load(&store, "account-7")?;
    println!("{account:?}");
    assert_eq!(count, 3);
    assert_eq!(account, Account { revision: 5, balance: 10, is_open: true });
    assert_eq!(withdraw(&store, "account-8", 1)?, Err(Refused::NoSuchAccount));
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
