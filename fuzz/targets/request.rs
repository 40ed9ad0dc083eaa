//! Requests and answers: what decodes is written again as it was.
#![no_main]

use annals_format::request::{Answer, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for _ in 0..2 {
        if let Ok(request) = Request::decode(&bytes) {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        if let Ok(answer) = Answer::decode(&bytes) {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        // And with its checksum put right.
        if bytes.len() < 128 {
            return;
        }
        let end = bytes.len().min(if bytes.len() < 1024 { 128 } else { 1024 });
        let checksum = annals_format::checksum::crc(0, &bytes[20..end]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    }
});
