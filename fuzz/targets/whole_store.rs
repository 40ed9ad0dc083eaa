//! Changes the files of a small store as the input says, puts checksums right, opens it in every way, reads everything.
//!
//! The work is done by [`annals_tests::whole_store`], which an ordinary test drives as well.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: annals_tests::whole_store::prepare(), |bytes: &[u8]| {
    annals_tests::whole_store::exercise(bytes);
});
