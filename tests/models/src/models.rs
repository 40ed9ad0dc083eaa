//! What must hold in every interleaving, with every value that the memory model allows a load to see.
//!
//! Each model prints how many executions it took. Two threads with three operations each are gone through without a bound;
//! more threads with at most three preemptions. What takes minutes takes two steps a thread, and three with `ANNALS_LONG`.

mod heads;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Goes through all executions of `model`.
fn explore(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let count = Arc::new(AtomicU64::new(0));
    let (counted, told) = (count.clone(), name.to_owned());
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(move || {
        let before = counted.fetch_add(1, Ordering::Relaxed);
        if before > 0 && before % 1_000_000 == 0 {
            eprintln!("{told}: {before} so far");
        }
        model();
    });
    let bound = preemptions.map_or("unbounded".to_owned(), |most| format!("at most {most} preemptions"));
    println!("{name}: {} executions, {bound}", count.load(Ordering::Relaxed));
}

/// An assertion about what only ever rises, as a part of the step before it: loom lets no other thread go on within it, and gives
/// each load the oldest value that it may see. Later, or with a newer value, it would hold all the more.
fn at_once(assertion: impl FnOnce()) {
    loom::stop_exploring();
    assertion();
    loom::explore();
}

/// More than two threads.
const BOUNDED: Option<usize> = Some(3);
