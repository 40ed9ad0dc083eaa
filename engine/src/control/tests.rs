use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::storage::{Disk, Memory};

const HEADER: ControlHeader = ControlHeader { store: [1; 16], incarnation: [2; 16], session: 3 };

fn on_each_ground(test: impl Fn(&dyn Storage)) {
    test(&Memory::new());
    let dir = tempfile::tempdir().unwrap();
    test(&Disk::open(dir.path()).unwrap());
}

#[test]
fn a_follower_sees_what_the_writer_announces() {
    on_each_ground(|storage| {
        if !storage.map_is_shared() {
            println!("SKIPPED: no shared maps here");
            return;
        }
        assert!(ControlView::open(storage).is_none());
        let control = Control::open(storage, &HEADER, 7).unwrap().unwrap();
        let view = ControlView::open(storage).unwrap();
        assert_eq!(view.header(), Some(HEADER));
        assert!(view.is_open());
        let turn = view.turn();
        control.durable(8);
        assert_ne!(view.turn(), turn);
        control.ended();
        assert!(!view.is_open());
        drop(control);
        let again = Control::open(storage, &ControlHeader { session: 4, ..HEADER }, 8).unwrap().unwrap();
        assert_eq!(view.header().unwrap().session, 4, "the page of an earlier opening serves again");
        assert!(view.is_open());
        drop(again);
    });
}

#[test]
fn a_sleeper_is_woken_and_none_sleeps_over_what_came_before() {
    on_each_ground(|storage| {
        let Ok(Some(control)) = Control::open(storage, &HEADER, 0) else { return };
        let (control, view) = (Arc::new(control), Arc::new(ControlView::open(storage).unwrap()));
        let turn = view.turn();
        control.durable(1);
        // Else it would sleep for an hour.
        view.wait(turn, Duration::from_secs(3600));
        for round in 2..200 {
            let turn = view.turn();
            let waker = std::thread::spawn({
                let control = control.clone();
                move || control.durable(round)
            });
            while view.turn() == turn {
                view.wait(turn, Duration::from_secs(3600));
            }
            waker.join().unwrap();
        }
        let begun = Instant::now();
        view.wait(view.turn(), Duration::from_millis(1));
        assert!(begun.elapsed() < Duration::from_secs(3600));
    });
}

#[test]
fn what_cannot_be_a_page_is_made_anew_or_done_without() {
    on_each_ground(|storage| {
        if !storage.map_is_shared() {
            return;
        }
        let file = storage.create(CONTROL_NAME, 100, Fill::Zeroed).unwrap();
        assert!(ControlView::open(storage).is_none());
        drop(file);
        let control = Control::open(storage, &HEADER, 1).unwrap().unwrap();
        assert_eq!(ControlView::open(storage).unwrap().header(), Some(HEADER));
        drop(control);
        let file = storage.open(CONTROL_NAME, Access::ReadWrite).unwrap();
        file.write_at(40, &[std::io::IoSlice::new(b"damaged")]).unwrap();
        assert_eq!(ControlView::open(storage).unwrap().header(), None, "a header that does not verify says nothing");
    });
}

#[test]
fn whether_a_writer_lives_is_told_without_getting_into_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    assert_eq!(disk.has_writer(CONTROL_NAME), None, "no page, no answer");
    let Ok(Some(control)) = Control::open(&disk, &HEADER, 0) else {
        println!("SKIPPED: no shared maps here");
        return;
    };
    drop(control);
    let shown = disk.show_writer(CONTROL_NAME).unwrap();
    assert_eq!(disk.has_writer(CONTROL_NAME), Some(true));
    drop(shown);
    assert_eq!(disk.has_writer(CONTROL_NAME), Some(false));
    // Those who ask all the time keep no writer out.
    let asking = std::thread::scope(|scope| {
        let asker = scope.spawn(|| (0..20_000).filter(|_| disk.has_writer(CONTROL_NAME) == Some(true)).count());
        for _ in 0..100 {
            assert!(disk.show_writer(CONTROL_NAME).is_some());
        }
        asker.join().unwrap()
    });
    println!("a writer was seen {asking} times");
}
