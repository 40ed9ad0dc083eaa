//! A name that only one may have, without a table of names and without a lock: a claim is appended under the condition
//! that no event about the name came since it was looked at.
//!
//! `cargo run -p annals --example unique_name`

use annals::{Batch, Error, NewEvent, Position, Query, QueryItem, Seek, Store};

#[derive(Debug, PartialEq)]
enum Answer {
    Claimed,
    Taken,
}

/// Everything that decides whether a name is free.
fn about(name: &str) -> Query {
    Query::item(QueryItem::new().types(["NameClaimed", "NameReleased"]).tags_all([name]))
}

fn claim(store: &Store, account: &str, name: &str) -> annals::Result<Answer> {
    loop {
        // The decision model: the newest event about the name, and how far the store was looked through for it.
        let mut read = store.read_all_back(&about(name), Seek::End)?;
        let after = Position::new(read.head());
        if read.next().transpose()?.is_some_and(|newest| newest.event_type() == "NameClaimed") {
            return Ok(Answer::Taken);
        }
        let tags = [name];
        let claimed = NewEvent::new("NameClaimed", account).tags(&tags);
        // Fail if events match `about(name)` after what was read.
        match store.commit(&Batch::new().condition(about(name), after).event(account, claimed)) {
            Ok(_) => return Ok(Answer::Claimed),
            // Somebody was quicker: look again.
            Err(Error::Conflict(conflict)) => println!("{account}: {conflict}"),
            Err(error) => return Err(error),
        }
    }
}

fn release(store: &Store, account: &str, name: &str) -> annals::Result<()> {
    let tags = [name];
    let released = NewEvent::new("NameReleased", account).tags(&tags);
    store.commit(&Batch::new().event(account, released)).map(drop)
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    let accounts = ["account-1", "account-2", "account-3", "account-4"];
    let answers = std::thread::scope(|scope| {
        let store = &store;
        let claims: Vec<_> =
            accounts.into_iter().map(|account| scope.spawn(move || claim(store, account, "name:ada"))).collect();
        claims.into_iter().map(|claim| claim.join().expect("no claim panics")).collect::<annals::Result<Vec<_>>>()
    })?;
    println!("{answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Claimed).count(), 1);

    let newest = store.last(&about("name:ada"))?.expect("it was claimed");
    let owner = newest.stream().to_owned();
    println!("{owner} has it, since position {}", newest.position());
    assert_eq!(claim(&store, "account-9", "name:ada")?, Answer::Taken);
    release(&store, &owner, "name:ada")?;
    assert_eq!(claim(&store, "account-9", "name:ada")?, Answer::Claimed);
    println!("released, and claimed by account-9");
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}
