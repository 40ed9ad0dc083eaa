use super::*;
use crate::storage::Memory;
use crate::{Expect, NewEvent, Options};
use std::sync::Arc;

/// A segment of four batches, and where they begin.
fn written() -> (Vec<u8>, Seed, Vec<usize>) {
    let memory = Arc::new(Memory::new());
    let store = Options::new().background(false).open_storage(memory.clone()).unwrap();
    for n in 0..4 {
        store.append("s", Expect::Any, &[NewEvent::new("t", &[n + 1; 500])]).unwrap();
    }
    let bytes = compacted::read_whole_segment(&*memory, &segment_name(1), SEGMENT_LEN_MAX).unwrap();
    let seed = SegmentHeader::decode(&bytes).unwrap().unwrap().seed();
    let mut starts = vec![SEGMENT_HEADER_LEN];
    while let Ok(Step::Batch(header)) = scan::next(&bytes[starts[starts.len() - 1]..], seed) {
        starts.push(starts[starts.len() - 1] + header.len());
    }
    assert_eq!((starts.len(), whole_until(&bytes, seed)), (5, starts[4]));
    (bytes, seed, starts)
}

#[test]
fn a_batch_that_is_being_put_there_is_no_damage_and_one_that_stays_broken_is() {
    let (bytes, seed, starts) = written();
    let zeros_from = |at: usize| [&bytes[..at], &vec![0; bytes.len() - at]].concat();
    let half = |n: usize| zeros_from(starts[n] + 100);
    assert_eq!(settled(half(1), seed, || Ok(half(3))).unwrap(), zeros_from(starts[3]), "the writer went on");
    assert_eq!(settled(half(1), seed, || Ok(half(1))).unwrap(), half(1), "nobody did");
    assert_eq!(settled(bytes.clone(), seed, || panic!("it was whole")).unwrap(), bytes);
}
