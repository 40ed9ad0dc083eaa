//! Exactly once in effect: a process that consumes is killed by SIGKILL at random times, and what it made of the events
//! equals what the model makes, in both forms: effects in the batch of the acknowledgement, and effects in a SQLite
//! transaction with the checkpoint.
//!
//! 20 kills for each form, 200 with `ANNALS_LONG=1`.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use annals::{Batch, Checkpoint, ConsumerOptions, Durability, Expect, NewEvent, Options, Query, Retry, Seek, Store};
use annals_tests::crash::{how_many, seed};
use annals_tests::sim_disk::Dice;
use rusqlite::{Connection, OptionalExtension};

const FORM: &str = "ANNALS_TEST_CONSUMER_FORM";
const DIRECTORY: &str = "ANNALS_TEST_CONSUMER_DIRECTORY";
const STREAMS: u64 = 7;

fn open(directory: &Path) -> Store {
    // Killed and not cut off from power: `Buffered` is as safe, and quicker.
    let options = Options::new().durability(Durability::Buffered).segment_bytes_max(256 << 10).ring_bytes(64 << 10);
    options.open(directory.join("store")).unwrap()
}

/// Orders have the numbers of their positions among the orders.
fn place_orders(store: &Store, count: u64) {
    let before = store.count(&Query::prefix("order-")).unwrap();
    for number in before..before + count {
        let stream = format!("order-{}", number % STREAMS);
        store.append(&stream, Expect::Any, &[NewEvent::new("Placed", number.to_string().as_bytes())]).unwrap();
    }
}

fn say(text: &str) {
    println!("{text}");
    std::io::stdout().flush().unwrap();
}

/// The process that is killed. Does nothing unless it was started for that.
#[test]
fn the_process_that_is_killed() {
    let (Ok(form), Ok(directory)) = (std::env::var(FORM), std::env::var(DIRECTORY)) else { return };
    let directory = Path::new(&directory);
    let store = open(directory);
    place_orders(&store, 300);
    say("ready");
    match form.as_str() {
        "batch" => consume_in_batches(&store, false),
        _ => consume_into_database(&store, directory, false),
    }
}

/// Two lanes; some orders fail at first, and some are parked and replayed.
fn consume_in_batches(store: &Store, to_the_end: bool) {
    let retry = Retry::times(2).pause(Duration::ZERO, Duration::ZERO);
    let options = ConsumerOptions::new().query(Query::prefix("order-")).retry(retry).lanes(2).window(50);
    let consumer = store.consumer("shipping", options).unwrap();
    std::thread::scope(|scope| {
        for lane in consumer.lanes() {
            scope.spawn(move || {
                while let Some(order) = lane.next(Duration::from_millis(if to_the_end { 500 } else { 50 })).unwrap() {
                    let number: u64 = std::str::from_utf8(order.payload()).unwrap().parse().unwrap();
                    if !to_the_end && (order.attempt() == 1 && number % 5 == 1 || number % 97 == 3) {
                        lane.fail(&order, "not now").unwrap();
                        continue;
                    }
                    let stream = format!("shipment-{}", &order.stream()["order-".len()..]);
                    let batch =
                        Batch::new().event(&stream, NewEvent::new("Shipped", order.payload())).acknowledge(&order);
                    match store.commit(&batch) {
                        Ok(_) => {}
                        // An earlier order of the stream failed: this one comes again behind it.
                        Err(annals::Error::Fenced { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        if to_the_end {
            consumer.replay_all().unwrap();
        }
    });
    assert!(!to_the_end || (consumer.lag_of_orders() == 0 && consumer.parked().is_empty()));
}

trait LagOfOrders {
    fn lag_of_orders(&self) -> u64;
}

impl LagOfOrders for annals::Consumer {
    /// Shipments stand behind the last order, and do not match: they are passed when somebody looks for the next one.
    fn lag_of_orders(&self) -> u64 {
        assert!(self.next(Duration::ZERO).unwrap().is_none());
        self.lag()
    }
}

fn consume_into_database(store: &Store, directory: &Path, to_the_end: bool) {
    let mut database = Connection::open(directory.join("effects.sqlite")).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.pragma_update(None, "synchronous", "NORMAL").unwrap();
    database
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS shipment (number INTEGER, stream TEXT);
             CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY, checkpoint TEXT);",
        )
        .unwrap();
    loop {
        let kept = database.query_row("SELECT checkpoint FROM progress", [], |row| row.get::<_, String>(0));
        let seek = match kept.optional().unwrap() {
            Some(text) => store.resume(&text.parse::<Checkpoint>().unwrap()).unwrap(),
            None => Seek::Beginning,
        };
        let transaction = database.transaction().unwrap();
        let mut last = None;
        for order in store.read_all(&Query::prefix("order-"), seek).unwrap().take(3) {
            let order = order.unwrap();
            let number: i64 = std::str::from_utf8(order.payload()).unwrap().parse().unwrap();
            transaction.execute("INSERT INTO shipment VALUES (?1, ?2)", (number, order.stream())).unwrap();
            last = Some(order.position().get());
        }
        if let Some(position) = last {
            let checkpoint = store.checkpoint(position).to_string();
            transaction
                .execute(
                    "INSERT INTO progress VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET checkpoint = ?1",
                    [checkpoint],
                )
                .unwrap();
        }
        transaction.commit().unwrap();
        if last.is_none() {
            if to_the_end {
                return;
            }
            place_orders(store, 10);
        }
    }
}

fn start(form: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture", "--test-threads", "1"])
        .env(FORM, form)
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the process again and again; answers how often it was killed at work.
fn kill_again_and_again(form: &str, directory: &Path, kills: u64, dice: &mut Dice) -> u64 {
    let mut at_work = 0;
    for _ in 0..kills {
        let mut child = start(form, directory);
        let output = child.stdout.take().unwrap();
        // One of four is killed while it opens the store or places orders.
        if !dice.chance(1, 4) {
            let ready = BufReader::new(output).lines().map_while(Result::ok).any(|line| line.ends_with("ready"));
            assert!(ready, "the process ended before it was ready");
        }
        std::thread::sleep(Duration::from_micros(dice.below(30_000)));
        at_work += u64::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    at_work
}

fn orders(store: &Store) -> Vec<(String, u64)> {
    let orders = store.read_all(&Query::prefix("order-"), Seek::Beginning).unwrap().map(|order| {
        let order = order.unwrap();
        (order.stream().to_owned(), std::str::from_utf8(order.payload()).unwrap().parse().unwrap())
    });
    orders.collect()
}

fn by_stream(effects: impl IntoIterator<Item = (String, u64)>) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    effects.into_iter().for_each(|(stream, number)| found.entry(stream).or_default().push(number));
    found
}

#[test]
fn effects_in_the_batch_of_the_acknowledgement_happen_once_whatever_is_killed() {
    let seed = seed("effects_in_the_batch_of_the_acknowledgement_happen_once_whatever_is_killed");
    let kills = how_many(20, 200);
    let directory = tempfile::tempdir().unwrap();
    let at_work = kill_again_and_again("batch", directory.path(), kills, &mut Dice::of(seed, 1));
    let store = open(directory.path());
    let before = store.consumers();
    consume_in_batches(&store, true);
    let shipped = store.read_all(&Query::prefix("shipment-"), Seek::Beginning).unwrap().map(|shipment| {
        let shipment = shipment.unwrap();
        let stream = shipment.stream().replace("shipment-", "order-");
        (stream, std::str::from_utf8(shipment.payload()).unwrap().parse().unwrap())
    });
    let orders = orders(&store);
    println!("{kills} kills, {at_work} at work; {} orders; before the end {before:?}", orders.len());
    assert_eq!(by_stream(shipped), by_stream(orders));
    assert!(at_work * 2 > kills, "too few were killed at work");
}

#[test]
fn effects_in_the_transaction_of_the_checkpoint_happen_once_whatever_is_killed() {
    let seed = seed("effects_in_the_transaction_of_the_checkpoint_happen_once_whatever_is_killed");
    let kills = how_many(20, 200);
    let directory = tempfile::tempdir().unwrap();
    let at_work = kill_again_and_again("database", directory.path(), kills, &mut Dice::of(seed, 2));
    let store = open(directory.path());
    consume_into_database(&store, directory.path(), true);
    let database = Connection::open(directory.path().join("effects.sqlite")).unwrap();
    let mut rows = database.prepare("SELECT stream, number FROM shipment ORDER BY rowid").unwrap();
    let shipped = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? as u64))).unwrap();
    let shipped: Vec<(String, u64)> = shipped.map(Result::unwrap).collect();
    println!("{kills} kills, {at_work} at work; {} orders", shipped.len());
    assert_eq!(shipped, orders(&store));
    assert!(at_work * 2 > kills, "too few were killed at work");
}
