//! What stands in front of a block's residue, and the block made from it: as it is, and after a block was taken apart.
#![no_main]

use annals_format::checksum::{Identity, Seed};
use annals_format::residue::{Head, Start, take_out};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let seed = Seed::of(&Identity { store: [1; 16], incarnation: [2; 16], segment: 3 });
    if let Ok((head, rest)) = Head::decode(bytes) {
        let _ = head.put_back(&mut rest.to_vec(), seed);
    }
    let Some((start, block)) = bytes.split_first_chunk::<4>() else { return };
    let start = Start { offset: start[0].into(), left: start[1].into(), position: start[2].into() };
    let (mut residue, mut stored) = (block.to_vec(), Vec::new());
    take_out(&mut residue, start, seed, &mut stored);
    let (head, rest) = Head::decode(&stored).expect("what was just written");
    assert!(rest.is_empty());
    head.put_back(&mut residue, seed).expect("what was just taken out");
    assert_eq!(residue, block);
});
