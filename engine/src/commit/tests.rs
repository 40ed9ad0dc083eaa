use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::append::Receipt;
use crate::input::OfStream;
use crate::recovery::open_without_threads;
use crate::storage::Memory;
use crate::{Durability, Expect, NewEvent, Options};

#[test]
fn who_waits_for_a_committer_that_never_started_syncs_by_itself() {
    let (inner, _lock) = open_without_threads(Arc::new(Memory::new()), Options::new()).unwrap();
    let inner = Arc::new(inner);
    let events = [NewEvent::new("T", "1")];
    let input = OfStream { stream: "s", expect: Expect::Any, events: &events, durability: None };
    assert!(inner.writer.lock().append(&input, &mut Receipt::new(Durability::Buffered)).is_ok());
    assert_eq!((inner.core.log.watermark.written(), inner.core.log.watermark.durable()), (1, 0));

    let (told, tell) = mpsc::channel();
    let waiting = inner.clone();
    std::thread::spawn(move || {
        let answer = waiting.commit.wait_for_committer(&waiting.committing(), 1);
        told.send(answer.is_ok()).unwrap();
    });
    assert_eq!(tell.recv_timeout(Duration::from_secs(20)), Ok(true), "it does not wait for ever");
    assert_eq!(inner.core.log.watermark.durable(), 1);
}

/// A leader that is at it when the store is closed would else write its mark behind the last one.
#[test]
fn the_last_mark_waits_for_whoever_leads_and_nobody_leads_after_it() {
    let (inner, _lock) = open_without_threads(Arc::new(Memory::new()), Options::new()).unwrap();
    let inner = Arc::new(inner);
    assert!(inner.commit.begin_leading());
    let (told, tell) = mpsc::channel();
    let closing = inner.clone();
    std::thread::spawn(move || told.send(closing.commit.finish(&closing.committing()).is_ok()).unwrap());
    assert!(tell.recv_timeout(Duration::from_millis(100)).is_err(), "somebody leads");
    inner.commit.finish_leading(&inner.committing());
    assert_eq!(tell.recv_timeout(Duration::from_secs(20)), Ok(true));
    assert!(inner.core.log.watermark.is_poisoned());
    assert!(inner.commit.begin_leading(), "it does not lead for ever");
}
