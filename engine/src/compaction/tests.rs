use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::storage::{Memory, Storage};
use crate::{Expect, NewEvent, Options};

/// Some segments, of which half of the events are removed.
fn store() -> (Arc<Memory>, Store) {
    let memory = Arc::new(Memory::new());
    let store = Options::new().background(false).segment_bytes_max(64 << 10).open_storage(memory.clone()).unwrap();
    for _ in 0..200 {
        store.append("kept", Expect::Any, &[NewEvent::new("t", &[7; 1000])]).unwrap();
        store.append("removed", Expect::Any, &[NewEvent::new("t", &[7; 1000])]).unwrap();
    }
    store.delete("removed", Expect::Any).unwrap();
    (memory, store)
}

#[test]
fn closing_ends_the_compaction_of_another_thread_and_waits_for_it() {
    let (memory, store) = store();
    let (closing, looking) = (store.clone(), store.clone());
    let (begun, has_begun) = mpsc::channel();
    let compacting = std::thread::spawn(move || {
        let mut begun = Some(begun);
        store.compact_while(&CompactionOptions::new(), &mut |at| {
            if at.done > 0
                && let Some(begun) = begun.take()
            {
                begun.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(300));
            }
            ControlFlow::Continue(())
        })
    });
    has_begun.recv().unwrap();
    closing.close().unwrap();
    assert!(looking.inner().compacting.try_lock().is_some(), "nobody is at it");
    let names = || {
        let mut names = memory.list().unwrap();
        names.sort_unstable();
        names
    };
    let (at_close, head) = (names(), memory.lock().map(drop));
    assert!(head.is_ok(), "another may write");
    assert!(compacting.join().unwrap().is_ok_and(|report| report.cancelled));
    assert_eq!(names(), at_close, "nothing is written behind the close");
    let again = Options::new().open_storage(memory).unwrap();
    assert!(again.recovery_report().clean);
    assert_eq!(again.count(&crate::Query::stream("kept")).unwrap(), 200);
}

#[test]
fn whoever_compacts_may_close_the_store_and_not_compact_it_again_meanwhile() {
    let (_, store) = store();
    let mut again = None;
    let report = store.compact_while(&CompactionOptions::new(), &mut |_| {
        again.get_or_insert_with(|| store.compact(&CompactionOptions::new()));
        store.clone().close().unwrap();
        ControlFlow::Continue(())
    });
    assert!(matches!(again, Some(Err(Error::Invalid { .. }))), "{again:?}");
    assert!(report.unwrap().cancelled);
    assert!(matches!(store.compact(&CompactionOptions::new()), Err(Error::Poisoned { .. })));
}

/// Readers may hold the segments of before while others have those of now: both make one index file anew.
#[test]
fn a_segment_and_the_one_that_takes_its_place_do_not_write_their_index_file_at_once() {
    let (_, store) = store();
    let core = &store.inner().core;
    let before = core.segments.load_full();
    let compacted = store.compact(&CompactionOptions::new()).unwrap().compacted.len();
    assert!(compacted > 0);
    let after = core.segments.load_full();
    let replaced = before.iter().zip(after.iter()).filter(|(before, after)| !Arc::ptr_eq(before, after));
    let mut count = 0;
    for (before, after) in replaced {
        count += 1;
        let after = after.clone();
        let (told, tell) = mpsc::channel();
        before.replacing_index(|| {
            std::thread::spawn(move || after.replacing_index(|| told.send(()).unwrap()));
            assert!(tell.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
        });
        tell.recv_timeout(Duration::from_secs(20)).expect("it goes on");
    }
    assert_eq!(count, compacted);
}

/// What it saw as the segment being written is a container by then, and no other segment was there.
#[test]
fn a_fork_of_a_read_only_opening_follows_its_last_segment_where_that_was_compacted_since() {
    let memory = Arc::new(Memory::new());
    let options = || Options::new().background(false);
    let store = options().open_storage(memory.clone()).unwrap();
    for stream in ["kept", "removed"] {
        store.append(stream, Expect::Any, &[NewEvent::new("t", &[7; 20_000])]).unwrap();
    }
    let looked = options().open_read_only_storage(memory.clone()).unwrap();
    store.delete("removed", Expect::Any).unwrap();
    let report = store.compact(&CompactionOptions::new().live_segment(LiveSegment::End)).unwrap();
    assert_eq!(report.compacted.len(), 1);
    let forked = Arc::new(Memory::new());
    looked.fork_to_storage(&*forked, &crate::ForkOptions::new()).unwrap();
    assert_eq!(options().open_storage(forked).unwrap().count(&crate::Query::stream("kept")).unwrap(), 1);
}

#[test]
fn what_compaction_would_do_is_told_beside_a_writer_that_compacts() {
    let memory = Arc::new(Memory::new());
    let options = || Options::new().background(false).segment_bytes_max(64 << 10);
    let store = options().open_storage(memory.clone()).unwrap();
    for _ in 0..20 {
        store.append("s", Expect::Any, &[NewEvent::new("t", &[7; 20_000])]).unwrap();
    }
    let looked = options().open_read_only_storage(memory.clone()).unwrap();
    let compacted = store.compact(&CompactionOptions::new()).unwrap().compacted;
    assert!(compacted.len() > 2);
    let plan = looked.plan_compaction(&CompactionOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((plan.compacted, plan.left), (vec![], compacted.len() as u64));
}
