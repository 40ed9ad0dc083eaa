//! Walks the input as the part of a segment behind its header, as it is and with checksums put right.
#![no_main]

use annals_format::scan::{self, Step};
use annals_fuzz::samples;
use libfuzzer_sys::fuzz_target;

fn walk(mut bytes: &[u8]) {
    while let Ok(step) = scan::next(bytes, samples::seed()) {
        let Step::Batch(header) = step else { return };
        let mut met = 0u32;
        let whole = scan::verify_batch(bytes, &header, samples::seed(), |offset, position, record| {
            assert!(offset % 8 == 0 && offset + record.frame_len() <= header.len());
            assert_eq!(position, header.first_position + u64::from(met));
            met += 1;
        });
        if whole.is_err() {
            return;
        }
        assert_eq!(met, header.record_count);
        assert!(header.durable_upto().is_none_or(|position| position < header.first_position));
        bytes = &bytes[header.len()..];
    }
}

fuzz_target!(|bytes: &[u8]| {
    walk(bytes);
    let mut fixed = bytes.to_vec();
    samples::fix_scanned(&mut fixed);
    walk(&fixed);
});
