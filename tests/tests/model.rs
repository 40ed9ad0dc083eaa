//! Random histories against the model: every answer compared, errors included.
//!
//! `ANNALS_SEED` sets the seed, `ANNALS_HISTORIES` the number of histories, `ANNALS_LONG` the long form; `ANNALS_SHRINK=0` shows a
//! failure as it came.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use annals_tests::model::{History, Manner, Tally, repetitions, seed};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

#[test]
fn every_answer_of_a_random_history_is_that_of_the_model() {
    let seed = seed();
    let histories = repetitions("ANNALS_HISTORIES", 2_000, 100_000);
    let config = Config {
        cases: u32::try_from(histories).expect("a number of histories"),
        max_shrink_iters: u32::try_from(repetitions("ANNALS_SHRINK", 1000, 1000)).expect("a number of tries"),
        max_shrink_time: 20_000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let tally = RefCell::new(Tally::default());
    let slowest = Cell::new((Duration::ZERO, 0));
    let operations = (any::<u64>(), vec(any::<u64>(), 125..170));
    let outcome = runner.run(&operations, |(manner, seeds)| {
        let begun = Instant::now();
        let run = History::run(Manner::random(manner), &seeds).map_err(TestCaseError::fail)?;
        slowest.set(slowest.get().max((begun.elapsed(), manner)));
        tally.borrow_mut().add(run);
        Ok(())
    });
    let tally = tally.into_inner();
    println!("{tally}");
    let (time, manner) = slowest.get();
    println!("the slowest took {time:?}: {:?}", Manner::random(manner));
    if let Err(TestError::Fail(reason, (manner, seeds))) = &outcome {
        panic!("{} operations, shrunk: {reason}\nHistory::run(Manner::random({manner}), &{seeds:?})", seeds.len());
    }
    outcome.expect("histories are made");
    assert_eq!(tally.shortcomings(&History::OUTCOMES, &History::OPERATIONS), Vec::<String>::new());
}
