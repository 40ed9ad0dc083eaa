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
    let counted = count.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let bound = preemptions.map_or("unbounded".to_owned(), |most| format!("at most {most} preemptions"));
    println!("{name}: {} executions, {bound}", count.load(Ordering::Relaxed));
}

/// More than two threads.
const BOUNDED: Option<usize> = Some(3);
